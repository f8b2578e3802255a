"""A day of a node's ledger in the archive: it holds what its node's holds, however its deliveries were cut off."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.grown import edge_of, go_on, whole_lines
from tests.power import Lost, after, record

NOBODY = 65534
DAY = "2026-12-01.jsonl"


def lines(first: int, count: int, domain: str = "package-0") -> bytes:
    return b"".join(
        json.dumps({"t0_ns": n * 10, "t1_ns": n * 10 + 10, "domain": domain, "total_uj": n}).encode() + b"\n"
        for n in range(first, first + count)
    )


@pytest.fixture
def day(tmp_path: Path) -> Path:
    path = tmp_path / DAY
    path.write_bytes(lines(0, 100))
    return path


def test_what_follows_is_put_behind_once_however_often_it_comes(day: Path) -> None:
    before, size_b = day.stat().st_ino, day.stat().st_size
    edge = edge_of(day, size_b)
    for count in (3, 3, 5):
        assert go_on(day, size_b, edge, lines(100, count))
        assert day.read_bytes() == lines(0, 100 + count)
    assert go_on(day, size_b, edge, lines(100, 2)) is False  # a delivery that was held up: more is there by now
    assert day.read_bytes() == lines(0, 105) and day.stat().st_ino == before


def test_what_a_lost_write_left_half_is_completed(day: Path) -> None:
    size_b = day.stat().st_size
    edge = edge_of(day, size_b)
    with day.open("ab") as file:
        file.write(lines(100, 1)[:-7])
    assert go_on(day, size_b, edge, lines(100, 2))
    assert day.read_bytes() == lines(0, 102)


def test_what_a_delivery_left_that_was_broken_off_is_durable_once_it_comes_again(day: Path) -> None:
    """The collector was killed between the write and its sync; the node hears now that all is there."""
    size_b = day.stat().st_size
    script = (
        "import os, pathlib, sys; from perun_hpc.archive.grown import edge_of, go_on;"
        "day, size_b = pathlib.Path(sys.argv[1]), int(sys.argv[2]); edge = edge_of(day, size_b);"
        "more = bytes.fromhex(sys.argv[3]); fd = os.open(day, os.O_WRONLY); os.pwrite(fd, more, size_b); os.close(fd);"
        "assert go_on(day, size_b, edge, more)"
    )
    command = [sys.executable, "-c", script, str(day), str(size_b), lines(100, 3).hex()]
    recording = record(command, day.parent, day.parent.with_name("log"))
    after(recording, len(recording.steps), Lost.ALL, 1, day.parent.with_name("disk"))
    assert (day.parent.with_name("disk") / DAY).read_bytes() == lines(0, 103)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
@pytest.mark.parametrize("grows", [False, True])
def test_a_day_that_may_not_be_changed_holds_up_no_other(grows: bool) -> None:
    """An administrator took away the right to write on old days; the directory is the service user's."""
    with tempfile.TemporaryDirectory() as base:
        node, archive = Path(base, "node"), Path(base, "archive")
        shipped = archive / "c/nodes/n1"
        for directory in (node, shipped):
            directory.mkdir(parents=True)
        (node / "2026-11-30.jsonl").write_bytes(lines(0, 12 if grows else 10))
        (node / DAY).write_bytes(lines(20, 3))
        (shipped / "2026-11-30.jsonl").write_bytes(lines(0, 10))
        (shipped / "2026-11-30.jsonl").chmod(0o440)
        for path in (Path(base), *Path(base).rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            assert ArchiveDelivery(archive).ledger(node, "c", "n1") == ()
        finally:
            os.seteuid(0)
        for name in ("2026-11-30.jsonl", DAY):
            assert (shipped / name).read_bytes() == (node / name).read_bytes()


@pytest.mark.parametrize(
    ("at_b", "more"),
    [
        (-20, lines(100, 1)),  # in the middle of a line
        (20, lines(100, 1)),  # behind the end
        (0, lines(99, 1)),  # an interval that was reported before
        (0, lines(100, 1, "dram-0")),  # a domain that may have been reported further up
        (0, lines(101, 1) + lines(100, 1)),  # a clock that goes back
    ],
)
def test_what_may_be_something_else_changes_nothing(day: Path, at_b: int, more: bytes) -> None:
    size_b = day.stat().st_size
    edge = edge_of(day, size_b + min(at_b, 0)) if at_b >= 0 else "0" * 512
    assert not go_on(day, size_b + at_b, edge, more)
    assert not go_on(day.with_name("none"), 0, edge, more)
    assert day.read_bytes() == lines(0, 100)


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("node"), st.integers(1, 40)),
            st.tuples(st.just("torn"), st.integers(1, 300)),
            st.tuples(st.just("gone"), st.just(0)),
            st.tuples(st.just("older"), st.integers(1, 300)),
        ),
        max_size=12,
    )
)
def test_whatever_happens_to_deliveries_the_archive_has_each_line_once(steps: list[tuple[str, int]]) -> None:
    """`torn`: the archive's file ends early; `older`: the node's last line is not whole yet when it is delivered."""
    place = Path(tempfile.mkdtemp())
    try:
        (place / "archive").mkdir()
        node, to = place / "node", ArchiveDelivery(place / "archive")
        node.mkdir()
        shipped, count = place / "archive/c/nodes/n1" / DAY, 0
        for what, how_many in [*steps, ("node", 1)]:
            if what == "node":
                with (node / DAY).open("ab") as file:
                    file.write(lines(count, how_many))
                count += how_many
            elif what == "torn" and shipped.exists():
                os.truncate(shipped, max(0, shipped.stat().st_size - how_many))
            elif what == "gone":
                shipped.unlink(missing_ok=True)
            elif what == "older" and (node / DAY).exists():
                whole = (node / DAY).read_bytes()
                (node / DAY).write_bytes(whole + lines(count, 1)[: how_many % 40 + 1])
                to.ledger(node, "c", "n1")
                (node / DAY).write_bytes(whole)
            assert to.ledger(node, "c", "n1") == ()
        assert shipped.read_bytes() == lines(0, count)
        assert whole_lines(node / DAY, shipped.stat().st_size) == b""
    finally:
        shutil.rmtree(place)
