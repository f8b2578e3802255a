"""Who may follow a running job beside its owner: Slurm's operators and administrators, its account's coordinators.

The right is Slurm's, which shows them the job whatever its PrivateData hides; slurmdbd is asked for it once an hour.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from perun_hpc.accounting.own_sums import uid_of
from perun_hpc.config.kinds import lower_case
from perun_hpc.errors import PerunError
from perun_hpc.slurm.sacct import SlurmJob

log = logging.getLogger(__name__)

EVERY_S = 3600
"""So often Slurm is asked who has which right."""


class Followers:
    """Knows one cluster's.

    Parameters
    ----------
    administrators : names of those who see every job.
    coordinators : account -> names.
    jobs : what sacct says of jobs, by their ids.
    uids : the user id of a name, None where this host knows none.
    clock : epoch seconds.
    """

    def __init__(
        self,
        administrators: Callable[[], Iterable[str]],
        coordinators: Callable[[], Mapping[str, Iterable[str]]],
        jobs: Callable[[Iterable[int]], Iterable[SlurmJob]],
        uids: Callable[[str], int | None] = uid_of,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ask = administrators, coordinators
        self._jobs = jobs
        self._uid_of = uids
        self._clock = clock
        self._asked_s = float("-inf")
        self._of_all: frozenset[int] = frozenset()
        self._of_account: dict[str, frozenset[int]] = {}
        self._account: dict[int, str] = {}

    def of(self, job_ids: Iterable[int]) -> dict[int, frozenset[int]]:
        """Job -> user ids of those who may follow it; where Slurm does not answer, fewer."""
        wanted = set(job_ids)
        if not wanted:
            return {}
        if self._clock() - self._asked_s >= EVERY_S:
            self._asked_s = self._clock()
            self._learn()
        self._account = {job: account for job, account in self._account.items() if job in wanted}
        if self._of_account and (new := wanted - self._account.keys()):
            try:
                self._account |= {row.job_id: lower_case(row.account) for row in self._jobs(sorted(new)) if row.account}
            except PerunError as error:
                log.warning("accounts of running jobs: %s", error)
        none: frozenset[int] = frozenset()
        return {job: self._of_all | self._of_account.get(self._account.get(job, ""), none) for job in wanted}

    def _learn(self) -> None:
        administrators, coordinators = self._ask
        try:
            self._of_all = self._known(administrators())
            self._of_account = {lower_case(name): self._known(names) for name, names in coordinators().items() if names}
        except PerunError as error:
            self._of_all, self._of_account = frozenset(), {}
            log.warning("who may follow running jobs: %s", error)

    def _known(self, names: Iterable[str]) -> frozenset[int]:
        """Their user ids; root may read anyway."""
        return frozenset(uid for name in names if (uid := self._uid_of(name)))
