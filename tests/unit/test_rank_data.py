"""`perun.rank-data/1`: what is written is read, and whatever else comes is one clear error, for whoever reads."""

from __future__ import annotations

import json
import mmap
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.agent.measure.curve import Curve
from perun_hpc.agent.outbox import regions
from perun_hpc.data_model import rank_data
from perun_hpc.errors import DataError
from perun_hpc.monitoring.ranks import RankServer, read_ranks
from tests.unit.test_launcher_rank_data import Host

CALLS = ((0, 10, 20), (1, 30, -40))
TABLES = [{"name": "calls", "columns": list(rank_data.CALLS), "rows": 2}]
ABOUT = {"step_id": "0", "rank": 3, "mpi": None}


def packed(rows: tuple[tuple[int, int, int], ...] = CALLS, **changes: Any) -> bytes:
    """Rank data whose first line says something else than it should, perhaps."""
    head = {"schema": rank_data.SCHEMA, **ABOUT, "live": False, "regions": ["a", "b"], "tables": TABLES, **changes}
    return json.dumps(head).encode() + b"\n" + b"".join(struct.pack("<3q", *row) for row in rows)


def table(**changes: Any) -> list[dict[str, Any]]:
    return [{**TABLES[0], **changes}]


DAMAGED = {
    "empty": b"",
    "no line": b"{}",
    "no JSON": b"no\n",
    "a list": b"[]\n",
    "another schema": packed(schema="perun.rank-data/2"),
    "not UTF-8": b"\xff" + packed(),
    "another encoding": packed().partition(b"\n")[0].decode().encode("utf-16-le") + b"\n\0",
    "a long line": packed(regions=["x" * rank_data.MAX_HEAD_B]),
    "nested deeply": b"[" * 100_000 + b"\n",
    "nested deeply inside": packed().replace(b'"mpi": null', b'"mpi": ' + b"[" * 100_000 + b"]" * 100_000),
    "a number of 5000 digits": packed().replace(b'"rank": 3', b'"rank": ' + b"9" * 5000),
    "no rank": packed(rank=None),
    "a rank as text": packed(rank="3"),
    "a rank too large": packed(rank=2**31 + 1),
    "a rank that is true": packed(rank=True),
    "MPI's word is a list": packed(mpi=[1]),
    "MPI's rank is text": packed(mpi={"rank": "x", "size": 2}),
    "MPI's size is missing": packed(mpi={"rank": 1}),
    "lists in MPI's word": packed(mpi={"rank": 1, "size": 2, "library": [[]]}),
    "a process that is text": packed(pid="x"),
    "an end that is a list": packed(end=[]),
    "no names": packed(regions=None),
    "names that are one text": packed(regions="ab"),
    "names that are numbers": packed(regions=[1, None]),
    "neither live nor not": packed(live=None),
    "no tables": packed(tables=[]),
    "tables that are names": packed(tables=["calls"]),
    "samples alone": packed(tables=[{"name": "samples", "columns": list(rank_data.SAMPLES), "rows": 1}]),
    "samples before the calls": packed(
        tables=[{"name": "samples", "columns": list(rank_data.SAMPLES), "rows": 1}, *table(rows=1)]
    ),
    "calls twice": packed(tables=table(rows=1) * 2),
    "other columns": packed(tables=table(columns=["x", "y"])),
    "rows as text": packed(tables=table(rows="2")),
    "rows that are no whole number": packed(tables=table(rows=2.5)),
    "rows that are true": packed(tables=table(rows=True)),
    "rows that are not there": packed(tables=table(rows=3)),
    "rows without number": packed(tables=table(rows=10**30)),
    "a torn row": packed()[:-1],
    "a table that grows, of a rank that has ended": packed(tables=table(rows=-1)),
    "a table that does not grow, of a living rank": packed(live=True),
    "a number that is none": packed(dropped=float("nan")),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_what_is_damaged_is_one_line_of_error_for_both_engines(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        rank_data.parse(data)
    assert str(caught.value).startswith("rank data: ")
    assert "\n" not in str(caught.value)
    path = tmp_path / "3.rank"
    path.write_bytes(data)
    _, (told,) = read_ranks(tmp_path)
    assert told == f"3.rank: {caught.value}"
    _, (told,), _ = regions.of_ranks(Curve((), ()), [(regions.Handed(0, 3, 0, 100, 1), path.open("rb"))])
    assert told == f"step 0 rank 3: {caught.value}"


def test_what_is_written_is_read_as_it_was() -> None:
    calls = b"".join(struct.pack("<3q", *row) for row in CALLS)
    data = b"".join(rank_data.final(ABOUT, "finalize", ["a", "b"], calls, [(1, 2, 3), (4, 5, 6)], 7))
    found = rank_data.parse(data)
    assert (list(found.calls), list(found.samples)) == ([0, 10, 20, 1, 30, -40], [1, 2, 3, 4, 5, 6])
    assert (found.names, found.rank, found.whole) == (("a", "b"), 3, True)
    assert (found.header["end"], found.header["dropped"]) == ("finalize", 7)


def test_a_table_that_grows_ends_before_the_first_row_without_a_begin() -> None:
    rows = ((0, 10, 20), (0, 30, 0), (0, 0, 0), (1, 40, 50))
    data = rank_data.live(ABOUT, ["a"]) + b"".join(struct.pack("<3q", *row) for row in rows) + b"torn"
    found = rank_data.parse(data)
    assert list(found.calls) == [0, 10, 20, 0, 30, 0]
    assert not found.whole


def test_it_is_read_from_a_map_of_memory_too() -> None:
    fd = os.memfd_create("rank")
    os.write(fd, packed())
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as memory:
        assert list(rank_data.parse(memory).calls) == [0, 10, 20, 1, 30, -40]
    os.close(fd)


def test_texts_of_users_are_plain_and_short() -> None:
    odd = "\ud800\0" + "x" * 5000
    found = rank_data.parse(packed(regions=[odd, "b"], end=odd, python=odd, mpi={"rank": 1, "size": 2, "library": odd}))
    for text in (*found.names, found.header["end"], found.header["python"], found.header["mpi"]["library"]):
        assert "\0" not in text
        assert len(text.encode()) <= rank_data.MAX_TEXT_B
    assert len(found.names[0].encode()) <= rank_data.MAX_NAME_B


def test_more_names_than_a_line_holds_are_left_out_and_their_calls_are_told() -> None:
    names = [f"region {number} {'x' * 200}" for number in range(8000)]
    rows = b"".join(struct.pack("<3q", number, 10, 20) for number in range(8000))
    data = b"".join(rank_data.final(ABOUT, "exit", names, rows, [(1, 2, 3)], 5))
    found = rank_data.parse(data)
    assert found.names == tuple(names[: len(found.names)])
    assert 4000 < len(found.names) < 8000
    assert found.header["dropped"] == 5 + 8000 - len(found.names)
    assert len(found.calls) == 3 * 8000
    live = rank_data.live(ABOUT, names, 64 * 1024)
    assert len(live) < 64 * 1024
    assert len(rank_data.parse(live).names) > 200


@given(st.binary(max_size=300), st.integers(0, 400))
def test_whatever_bytes_come_there_is_a_value_or_one_error(noise: bytes, at: int) -> None:
    whole = packed()
    for data in (noise, whole[:at] + noise, whole[:at] + noise + whole[at:], packed(noise=noise.decode("latin1"))):
        try:
            found = rank_data.parse(data)
        except DataError as error:
            assert "\n" not in str(error)
            continue
        assert len(found.calls) % 3 == 0
        json.dumps([found.header, found.rank], ensure_ascii=False).encode()


def test_a_living_rank_that_hands_over_nonsense_costs_the_desk_nothing(tmp_path: Path) -> None:
    """Its memory is looked at when it comes, and once more when the rank server closes."""
    (tmp_path / "s").mkdir()
    rank_server = RankServer(str(tmp_path / "s/rank server"), tmp_path / "ranks", Host(tmp_path))
    fd = os.memfd_create("rank")
    os.write(fd, DAMAGED["nested deeply"])
    rank_server._live["0"] = fd
    rank_server.close()
    assert read_ranks(tmp_path / "ranks") == ([], ["0.rank: rank data: the header is nested too deeply"])
