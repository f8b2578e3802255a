"""What Slurm says of the cluster that this host belongs to: its name, its partitions, its nodes."""

from __future__ import annotations

import os
from collections.abc import Mapping

from perun_hpc.errors import UnavailableError
from perun_hpc.slurm import conf
from perun_hpc.slurm.command import Runner, run_command

PATIENCE_S = 10.0


def cluster_name(environ: Mapping[str, str] = os.environ, runner: Runner = run_command) -> str | None:
    """The cluster's name as Slurm has it, in small letters; None where there is no Slurm.

    A job has it in its environment. Elsewhere slurm.conf says it, also while slurmctld is down; where that file is
    another host's (configless), slurmctld is asked.
    """
    if named := environ.get("SLURM_CLUSTER_NAME"):
        return named
    try:
        name = conf.written(str(conf.place(environ)), conf.texts).one("ClusterName")
    except OSError:
        name = ""
    if not name:
        try:
            name = conf.shown(runner(["scontrol", "show", "config"], None, PATIENCE_S)).one("ClusterName")
        except UnavailableError:
            return None
    return name.lower() or None


def partitions(runner: Runner = run_command) -> frozenset[str] | None:
    """The names of all partitions; None where Slurm does not answer here."""
    return _listed(runner, "--format=%R")


def nodes(runner: Runner = run_command) -> frozenset[str] | None:
    """The names of all nodes; None where Slurm does not answer here."""
    return _listed(runner, "--Node", "--format=%N")


def _listed(runner: Runner, *options: str) -> frozenset[str] | None:
    try:
        return frozenset(runner(["sinfo", "--noheader", "--all", *options], None, PATIENCE_S).split())
    except UnavailableError:
        return None
