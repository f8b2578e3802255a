"""The traces of the node's jobs."""
