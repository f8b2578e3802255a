"""What every part of the agent stands on: places, sessions, the files of the spool."""
