"""What Slurm says of the cluster that this host belongs to: its name, its partitions."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from perun_hpc.errors import UnavailableError
from perun_hpc.slurm.command import Runner, run_command

PATIENCE_S = 10.0
_NAME = re.compile(r"^\s*ClusterName\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE)


def cluster_name(environ: Mapping[str, str] = os.environ, runner: Runner = run_command) -> str | None:
    """The cluster's name as Slurm has it, in small letters; None where there is no Slurm.

    A job has it in its environment. Elsewhere slurm.conf says it, also while slurmctld is down; where that file is
    another host's (configless) or includes the line, slurmctld is asked.
    """
    if named := environ.get("SLURM_CLUSTER_NAME"):
        return named
    try:
        text = Path(environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf").read_text(errors="replace")
    except OSError:
        text = ""
    found = _NAME.search(text)
    if found is None:
        try:
            found = _NAME.search(runner(["scontrol", "show", "config"], None, PATIENCE_S))
        except UnavailableError:
            return None
    return found[1].lower() if found else None


def partitions(runner: Runner = run_command) -> frozenset[str] | None:
    """The names of all partitions; None where Slurm does not answer here."""
    try:
        return frozenset(runner(["sinfo", "--noheader", "--all", "--format=%R"], None, PATIENCE_S).split())
    except UnavailableError:
        return None
