"""From ended sessions to the archive."""
