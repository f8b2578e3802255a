"""What Slurm's own commands show of jobs, beside the ledger and the simulator: `python -m tests.figures [--write]`."""
