"""A short run of every fuzzer in Python; `python -m tests.attack` runs them for long."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.agent.base.session import Session
from perun_hpc.agent.jobs import ranks
from perun_hpc.backend import cgroup, powercap
from perun_hpc.data_model import rank_data
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.wording import plain
from tests import sysfs
from tests.attack import fuzz, progress, targets

FEW = {"policy": 200, "sysfs": 300, "boundary": 100, "session": 40, "store": 40, "hand-over": 300}
"""Inputs of those that are slow; the others get a thousand."""


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

    target = fuzz.Target("weak", "", lambda: [b"perun", b"A"], weak, (ValueError,))
    found = {finding.what.split()[0] for finding in fuzz.run(target, 1000).findings}
    assert {"RuntimeError", "MemoryError"} <= found


def test_names_of_users_can_be_stored_everywhere() -> None:
    text = plain("a\udcff\ud800\x00b" + "x" * 1000, 8)
    assert text == "a???bxxx"
    text.encode()
    session = Session(SessionKey(1, 0), {}, {}, "", "b", None)  # type: ignore[arg-type]
    step, _ = ranks.register(session, {"step_id": "0", "rank": "0", "command": "\udcff", "options": "\x00"}, 1, 1, 1)
    assert (step.command, step.options) == ("?", "?")
    head, *tables = rank_data.final({"rank": 0}, "exit", ["x"], b"", ())
    parsed = rank_data.parse(b"".join((head.replace(b'"x"', b'"\\ud800\\u0000"'), *tables)))
    assert parsed.names == ("??",)


@pytest.mark.parametrize("digits", [11, 5000])
def test_a_number_of_any_length_in_a_kernel_file_is_data(tmp_path: Path, digits: int) -> None:
    root = tmp_path / "cgroup_v1"
    sysfs.build("cgroup_v1", root)
    job = next(root.glob("sys/fs/cgroup/freezer/*/uid_*/job_*"))
    told = (*job.rglob("cgroup.procs"), *job.rglob("freezer.state"), *root.rglob("memory.max_usage_in_bytes"))
    for path in told:
        path.write_text("9" * digits + "\n")
    found = cgroup.find_job(root, job.name.removeprefix("job_"))
    assert found is not None
    assert found.suspended(root) is None
    assert found.peak_memory_b() == (int("9" * digits) if digits < 4300 else None)
    found.close()
    assert powercap.wrap_range(10**400) > 10**400


def test_a_fuzzer_that_was_given_a_time_says_how_far_it_came() -> None:
    target = fuzz.Target("endless", "", lambda: [b"perun"], lambda data: None, ())
    done = fuzz.run(target, 10**9, most_s=0.2)
    assert 0 < done.inputs < 10**9


def test_a_further_run_goes_on_with_the_next_inputs(tmp_path: Path) -> None:
    fed = tmp_path / "fed"

    def note(data: bytes) -> None:
        with fed.open("ab") as file:
            file.write(data + b"\n")

    seeds = [b"perun", b"energy"]
    target = fuzz.Target("noted", "", lambda: seeds, note, (), ("errors",), n=10_000)
    for _ in range(3):
        fed.write_bytes(b"")
        progress.go_on([target], seed=5, inputs=200, most_s=600, jobs=2, folder=tmp_path / "progress")
    last = [
        fuzz.input_at(target, seeds, 5, index) for index in range(progress.read(target, 5, tmp_path / "progress").next)
    ]
    done = progress.read(target, 5, tmp_path / "progress").of(progress.version(target.code))
    assert 600 <= done.inputs == len(last) <= 1200
    got = fed.read_bytes()
    assert all(one + b"\n" in got for one in last[-200:])
    assert progress.row(target, 5, tmp_path / "progress")[2] == f"{done.inputs:,}"


def test_what_broke_a_fuzzers_target_is_named_with_the_number_of_the_input(tmp_path: Path) -> None:
    def weak(data: bytes) -> None:
        if len(data) > 10:
            raise RuntimeError("long")

    target = fuzz.Target("weak", "", lambda: [b"perun"], weak, (), ("errors",), n=300)
    progress.go_on([target], seed=1, inputs=300, most_s=600, jobs=1, folder=tmp_path)
    found = progress.broken(target, 1, tmp_path)
    index = int(found[0].rpartition(" ")[2].rstrip(")"))
    assert "RuntimeError" in found[0]
    assert len(fuzz.input_at(target, [b"perun"], 1, index)) > 10


def test_code_is_another_one_when_what_it_imports_changes() -> None:
    assert progress.version(("config.policy",)) != progress.version(("slurm.hostlist",))
