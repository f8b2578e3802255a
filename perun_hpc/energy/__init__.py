"""Pure functions that turn readings into joules."""
