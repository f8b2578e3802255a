"""A short run of every fuzzer in Python; `python -m tests.attack` runs them for long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.agent import ranks, regions
from perun_hpc.agent.session import Session, SessionKey, plain
from perun_hpc.backend import cgroup, powercap
from tests import sysfs
from tests.attack import fuzz, targets

FEW = {"policy": 60, "sysfs": 150, "boundary": 100, "session": 8, "store": 40, "hand-over": 300}
"""Inputs of those that are slow; the others get a thousand."""


@pytest.fixture(scope="module", autouse=True)
def scratch() -> Iterator[None]:
    yield
    targets.clean()


@pytest.mark.parametrize("target", targets.TARGETS, ids=lambda target: target.name)
def test_damaged_input_is_refused_and_nothing_worse(target: fuzz.Target) -> None:
    done = fuzz.run(target, FEW.get(target.name, 1000))
    assert not done.findings, "\n".join(f"{one.what}: {one.data[:2000]!r}" for one in done.findings)
    assert done.inputs > 0


def test_the_fuzzer_finds_what_there_is_to_find() -> None:
    def weak(data: bytes) -> None:
        if b"\x00" in data:
            raise RuntimeError("zero")
        if data.startswith(b"AA"):
            bytearray(4 * fuzz.MEMORY_B)

    target = fuzz.Target("weak", "", lambda: [b"perun", b"A"], weak, (ValueError,), 1)
    found = {finding.what.split()[0] for finding in fuzz.run(target, 1000).findings}
    assert {"RuntimeError", "MemoryError"} <= found


def test_names_of_users_can_be_stored_everywhere() -> None:
    text = plain("a\udcff\ud800\x00b" + "x" * 1000, 8)
    assert text == "a???bxxx"
    text.encode()
    session = Session(SessionKey(1, 0), {}, {}, "", "b", None)  # type: ignore[arg-type]
    step, _ = ranks.register(session, {"step_id": "0", "rank": "0", "command": "\udcff", "options": "\x00"}, 1, 1, 1)
    assert (step.command, step.options) == ("?", "?")
    head = b'{"schema": "perun.rank-data/1", "regions": ["\\ud800\\u0000"], "tables": [{"name": "calls", "columns":'
    parsed = regions.parse(head + b' ["region", "start_ns", "end_ns"], "rows": 0}]}\n')
    assert parsed.names == ("??",)


@pytest.mark.parametrize("digits", [11, 5000])
def test_a_number_of_any_length_in_a_kernel_file_is_data(tmp_path: Path, digits: int) -> None:
    root = tmp_path / "cgroup_v1"
    sysfs.build("cgroup_v1", root)
    job = next(root.glob("sys/fs/cgroup/freezer/*/uid_*/job_*"))
    for path in (*job.rglob("cgroup.procs"), *root.rglob("memory.max_usage_in_bytes")):
        path.write_text("9" * digits + "\n")
    found = cgroup.find_job(root, job.name.removeprefix("job_"))
    assert found is not None
    assert found.suspended(root) is None
    assert found.peak_memory_b() == (int("9" * digits) if digits < 4300 else None)
    found.close()
    assert powercap.wrap_range(10**400) > 10**400


def test_a_fuzzer_that_was_given_a_time_says_how_far_it_came() -> None:
    target = fuzz.Target("endless", "", lambda: [b"perun"], lambda data: None, (), 1)
    done = fuzz.run(target, 10**9, most_s=0.2)
    assert 0 < done.inputs < 10**9
