"""What the agent writes for Slurm's own commands: when, how finely for whom, and until when it counts."""

from __future__ import annotations

import binascii
import itertools
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from perun_hpc.agent.base.step_use import StepUse
from perun_hpc.agent.figure import HEAD, MAGIC, MOST, OF_JOB, OF_NODE, RECORD, VERSION, Figure, capped, packed
from perun_hpc.agent.slurm_figures import SlurmFigures, energy_of
from perun_hpc.agent.sources.node import Snapshot
from perun_hpc.data_model.job import SessionKey
from tests.flow.test_agent_clock import Card, S
from tests.unit.test_agent_textfile import Watched

INTERVAL = "sampling: {interval: 10 s}\n"
J = 1000
"""Readings are told apart by the real clock, in which a second of the test takes some ms: its joule is a real mJ."""


class Read(NamedTuple):
    """A record of the file, as far as it counts."""

    energy_uj: int
    power_uw: int
    at_ns: int
    until_ns: int


def read(data: bytes) -> dict[tuple[int, int], Read]:
    """Read the file as docs/architecture.md describes it."""
    size = 48
    heads = [data[at : at + size] for at in range(0, len(data), size)]
    assert all(binascii.crc32(one[:-4]).to_bytes(4, "little") == one[-4:] for one in heads)
    magic, version, count, sequence = HEAD.unpack(heads[0][:-4])
    assert (magic, version) == (MAGIC, VERSION)
    found = [RECORD.unpack(one[:-4]) for one in heads[1 : count + 1]]
    assert len(found) == count
    assert {one[-1] for one in found} <= {sequence}
    return {(one[0], one[1]): Read(*one[2:-1]) for one in found}


