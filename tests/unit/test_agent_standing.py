"""What stands, since when, and who hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.outbox.losses import (
    MOST,
    NO_READING,
    NOT_MOVING,
    NOT_SHIPPED,
    STILL_BUSY_NS,
    STILL_NS,
    Loss,
    Losses,
    find_set_aside,
    keep_undelivered,
    read_undelivered,
)
from perun_hpc.cli import agent
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity

SENSOR = Sensor(
    id="powercap:package-0:energy",
    host="n1",
    backend="powercap",
    device="intel-rapl:0",
    domain="package-0",
    component="cpu",
    kind=Kind.COUNTER,
    quantity=Quantity.ENERGY,
    unit="uJ",
)


class Clock:
    now_ns = 1_000_000_000_000

    def __call__(self) -> int:
        return self.now_ns


def test_users_hear_of_their_own_jobs_and_of_nothing_else() -> None:
    losses = Losses(Clock())
    losses.put(
        NOT_SHIPPED, {"job 1.0": Loss("full", 5, 2001), "job 2.0": Loss("gone", 3, 2002), "ledger": Loss("x", 1)}
    )
    losses.follow(NO_READING, {SENSOR.id: "EIO"})
    assert [(one["kind"], one["names"], one["why"]) for one in losses.visible_to(2001)] == [
        (NOT_SHIPPED, ["job 1.0"], "full")
    ]
    assert losses.visible_to(2003) == []
    told = losses.visible_to(0)
    assert [(one["kind"], one["count"], one["since_ns"]) for one in told] == [
        (NOT_SHIPPED, 3, 1),
        (NO_READING, 1, Clock.now_ns),
    ]


def test_what_stands_keeps_its_beginning_and_what_is_over_is_gone() -> None:
    clock = Clock()
    losses = Losses(clock)
    losses.follow(NO_READING, {"a": "x", "b": "y"})
    clock.now_ns += 60
    losses.follow(NO_READING, {"b": "z", "c": "y"})
    (told,) = losses.visible_to(0)
    assert (told["names"], told["since_ns"], told["why"]) == (["b", "c"], Clock.now_ns, "z")
    losses.follow(NO_READING, {})
    assert losses.visible_to(0) == []


def test_sensors_that_fail_and_recover_are_logged_once(tmp_path: Path) -> None:
    said: list[str] = []
    losses = Losses(Clock(), said.append)
    for _ in range(3):
        losses.follow(NO_READING, {f"s{number}": "EIO" for number in range(7)})
    losses.follow(NO_READING, {"s0": "EIO"})
    losses.put(NOT_SHIPPED, {"job 1.0": Loss("full", 1)})
    assert said == [
        "no reading: s0, s1, s2, s3, s4 and 2 more: EIO",
        "ended: no reading: s1, s2, s3, s4, s5 and 1 more",
    ]


def test_a_counter_that_stands_still_while_cpus_work_is_silent() -> None:
    clock = Clock()
    losses = Losses(clock)

    def note(ticks: int, busy_ns: int) -> list[str]:
        losses.note_readings([SENSOR], {SENSOR.id: Reading(ticks, 0)}, {0: busy_ns})
        return [one["kind"] for one in losses.visible_to(0)]

    assert note(7, 0) == []
    clock.now_ns += STILL_NS
    assert note(7, STILL_BUSY_NS - 1) == []  # an idle machine may do with little
    assert note(7, STILL_BUSY_NS) == [NOT_MOVING]
    assert losses.visible_to(0)[0]["since_ns"] == Clock.now_ns
    assert note(8, 2 * STILL_BUSY_NS) == []


def test_a_loss_of_the_spool_is_known_to_the_next_agent_and_bounded(tmp_path: Path) -> None:
    paths = AgentPaths(tmp_path, tmp_path)
    paths.node.mkdir()
    assert read_undelivered(paths) == {}
    keep_undelivered(paths, {f"job {number}.0": Loss("full", number, 2001) for number in range(MOST + 5)})
    found = read_undelivered(paths)
    assert len(found) == MOST
    assert found["job 0.0"] == Loss("full", 0, 2001)
    paths.undelivered.write_text('[["job", 1]]')
    assert read_undelivered(paths) == {}
    keep_undelivered(paths, {})
    assert paths.undelivered.read_text() == "[]"


def test_sessions_set_aside_are_found(tmp_path: Path) -> None:
    paths = AgentPaths(tmp_path, tmp_path)
    assert find_set_aside(paths) == {}
    (paths.set_aside / "4711.0").mkdir(parents=True)
    assert list(find_set_aside(paths)) == ["job 4711.0"]


@pytest.mark.usefixtures("utc")
def test_the_answer_to_status_is_read_by_people() -> None:
    told = [
        {"kind": "not-shipped", "names": ["job 1.0", "job 2.0"], "count": 7, "since_ns": 10**9, "why": "\x1b[2Jfull"},
        {"kind": "of another version", "names": ["x"], "count": 1, "since_ns": 10**9, "why": "y"},
    ]
    lines = agent.losses(told, now_s=7261.0)
    assert lines[0].startswith("not shipped since 1970-01-0")
    assert "(02:01:00): job 1.0, job 2.0 and 5 more: \\x1b[2Jfull; it waits" in lines[0]
    assert lines[1].startswith("of another version: x, since 1970")
    assert agent.losses([], now_s=0) == ["losses: none"]
