"""What leaves the spool: a spool that was lost takes nothing away, and what is not ours in it holds nothing up."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.agent.delivery import ArchiveDelivery
from perun_hpc.agent.paths import AgentPaths
from perun_hpc.agent.shipping import ship_all, ship_ledger

DAY = "2026-11-22.jsonl"


def lines(*numbers: int) -> str:
    return "".join(f'{{"t0_ns":{number}}}\n' for number in numbers)


@pytest.mark.parametrize(
    ("spools", "expected"),
    [
        ([lines(1, 2), lines(1, 2, 3)], lines(1, 2, 3)),
        ([lines(1, 2, 3), lines(1, 4)], lines(1, 4)),  # cut back after a crash
        ([lines(1, 2), lines(7), lines(7, 8)], lines(1, 2, 7, 8)),  # the disk was lost
        ([lines(1, 2), lines(7, 8), lines(7, 9)], lines(1, 2, 7, 9)),
        ([lines(1, 2), lines(12), lines(2)], lines(1, 2)),
        ([lines(1, 2), ""], lines(1, 2)),
    ],
)
def test_the_archive_keeps_what_the_spool_lost(tmp_path: Path, spools: list[str], expected: str) -> None:
    (tmp_path / "archive").mkdir()
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    for text in spools:
        (paths.node / DAY).write_text(text)
        ship_ledger(paths, ArchiveDelivery(tmp_path / "archive"), "c", "n1")
    assert (tmp_path / "archive" / "c" / "nodes" / "n1" / DAY).read_text() == expected


def test_what_others_left_among_the_sessions_is_not_shipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "archive").mkdir()
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    (paths.sessions / "stale-directory").mkdir(parents=True)
    (paths.sessions / "7.0").touch()
    (paths.sessions / "stale.msg").touch()
    assert ship_all(paths, ArchiveDelivery(tmp_path / "archive"), ("c", "n1"))
    assert capfd.readouterr().err == ""
