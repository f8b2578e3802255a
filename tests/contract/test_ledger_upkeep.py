"""Backup, restore, pseudonyms, deletion and retention: whatever goes, the sums stay."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from sqlalchemy import text

from perun_hpc.accounting import upkeep
from perun_hpc.accounting.archive import Archive
from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.accounting.schema import from_json
from perun_hpc.errors import DataError
from tests.accounting_data import DAY, START_S, boundary, put_incoming


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive", "c")


@pytest.fixture
def ledger(tmp_path: Path, archive: Archive) -> Ledger:
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    for n in range(1, 8):
        user = "alice" if n < 4 else "bob"
        put_incoming(archive.root, boundary(n, user=user, uid=2000 + len(user)))
    Collector(archive, ledger, Tools(lambda: START_S + 200.0), 900).sweep()
    return ledger


def total(ledger: Ledger) -> tuple[int, int]:
    (row,) = usage(ledger, ["account"], Filter(), DAY, DAY)
    return row.values["jobs"], row.values["energy_uj"]


def text_of_everything(ledger: Ledger) -> str:
    with ledger.read() as connection:
        rows = [
            str(tuple(row))
            for table in ("job", "record", "usage_day")
            for row in connection.execute(text(f"SELECT * FROM {table}"))
        ]
    return "\n".join(rows)


def test_backup_and_restore(ledger: Ledger, tmp_path: Path) -> None:
    assert upkeep.backup(ledger, tmp_path / "b.gz") == 7
    other = open_ledger(str(tmp_path / "other.db"), create=True)
    for _ in range(2):
        assert upkeep.restore(other, tmp_path / "b.gz") == 7
        assert other.members("c", "5") == ledger.members("c", "5")
        assert total(other) == total(ledger)


def test_a_backup_cut_short_restores_nothing(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "b.gz"
    upkeep.backup(ledger, path)
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    other = open_ledger(str(tmp_path / "other.db"), create=True)
    for damaged in (gzip.compress(b"".join(lines[:-2])), path.read_bytes()[:200], b"text", gzip.compress(b"{}\n")):
        path.write_bytes(damaged)
        with pytest.raises(DataError):
            upkeep.restore(other, path)
        assert usage(other, ["account"], Filter(), DAY, DAY) == []


def test_a_record_that_cannot_be_restored_is_named_and_costs_no_other(ledger: Ledger, tmp_path: Path) -> None:
    path = tmp_path / "b.gz"
    upkeep.backup(ledger, path)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)
    bad = json.loads(lines[3])
    bad["gpus"] = 1 << 63
    path.write_bytes(gzip.compress("".join([*lines[:3], json.dumps(bad) + "\n", *lines[4:]]).encode()))
    other = open_ledger(str(tmp_path / "other.db"), create=True)
    with pytest.raises(DataError, match=f"1 records were refused.*job {bad['job_id']}.0"):
        upkeep.restore(other, path)
    assert total(other) == (6, 6 * 8_000_000_000)


def test_a_lost_ledger_is_rebuilt_from_the_archive(ledger: Ledger, archive: Archive, tmp_path: Path) -> None:
    other = open_ledger(str(tmp_path / "other.db"), create=True)
    (archive.base / "jobs" / "7.0" / "record.json").write_text("torn")
    assert upkeep.rebuild(other, archive) == 6
    assert upkeep.rebuild(other, archive) == 0
    assert other.members("c", "5") == ledger.members("c", "5")
    assert total(other) == (6, 6 * 8_000_000_000)


def test_a_pseudonym_leaves_no_trace_of_the_name(ledger: Ledger, archive: Archive) -> None:
    before = total(ledger)
    changed = upkeep.pseudonymise(ledger, upkeep.Who(user="alice"))
    assert upkeep.hide_in_directories(archive, changed) == 3
    assert len({r.user for r in changed}) == 1
    assert total(ledger) == before
    assert "alice" not in text_of_everything(ledger) and "bob" in text_of_everything(ledger)
    for path in (archive.base / "jobs").glob("[123].0/**/*.json"):
        assert "alice" not in path.read_text()
        assert from_json(path.read_bytes()).energy_uj == 8_000_000_000
    assert upkeep.pseudonymise(ledger, upkeep.Who(user=changed[0].user)) == []


def test_deleted_records_leave_their_sums(ledger: Ledger, archive: Archive) -> None:
    before = total(ledger)
    gone = upkeep.delete(ledger, upkeep.Who(user="bob", before_s=START_S + 500))
    assert len(gone) == 4 and upkeep.remove_directories(archive, gone) == 4
    assert total(ledger) == before
    assert "bob" not in text_of_everything(ledger)
    assert ledger.members("c", "5") == []
    assert upkeep.delete(ledger, upkeep.Who(before_s=START_S)) == []


def test_old_traces_go_and_records_stay(ledger: Ledger, archive: Archive) -> None:
    for n in (1, 2):
        trace = archive.base / "jobs" / f"{n}.0" / "job.zarr"
        trace.mkdir()
        (trace / "c.0.0").write_bytes(b"x" * 100)
    keep = {1: 86400.0, 2: 400 * 86400.0}
    found = list(upkeep.old_traces(archive, lambda r: keep[r.job_id], START_S + 10 * 86400))
    assert [(path.name, size) for path, size in found] == [("1.0", 100)]
    upkeep.drop_trace(found[0][0])
    assert sorted(p.name for p in found[0][0].iterdir()) == ["boundary", "record.json"]
    assert (archive.base / "jobs" / "2.0" / "job.zarr").exists()
