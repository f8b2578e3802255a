"""Writing to slurmdbd: batched, checked, at a bounded rate, tried again, never over another tool's comment."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from perun_hpc.accounting import array_line
from perun_hpc.accounting.comment import encode
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.slurmdbd import (
    ARRAY_S,
    FIRST_RETRY_S,
    LAST_RETRY_S,
    MAX_SESSIONS,
    MAX_TRIES,
    TIMED,
    Dbd,
    Flushed,
    command,
    flush,
)
from perun_hpc.accounting.summing import add_slurm, missing_record, sum_boundaries
from perun_hpc.accounting.together import together
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import DataError, UnavailableError
from perun_hpc.slurm.sacct import SlurmJob
from tests.accounting_data import START_S, boundary, domain, parsed, slurm_job

_COMMAND = re.compile(r'modify job where jobid=(\S+) cluster=c set AdminComment="([^"]*)"\Z')


class Slurmdbd:
    """It keeps comments in lower case, as 22.05 does, and counts the sessions; commands take their time."""

    def __init__(self, *jobs: SlurmJob, command_s: float = 0.0) -> None:
        self.jobs = list(jobs)
        self.sessions: list[int] = []
        self.command_s, self.spent_s = command_s, 0.0
        self.up = True
        self.asked: list[int] = []
        self.deaf: set[str] = set()
        self._lock = threading.Lock()

    def sacct(self, ids: Iterable[int]) -> list[SlurmJob]:
        if not self.up:
            raise UnavailableError("sacct: is slurmdbd up?")
        wanted = set(ids)
        return [job for job in self.jobs if job.job_id in wanted]

    def unended(self, arrays: Iterable[int], cluster: str) -> set[int]:
        wanted = set(arrays)
        self.asked.append(len(wanted))
        return {array for job in self.jobs if job.end_s is None and (array := job.array[0]) in wanted}  # type: ignore[misc]

    def run(self, command: Sequence[str], stdin: str | None, timeout_s: float) -> str:
        assert command[0] == "sacctmgr"
        lines = (stdin or "").splitlines()
        with self._lock:
            self.sessions.append(len(lines))
            self.spent_s += len(lines) * self.command_s
            for line in lines:
                match = _COMMAND.match(line)
                assert match is not None, line
                if match[1] not in self.deaf:
                    self._set(match[1], match[2].lower())
        return ""

    def _set(self, wanted: str, text: str) -> None:
        """A bare id is that of a job and of every member of its array or het job; of each its newest run changes."""
        hit = [job for job in self.jobs if wanted in (job.shown_id, str(job.job_id), re.split("[_+]", job.shown_id)[0])]
        for job_id in {job.job_id for job in hit}:
            newest = max((job for job in hit if job.job_id == job_id), key=lambda job: job.run)
            self.jobs[self.jobs.index(newest)] = replace(newest, admin_comment=text)

    def comment(self, job_id: int) -> str:
        return next(job.admin_comment for job in self.jobs if job.job_id == job_id)


class World:
    """A ledger with a clock that the tests turn."""

    def __init__(self, path: Path) -> None:
        self.now = START_S + 1000.0
        self.ledger: Ledger = open_ledger(str(path / "ledger.db"), create=True, clock=lambda: self.now)

    def flush(
        self, dbd: Slurmdbd, overwrite: bool = False, per_s: float = 100, seconds: float = 60, arrays: bool = False
    ) -> Flushed:
        reached = Dbd(dbd.sacct, dbd.run, lambda: dbd.spent_s, dbd.unended)
        return flush(self.ledger, "c", reached, overwrite, per_s, seconds, arrays)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def record(job: SlurmJob, **other: object) -> EnergyRecord:
    return add_slurm(sum_boundaries([parsed(boundary(job.job_id, **other))]), job)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("command_s", "seconds", "at_once"), [(0.27, 2, 9), (0.27, 6, 3), (0.27, 60, 1), (0.008, 2, 1)]
)
def test_as_many_sessions_take_many_jobs_as_leave_half_of_the_time(
    world: World, command_s: float, seconds: float, at_once: int
) -> None:
    """With commands as quick as those of 22.05 and 26.05."""
    jobs = [slurm_job(n) for n in range(1, 41)]
    dbd = Slurmdbd(*jobs, command_s=command_s)
    records = [record(job) for job in jobs]
    world.ledger.put(records, queue=True)
    assert world.flush(dbd, seconds=seconds) == Flushed(written=40)
    assert dbd.sessions[0] == TIMED and len(dbd.sessions) == 1 + at_once and sum(dbd.sessions) == 40
    assert [dbd.comment(n) for n in range(1, 41)] == [encode(r) for r in records]
    assert world.flush(dbd) == Flushed() and len(dbd.sessions) == 1 + at_once


def test_what_slurmdbd_cannot_take_in_half_of_the_time_is_for_the_next_flushes(world: World) -> None:
    jobs = [slurm_job(n) for n in range(1, 301)]
    dbd = Slurmdbd(*jobs, command_s=0.27)
    world.ledger.put([record(job) for job in jobs], queue=True)
    assert world.flush(dbd, per_s=1000, seconds=2) == Flushed(written=TIMED + int(MAX_SESSIONS / 0.27))
    assert len(dbd.sessions) == 1 + MAX_SESSIONS
    left = world.ledger.due("c", 1000)
    assert len(left) == 300 - TIMED - int(MAX_SESSIONS / 0.27) and {one.tries for one in left} == {0}
    while world.flush(dbd, per_s=1000, seconds=2) != Flushed():
        pass
    assert all(job.admin_comment for job in dbd.jobs) and sum(dbd.sessions) == 300


def test_no_more_jobs_than_the_rate_allows(world: World) -> None:
    jobs = [slurm_job(n) for n in range(1, 11)]
    dbd = Slurmdbd(*jobs)
    world.ledger.put([record(job) for job in jobs], queue=True)
    assert world.flush(dbd, per_s=0.1, seconds=30) == Flushed(written=3)
    assert dbd.sessions == [3]


def test_another_tools_comment_stays_unless_the_policy_says_otherwise(world: World) -> None:
    job = slurm_job(admin_comment="billing: project 7")
    dbd = Slurmdbd(job)
    world.ledger.put([record(job)], queue=True)
    assert world.flush(dbd) == Flushed(kept=1)
    assert (dbd.comment(4711), dbd.sessions) == ("billing: project 7", [])
    assert world.flush(dbd) == Flushed()
    world.ledger.put([record(job, revision=2)], queue=True)
    assert world.flush(dbd, overwrite=True) == Flushed(written=1)
    assert dbd.comment(4711).startswith("perun1:rev=2:")


def test_perun_amends_its_own_line(world: World) -> None:
    job = slurm_job()
    dbd = Slurmdbd(job)
    world.ledger.put([record(job)], queue=True)
    world.flush(dbd)
    world.ledger.put([record(job, revision=2)], queue=True)
    assert world.flush(dbd) == Flushed(written=1)
    assert dbd.comment(4711).startswith("perun1:rev=2:")


def test_what_had_no_effect_is_tried_again_later_and_later_and_given_up_in_the_end(world: World) -> None:
    jobs = [slurm_job(1), slurm_job(2)]
    dbd = Slurmdbd(*jobs)
    dbd.deaf = {"2"}
    world.ledger.put([record(job) for job in jobs], queue=True)
    assert world.flush(dbd) == Flushed(written=1, postponed=1)
    waits = []
    while True:
        since = world.now
        while not (done := world.flush(dbd)).postponed and not done.dropped:
            world.now += 1 if world.now - since < 100 else 60
        if done.dropped:
            break
        waits.append(world.now - since)
    assert len(waits) == MAX_TRIES - 1
    assert waits[0] == FIRST_RETRY_S and waits[1] == 2 * FIRST_RETRY_S
    assert max(waits) <= LAST_RETRY_S + 60 and sum(waits) > 20 * 3600
    assert world.ledger.due("c", 10) == []


def test_a_slurmdbd_that_is_away_costs_only_time(world: World) -> None:
    job = slurm_job()
    dbd = Slurmdbd(job)
    dbd.up = False
    world.ledger.put([record(job)], queue=True)
    assert world.flush(dbd) == Flushed(postponed=1)
    dbd.up = True
    world.now += FIRST_RETRY_S
    assert world.flush(dbd) == Flushed(written=1)


def test_one_that_hangs_is_waited_for_once(world: World) -> None:
    class Hanging(Slurmdbd):
        def run(self, command: Sequence[str], stdin: str | None, timeout_s: float) -> str:
            self.sessions.append(len((stdin or "").splitlines()))
            self.spent_s += timeout_s
            raise UnavailableError(f"sacctmgr: no answer within {timeout_s} s")

    jobs = [slurm_job(n) for n in range(1, 41)]
    dbd = Hanging(*jobs)
    world.ledger.put([record(job) for job in jobs], queue=True)
    assert world.flush(dbd) == Flushed(postponed=40)
    assert dbd.sessions == [TIMED]


def test_members_of_arrays_and_het_jobs_are_named_one_by_one(world: World) -> None:
    """By what slurmdbd has an index for, but for those whose own id is that of all: each holds its own line."""
    shown = {10: "10_1", 11: "10_2", 12: "10_3", 20: "20+0", 21: "20+1"}
    jobs = [slurm_job(n, shown_id=name) for n, name in shown.items()]
    dbd = Slurmdbd(*jobs)
    records = {job.job_id: record(job, revision=job.job_id) for job in jobs}
    world.ledger.put(list(records.values()), queue=True)
    assert world.flush(dbd) == Flushed(written=5)
    assert {n: dbd.comment(n) for n in shown} == {n: encode(one) for n, one in records.items()}
    assert [match[1] for one in records.values() if (match := _COMMAND.match(command(one, encode(one))))] == [
        "10_1", "11", "12", "20+0", "21",
    ]  # fmt: skip


def test_an_array_has_one_line_with_its_sum_once_all_of_its_tasks_have_ended(world: World) -> None:
    shown = {10: "10_3", 11: "10_1", 12: "10_2"}
    jobs = [slurm_job(n, shown_id=name) for n, name in shown.items()]
    late = slurm_job(12, shown_id="10_2", end_s=None, state="RUNNING")
    dbd = Slurmdbd(*jobs[:2], late, slurm_job(5))
    records = [record(job) for job in jobs]
    world.ledger.put([record(slurm_job(5)), *records[:2]], queue=True)
    assert world.flush(dbd, arrays=True) == Flushed(written=1)  # the single job's
    assert dbd.comment(5).startswith("perun1:") and not any(map(dbd.comment, shown))
    for _ in range(2 * MAX_TRIES):  # however long it takes: that is no failure
        world.now += ARRAY_S
        assert world.flush(dbd, arrays=True) == Flushed()
    dbd.jobs[2] = jobs[2]
    world.ledger.put(records[2:], queue=True)
    world.now += ARRAY_S
    assert world.flush(dbd, arrays=True) == Flushed(written=1)
    assert [bool(dbd.comment(n)) for n in shown] == [True, False, False]
    known, runs, whole, energy_uj, u_uj = array_line.read(dbd.comment(10))
    assert (known, runs, whole, energy_uj) == (3, 3, True, sum(one.energy_uj or 0 for one in records))
    assert u_uj == together(records).u_uj
    # A late node changes a task's record: the array's line follows.
    world.ledger.put([record(jobs[1], revision=2, domains={"package-0": domain("cpu", 1_000_000)})], queue=True)
    assert world.flush(dbd, arrays=True).written + world.flush(dbd, arrays=True).written == 1
    assert (
        array_line.read(dbd.comment(10))[3] == sum(one.energy_uj or 0 for one in (records[0], records[2])) + 1_000_000
    )
    assert world.flush(dbd, arrays=True) == Flushed()


@pytest.mark.parametrize(
    "line", ["", "perun2:tasks=1/1:st=complete:pv=measured:e=7/1:crc=00000000", "perun2:", "perun1:"]
)
def test_a_damaged_line_of_an_array_is_none(line: str) -> None:
    with pytest.raises(DataError):
        array_line.read(line)


def test_the_sum_of_an_array_does_not_depend_on_how_many_records_are_read_at_once() -> None:
    records = [record(slurm_job(n, shown_id=f"10_{n}")) for n in range(10, 17)]
    records.append(missing_record(slurm_job(20, shown_id="10_20"), "c", "no node reported this job"))
    line = array_line.encode([records])
    assert line == array_line.encode([records[:3], records[3:4], records[4:]]) and line.startswith("perun2:tasks=7/8:")
    assert array_line.read(line)[2:] == (False, together(records).energy_uj, together(records).u_uj)
    assert array_line.encode([]) == array_line.encode([[]]) == ""


def test_of_a_requeued_job_only_the_newest_run_can_be_reached(world: World) -> None:
    first = slurm_job(state="REQUEUED", end_s=START_S + 50)
    second = slurm_job(submit_s=START_S + 51, start_s=START_S + 200, end_s=START_S + 300, run=1)
    dbd = Slurmdbd(first, second)
    world.ledger.put([record(first, seconds=50), record(second, start_s=START_S + 200, restart_count=1)], queue=True)
    assert world.flush(dbd) == Flushed(written=1, dropped=1)
    assert [bool(job.admin_comment) for job in dbd.jobs] == [False, True]
