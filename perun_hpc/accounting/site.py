"""What the accounting side needs of the site's policy, as one small value."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perun_hpc.config import policy as site_policy
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.resolve import JobFacts, JobSettings, resolve
from perun_hpc.config.schema import Store
from perun_hpc.errors import ConfigError
from perun_hpc.slurm import hostlist
from perun_hpc.slurm.sacct import SlurmJob


@dataclass(frozen=True)
class Site:
    """Where things lie and how the collector behaves; times in seconds.

    `expects` says whether a job that Slurm knows must have left a record.
    """

    archive: Path
    ledger: str
    deadline_s: float
    sweep_s: float
    slurmdbd: str
    slurmdbd_per_s: float
    settings: JobSettings
    expects: Callable[[SlurmJob], bool]

    @property
    def late_s(self) -> float:
        """After how long without a sweep something is wrong with the collector."""
        return 3 * self.sweep_s + 600


def load_site(environ: Mapping[str, str] = os.environ) -> Site:
    """Read the policy that rules here; without a policy file the defaults. `ConfigError` where the file is broken."""
    compiled = compile_policy(site_policy.in_force(environ))
    settings = resolve(compiled, JobFacts())
    return Site(
        archive=Path(settings.store.archive),
        ledger=settings.collect.ledger,
        deadline_s=settings.collect.deadline_ns / 1e9,
        sweep_s=settings.collect.sweep_ns / 1e9,
        slurmdbd=settings.collect.slurmdbd,
        slurmdbd_per_s=settings.collect.slurmdbd_per_s,
        settings=settings,
        expects=_expects(compiled),
    )


class SitePolicy:
    """A service's policy: read anew once its file changed; while broken the last valid one stays in force."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Read it; `ConfigError` where it is broken, since there is no last good one yet."""
        self._environ = environ
        self._stamp = self._now()
        self.site = load_site(environ)

    def renew(self) -> str:
        """Look at the file again; returns its mistakes where it has just become a broken one, else nothing."""
        stamp = self._now()
        if stamp == self._stamp:
            return ""
        self._stamp = stamp
        try:
            self.site = load_site(self._environ)
        except ConfigError as error:
            return str(error)
        return ""

    def _now(self) -> tuple[int, int] | None:
        try:
            status = site_policy.locate(self._environ).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino


def store_of(environ: Mapping[str, str] = os.environ) -> Callable[[str, str], Store]:
    """Return what says how the trace of a job of (partition, account) is kept."""
    compiled = compile_policy(site_policy.in_force(environ))
    return functools.cache(
        lambda partition, account: resolve(compiled, JobFacts(partition=partition, account=account)).store
    )


def _expects(compiled: Mapping[str, Any]) -> Callable[[SlurmJob], bool]:
    """Return whether a job must have left a record.

    It must where one of its nodes measures all jobs; of one that may have opted out, or not in, it is not known.
    """

    @functools.cache
    def all_jobs(partition: str, account: str, node: str) -> bool:
        return resolve(compiled, JobFacts(partition, node, account)).monitor.jobs == "all"

    def must(job: SlurmJob) -> bool:
        try:
            nodes = hostlist.expand(job.nodelist)
        except ValueError:
            nodes = ()
        return any(all_jobs(job.partition, job.account, node) for node in nodes or ("",))

    return must
