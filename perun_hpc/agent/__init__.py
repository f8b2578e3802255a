"""The node agent: one process per node, one session per job."""
