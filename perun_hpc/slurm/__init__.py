"""Slurm's own text: node lists, job states, times, its commands' answers, its hooks."""
