"""perun-hpc: performance and energy of every Slurm job, measured automatically."""

from perun_hpc._version import __version__

__all__ = ["__version__"]
