"""Processes that perun starts; standard library only."""
