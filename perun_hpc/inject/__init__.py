"""What runs in the user's interpreter; the launcher puts `path/`, and nothing else of it, on PYTHONPATH."""
