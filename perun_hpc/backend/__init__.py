"""Sources of readings, one module per kind of hardware or kernel interface."""
