"""The node ledger: its lines wait for a disk that takes nothing, and short intervals become one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.measure.node_ledger import NodeLedger

S = 1_000_000_000


def test_a_disk_that_takes_no_lines_is_named_once_and_gets_them_later(tmp_path: Path, capfd: pytest.CaptureFixture):
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    ledger = NodeLedger(paths)
    for number in range(50):
        ledger.append("2026-01-01", [line(10 * number * S, 10 * S)])
    assert capfd.readouterr().err.count("node ledger:") == 1
    paths.node.mkdir(parents=True)
    ledger.append("2026-01-01", [line(500 * S, 10 * S)])
    assert [one["t0_ns"] // S for one in written(paths)] == list(range(0, 510, 10))


def test_a_hundred_intervals_a_second_are_a_line_a_second(tmp_path: Path) -> None:
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    ledger = NodeLedger(paths)
    for number in range(6000):
        both = [line(number * S // 100, S // 100, domain, number) for domain in ("package-0", "dram-0")]
        ledger.append("2026-01-01", both)
    found = written(paths)
    assert len(found) == 2 * 60 and ledger.position == ("2026-01-01", paths.ledger("2026-01-01").stat().st_size)
    for domain in ("package-0", "dram-0"):
        own = [one for one in found if one["domain"] == domain]
        assert [one["t1_ns"] - one["t0_ns"] for one in own] == [S] * 60
        assert sum(one["total_uj"] for one in own) == sum(range(6000))


KINDS = ("cores", "exclusive", "gap")
INTERVALS = st.lists(
    st.tuples(st.integers(1, 3 * S), st.integers(-5, 5), st.sampled_from(KINDS), st.booleans(), st.integers(0, 9))
)


@given(INTERVALS, st.sampled_from(["2026-01-01", "2026-01-02"]))
def test_whatever_is_joined_no_interval_and_no_share_is_lost(
    tmp_path_factory: pytest.TempPathFactory, intervals: list[tuple[int, int, str, bool, int]], other_day: str
) -> None:
    paths = AgentPaths(Path("/nonexistent"), tmp_path_factory.mktemp("spool"))
    paths.node.mkdir(parents=True)
    ledger = NodeLedger(paths)
    lines, at_ns = [], 0
    for number, (length_ns, energy_uj, method, saved, owner) in enumerate(intervals):
        made = line(at_ns, length_ns, "package-0", None if method == "gap" else energy_uj, method, f"job:{owner}.0")
        at_ns += length_ns
        lines.append(made)
        ledger.append("2026-01-01" if number < len(intervals) // 2 else other_day, [dict(made)])
        if saved:
            ledger.flush()
    ledger.flush()
    found = written(paths)
    assert [one["t0_ns"] for one in found] == [0, *(one["t1_ns"] for one in found[:-1])][: len(found)]
    assert not found or found[-1]["t1_ns"] == at_ns
    for key in ("method", "total_uj"):
        assert _sums(found, key) == _sums(lines, key)
    assert all(sum(one["shares"].values()) == (one["total_uj"] or 0) for one in found)


def _sums(lines: list[dict[str, Any]], key: str) -> dict[str, int]:
    """Energy by owner and, where `key` is the method, by method."""
    found: dict[str, int] = {}
    for one in lines:
        for owner, energy_uj in one["shares"].items():
            name = f"{owner} {one['method'] if key == 'method' else ''}"
            found[name] = found.get(name, 0) + energy_uj
    return found


def line(
    t0_ns: int,
    length_ns: int,
    domain: str = "package-0",
    total_uj: int | None = 5,
    method: str = "exclusive",
    owner: str = "job:1.0",
) -> dict[str, Any]:
    """An interval's line."""
    shares = {} if total_uj is None else {owner: total_uj}
    about = {"t0_ns": t0_ns, "t1_ns": t0_ns + length_ns, "domain": domain}
    return {**about, "total_uj": total_uj, "shares": shares, "method": method}


def written(paths: AgentPaths) -> list[dict[str, Any]]:
    """The lines of all days."""
    return [json.loads(text) for path in sorted(paths.node.glob("*.jsonl")) for text in path.read_text().splitlines()]