class Shown(Watched):
    """A node whose seconds pass, and what Slurm would show."""

    def __init__(self, base: Path, policy: str = INTERVAL, slurm: str = "true") -> None:
        super().__init__(base, policy, f", slurm: {slurm}")
        self.file = base / "slurm.figures"
        self.descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT, 0o600)
        moments = self.visibility.moments
        self.figures = SlurmFigures(self.descriptor, self.register, self.meter, moments, self.policy, self.turned.clock)
        self.seen: dict[int, dict[tuple[int, int], Read]] = {}

    def begin(self, job_id: int, **job: str) -> None:
        self._work(job_id)
        super().begin(job_id, **job)

    def _work(self, job_id: int) -> None:
        cpus = ("2-3", "0-1")[job_id % 2] if len(self.register.live) > 1 else "0-3"
        self.node.cgroup(job_id, cpus, self.turned.ns / S, uid=2001)

    def pass_s(self, seconds: int, watts: int = 1) -> None:
        for _ in range(seconds):
            self.turned.ns += S
            for key in self.register.live:
                self._work(key.job_id)
            self.node.serve(package_uj=watts * J)
            if self.meter.is_due(self.turned.clock.mono_ns(), self.turned.clock.real_ns()):
                self.note(self.meter.end_interval())
            self.meter.steps.keep()
            self.meter.hear_of_steps()
            self.figures.turn()
            self.seen[self.turned.ns // S] = self.now()

    def show(self, snapshot: Snapshot, moment: bool) -> None:
        super().show(snapshot, moment)
        self.figures.note(snapshot, moment)

    def now(self) -> dict[tuple[int, int], Read]:
        """What counts now."""
        found = read(self.file.read_bytes())
        return {whose: one for whose, one in found.items() if self.turned.ns <= one.until_ns}

    def energy_j(self, job_id: int) -> float | None:
        one = self.now().get((job_id, OF_JOB))
        return one and one.energy_uj / J


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    return Shown(tmp_path)


def test_a_job_that_is_alone_has_what_the_counters_counted_within_the_second(shown: Shown) -> None:
    shown.pass_s(1)
    shown.begin(1, cpus_on_node="4", exclusive="1")
    for second in range(1, 25):
        shown.pass_s(1, watts=100 + second)
        one = shown.now()[1, OF_JOB]
        assert one.energy_uj == sum(100 + before for before in range(1, second + 1)) * J
        assert one.power_uw == (100 + second) * J
        assert one.at_ns == shown.turned.ns
    session = shown.register.live[SessionKey(1, 0)]
    shown.meter.end_interval(settle=True)
    assert energy_of(session) == one.energy_uj


def test_a_job_of_two_seconds_has_its_figure(shown: Shown) -> None:
    shown.pass_s(4)
    shown.begin(1, cpus_on_node="4", exclusive="1")
    shown.pass_s(1, watts=70)
    assert shown.now()[1, OF_JOB][:2] == (70 * J, 70 * J)


def test_who_shares_a_node_is_seen_at_its_own_moments_and_without_power(shown: Shown) -> None:
    shown.begin(1)
    shown.pass_s(3)
    shown.begin(2)
    shown.pass_s(50, watts=100)
    for job in (1, 2):
        energies = {second: seen[job, OF_JOB] for second, seen in shown.seen.items() if (job, OF_JOB) in seen}
        changes = {one.at_ns // S for one in energies.values()}
        assert all(one.power_uw == 0 for one in energies.values())
        assert changes <= {10, 20, 30, 40, 50}
        assert len(changes) >= 4
    nodes = {seen[0, OF_NODE].at_ns // S for seen in shown.seen.values() if (0, OF_NODE) in seen}
    assert nodes == {20, 30, 40, 50}


SECRET = "partitions: {secret: {privacy: {shared_resolution: 30 s}}}\n" + INTERVAL
STEP = st.one_of(
    st.tuples(st.just("passes"), st.integers(1, 25)),
    st.tuples(st.just("begins"), st.sampled_from(["main", "secret", "whole"])),
    st.tuples(st.just("ends"), st.integers(0, 3)),
)


STRICT_AND_GONE = [("passes", 21), ("begins", "secret"), ("passes", 3), ("ends", 0), ("passes", 20)]
BESIDE = [("begins", "whole"), ("passes", 23), ("begins", "main"), ("passes", 15), ("ends", 1), ("passes", 6)]


@settings(max_examples=5, deadline=None, phases=set(Phase) - {Phase.shrink})  # an example takes a second
@example(STRICT_AND_GONE)
@example(BESIDE)
@given(st.lists(STEP, min_size=4, max_size=9))
def test_whoever_comes_and_goes_what_is_shared_steps_at_the_nodes_moments(
    steps: list[tuple[str, Any]],
) -> None:
    with tempfile.TemporaryDirectory() as base:
        shown = Shown(Path(base), SECRET)
        there: dict[int, dict[int, str]] = {0: {}}
        jobs = itertools.count(1)
        for what, value in [*steps, ("passes", 31)]:
            live = shown.register.live
            if what == "begins" and not (value == "whole" and live):
                job = next(jobs)
                named = {"partition": "main", "cpus_on_node": "4"} if value == "whole" else {"partition": value}
                shown.begin(job, **named)
                there[shown.turned.ns // S + 1] = {**_last(there), job: value}
            elif what == "ends" and live:
                key = list(live)[value % len(live)]
                shown.end(key.job_id)
                there[shown.turned.ns // S + 1] = {one: of for one, of in _last(there).items() if one != key.job_id}
            for _ in range(value if what == "passes" else 0):
                shown.pass_s(1, watts=100)
        _stepped_rarely(shown, there)
        os.close(shown.descriptor)


def _last(there: dict[int, dict[int, str]]) -> dict[int, str]:
    return there[max(there)]


def _stepped_rarely(shown: Shown, there: dict[int, dict[int, str]]) -> None:
    """`there` says which jobs were on the node in a second, and those after it up to the next one named."""

    def between(first: int, last: int) -> list[dict[int, str]]:
        since = max(at for at in there if at <= first + 1)
        return [jobs for at, jobs in there.items() if since <= at <= last]

    def strictest(first: int, last: int) -> int:
        return 30 if any("secret" in jobs.values() for jobs in between(first, last)) else 10

    moments = sorted({seen[0, OF_NODE].at_ns // S for seen in shown.seen.values() if (0, OF_NODE) in seen})
    assert set(shown.shown) <= set(moments)
    for before, after in itertools.pairwise([0, *moments]):
        assert after - before >= 0.9 * strictest(before, after)
    for job in {number for jobs in there.values() for number in jobs}:
        stepped = [(at, seen[job, OF_JOB]) for at, seen in shown.seen.items() if (job, OF_JOB) in seen]
        for (_, before_was), (at, now) in itertools.pairwise(stepped):
            before = before_was.at_ns // S
            beside = [jobs for jobs in between(before, at) if len(jobs) > 1 and job in jobs]
            if now.energy_uj != before_was.energy_uj and beside:
                assert at in moments, (job, before, at)
                assert at - before >= 0.9 * strictest(at, at)
                assert now.power_uw == 0 or len(_at(there, at)) == 1


def _at(there: dict[int, dict[int, str]], at: int) -> dict[int, str]:
    return there[max(one for one in there if one <= at)]


def test_the_file_is_written_anew_only_when_something_is_new(shown: Shown) -> None:
    """A node without jobs writes at its moments, by which a living agent is told from a dead one."""
    shown.pass_s(25)
    sequences = []
    for _ in range(60):
        shown.pass_s(1)
        sequences.append(HEAD.unpack(shown.file.read_bytes()[: HEAD.size])[3])
        assert (0, OF_NODE) in shown.now()
    assert len(set(sequences)) == 7


def test_beside_each_other_two_jobs_and_idle_sum_to_the_node(shown: Shown) -> None:
    shown.pass_s(20)  # the agent's first moment
    before_uj = shown.now()[0, OF_NODE].energy_uj
    shown.begin(1)
    shown.begin(2)
    shown.pass_s(20, watts=100)
    now = shown.now()
    given = sum(
        uj for line in shown.node.ledger() for owner, uj in line["shares"].items()
        if line["t0_ns"] >= 20 * S and not owner.startswith("job:")
    )  # fmt: skip
    assert now[0, OF_NODE].energy_uj - before_uj == 2000 * J == now[1, OF_JOB][0] + now[2, OF_JOB][0] + given


def test_when_others_come_the_power_of_who_was_alone_is_seen_no_more(shown: Shown) -> None:
    shown.begin(1, cpus_on_node="4", exclusive="1")
    shown.pass_s(5, watts=100)
    assert shown.now()[1, OF_JOB].power_uw == 100 * J
    shown.begin(2)
    shown.pass_s(1, watts=300)
    assert shown.now()[1, OF_JOB].power_uw == 0
    assert shown.energy_j(1) == 500
    shown.pass_s(13, watts=300)
    assert shown.energy_j(1) == 500
    shown.pass_s(1, watts=300)
    assert shown.energy_j(1) > 500  # type: ignore[operator]


def test_figures_of_an_agent_that_is_gone_become_blanks(shown: Shown) -> None:
    shown.begin(1, cpus_on_node="4", exclusive="1")
    shown.pass_s(12)
    shown.turned.ns += 4 * S
    assert (1, OF_JOB) not in shown.now()
    shown.turned.ns += 30 * S
    assert shown.now() == {}


def test_ended_jobs_are_not_in_the_file_any_more(shown: Shown) -> None:
    shown.begin(1, cpus_on_node="4", exclusive="1")
    shown.pass_s(2)
    shown.end(1)
    shown.pass_s(1)
    assert (1, OF_JOB) not in read(shown.file.read_bytes())


def test_an_agent_that_ends_leaves_none(shown: Shown) -> None:
    shown.begin(1, cpus_on_node="4", exclusive="1")
    shown.pass_s(2)
    shown.figures.close()
    assert read(shown.file.read_bytes()) == {}


def test_nothing_is_written_unless_the_policy_says_so(tmp_path: Path) -> None:
    shown = Shown(tmp_path, slurm="false")
    shown.begin(1, cpus_on_node="4", exclusive="1")
    shown.turned.ns += S
    shown.figures.turn()
    assert read(shown.file.read_bytes()) == {}


def test_a_job_of_which_nothing_was_measured_has_no_figure(shown: Shown) -> None:
    for zone in shown.node.zones:
        (shown.node.root / "sys/class/powercap" / zone / "energy_uj").write_text("")
    shown.begin(1, cpus_on_node="4", exclusive="1")
    for _ in range(30):
        shown.turned.ns += S
        if shown.meter.is_due(shown.turned.clock.mono_ns(), shown.turned.clock.real_ns()):
            shown.note(shown.meter.end_interval())
        shown.figures.turn()
    assert shown.energy_j(1) is None


@given(st.integers(0, 2**63), st.integers(0, 2**40), st.integers(0, 2 * MOST))
def test_what_is_packed_is_what_is_read(energy_uj: int, power_uw: int, jobs: int) -> None:
    figure: Any = Figure(energy_uj, 5, power_uw, 7)
    found = read(packed(figure, ((number, OF_JOB, figure) for number in range(1, jobs + 1)), 1))
    assert found == dict.fromkeys(
        [(0, OF_NODE), *((number, OF_JOB) for number in range(1, min(jobs, MOST - 1) + 1))],
        Read(energy_uj, power_uw, 5, 7),
    )


FIGURES = st.builds(Figure, st.integers(0, 10**9), st.integers(0, 5 * S), st.integers(0, 10**9), st.just(0))


@given(st.dictionaries(st.integers(-6, 9), FIGURES, max_size=6), st.sets(st.integers(-6, 9)), FIGURES)
def test_steps_are_together_no_more_than_their_job_now_and_later(
    steps: dict[int, Figure], ended: set[int], job: Figure
) -> None:
    job = Figure(sum(one.energy_uj for one in steps.values()) + job.energy_uj, 5 * S, job.power_uw, 9 * S)
    found = capped(steps, ended, job)
    assert found.keys() == steps.keys()
    assert sum(one.energy_uj for one in found.values()) <= job.energy_uj
    assert sum(one.power_uw for one in found.values()) <= job.power_uw
    assert all(one.energy_uj >= steps[number].energy_uj for number, one in found.items())
    assert all(one.power_uw == 0 for number, one in found.items() if number in ended)
    assert {(one.at_ns, one.until_ns) for one in found.values()} <= {(5 * S, 9 * S)}


def test_a_step_has_its_figure_within_two_seconds_and_goes_on_with_its_power(shown: Shown) -> None:
    shown.pass_s(1)
    shown.begin(1, cpus_on_node="4", exclusive="1")
    session = shown.register.live[SessionKey(1, 0)]
    shown.pass_s(2)
    for second in range(1, 30):
        shown.node.step(1, "0", second, "0-3", uid=2001)
        shown.pass_s(1, watts=100)
        job, one = shown.now()[1, OF_JOB], shown.now().get((1, 0))
        if second > 2:
            assert one is not None, second
            assert 0.7 * 100 * J * (second - 2) < one.energy_uj <= job.energy_uj
    (use,) = session.uses.values()
    assert use.energy_uj is not None
    shown.node.end_step(1, "0", uid=2001)
    shown.pass_s(12, watts=100)
    ended = shown.now()[1, 0]
    assert (ended.power_uw, ended.energy_uj) == (0, use.energy_uj)


def test_a_gpu_that_the_job_does_not_hold_is_none_of_its_figure(shown: Shown) -> None:
    shown.meter._node.workers.append(Card(shown.node.root, shown.turned.clock, 1000 * S))
    shown.meter.account_anew()
    shown.pass_s(1)
    shown.begin(1, cpus_on_node="4", exclusive="1")
    for second in range(1, 15):
        shown.pass_s(1, watts=100)
        assert shown.now()[1, OF_JOB].energy_uj == second * 100 * J


def test_a_counter_that_goes_on_between_two_close_readings_is_no_power(shown: Shown) -> None:
    shown.pass_s(1)
    shown.begin(1, cpus_on_node="4", exclusive="1")
    shown.pass_s(3, watts=100)
    shown.turned.ns += S // 500
    shown.node.serve(package_uj=10 * J)
    shown.figures.turn()
    one = shown.now()[1, OF_JOB]
    assert (one.energy_uj, one.power_uw, one.at_ns) == (310 * J, 100 * J, shown.turned.ns)


def test_steps_that_go_on_have_room_before_those_that_ended(shown: Shown) -> None:
    shown.begin(1)
    shown.begin(2)
    shown.pass_s(20, watts=100)
    shown.turned.ns += 10 * S
    snapshot = shown.meter.end_interval()
    for key, session in shown.register.live.items():
        for number in range(600):
            session.add_use(use := StepUse(str(number), 0, 0, energy_uj=number))
            if key.job_id == 1 or number < 599:
                use.finish(1, 1)
    shown.figures.note(snapshot, True)
    found = shown.now()
    assert len(found) == MOST
    assert (2, 599) in found
