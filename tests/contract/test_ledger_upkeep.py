"""Backup, restore, pseudonyms, deletion and retention: whatever goes, the sums stay."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from perun_hpc.accounting import upkeep
from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.packed import unpack
from perun_hpc.accounting.packing import Access
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.archive.places import Archive
from perun_hpc.cli.main import main
from perun_hpc.config.schema import Store
from perun_hpc.data_model.record import EnergyRecord, from_json, to_json
from perun_hpc.errors import DataError, UnavailableError
from perun_hpc.store.layout import THINNED
from tests.accounting_data import DAY, START_S, boundary, parsed, put_incoming

pytestmark = pytest.mark.usefixtures("utc")


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


def keeping(ledger: Ledger) -> upkeep.Keeping:
    return upkeep.Keeping(ledger, Access(), START_S)


def text_of_everything(ledger: Ledger) -> str:
    with ledger.read() as connection:
        rows = [
            str([unpack(value) if isinstance(value, bytes) else value for value in row])
            for table in ("job", "record", "usage_day")
            for row in connection.execute(f"SELECT * FROM {table}")
        ]
    return "\n".join(rows)


def test_backup_and_restore(ledger: Ledger, tmp_path: Path) -> None:
    assert upkeep.backup(ledger, tmp_path / "b.gz") == 7
    assert (tmp_path / "b.gz").stat().st_mode & 0o777 == 0o600
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
    with pytest.raises(DataError, match=f"1 record refused.*job {bad['job_id']}.0"):
        upkeep.restore(other, path)
    assert total(other) == (6, 6 * 8_000_000_000)


def test_a_lost_ledger_is_rebuilt_from_the_archive(ledger: Ledger, archive: Archive, tmp_path: Path) -> None:
    other = open_ledger(str(tmp_path / "other.db"), create=True)
    (archive.base / "jobs" / "0" / "7.0" / "record.json").write_text("torn")
    (archive.base / "jobs" / "0" / "6.0" / "record.json").unlink()
    assert upkeep.rebuild(other, archive) == 7
    assert upkeep.rebuild(other, archive) == 0
    assert other.members("c", "5") == ledger.members("c", "5")
    assert total(other) == (7, 7 * 8_000_000_000)


def test_a_pseudonym_leaves_no_trace_of_the_name(ledger: Ledger, archive: Archive) -> None:
    before = total(ledger)
    changed: list[EnergyRecord] = []

    def hide(records: Sequence[EnergyRecord]) -> None:
        changed.extend(records)
        assert upkeep.hide_in_directories(archive, records, keeping(ledger)) == 3

    assert upkeep.pseudonymise(ledger, upkeep.Who(user="alice"), hide) == 3
    assert len({r.user for r in changed}) == 1
    assert total(ledger) == before
    assert "alice" not in text_of_everything(ledger) and "bob" in text_of_everything(ledger)
    for path in (archive.base / "jobs").glob("0/[123].0/**/*.json"):
        assert "alice" not in path.read_text()
        assert from_json(path.read_bytes()).energy_uj == 8_000_000_000
    assert upkeep.pseudonymise(ledger, upkeep.Who(user=changed[0].user)) == 0


def test_deleted_records_leave_their_sums(ledger: Ledger, archive: Archive) -> None:
    before = total(ledger)
    removed: list[int] = []
    who = upkeep.Who(user="bob", before_s=START_S + 500)
    first = lambda records: removed.append(upkeep.remove_directories(archive, records, keeping(ledger)))  # noqa: E731
    assert upkeep.delete(ledger, who, first) == 4 and removed == [4]
    assert total(ledger) == before
    assert "bob" not in text_of_everything(ledger)
    assert ledger.members("c", "5") == []
    assert upkeep.delete(ledger, upkeep.Who(before_s=START_S)) == 0


def test_a_backup_brings_the_sums_of_deleted_records_once_to_a_ledger_that_lost_them(
    ledger: Ledger, tmp_path: Path
) -> None:
    before = total(ledger)
    upkeep.delete(ledger, upkeep.Who(before_s=START_S + 10**9))
    assert upkeep.backup(ledger, tmp_path / "b") == 0
    fresh = open_ledger(str(tmp_path / "fresh.db"), create=True)
    try:
        for one in (ledger, fresh, fresh):
            upkeep.restore(one, tmp_path / "b")
            assert total(one) == before
    finally:
        fresh.close()


def test_records_of_every_cluster_of_the_archive_lose_their_names(ledger: Ledger, archive: Archive) -> None:
    put_incoming(archive.root, boundary(8, cluster="d"))
    Collector(Archive(archive.root, "d"), ledger, Tools(lambda: START_S + 200.0), 900).sweep()
    cleaned: list[int] = []
    first = lambda records: cleaned.append(upkeep.hide_in_directories(archive, records, keeping(ledger)))  # noqa: E731
    assert upkeep.pseudonymise(ledger, upkeep.Who(user="alice"), first) == 4 and cleaned == [4]
    assert not [path for path in archive.root.glob("*/jobs/*/*/record.json") if "alice" in path.read_text()]


def with_traces(archive: Archive, *numbers: int) -> None:
    for n in numbers:
        trace = archive.base / "jobs" / f"{int(n) // 1000}" / f"{n}.0" / "job.zarr"
        trace.mkdir()
        (trace / "c.0.0").write_bytes(b"x" * 100)


def found_in(archive: Archive) -> list[upkeep.Trace]:
    return list(upkeep.traces(archive, archive.all_runs()))


def names(traces: Iterable[upkeep.Trace]) -> list[str]:
    return [trace.directory.name for trace in traces]


def kept(**days: float) -> Store:
    return Store(**{name: round(value * 86400 * 10**9) for name, value in days.items()}, thin_to=7)  # type: ignore[arg-type]


def test_what_a_record_gets_while_its_user_is_hidden_is_hidden_too(tmp_path: Path) -> None:
    nodes = [parsed(boundary(1, node, "n1,n2")) for node in ("n1", "n2")]
    seen: list[Sequence[EnergyRecord]] = []
    with closing(open_ledger(str(tmp_path / "ledger.db"), create=True)) as ledger:
        ledger.put([sum_boundaries(nodes[:1])])

        def first(records: Sequence[EnergyRecord]) -> None:
            if not seen:
                ledger.put([sum_boundaries(nodes)])
            seen.append(records)

        assert upkeep.pseudonymise(ledger, upkeep.Who(user="alice"), first) == 1
        (record,) = ledger.members("c", "1")
        assert len(seen) == 2
        assert (record.user, len(record.nodes)) == (seen[1][0].user, 2)
        assert "alice" not in text_of_everything(ledger)


def test_who_is_forgotten_waits_until_a_sweep_is_over(archive: Archive, ledger: Ledger) -> None:
    who = upkeep.Who(user="alice")
    assert ledger.acquire("collect:c", "elsewhere:1", seconds=2)
    with pytest.raises(UnavailableError, match="a collector works on cluster c: run it again"):
        upkeep.pseudonymise(ledger, who)
    assert "alice" in text_of_everything(ledger)
    busy: list[bool] = []

    def first(records: Sequence[EnergyRecord]) -> None:
        collector = Collector(archive, ledger, Tools(lambda: START_S + 200.0), 900)
        collector.holder = "elsewhere:1"
        with pytest.raises(UnavailableError, match="another collector works on cluster c, or perun ledger"):
            collector.sweep()
        busy.append(True)

    assert upkeep.pseudonymise(ledger, who, first, patience_s=60) == 3
    assert busy == [True]
    assert ledger.acquire("collect:c", "elsewhere:1")


def test_old_traces_go_and_records_stay(ledger: Ledger, archive: Archive) -> None:
    with_traces(archive, 1, 2)
    stores = {"main": kept(retention_ns=1), "gpu": kept(retention_ns=400)}
    (archive.base / "jobs" / "0" / "2.0" / "record.json").write_text(
        to_json(replace(ledger.members("c", "2")[0], partition="gpu"))
    )
    now_s = START_S + 10 * 86400
    found = found_in(archive)
    assert [(trace.directory.name, trace.size_b) for trace in found] == [("1.0", 100), ("2.0", 100)]
    (gone,) = (trace for trace in found if upkeep.outdated(trace, lambda name, _: stores[name], now_s))
    upkeep.drop_trace(gone.directory)
    assert gone.directory.name == "1.0"
    assert sorted(p.name for p in gone.directory.iterdir()) == ["boundary", "record.json"]
    assert (archive.base / "jobs" / "0" / "2.0" / "job.zarr").exists()


def test_of_too_many_traces_the_oldest_go(ledger: Ledger, archive: Archive) -> None:
    with_traces(archive, 1, 2, 3)
    path = archive.base / "jobs" / "0" / "3.0" / "record.json"
    record = ledger.members("c", "3")[0]
    path.write_text(to_json(replace(record, end_ns=record.end_ns - 10**9)))

    def gone(quota_b: int, now_s: float = START_S + 86400) -> list[str]:
        cut = upkeep.oldest_above(lambda: found_in(archive), lambda *_: kept(retention_ns=400), quota_b, now_s)
        return names(filter(cut.takes, found_in(archive)))

    assert gone(150) == ["1.0", "3.0"] and gone(250) == ["3.0"] and gone(300) == []
    older = replace(record, end_ns=record.end_ns - 2 * upkeep.HOUR_NS)
    path.write_text(to_json(older))
    assert gone(150) == ["1.0", "3.0"] and gone(250) == ["3.0"] and gone(0) == ["1.0", "2.0", "3.0"]
    path.write_text(to_json(replace(older, end_ns=1)))  # outdated: it goes anyhow, and counts for nothing
    assert gone(200) == [] and gone(150) == ["1.0", "3.0"]


def test_traces_are_thinned_once_and_in_their_time(ledger: Ledger, archive: Archive) -> None:
    with_traces(archive, 1, 2)
    found = found_in(archive)
    young = kept(retention_ns=400, thin_after_ns=30)
    never = Store(retention_ns=young.retention_ns, thin_after_ns="never")

    def to_thin(store: Store, days: int) -> list[int | None]:
        return [upkeep.thinned_to(trace, lambda *_: store, START_S + days * 86400) for trace in found]

    assert to_thin(young, 20) == to_thin(never, 90) == [None, None]
    assert to_thin(young, 40) == [7, 7]
    (archive.base / "jobs" / "0" / "1.0" / THINNED).write_text('{"every": 7, "thinned_ns": 0}')
    found = found_in(archive)
    assert to_thin(young, 40) == [None, 7]


def test_a_policy_that_forgets(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    for n in range(1, 8):
        put_incoming(archive.root, boundary(n, start_s=1_600_000_000))
    Collector(archive, ledger, Tools(lambda: START_S + 200.0), 900).sweep()

    def sums() -> tuple[int, int]:
        (row,) = usage(ledger, ["account"], Filter(), "2020-01-01", DAY)
        return row.values["jobs"], row.values["energy_uj"]

    before = sums()
    assert before == (7, 7 * 8_000_000_000)
    path = tmp_path / "policy.yaml"
    monkeypatch.setenv("PERUN_POLICY", str(path))
    where = ["ledger", "--ledger", str(tmp_path / "ledger.db"), "--archive", str(archive.root), "--cluster", "c"]
    path.write_text("privacy: {pseudonymise_after: 1 d}\n")
    assert main([*where, "retention", "--dry-run"]) == 0
    assert "7 records would be pseudonymised" in capsys.readouterr().out
    assert "alice" in text_of_everything(ledger)
    assert main([*where, "retention"]) == 0
    assert "7 records pseudonymised, 7 of them in their jobs' directories" in capsys.readouterr().out
    assert main([*where, "retention"]) == 0
    assert "0 records pseudonymised" in capsys.readouterr().out
    assert "alice" not in text_of_everything(ledger) and sums() == before
    path.write_text("privacy: {delete_after: 1 d}\n")
    assert main([*where, "retention"]) == 0
    assert "7 records and 7 directories deleted" in capsys.readouterr().out
    assert sums() == before and ledger.members("c", "1") == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE record SET body = '[' WHERE job = 3",
        "UPDATE record SET body = '[]' WHERE job = 3",
        """UPDATE record SET body = '{"schema": "perun.record/1"}' WHERE job = 3""",
        "DELETE FROM record WHERE job = 3",
    ],
)
def test_a_damaged_row_is_named_with_what_helps(
    damage: str, ledger: Ledger, archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ledger.write() as connection:
        connection.execute(damage)
    where = ["--archive", str(archive.root), "--cluster", "c"]
    backup, alice = ["backup", str(tmp_path / "b.gz")], ["--user", "alice"]
    for action in (backup, ["pseudonymise", *alice], ["delete", *alice], ["rebuild"]):
        assert main(["ledger", "--ledger", str(tmp_path / "ledger.db"), *where, *action]) == 65
        said = capsys.readouterr().err
        assert "ledger row 3: " in said and "perun ledger --ledger NEW rebuild" in said
    assert total(ledger)[0] == 7
    new = tmp_path / "new.db"
    assert main(["ledger", "--ledger", str(new), *where, "rebuild"]) == 0
    assert main(["ledger", "--ledger", str(new), *where, *backup]) == 0


@pytest.mark.parametrize("action", ["backup", "delete --user alice", "pseudonymise --user alice", "retention"])
def test_a_ledger_that_is_not_there_is_not_taken_for_an_empty_one(
    archive: Archive, tmp_path: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put_incoming(archive.root, boundary(1))
    words = [*action.split(), *([str(tmp_path / "backup")] if action == "backup" else [])]
    options = ["--ledger", str(tmp_path / "new.db"), "--archive", str(archive.root), "--cluster", "c"]
    assert main(["ledger", *options, *words]) == 66
    assert f"{tmp_path / 'new.db'}: no ledger here" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive"]


def test_a_backup_that_is_not_there_makes_no_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ledger", "--ledger", str(tmp_path / "new.db"), "restore", str(tmp_path / "none")]) == 66
    assert f"{tmp_path / 'none'} is not there" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("action", ["rebuild", "delete --user alice", "pseudonymise --user alice", "retention"])
@pytest.mark.parametrize("there", [True, False])
def test_an_archive_that_is_not_mounted_is_not_taken_for_an_empty_one(
    archive: Archive,
    tmp_path: Path,
    action: str,
    there: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    put_incoming(archive.root, boundary(1, start_s=1_600_000_000))
    Collector(archive, ledger, Tools(lambda: START_S + 200.0), 900).sweep()
    before, place = text_of_everything(ledger), tmp_path / "mount"
    if there:
        place.mkdir()
    (tmp_path / "policy.yaml").write_text("privacy: {pseudonymise_after: 1 d}\n")
    monkeypatch.setenv("PERUN_POLICY", str(tmp_path / "policy.yaml"))
    options = ["--ledger", str(tmp_path / "ledger.db"), "--archive", str(place), "--cluster", "c"]
    assert main(["ledger", *options, *action.split()]) == 66
    assert f"{place}: nothing of an archive is here: mount it" in capsys.readouterr().err
    assert text_of_everything(ledger) == before and "alice" in before and not list(tmp_path.glob("mount/*"))
    ledger.close()
