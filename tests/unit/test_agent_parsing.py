"""What ranks handed over, read by a process that is not trusted: what it tells is held against what can be."""

from __future__ import annotations

import json
import os
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perun_hpc.agent.outbox import parsing, regions
from perun_hpc.data_model import rank_data
from perun_hpc.errors import DataError


def children() -> str:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


RECORD = {
    "end": {"mono_ns": 100},
    "domains": {},
    "static": {},
    "steps": [{"step_id": 0, "ranks": [{"rank": rank, "start_mono_ns": 0, "end_mono_ns": None} for rank in range(3)]}],
}
MIB = 1 << 20


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """Two ranks that handed something over, the second one nothing that can be read."""
    (tmp_path / "ranks").mkdir()
    parts = rank_data.final({"rank": 0}, "exit", ["solve"], array("q", (0, 1, 51)).tobytes(), [(1, 6, 0), (99, 50, 0)])
    (tmp_path / "ranks/0-0.rank").write_bytes(b"".join(parts))
    (tmp_path / "ranks/0-1.rank").write_bytes(b"no header")
    (tmp_path / "curve.bin").write_bytes(array("q", (1, 0, 101, 1_200)).tobytes())
    return tmp_path


def test_it_tells_what_reading_here_would_tell(session: Path) -> None:
    found = parsing.read_regions(None, 64 * MIB, session, RECORD)
    assert found == regions.of_session(session, RECORD)
    ((row,), (problem,), cpu_ns) = found
    assert cpu_ns == {(0, 0): 44}
    assert (row["name"], row["energy_uj"]) == ("solve", 200)
    assert problem.startswith("step 0 rank 1: ")


def test_a_session_of_which_nothing_was_handed_over_costs_no_process(tmp_path: Path) -> None:
    assert parsing.read_regions(None, MIB, tmp_path, {**RECORD, "steps": []}) == ([], [], {})
    before = children()
    assert parsing.read_regions(None, MIB, tmp_path, RECORD) == ([], [], {})
    assert children() == before


def test_too_little_memory_is_told_in_words(session: Path) -> None:
    # More than any allocator keeps in the room that this process has left from before.
    (session / "curve.bin").write_bytes(np.repeat(np.arange(5_000_000), 2).tobytes())
    with pytest.raises(DataError, match="took more than its 1 MiB of memory"):
        parsing.read_regions(None, MIB, session, RECORD)


ROW = {
    "step_id": 0, "rank": 0, "name": "solve", "calls": 1, "time_ns": 50, "energy_uj": 200, "u_uj": 0,
    "method": "counted",
}  # fmt: skip
SOUND = [[ROW], ["a problem"], [[0, 0, 44]]]
LIES: dict[str, Any] = {
    "nothing": None,
    "no list": 7,
    "one list": [[ROW]],
    "two lists": [[ROW], []],
    "rows that are none": [[7], [], []],
    "a row that lacks something": [[{"step_id": 0, "rank": 0, "name": "solve"}], [], []],
    "a number that is none": [[{**ROW, "energy_uj": "200"}], [], []],
    "a number too large": [[{**ROW, "energy_uj": 1 << 80}], [], []],
    "a method of its own": [[{**ROW, "method": "guessed"}], [], []],
    "a truth": [[{**ROW, "calls": True}], [], []],
    "a rank that handed over nothing": [[{**ROW, "rank": 2}], [], []],
    "problems that are none": [[ROW], 7, []],
    "CPU times that are none": [[ROW], [], 7],
    "a CPU time that is none": [[ROW], [], [[0, 0, "44"]]],
    "a CPU time below 0": [[ROW], [], [[0, 0, -1]]],
    "a CPU time of a rank that handed over nothing": [[ROW], [], [[0, 2, 44]]],
}


def checked(told: Any) -> parsing.Found:
    handed = regions.Handed(0, 0, 0, 100, 3)
    return parsing.checked(json.dumps(told).encode(), [handed])


@pytest.mark.parametrize("name", LIES)
def test_what_cannot_be_is_a_fault(name: str) -> None:
    with pytest.raises(DataError):
        checked(LIES[name])


def test_what_is_too_long_is_cut_and_what_is_unknown_left_out() -> None:
    assert checked(SOUND) == ([ROW], ["a problem"], {(0, 0): 44})
    found, problems, _ = checked(
        [[{**ROW, "name": "x" * 999, "uid": 0}, *[ROW] * regions.MAX_RECORD], ["y" * 999] * 99, []]
    )
    assert len(found) == regions.MAX_RECORD and found[0].keys() == ROW.keys()
    assert len(found[0]["name"]) <= rank_data.MAX_NAME_B
    ran = [1 << 30, 7, 0, 1000]
    assert checked([[{**ROW, "ran": ran}, {**ROW, "ran": [1, 2, 3]}], [], []])[0] == [{**ROW, "ran": ran}, ROW]
    assert len(problems) == parsing.MAX_PROBLEMS and len(problems[0]) <= parsing.MAX_PROBLEM_B


def test_damage_is_a_fault() -> None:
    for data in (b"", b"[[", b"\xff", b"[" * 100_000):
        with pytest.raises(DataError):
            parsing.checked(data, [])
