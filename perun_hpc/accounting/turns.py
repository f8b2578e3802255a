"""Who changes what the archive and the ledger have of runs: a collector, or a command, each in its turn.

A sweep has its cluster's lease, on PostgreSQL that of the part of the job ids that it is at. A command that forgets
whose runs are has the same ones meanwhile.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator

from perun_hpc.accounting.database import POSTGRESQL
from perun_hpc.accounting.holders import has_died, this_process
from perun_hpc.accounting.ledger import Ledger
from perun_hpc.errors import PerunError, UnavailableError

log = logging.getLogger(__name__)

LEASE = "collect"
SHARDS = 16
"""Parts of the job ids, by the remainder: each is one collector's at a time. SQLite has one writer, and one part."""
BESIDE_S = 0.2
"""How often who waits for a part asks for it."""


def shards_of(ledger: Ledger) -> int:
    """In how many parts the job ids of a cluster are collected."""
    return SHARDS if ledger.dialect == POSTGRESQL else 1


def lease_of(cluster: str) -> str:
    """The name of the lease of who leads, and where there is one part, of who collects."""
    return f"{LEASE}:{cluster}"


def lease_of_part(cluster: str, shard: int) -> str:
    """The name of the lease of one part of several."""
    return f"{lease_of(cluster)}:{shard}"


@contextlib.contextmanager
def no_sweep(ledger: Ledger, runs: Iterable[tuple[str, int]], patience_s: float) -> Iterator[Callable[[], None]]:
    """Keep collectors from some runs (cluster, job id); waits until these have ended what they are at.

    Yields what renews the leases. `UnavailableError` where one is another process's for longer than `patience_s`, or
    was so meanwhile.
    """
    shards, holder = shards_of(ledger), this_process()
    wanted: dict[str, str] = {}
    for cluster, job_id in runs:
        wanted[lease_of(cluster) if shards == 1 else lease_of_part(cluster, job_id % shards)] = cluster
    until_s = time.monotonic() + patience_s
    had: list[str] = []

    def renew() -> None:
        for name in had:
            if not ledger.acquire(name, holder, again=True):
                raise _busy(wanted[name])

    try:
        for name in sorted(wanted):  # one order, so that no two wait for each other
            said = False
            while not ledger.acquire(name, holder, dead=has_died):
                if time.monotonic() >= until_s:
                    raise _busy(wanted[name])
                if not said:
                    log.warning("cluster %s: waiting until a collector's sweep is over", wanted[name])
                said = True
                time.sleep(BESIDE_S)
                ledger.prolong(holder)
            had.append(name)
        yield renew
    finally:
        for name in had:
            with contextlib.suppress(PerunError):
                ledger.release(name, holder)


def _busy(cluster: str) -> UnavailableError:
    return UnavailableError(f"a collector works on cluster {cluster}: run it again once its sweep is over")
