"""What runs inside the virtual machine, with the distribution's own Python and nothing else."""
