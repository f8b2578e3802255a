"""The audit: a ledger that closes, and one small wrong of every kind that it must find."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.audit import (
    compare_edges,
    compare_meter,
    compare_nodes,
    compare_sacct,
    compare_shares,
    find_holes,
    read_books,
    read_meter,
)
from perun_hpc.errors import DataError
from tests.accounting_data import DAY, START_S, slurm_job

JOB = (4711, 0)
AT = ("n1", DAY, "package-0")


def books_of(tmp_path: Path, *lines: dict[str, Any] | str) -> Any:
    path = tmp_path / "n1" / f"{DAY}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return read_books([path])


def interval(t0: int, t1: int, total: int | None, **shares: int) -> dict[str, Any]:
    named = {k.replace("job", "job:4711.0"): v for k, v in shares.items()}
    return {"t0_ns": t0, "t1_ns": t1, "domain": "package-0", "total_uj": total, "shares": named, "method": "cores"}


def record(end_ticks: int, **sensor: Any) -> dict[str, Any]:
    described = {"id": "x", "domain": "package-0", "kind": "counter", "quantity": "energy", "scale_num": 1,
                 "scale_den": 1, "wrap_range": 1000, **sensor}  # fmt: skip
    return {
        "node": "n1", "job_id": 4711, "restart_count": 0, "sensors": [described],
        "start": {"mono_ns": 0}, "end": {"mono_ns": 20},
        "edges": {"x": {"start": {"ticks": 950, "mono_ns": -1}, "end": {"ticks": end_ticks, "mono_ns": 19}}},
    }  # fmt: skip


def test_a_node_that_a_job_did_not_have_is_named() -> None:
    held = [((node, "2026-01-01", "package-0"), (4711, 0)) for node in ("n1", "n9", "n2.example")]
    (finding,) = compare_nodes([slurm_job(nodelist="n[1-2]", num_nodes=2)], held)
    assert (finding.where, "job 4711" in finding.what) == ("n9", True)
    assert compare_nodes([], held) == [] == compare_nodes([slurm_job(nodelist="")], held)


def test_what_closes(tmp_path: Path) -> None:
    books = books_of(tmp_path, interval(0, 10, 60, job=40, idle=20), interval(10, 20, 41, job=31, system=10))
    assert books.findings == []
    account = books.accounts[AT]
    assert (account.total_uj, account.jobs_uj, account.others_uj["idle"], account.others_uj["system"]) == (
        101,
        71,
        20,
        10,
    )
    assert compare_shares(books, {(AT, JOB): 71}, set()) == []
    assert compare_edges(books, [record(51)]) == (1, [])


def test_what_was_estimated_is_counted_apart(tmp_path: Path) -> None:
    books = books_of(tmp_path, {**interval(0, 10, 60, job=60), "estimated": True}, interval(10, 20, 41, idle=41))
    assert (books.findings, books.accounts[AT].total_uj, books.accounts[AT].estimated_uj) == ([], 101, 60)


def test_shares_that_do_not_sum(tmp_path: Path) -> None:
    (finding,) = books_of(tmp_path, interval(0, 10, 60, job=40, idle=19)).findings
    assert finding.off_uj == 1


def test_one_microjoule_between_node_and_record(tmp_path: Path) -> None:
    books = books_of(tmp_path, interval(0, 10, 60, job=40, idle=20))
    (finding,) = compare_shares(books, {(AT, JOB): 41}, set())
    assert (finding.off_uj, finding.where) == (-1, f"n1 {DAY} package-0")


def test_a_job_without_a_record_unless_it_has_not_ended(tmp_path: Path) -> None:
    books = books_of(tmp_path, interval(0, 10, 60, job=40, idle=20))
    assert [f.what for f in compare_shares(books, {}, set())] == ["job 4711.0 has no record"]
    assert compare_shares(books, {}, {JOB}) == []


def test_a_record_of_energy_that_no_node_gave(tmp_path: Path) -> None:
    books = books_of(tmp_path, interval(0, 10, 60, idle=60))
    (finding,) = compare_shares(books, {(AT, (9, 0)): 5}, set())
    assert finding.off_uj == -5
    assert compare_shares(books, {(("n1", "2020-01-01", "package-0"), (9, 0)): 5}, set()) == []


def test_a_tick_between_edges_and_node_ledger(tmp_path: Path) -> None:
    books = books_of(tmp_path, interval(0, 10, 60, job=60), interval(10, 20, 41, job=41))
    assert compare_edges(books, [record(52)])[1][0].off_uj == 1
    assert compare_edges(books, [record(52, scale_num=1, scale_den=1, wrap_range=None)])[1] != []


def test_a_hole_between_intervals_is_named_and_a_reboot_is_none(tmp_path: Path) -> None:
    hole = books_of(tmp_path, interval(0, 10, 1, idle=1), interval(2_500_000_010, 2_500_000_020, 1, idle=1))
    assert [f.what for f in find_holes(hole)] == ["nothing was counted for 2.5 s"]
    assert find_holes(books_of(tmp_path, interval(50, 60, 1, idle=1), interval(5, 9, 1, idle=1))) == []


def test_edges_that_a_gap_lies_between_are_not_compared(tmp_path: Path) -> None:
    books = books_of(tmp_path, interval(0, 10, None), interval(10, 20, 41, job=41))
    assert compare_edges(books, [record(52)]) == (0, [])


def test_a_torn_line_is_named(tmp_path: Path) -> None:
    books = books_of(tmp_path, interval(0, 10, 60, idle=60), '{"t0_ns": 1, "t1')
    assert [f.what for f in books.findings] == ["line 2 cannot be read"]


def test_half_a_line_that_is_on_its_way_is_none_and_a_torn_one_is_named(tmp_path: Path) -> None:
    path, whole = tmp_path / "n1" / f"{DAY}.jsonl", json.dumps(interval(10, 20, 5, idle=5))
    books_of(tmp_path, interval(0, 10, 60, idle=60))
    for half in ("{", whole[:-1]):
        with path.open("a") as file:
            file.write(half)
            file.flush()
            books = read_books([path])
            assert books.findings == [] and books.accounts[AT].total_uj == 60
            file.truncate(file.tell() - len(half))
            file.seek(0, os.SEEK_END)
    with path.open("a") as file:
        file.write(whole[:-1])
        file.flush()
        file.write(whole[-1] + "\n")
    assert read_books([path]).accounts[AT].total_uj == 65
    with path.open("a") as file:
        file.write(whole[:-1])
    os.utime(path, (START_S, START_S))
    assert [f.what for f in read_books([path]).findings] == ["line 3 cannot be read"]


def test_sacct_and_records() -> None:
    run = {4711: [(START_S, START_S + 100)]}
    assert compare_sacct([slurm_job()], run) == []
    assert compare_sacct([slurm_job(state="RUNNING", end_s=None)], run) == []
    assert [f.what for f in compare_sacct([slurm_job()], {})] == ["ran according to sacct, but has no record"]
    assert [f.what for f in compare_sacct([slurm_job()], {4711: run[4711] * 2})] == [
        "has 2 records, but sacct knows 1 run"
    ]
    assert [f.what for f in compare_sacct([], run)] == ["has a record, but sacct does not know it"]
    first = slurm_job(state="REQUEUED", end_s=START_S + 4)
    second = slurm_job(start_s=START_S + 15, end_s=START_S + 40, run=1)
    requeued = {4711: [(START_S + 15, START_S + 40), (START_S, START_S + 4)]}
    assert compare_sacct([first, second], requeued) == []
    assert len(compare_sacct([first, second], {4711: requeued[4711][:1]})) == 1
    unready = slurm_job(start_s=None, end_s=START_S + 4, state="REQUEUED")
    assert compare_sacct([unready, second], requeued) == []
    an_hour_off = {4711: [(START_S + 3600, START_S + 3700)]}  # the node's clock was
    assert compare_sacct([slurm_job()], an_hour_off) == []
    assert len(compare_sacct([slurm_job()], {4711: [(START_S + 90_000, START_S + 90_100)]})) == 2
    never = slurm_job(9, start_s=None, end_s=START_S, state="CANCELLED", nodelist="")
    assert compare_sacct([slurm_job(), never], run) == []


def test_a_facility_meter(tmp_path: Path) -> None:
    path = tmp_path / "meter.csv"
    path.write_text(f"time,kwh\n{START_S},100.0\n{START_S + 3600},101.0\n{START_S + 7200},103.0\n")
    assert read_meter(path, START_S + 60, START_S + 7000) == 3 * 3_600_000_000_000
    assert compare_meter(95, 100, 0.1) == []
    assert compare_meter(80, 100, 0.1)[0].off_uj == -20
    with pytest.raises(DataError, match="within an hour"):
        read_meter(path, START_S - 90_000, START_S)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="columns time"):
        read_meter(path, START_S, START_S)


def test_a_node_ledger_that_cannot_be_read_is_named_and_holds_up_no_other(tmp_path: Path) -> None:
    other = tmp_path / "n2" / f"{DAY}.jsonl"
    other.mkdir(parents=True)
    path = tmp_path / "n1" / f"{DAY}.jsonl"
    path.parent.mkdir()
    path.write_text(json.dumps(interval(0, 10, 60, job=40, idle=20)) + "\n")
    books = read_books([other, path])
    assert [(one.where, str(other) in one.what) for one in books.findings] == [(f"n2 {DAY}", True)]
    assert AT in books.accounts
