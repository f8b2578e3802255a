"""`perun watch`: what a step beside a job hears of its node's agent, and what is made of it for people."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from perun_hpc.errors import DataError
from perun_hpc.process.telling import LEAST_S, tell
from perun_hpc.report.live import GpuNow, Live, Word, parse
from perun_hpc.report.screen import WIDTH, Style, cells
from tests.flow.agent_node import FakeNode, until

PLAIN = Style(colour=False, unicode=True)


class Enough(Exception):
    """The step is ended."""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    node = FakeNode(tmp_path)
    node.cgroup(1, "0-3", 0.0, uid=os.getuid())
    own = node.root / f"proc/{os.getpid()}"
    own.mkdir(parents=True)
    (own / "cgroup").write_text(f"4:cpuacct:/slurm/uid_{os.getuid()}/job_1/step_9\n")
    node.start()
    yield node
    node.stop()


def listen(node: FakeNode, waits: int, moves: int = 5_000) -> tuple[list[Word], list[float]]:
    """What is said while the counters move by so much at each wait, and how long it was waited for."""
    said: list[str] = []
    waited: list[float] = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) > waits:
            raise Enough
        node.serve(package_uj=moves)
        os.sched_yield()

    with pytest.raises(Enough):
        tell("1", {"SLURMD_NODENAME": "n1", "SLURM_JOB_ID": "7"}, 0.0, said.append, wait, node.socket)
    return [parse(line) for line in said], waited


def test_a_job_that_is_alone_is_said_as_of_now_at_most_once_a_second(node: FakeNode) -> None:
    node.begin(1, cpus_on_node=4, uid=os.getuid())
    seen = 0

    def has_moved() -> bool:
        nonlocal seen
        words, waited = listen(node, 3)
        assert set(waited) == {LEAST_S}
        seen = max(one.energy_uj for one in words)
        return seen > 0

    until(has_moved, "energy is said")
    words, _ = listen(node, 3)
    assert all(one.resolution_ms == 1000 and not one.error for one in words)
    assert [one.energy_uj for one in words] == sorted(one.energy_uj for one in words)


def test_on_a_shared_node_nothing_new_is_said_before_its_moment(node: FakeNode) -> None:
    node.begin(1, cpus_on_node=2, uid=os.getuid())
    node.begin(2, cpus_on_node=2, uid=1001)
    words, _ = listen(node, 20)
    assert len(words) <= 2 and words[-1].resolution_ms == 10_000


def test_a_job_that_the_node_does_not_know_is_said_once(node: FakeNode) -> None:
    words, waited = listen(node, 5)
    assert [one.error for one in words] == ["no such job on this node"] and len(waited) == 6


def test_without_an_agent_it_goes_on_asking(tmp_path: Path) -> None:
    node = FakeNode(tmp_path)
    words, waited = listen(node, 4)
    assert len(words) == 1 and "no agent answers" in words[0].error and len(waited) == 5


def test_two_moments_of_each_node_make_the_power() -> None:
    live = Live("4711", "stencil", 2)
    for node in ("n1", "n2"):
        live.take(Word(node, 1_000_000, 10**9))
    assert live.power_w is None and live.complete
    live.take(Word("n1", 101_000_000, 3 * 10**9))
    live.take(Word("n2", 51_000_000, 2 * 10**9))
    assert live.power_w == pytest.approx(50 + 50)
    assert live.energy_uj == 152_000_000
    assert "100 W" in live.line(0, PLAIN) and "2 of 2 nodes" in live.line(0, PLAIN)
    assert live.figures(12.5)["power_w"] == pytest.approx(100)


def test_a_node_that_falls_silent_has_no_power_and_keeps_what_it_used() -> None:
    live = Live("4711", "stencil", 1)
    for word in (Word("n1", 0, 10**9), Word("n1", 10**8, 2 * 10**9), Word("n1", error="no agent answers")):
        live.take(word)
    assert live.power_w is None and live.energy_uj == 10**8
    assert "no agent answers" in live.line(0, PLAIN)
    assert not any("0 W" in line for line in live.screen(0, PLAIN))


def test_of_many_nodes_the_busiest_are_shown_and_every_line_fits() -> None:
    live = Live("4711", "a name \x1b[2J of some length" * 4, 64)
    for second in (1, 2):
        for number in range(64):
            live.take(Word(f"n{number}", second * number * 10**6, second * 10**9, 10_000))
    lines = live.screen(0, PLAIN)
    assert lines[3].startswith("n63") and "and 52 more" in "\n".join(lines)
    assert "every 10 s" in lines[-1] and "(shared: every 10 s)" in live.line(0, PLAIN)
    assert all(cells(line) <= WIDTH and "\x1b" not in line for line in lines)


def test_more_nodes_than_the_job_has_are_passed_over() -> None:
    live = Live("4711", "x", 2)
    for name in ("n1", "n2", "n3"):
        live.take(Word(name, 10**6, 10**9, 1000))
    assert live.energy_uj == 2 * 10**6 and live.fresh == {("", "n1"), ("", "n2")}


def test_components_that_share_a_node_are_two_and_named() -> None:
    live = Live("4711", "x", 3, {"4711": "4711+0", "4712": "4711+1"})
    for job, node in (("4711", "n1"), ("4712", "n1"), ("4712", "n2")):
        live.take(Word(node, 10**6, 10**9, 1000, job=job))
    assert live.energy_uj == 3 * 10**6 and live.complete
    assert [line.split()[:2] for line in live.screen(0, PLAIN)[3:6]] == [
        ["n1", "4711+0"],
        ["n1", "4711+1"],
        ["n2", "4711+1"],
    ]


def test_what_was_said_before_is_nothing_new() -> None:
    live = Live("4711", "x", 1)
    for second in (1, 2):
        live.take(Word("n1", second * 10**6, second * 10**9, 1000))
    live.fresh.clear()
    live.take(Word("n1", 2 * 10**6, 2 * 10**9, 1000))
    assert not live.fresh and live.power_w == pytest.approx(1)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[]",
        '{"node": "n1", "energy_uj": -1}',
        '{"node": "n1", "energy_uj": 1%s}' % ("0" * 400),
        '{"node": 1}',
        '{"node": "n1", "energy_uj": "5"}',
        '{"node": "n1", "more": 1}',
        '{"node": "n1", "gpus": 1}',
        '{"node": "n1", "gpus": [{"gpu": 1}]}',
        '{"node": "n1", "gpus": [{"gpu": "a", "clock_khz": "fast"}]}',
        "slurmstepd: x",
    ],
)
def test_what_is_no_word_of_a_node_is_refused(line: str) -> None:
    with pytest.raises(DataError):
        parse(line)


def test_a_word_of_a_node_is_what_it_said() -> None:
    word = Word("n1", 5, 6, 7, "", "4712", (GpuNow("gpu-GPU-a", 500, 1_305_000, None, True), GpuNow("gpu-GPU-b")))
    assert parse(json.dumps(asdict(word))) == word


def test_gpus_have_their_clock_limit_and_what_holds_them_down_and_what_is_not_known_is_no_figure() -> None:
    live = Live("4711", "train", 1)
    gpus = (
        GpuNow("gpu-GPU-1a2b3c4d-5e6f", 870, 1_305_000, 300_000, True, False),
        GpuNow("gpu-GPU-9f8e7d6c", 1000, 1_105_000, 300_000, False, True),
        GpuNow("gpu-GPU-\x1b[2J"),
    )
    live.take(Word("n1", 10**6, 10**9, 1000, gpus=gpus))
    lines = live.screen(0, PLAIN)
    assert [line.split() for line in lines[-4:]] == [
        ["node", "GPU", "busy", "clock", "limit"],
        ["n1", "9f8e7d6c", "100", "%", "1105", "MHz", "300", "W", "slowed", "by", "heat", "or", "the", "hardware"],
        ["n1", "1a2b3c4d", "87", "%", "1305", "MHz", "300", "W", "held", "down", "by", "its", "limit"],
        ["n1", "\\x1b[2J", "-", "-", "-"],
    ]
    assert live.line(0, PLAIN).endswith("GPU 1205 MHz 1/3 slowed 1/3 capped")
    shown = live.figures(0)["gpus"]
    assert shown[2] == {"node": "n1", "gpu": gpus[2].gpu}
    assert shown[0] == {
        "node": "n1", "gpu": gpus[0].gpu, "busy": 870, "clock_khz": 1_305_000, "limit_mw": 300_000,
        "capped": True, "slowed": False,
    }  # fmt: skip
    live.take(Word("n1", error="no agent answers"))
    assert live.figures(0)["gpus"] == []
