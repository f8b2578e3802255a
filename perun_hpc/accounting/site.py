"""What the accounting side needs of the site's policy, as one small value."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.config import policy as site_policy
from perun_hpc.config.compile import compile_policy, layers_of
from perun_hpc.config.resolve import JobFacts, JobSettings, resolve
from perun_hpc.config.schema import Footprint, Store
from perun_hpc.slurm import hostlist

if TYPE_CHECKING:
    from perun_hpc.slurm.sacct import SlurmJob

COMPILED_S = 5.0
"""So long a sweep waits for a newer policy; where a file system hangs, a later one takes it over."""


@dataclass(frozen=True)
class Site:
    """Where things lie and how the collector behaves; times in seconds.

    `expects` says whether a job that Slurm knows must have left a record, `wall_model` what a node draws at the wall
    (`energy.wall_model` of the policy; None: nobody measured it), `embodied` what making it emitted. `footprint` gives
    the factors of a partition; those in `factored` have some of their own.
    """

    archive: Path
    ledger: str
    deadline_s: float
    sweep_s: float
    slurmdbd: str
    slurmdbd_per_s: float
    settings: JobSettings
    expects: Callable[[SlurmJob], bool]
    wall_model: Callable[[str], Mapping[str, Any] | None]
    embodied: Callable[[str], Mapping[str, Any] | None]
    footprint: Callable[[str], Footprint]
    factored: tuple[str, ...]

    @property
    def late_s(self) -> float:
        """After how long without a sweep something is wrong with the collector."""
        return 3 * self.sweep_s + 600


def load_site(environ: Mapping[str, str] = os.environ) -> Site:
    """Read the policy that rules here; without a policy file the defaults. `ConfigError` where the file is broken."""
    compiled = layers_of(site_policy.in_force(environ))
    return site_of(compiled, resolve(compiled, JobFacts()))


def site_of(compiled: Mapping[str, Any], settings: JobSettings) -> Site:
    """What a compiled policy says of the site; `settings` are those that it gives a job of which nothing is known."""
    return Site(
        archive=Path(settings.store.archive),
        ledger=settings.collect.ledger,
        deadline_s=settings.collect.deadline_ns / 1e9,
        sweep_s=settings.collect.sweep_ns / 1e9,
        slurmdbd=settings.collect.slurmdbd,
        slurmdbd_per_s=settings.collect.slurmdbd_per_s,
        settings=settings,
        expects=_expects(compiled),
        footprint=functools.cache(lambda partition: resolve(compiled, JobFacts(partition)).footprint),
        factored=tuple(
            name
            for name, entry in compiled.get("partitions", {}).items()
            if any(key.startswith("footprint.") for key in entry.get("values", {}))
        ),
        embodied=functools.cache(lambda node: resolve(compiled, JobFacts(node=node)).footprint.embodied),
        wall_model=functools.cache(lambda node: resolve(compiled, JobFacts(node=node)).energy.wall_model),
    )


class SitePolicy:
    """A service's policy: a newer file rules once it has been compiled; while it is broken the last valid one does."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        """Read it; `ConfigError` where it is broken, since there is no last valid one yet."""
        compiled = compile_policy(site_policy.in_force(environ))
        from perun_hpc.config.keeper import PolicyKeeper
        from perun_hpc.process.clock import MACHINE

        self._keeper = PolicyKeeper(site_policy.locate(environ), MACHINE, policy=compiled)
        self._refused: str | None = None
        self._ruling = self._keeper.policy
        self.site = site_of(compiled, self._keeper.site())

    def renew(self) -> str:
        """Look at the file again; returns its first mistake where it has just become a broken one, else nothing."""
        self._keeper.poll()
        self._keeper.check()
        self._keeper.wait(COMPILED_S)
        if self._keeper.policy is not self._ruling:
            self._ruling = self._keeper.policy
            self.site = site_of(self._ruling, self._keeper.site())
        before, self._refused = self._refused, self._keeper.refused
        return self._refused if self._refused and self._refused != before else ""


def store_of(environ: Mapping[str, str] = os.environ) -> Callable[[str, str], Store]:
    """Return what says how the trace of a job of (partition, account) is kept."""
    compiled = layers_of(site_policy.in_force(environ))
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
