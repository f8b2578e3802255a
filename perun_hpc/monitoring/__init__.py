"""Running and monitoring an application."""
