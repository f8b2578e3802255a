"""The site policy, the user's configuration, and their resolution."""
