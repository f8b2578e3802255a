"""The site policy, the user's configuration, and their resolution."""

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LEVEL_ALIASES = {"WARN": "WARNING"}
"""What perun 1.0.0's command line calls a level, and its name."""
DEFAULT_LOG_LEVEL = "WARNING"
