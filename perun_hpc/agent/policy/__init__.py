"""The site's policy as the agent follows it."""
