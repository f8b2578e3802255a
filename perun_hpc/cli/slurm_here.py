"""Whether there is a cluster where `perun` is called."""

from __future__ import annotations

import shutil


def slurm_here() -> bool:
    """Whether this machine has Slurm's commands, or a policy of perun's."""
    if any(map(shutil.which, ("sacct", "scontrol", "srun"))):
        return True
    try:
        from perun_hpc.config.policy import locate
    except ModuleNotFoundError:
        return False
    return locate().exists()
