"""Where jobs' records are looked for on this host, as its policy and Slurm say."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType

from perun_hpc.accounting.found import Places
from perun_hpc.accounting.site import load_site
from perun_hpc.archive.places import Archive, only_cluster
from perun_hpc.slurm.cluster import cluster_name


def places_here(archive: Path | None = None, ledger: str | None = None, cluster: str | None = None) -> Places:
    """Where to look; what is given goes before what the policy and Slurm's configuration say."""
    site = load_site()
    root = archive or site.archive
    return Places(
        archive=Archive(root, cluster or cluster_name() or only_cluster(root)),
        ledger=ledger or site.ledger,
        sacct=lambda ids: _sacct().query_jobs(ids, cluster, extra=_sacct().identity_fields()),
        due_s=time.time() - site.deadline_s - 2 * site.sweep_s,
        sweep_s=site.sweep_s,
        between=lambda since_s, until_s, options: _sacct().query_between(
            since_s, until_s, options, cluster, extra=_sacct().identity_fields()
        ),
        tell=_Damaged().tell,
    )


def _sacct() -> ModuleType:
    """What asks Slurm's accounting: not needed where a record is at hand."""
    from perun_hpc.slurm import sacct

    return sacct


class _Damaged:
    """Says on standard error whose record is damaged, each thing once: a job is looked for in several ways."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def tell(self, job: str, why: str) -> None:
        """A job, empty where that is not known, and what is wrong with its record."""
        if why not in self._said:
            self._said.add(why)
            print(f"perun: {f'job {job}: ' if job else ''}{why}", file=sys.stderr)
