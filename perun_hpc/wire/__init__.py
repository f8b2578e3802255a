"""Messages between hook, launcher and agent; standard library only."""
