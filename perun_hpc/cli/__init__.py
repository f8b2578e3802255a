"""The perun command."""
