"""Who may follow a running job beside its owner, as slurmdbd says it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from perun_hpc.accounting.followers import EVERY_S, Followers
from perun_hpc.errors import UnavailableError
from perun_hpc.slurm.coordinators import administrators, coordinators
from perun_hpc.slurm.sacct import SlurmJob
from tests.accounting_data import slurm_job

UIDS = {"root": 0, "olga": 1001, "adam": 1002, "carla": 1003, "carl": 1004}
ANSWERS = {
    "user": "root|Administrator\nolga|Operator\nadam|Administrator\nalice|None\ngone|Operator\n",
    "account": "root|\nphysics|carla,carl\nChemistry|carl\n",
}


class Site:
    """What slurmdbd answers, and how often it was asked."""

    def __init__(self) -> None:
        self.now_s, self.asked, self.away = 0.0, list[str](), False
        run = self._run
        self.followers = Followers(
            partial(administrators, run), partial(coordinators, run), self._jobs, UIDS.get, lambda: self.now_s
        )

    def _run(self, command: Sequence[str], stdin: str | None, timeout_s: float) -> str:
        self.asked.append(command[4])
        if self.away:
            raise UnavailableError("sacctmgr: no answer")
        return ANSWERS[command[4]]

    def _jobs(self, ids: Iterable[int]) -> list[SlurmJob]:
        self.asked += [f"job {one}" for one in ids]
        return [slurm_job(one, account={1: "physics", 2: "chemistry"}.get(one, "biology")) for one in ids]


def test_administrators_follow_every_job_and_coordinators_those_of_their_accounts() -> None:
    site = Site()
    assert site.followers.of([1, 2, 3]) == {1: {1001, 1002, 1003, 1004}, 2: {1001, 1002, 1004}, 3: {1001, 1002}}


def test_slurm_is_asked_once_an_hour_and_for_each_job_once() -> None:
    site = Site()
    for jobs in ([1], [1], [1, 2]):
        site.followers.of(jobs)
    assert site.asked == ["user", "account", "job 1", "job 2"]
    site.now_s = EVERY_S
    site.followers.of([2])
    assert site.asked[4:] == ["user", "account"]


def test_a_right_that_cannot_be_asked_for_is_none() -> None:
    site = Site()
    site.away = True
    assert site.followers.of([1]) == {1: frozenset()}


def test_while_nothing_runs_nobody_is_asked() -> None:
    site = Site()
    assert site.followers.of([]) == {} and site.asked == []
