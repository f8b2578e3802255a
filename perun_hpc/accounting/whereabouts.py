"""Where jobs' records are looked for on this host, as its policy and Slurm say."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from perun_hpc.accounting.lookup import Places
from perun_hpc.accounting.site import load_site
from perun_hpc.archive.places import Archive, only_cluster
from perun_hpc.slurm.cluster import cluster_name
from perun_hpc.slurm.sacct import identity_fields, query_between, query_jobs


def places_here(archive: Path | None = None, ledger: str | None = None, cluster: str | None = None) -> Places:
    """Where to look; what is given goes before what the policy and Slurm's configuration say."""
    site = load_site()
    root = archive or site.archive
    return Places(
        archive=Archive(root, cluster or cluster_name() or only_cluster(root)),
        ledger=ledger or site.ledger,
        sacct=lambda ids: query_jobs(ids, cluster, extra=identity_fields()),
        due_s=time.time() - site.deadline_s - 2 * site.sweep_s,
        sweep_s=site.sweep_s,
        between=lambda since_s, until_s, options: query_between(
            since_s, until_s, options, cluster, extra=identity_fields()
        ),
        tell=_Damaged().tell,
    )


class _Damaged:
    """Says on standard error whose record is damaged, each thing once: a job is looked for in several ways."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def tell(self, job: str, why: str) -> None:
        """A job, empty where that is not known, and what is wrong with its record."""
        if why not in self._said:
            self._said.add(why)
            print(f"perun: {f'job {job}: ' if job else ''}{why}", file=sys.stderr)
