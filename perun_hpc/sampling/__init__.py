"""When to read what."""
