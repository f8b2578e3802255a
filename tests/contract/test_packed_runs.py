"""Old runs in packs: read, asked for, rebuilt, sealed, deleted and added to as if they lay in directories."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting import packing, upkeep
from perun_hpc.accounting import verify as verifying
from perun_hpc.accounting.audit import boundary_files
from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.homes import record_in
from perun_hpc.accounting.keeping import read_kept
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.month import read_records
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.archive import kept
from perun_hpc.archive.packs import packed
from perun_hpc.archive.places import RECORD, Archive, Run
from perun_hpc.cli.collect import publisher
from perun_hpc.cli.main import main
from perun_hpc.data_model.record import EnergyRecord, to_json
from perun_hpc.errors import DataError
from tests.accounting_data import DAY, START_S, boundary, put_incoming
from tests.histories import FATE
from tests.month_archive import AFTER_S, MONTH, make_archive

pytestmark = pytest.mark.usefixtures("utc")

ALICE, BOB, OTHER, READERS = 2001, 2002, 2003, 3003
LATER_S = START_S + 40 * 86_400.0
JOBS = range(4711, 4718)
JOBS_HERE = (Run(4715, 0), Run(4716, 0))
NOBODY = packing.Access()


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory that other users can pass."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def archive(root: Path) -> Archive:
    return Archive(root / "archive", "c")


@pytest.fixture
def ledger(root: Path, archive: Archive) -> Iterator[Ledger]:
    """Seven jobs of two users, collected; one has two nodes, of which one has not reported."""
    found = open_ledger(str(root / "ledger.db"), create=True)
    for job in JOBS:
        user = ("alice", ALICE) if job < 4715 else ("bob", BOB)
        nodes = "n[1-2]" if job == 4711 else "n1"
        put_incoming(archive.root, boundary(job, nodelist=nodes, user=user[0], uid=user[1]))
    archive.root.chmod(0o711)
    sweep(archive, found, START_S + 2000.0)
    yield found
    found.close()


def sweep(archive: Archive, ledger: Ledger, now_s: float) -> None:
    Collector(archive, ledger, Tools(lambda: now_s, publish=publisher(())), 900).sweep()


def age(archive: Archive) -> None:
    """Let all records have been written when their jobs ended."""
    for path in archive.jobs.rglob(RECORD):
        os.utime(path, (START_S, START_S))


def pack(archive: Archive, ledger: Ledger, access: packing.Access = NOBODY) -> int:
    """What the command does."""
    age(archive)
    with packing.PackLease(ledger, archive.cluster) as lease:
        for number in archive.buckets():
            packing.finish(archive, number, LATER_S)
        return sum(
            packing.pack(archive, part, LATER_S - 8 * 86_400, LATER_S, access, lease) for part in archive.portions()
        )


def contents(archive: Archive) -> dict[str, str]:
    """The files of all runs, wherever they lie: path in the cluster's directory -> digest."""
    return {
        path.relative_to(archive.base).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in archive.jobs.rglob("*.json")
    }


def records(archive: Archive) -> dict[str, tuple[str, list[str]]]:
    """What is known of each run: its record, and its boundary records' digests."""
    found = {}
    for run in kept.each_run(archive):
        record = record_in(archive, run)
        assert record is not None and run.name not in found
        bare = Run(run.job_id, run.restart_count).name
        found[bare] = (to_json(record), sorted(b.digest for b in read_kept(archive, run)))
    return found


def test_old_runs_lie_in_a_file_for_each_owner_and_are_asked_for_as_before(
    archive: Archive, ledger: Ledger, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, asked = records(archive), {}
    no_ledger = ["--archive", str(archive.root), "--cluster", "c", "--ledger", str(root / "none.db")]
    for run in archive.all_runs():
        assert main(["report", str(run.job_id), "--json", *no_ledger]) == 0
        asked[run.job_id] = json.loads(capsys.readouterr().out)["energy_uj"]
    assert pack(archive, ledger) == 7
    bucket = archive.bucket(4)
    assert sorted(path.name for path in bucket.iterdir()) == [f"{ALICE}.zip", f"{BOB}.zip", "evidence.zip"]
    assert list(archive.all_runs()) == [] and records(archive) == before
    assert pack(archive, ledger) == 0 and records(archive) == before
    # By number alone nobody but the ledger or Slurm knows under which name an old run lies.
    for number in JOBS:
        (record,) = ledger.members("c", str(number))
        (run,) = kept.runs(archive, number, [record.end_ns // 10**9])
        assert json.loads(kept.read(archive, run, RECORD))["energy_uj"] == asked[number]
    evidence = list(boundary_files(archive, kept.present(archive, kept.each_run(archive)), 0, 1 << 40))
    assert sorted(one["job_id"] for one in evidence) == list(JOBS)


def test_what_is_packed_comes_out_by_any_program_as_it_was(archive: Archive, ledger: Ledger, root: Path) -> None:
    pack(archive, ledger)
    (root / "copy").mkdir()
    for path in sorted(archive.bucket(4).glob("*.zip")):
        assert subprocess.run([sys.executable, "-m", "zipfile", "-t", path], capture_output=True).returncode == 0
        subprocess.run([sys.executable, "-m", "zipfile", "-e", path, root / "copy" / "c"], check=True)
    copy = Archive(root / "copy", "c")
    assert records(copy) == records(archive)
    assert sorted(run.job_id for run in copy.all_runs()) == list(JOBS)


def test_a_lost_ledger_is_rebuilt_from_packs(archive: Archive, ledger: Ledger, root: Path) -> None:
    pack(archive, ledger)
    other = open_ledger(str(root / "other.db"), create=True)
    assert upkeep.rebuild(other, archive) == 7 and upkeep.rebuild(other, archive) == 0
    for job in JOBS:
        assert other.members("c", str(job)) == ledger.members("c", str(job))
    other.close()


def test_a_node_that_reports_after_its_job_was_packed_is_added_once(archive: Archive, ledger: Ledger) -> None:
    pack(archive, ledger)
    put_incoming(archive.root, boundary(4711, "n2", nodelist="n[1-2]"))
    sweep(archive, ledger, LATER_S)
    (record,) = ledger.members("c", "4711")
    assert (record.energy_uj, record.revision, record.status) == (16_000_000_000, 2, "complete")
    (run,) = archive.all_runs()
    assert [b.node for b in read_kept(archive, run)] == ["n1", "n2"] and record_in(archive, run) == record
    before = records(archive)
    assert pack(archive, ledger) == 1 and list(archive.all_runs()) == []
    assert records(archive) == before
    with zipfile.ZipFile(archive.bucket(4) / "evidence.zip") as evidence:
        assert len(evidence.namelist()) == len(set(evidence.namelist())) == 8


def test_a_run_whose_owner_is_known_later_goes_into_that_ones_pack(archive: Archive, ledger: Ledger) -> None:
    for job in (4718, 4719):
        put_incoming(archive.root, boundary(job, "n2", nodelist="n[1-2]", user="", uid=None))
    sweep(archive, ledger, START_S + 2000.0)
    assert pack(archive, ledger) == 9
    assert _packed_in(archive.bucket(4) / "hidden.zip") == ["jobs/4/4718.0", "jobs/4/4719.0"]
    put_incoming(archive.root, boundary(4718, "n1", nodelist="n[1-2]", user="alice", uid=ALICE))
    sweep(archive, ledger, LATER_S)
    before = records(archive)
    assert json.loads(before["4718.0"][0])["uid"] == ALICE
    assert pack(archive, ledger) == 1 and records(archive) == before
    assert _packed_in(archive.bucket(4) / "hidden.zip") == ["jobs/4/4719.0"]
    assert "jobs/4/4718.0" in _packed_in(archive.bucket(4) / f"{ALICE}.zip")
    assert (archive.bucket(4) / "hidden.zip").stat().st_mode & 0o777 == 0o600


def _packed_in(pack_file: Path) -> list[str]:
    with zipfile.ZipFile(pack_file) as zipped:
        return sorted(name.partition("@")[0] for name in zipped.namelist())


def test_a_new_run_of_an_old_number_is_another_one(archive: Archive, ledger: Ledger) -> None:
    pack(archive, ledger)
    put_incoming(archive.root, boundary(4712, start_s=LATER_S))
    sweep(archive, ledger, LATER_S + 200)
    assert [run.name for run in archive.all_runs()] == ["4712.0"]
    assert len(ledger.members("c", "4712")) == 2
    assert [one.start_ns // 10**9 for run in kept.each_run(archive) if (one := record_in(archive, run)) is not None
            and run.job_id == 4712] == [round(LATER_S), START_S]  # fmt: skip


def test_deleted_and_hidden_users_are_in_no_pack(archive: Archive, ledger: Ledger) -> None:
    pack(archive, ledger)
    keeping = upkeep.Keeping(ledger, packing.Access(), LATER_S)
    cleaned: list[int] = []
    assert (
        upkeep.delete(
            ledger, upkeep.Who("bob"), lambda gone: cleaned.append(upkeep.remove_directories(archive, gone, keeping))
        )
        == 3
    )
    assert (
        upkeep.pseudonymise(
            ledger, upkeep.Who("alice"), lambda some: cleaned.append(upkeep.hide_in_directories(archive, some, keeping))
        )
        == 4
    )
    assert cleaned == [3, 4]
    assert [path.name for path in archive.bucket(4).iterdir()] == ["hidden.zip"]
    assert (archive.bucket(4) / "hidden.zip").stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(archive.bucket(4) / "hidden.zip") as hidden:
        text = b"".join(map(hidden.read, hidden.namelist()))
    assert len(hidden.namelist()) == 4 and b"alice" not in text and b"user-" in text
    other = open_ledger(str(archive.root.parent / "other.db"), create=True)
    assert upkeep.rebuild(other, archive) == 4
    other.close()


@pytest.mark.parametrize("how", ["delete", "pseudonymise"])
def test_a_run_that_is_renamed_while_its_user_is_forgotten_goes_and_the_one_in_its_place_stays(
    archive: Archive, ledger: Ledger, how: str
) -> None:
    def meanwhile() -> None:
        """Slurm counts anew: another job of that id comes, of another user, and takes the name."""
        put_incoming(archive.root, boundary(4713, start_s=LATER_S, user="bob", uid=BOB))
        sweep(archive, ledger, LATER_S + 2000.0)

    forgotten: list[EnergyRecord] = []
    keeping = upkeep.Keeping(ledger, NOBODY, LATER_S)
    if how == "delete":
        upkeep.delete(ledger, upkeep.Who(user="alice"), forgotten.extend)
        waits = once_before("shutil.rmtree", "/4711.0", meanwhile)
        upkeep.remove_directories(archive, forgotten, keeping)
    else:
        upkeep.pseudonymise(ledger, upkeep.Who(user="alice"), forgotten.extend)
        waits = once_before("shutil.rmtree", "/4711.0/boundary", meanwhile)
        upkeep.hide_in_directories(archive, forgotten, keeping)
    assert not waits
    kept_records = {run: record_in(archive, run) for run in archive.all_runs()}
    assert all(record is not None and record.user != "alice" for record in kept_records.values())
    (newer,) = (record for record in kept_records.values() if record and record.job_id == 4713 and record.user == "bob")
    assert newer.start_ns == LATER_S * 10**9 and [b.node for b in read_kept(archive, Run(4713, 0))] == ["n1"]
    old = [run for run, record in kept_records.items() if record and record.job_id == 4713 and record.user != "bob"]
    assert len(old) == (0 if how == "delete" else 1) and all(read_kept(archive, run) == [] for run in old)


def test_a_run_with_a_trace_keeps_its_directory_until_that_has_gone(
    archive: Archive, ledger: Ledger, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = archive.job(Run(4713, 0)) / "job.zarr"
    trace.mkdir()
    (trace / "c.0.0").write_bytes(b"x")
    age(archive)
    policy = root / "policy.yaml"
    monkeypatch.setenv("PERUN_POLICY", str(policy))
    command = ["ledger", "--ledger", str(root / "ledger.db"), "--archive", str(archive.root), "retention"]
    long_ago = {"start_s": START_S - 400 * 86_400}  # whatever day it is today
    for job in JOBS:
        put_incoming(archive.root, boundary(job + 1000, user="alice", uid=ALICE, **long_ago))
    sweep(archive, ledger, START_S + 2000.0)
    age(archive)
    for path in archive.jobs.rglob(RECORD):
        os.utime(path, (START_S - 400 * 86_400, START_S - 400 * 86_400))
    stays = next(archive.jobs.glob("5/5713.*")) / "job.zarr"
    stays.mkdir()
    (stays / "c.0.0").write_bytes(b"x" * 100)
    policy.write_text("store: {retention: 4000 d, pack_after: never}\n")
    assert main(command) == 0 and "packed" not in capsys.readouterr().out
    policy.write_text("store: {retention: 4000 d, pack_after: 300 d}\n")
    old = 6 if time.time() < START_S + 300 * 86_400 else 12  # later the others are old, too
    assert main([*command, "--dry-run"]) == 0 and f"{old} records would be packed" in capsys.readouterr().out
    assert main(command) == 0 and f"{old} records packed" in capsys.readouterr().out
    assert stays.exists() and [run.job_id for run in archive.in_bucket(5)] == [5713]
    policy.write_text("store: {retention: 300 d, pack_after: 300 d}\n")
    assert main(command) == 0
    said = capsys.readouterr().out
    if old == 12:
        assert "2 traces deleted" in said and "2 records packed" in said
        assert archive.in_bucket(5) == archive.in_bucket(4) == []
        return
    assert "1 trace deleted" in said and "1 record packed" in said
    assert archive.in_bucket(5) == [] and len(archive.in_bucket(4)) == 7


def test_directories_that_lie_flat_are_read_and_packed_where_they_belong(archive: Archive, ledger: Ledger) -> None:
    before = records(archive)
    for run in list(archive.all_runs()):
        archive.job(run).rename(archive.jobs / run.name)
    archive.bucket(4).rmdir()
    assert records(archive) == before and len(list(archive.all_runs())) == 7
    put_incoming(archive.root, boundary(4711, "n2", nodelist="n[1-2]"))
    sweep(archive, ledger, START_S + 3000.0)
    (record,) = ledger.members("c", "4711")
    assert record.energy_uj == 16_000_000_000 and not archive.bucket(4).exists()
    before = records(archive)
    assert pack(archive, ledger) == 7
    assert [path.name for path in archive.jobs.iterdir()] == ["4"] and records(archive) == before


def test_evidence_of_a_sealed_month_verifies_after_it_was_packed(tmp_path: Path) -> None:
    archive, _ = make_archive(tmp_path / "site", 7)
    for run in archive.all_runs():
        (archive.job(run) / RECORD).write_text(to_json(sum_boundaries(read_kept(archive, run))))
    manifest = verifying.seal(archive, MONTH, AFTER_S)
    files = {name for name in contents(archive) if "/boundary/" in name}
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    age(archive)
    for path in archive.jobs.rglob(RECORD):
        os.utime(path, (0, 0))
    count = len(list(archive.all_runs()))
    assert pack(archive, ledger) == count > 1 and contents(archive) == {}
    ledger.close()
    found = verifying.verify(archive, MONTH)
    assert (found.manifest, found.faults, found.late) == (manifest, [], [])
    assert found.moved == len(files)  # each lies under the name that its run has got for good
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", archive.bucket(0) / "evidence.zip", tmp_path / "c"], check=True
    )
    pack_file = archive.bucket(0) / "evidence.zip"
    with zipfile.ZipFile(pack_file) as zipped:
        info = zipped.infolist()[0]
        at = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    data = bytearray(pack_file.read_bytes())
    data[at] ^= 1
    pack_file.write_bytes(data)
    faults = verifying.verify(archive, MONTH).faults
    assert any(" is gone" in one.what or "has changed" in one.what for one in faults)


def may(command: list[str], uid: int, gid: int = 65534) -> bool:
    ids = [f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
    return subprocess.run(["setpriv", *ids, *command], capture_output=True).returncode == 0


@pytest.mark.skipif(os.getuid() != 0, reason="becoming other users needs root")
def test_a_pack_is_its_owners_and_the_readers_and_nobody_elses(archive: Archive, ledger: Ledger) -> None:
    pack(archive, ledger, packing.Access((READERS,)))
    bucket = archive.bucket(4)
    own, others, evidence = (
        ["head", "-c1", str(bucket / name)] for name in (f"{ALICE}.zip", f"{BOB}.zip", "evidence.zip")
    )
    listing = ["ls", str(bucket)]
    assert may(own, ALICE) and not may(others, ALICE) and not may(evidence, ALICE) and not may(listing, ALICE)
    assert not may(own, OTHER) and not may(evidence, OTHER)
    assert may(own, OTHER, READERS) and may(others, OTHER, READERS) and may(listing, OTHER, READERS)
    assert not may(evidence, OTHER, READERS)
    # An owner's record is found by what Slurm knows of it, in the one pack that is his to read.
    (record,) = ledger.members("c", "4713")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(ALICE)
            (run,) = kept.runs(archive, 4713, [record.end_ns // 10**9])
            assert kept.read(archive, run, RECORD) and kept.boundaries(archive, run) == []
            assert kept.runs(archive, 4716, [record.end_ns // 10**9]) == []
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_one_process_packs_at_a_time(archive: Archive, ledger: Ledger) -> None:
    assert ledger.acquire("pack:c", "elsewhere:1:x")
    with pytest.raises(Exception, match="another perun ledger command"):
        pack(archive, ledger)
    assert len(list(archive.all_runs())) == 7


class _Meanwhile(packing.Access):
    """While a pack gets its access something else happens."""

    do: Callable[[], object]

    def grant(self, pack: Path, uid: int | None) -> None:
        super().grant(pack, uid)
        self.do()


def test_a_directory_that_changes_while_it_is_packed_stays(archive: Archive, ledger: Ledger) -> None:
    access = _Meanwhile()

    def late() -> None:
        for path in archive.jobs.glob("*/4711.0*/boundary"):
            (path / "n2.json").write_text(json.dumps(boundary(4711, "n2", nodelist="n[1-2]")))

    object.__setattr__(access, "do", late)
    assert pack(archive, ledger, access) == 6
    (run,) = archive.all_runs()
    assert run.job_id == 4711 and [b.node for b in read_kept(archive, run)] == ["n1", "n2"]
    assert pack(archive, ledger) == 1
    (old,) = (run for run in kept.each_run(archive) if run.job_id == 4711)
    assert [b.node for b in read_kept(archive, old)] == ["n1", "n2"]


def test_killed_before_any_write_nothing_is_lost_or_doubled(
    archive: Archive, ledger: Ledger, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, deaths = records(archive), FATE.deaths
    monkeypatch.setattr(FATE, "root", str(root))
    after, survived = 0, False
    while not survived:
        after += 1
        survived = FATE.may_kill(after, lambda: pack(archive, ledger))
        assert records(archive) == before, after
    assert FATE.deaths - deaths > 20 and list(archive.all_runs()) == []
    assert not [path for path in archive.bucket(4).iterdir() if path.name.endswith(packing.ASIDE)]
    # And on the way back.
    put_incoming(archive.root, boundary(4711, "n2", nodelist="n[1-2]"))
    after, survived = 0, False
    while not survived:
        after += 1
        survived = FATE.may_kill(after, lambda: sweep(archive, ledger, LATER_S))
    (record,) = ledger.members("c", "4711")
    assert record.energy_uj == 16_000_000_000
    now = records(archive)
    assert {name: now[name] for name in now if name != "4711.0"} == {
        name: before[name] for name in before if name != "4711.0"
    }
    assert len(now["4711.0"][1]) == 2


def damage(pack_file: Path, name: str) -> None:
    """Change a bit amid one of the files that a pack holds."""
    with zipfile.ZipFile(pack_file) as zipped:
        info = next(one for one in zipped.infolist() if name in one.filename)
    data = bytearray(pack_file.read_bytes())
    data[info.header_offset + 30 + len(info.filename) + info.compress_size // 2] ^= 1
    pack_file.write_bytes(data)


def test_what_is_damaged_in_a_pack_costs_nothing_else_when_runs_leave_it(archive: Archive, ledger: Ledger) -> None:
    pack(archive, ledger)
    before = records(archive)
    damage(archive.bucket(4) / "evidence.zip", "/4712.0@")
    keeping = upkeep.Keeping(ledger, packing.Access(), LATER_S)
    removed = upkeep.delete(ledger, upkeep.Who("bob"), lambda gone: upkeep.remove_directories(archive, gone, keeping))
    assert removed == 3
    now = records(archive)
    assert now.keys() == {f"{job}.0" for job in range(4711, 4715)}
    assert now.pop("4712.0") == (before["4712.0"][0], [])
    assert all(now[name] == before[name] for name in now)
    with zipfile.ZipFile(archive.bucket(4) / "evidence.zip") as zipped:
        assert len(zipped.namelist()) == 4 and b"bob" not in b"".join(
            zipped.read(name) for name in zipped.namelist() if "/4712.0@" not in name
        )
        assert "/4712.0@" in str(zipped.testzip())


def test_whatever_bit_of_a_packs_directory_is_wrong_its_reader_goes_on(archive: Archive, ledger: Ledger) -> None:
    pack(archive, ledger)
    pack_file = archive.bucket(4) / f"{ALICE}.zip"
    whole = pack_file.read_bytes()
    with zipfile.ZipFile(pack_file) as zipped:
        first, second = zipped.start_dir, zipped.start_dir + 46 + len(zipped.infolist()[0].filename)
    others = {run for run in kept.each_run(archive) if run.job_id > 4714}
    for at in range(first, second):
        for bit in range(8):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            pack_file.write_bytes(data)
            os.utime(archive.bucket(4), ns=(at, at * 8 + bit))  # as a new pack would
            runs = list(kept.each_run(archive))
            assert others <= set(runs)
            assert all(record_in(archive, run) is not None for run in others)
            for run in runs:
                record_in(archive, run)
                read_kept(archive, run)
                for file in kept.boundaries(archive, run):
                    assert file.changed_s > 0


def test_files_of_times_that_zip_does_not_know_are_packed(archive: Archive, ledger: Ledger) -> None:
    before = records(archive)
    for at_s, path in zip((0, 2**32 + 2**31), sorted(archive.jobs.rglob("n1.json")), strict=False):
        os.utime(path, (at_s, at_s))
    assert pack(archive, ledger) == 7 and records(archive) == before


def delete_all(ledger: Ledger, archive: Archive) -> int:
    keeping = upkeep.Keeping(ledger, packing.Access(), LATER_S)
    return upkeep.delete(ledger, upkeep.Who(), lambda gone: upkeep.remove_directories(archive, gone, keeping))


def test_deleted_runs_do_not_come_back_from_what_a_killed_process_left(archive: Archive, ledger: Ledger) -> None:
    other = json.dumps(boundary(4716)).encode()
    directories = {
        run: {path.name: path.read_bytes() for path in archive.job(run).rglob("*.json")} for run in JOBS_HERE
    }
    pack(archive, ledger)
    bucket = archive.bucket(4)
    for run, files in directories.items():  # one as it was packed, one that had changed meanwhile
        (renamed,) = (one for one in kept.each_run(archive) if one.job_id == run.job_id)
        left = bucket / f".{renamed.name}{packing.ASIDE}"
        (left / "boundary").mkdir(parents=True)
        (left / RECORD).write_bytes(files[RECORD])
        (left / "boundary" / "n1.json").write_bytes(files["n1.json"] if run.job_id == 4715 else other)
    (bucket / ".evidence.zip.host.1.2.partial").write_bytes(b"whatever was written")
    (bucket / ".4711.0@5.host.1.2.partial").mkdir()
    os.utime(bucket / ".4711.0@5.host.1.2.partial", (START_S, START_S))
    assert delete_all(ledger, archive) == 7
    packing.finish(archive, 4, LATER_S)
    assert list(kept.each_run(archive)) == [] and list(bucket.iterdir()) == []


@pytest.mark.parametrize("damaged", ["evidence.zip", f"{BOB}.zip"])
def test_what_a_damaged_pack_keeps_of_a_user_costs_nobody_elses_wish(
    damaged: str, archive: Archive, ledger: Ledger, root: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for job in (5711, 5712):
        put_incoming(archive.root, boundary(job, user="bob", uid=BOB))
    sweep(archive, ledger, START_S + 2000.0)
    pack(archive, ledger)
    whole = (archive.bucket(4) / damaged).read_bytes()
    (archive.bucket(4) / damaged).write_bytes(b"no zip file")
    policy = root / "policy.yaml"
    policy.write_text("{}\n")
    monkeypatch.setenv("PERUN_POLICY", str(policy))
    command = ["ledger", "--ledger", str(root / "ledger.db"), "--archive", str(archive.root), "--cluster", "c"]
    assert main([*command, "delete", "--user", "bob"]) == DataError.exit_code
    said = "".join(capsys.readouterr())
    assert "2 records deleted; job ids from 4000 on of cluster c stay as they were" in said and damaged in said
    assert ledger.members("c", "5711") == [] and list(archive.bucket(5).iterdir()) == []
    assert [record.user for record in ledger.members("c", "4716")] == ["bob"]
    policy.write_text("store: {pack_after: 8 d}\nprivacy: {pseudonymise_after: 8 d}\n")
    assert main([*command, "retention"]) == 1
    assert "not all pseudonymised: 0 records" in capsys.readouterr().out
    (archive.bucket(4) / damaged).write_bytes(whole)
    assert main([*command, "delete", "--user", "bob"]) == 0 and ledger.members("c", "4716") == []
    assert [path.name for path in archive.bucket(4).iterdir() if path.name == f"{BOB}.zip"] == []


def test_runs_whose_packed_record_is_damaged_are_forgotten_as_well(archive: Archive, ledger: Ledger) -> None:
    pack(archive, ledger)
    damage(archive.bucket(4) / f"{BOB}.zip", "/4716.0@")
    assert delete_all(ledger, archive) == 7 and list(archive.bucket(4).iterdir()) == []


def test_what_lasts_longer_than_a_lease_overwrites_nothing(archive: Archive, ledger: Ledger) -> None:
    access = _Meanwhile()

    def other() -> None:
        with ledger.write() as connection:
            connection.execute("DELETE FROM lease WHERE name = 'pack:c'")  # after another one had it and was done
        (archive.bucket(4) / "evidence.zip").write_bytes(b"of another process")

    object.__setattr__(access, "do", other)
    with pytest.raises(packing.LostError):
        pack(archive, ledger, access)
    assert (archive.bucket(4) / "evidence.zip").read_bytes() == b"of another process"
    assert len(list(archive.all_runs())) == 7


def test_a_run_that_is_packed_while_its_late_node_is_read_loses_nothing(archive: Archive, ledger: Ledger) -> None:
    pack(archive, ledger)
    put_incoming(archive.root, boundary(4711, "n2", nodelist="n[1-2]"))
    sweep(archive, ledger, LATER_S)
    put_incoming(archive.root, {**boundary(4711, "n2", nodelist="n[1-2]"), "revision": 2})

    def meanwhile(record: EnergyRecord) -> None:
        if any(run.job_id == 4711 for run in archive.all_runs()):
            assert pack(archive, ledger) == 1

    tools = Tools(lambda: LATER_S, publish=publisher(()), footprint=meanwhile)
    summary = Collector(archive, ledger, tools, 900).sweep()
    assert summary.failed == 1 and "packed meanwhile" in summary.notes[0]
    sweep(archive, ledger, LATER_S)
    (run,) = archive.all_runs()
    assert [b.node for b in read_kept(archive, run)] == ["n1", "n2"]
    assert pack(archive, ledger) == 1
    (old,) = (run for run in kept.each_run(archive) if run.job_id == 4711)
    assert [b.node for b in read_kept(archive, old)] == ["n1", "n2"]


def test_damaged_evidence_in_a_pack_takes_no_joule_of_a_job_that_goes_on(archive: Archive, ledger: Ledger) -> None:
    pack(archive, ledger)
    damage(archive.bucket(4) / "evidence.zip", "/4711.0@")
    put_incoming(archive.root, boundary(4711, "n2", nodelist="n[1-2]"))
    sweep(archive, ledger, LATER_S)
    (record,) = ledger.members("c", "4711")
    assert record.energy_uj == 16_000_000_000
    (run,) = archive.all_runs()
    assert [b.node for b in read_kept(archive, run)] == ["n2"] and record_in(archive, run) == record


def test_what_cannot_be_packed_is_named_and_stays(
    archive: Archive, ledger: Ledger, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_incoming(archive.root, boundary(9000, start_s=START_S - 400 * 86_400))
    sweep(archive, ledger, START_S + 2000.0)
    os.utime(next(archive.jobs.glob("9/*")) / RECORD, (START_S - 400 * 86_400, START_S - 400 * 86_400))
    (archive.bucket(9) / "evidence.zip").mkdir()
    (root / "policy.yaml").write_text("store: {pack_after: 300 d}\n")
    monkeypatch.setenv("PERUN_POLICY", str(root / "policy.yaml"))
    command = ["ledger", "--ledger", str(root / "ledger.db"), "--archive", str(archive.root), "retention"]
    assert main(command) == 1
    assert f"not packed: {archive.bucket(9)}: " in (said := capsys.readouterr().out) and "0 records packed" in said
    assert len(archive.in_bucket(9)) == 1
    (archive.bucket(9) / "evidence.zip").rmdir()
    assert main(command) == 0 and "1 record packed" in capsys.readouterr().out


def once_before(event: str, path_end: str, act: Callable[[], object]) -> list[bool]:
    """Do something just before this process opens or lists a path for the first time; empty once it is done."""
    waits = [True]

    def meanwhile(what: str, arguments: tuple[Any, ...]) -> None:
        if waits and what.removeprefix("os.") in event.split() and arguments and str(arguments[0]).endswith(path_end):
            waits.clear()
            act()

    sys.addaudithook(meanwhile)
    return waits


def test_a_month_is_read_whole_while_its_runs_are_renamed_and_packed(archive: Archive, ledger: Ledger) -> None:
    month = time.strftime("%Y-%m", time.gmtime(START_S))
    before = [(one.digest, one.shares) for one in read_records(archive, month).files]
    waits = once_before("open", "/4713.0/boundary/n1.json", lambda: pack(archive, ledger))
    now = read_records(archive, month)
    assert not waits and list(archive.all_runs()) == []
    assert sorted((one.digest, one.shares) for one in now.files) == sorted(before) and len(before) == 7
    assert now.unreadable == []


@pytest.mark.parametrize("moment", ["a record is read", "boundary records are listed", "directories are listed"])
def test_a_rebuilt_ledger_has_each_run_once_while_they_are_renamed_and_packed(
    archive: Archive, ledger: Ledger, root: Path, moment: str
) -> None:
    event, path_end = {
        "a record is read": ("open", "/4713.0/record.json"),
        "boundary records are listed": ("listdir scandir", "/4713.0/boundary"),
        "directories are listed": ("listdir scandir", "/jobs/4"),
    }[moment]
    fresh = open_ledger(str(root / "new.db"), create=True)
    waits = once_before(event, path_end, lambda: pack(archive, ledger))
    assert upkeep.rebuild(fresh, archive) >= len(JOBS)
    assert not waits and list(archive.all_runs()) == []
    for job in JOBS:
        assert fresh.members("c", str(job)) == ledger.members("c", str(job))
    fresh.close()


@pytest.mark.parametrize("moment", ["before a run is read", "while it is asked for", "after one was read"])
def test_an_audit_reads_each_boundary_record_once_while_runs_are_renamed_and_packed(
    archive: Archive, ledger: Ledger, moment: str
) -> None:
    names = list(ledger.places_between("c", 0, 1 << 40))
    before = list(boundary_files(archive, names, 0, 1 << 40))
    read: list[Any] = []
    if moment == "while it is asked for":
        waits = once_before("scandir", "/4713.0/boundary", lambda: pack(archive, ledger))
    else:
        waits = once_before("open", "/4713.0/boundary/n1.json", lambda: pack(archive, ledger))
    for record in boundary_files(archive, names, 0, 1 << 40):
        read.append(record)
        if waits and moment == "after one was read":
            waits.clear()
            pack(archive, ledger)
    assert not waits and list(archive.all_runs()) == []
    assert read == before and len(before) == 7


@pytest.mark.parametrize("lost", [True, False])
def test_what_comes_in_while_an_audit_reads_is_no_finding(
    archive: Archive, ledger: Ledger, root: Path, lost: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = archive.base / "nodes" / "n1" / f"{DAY}.jsonl"
    path.parent.mkdir(parents=True)

    def line(*jobs: int) -> str:
        given = {f"job:{job}.0": 8_000_000_000 for job in jobs}
        interval = {"t0_ns": jobs[0], "t1_ns": jobs[0] + 1, "domain": "package-0", "total_uj": sum(given.values())}
        return json.dumps({**interval, "shares": given, "method": "cores"}) + "\n"

    path.write_text("".join(line(job) for job in JOBS))

    def meanwhile() -> None:
        """A node hands over a job and what it gave it; the line is `lost`, or is not."""
        if not lost:
            with path.open("a") as file:
                file.write(line(4718))
        put_incoming(archive.root, boundary(4718))
        sweep(archive, ledger, LATER_S)

    where = [
        "--archive",
        str(archive.root),
        "--ledger",
        str(root / "ledger.db"),
        "--cluster",
        "c",
        "-S",
        DAY,
        "-E",
        DAY,
    ]
    assert main(["audit", "--no-slurm", *where]) == 0
    waits = once_before("listdir scandir", "/incoming", meanwhile)
    assert main(["audit", "--no-slurm", *where]) == (1 if lost else 0)
    assert not waits and ("job 4718.0: node ledger and record differ" in capsys.readouterr().out) == lost


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes what is another user's")
def test_what_root_does_in_an_archive_stays_the_service_users(archive: Archive, ledger: Ledger) -> None:
    for run in list(archive.all_runs()):
        archive.job(run).rename(archive.jobs / run.name)
    archive.bucket(4).rmdir()
    for path in (archive.root, *archive.root.rglob("*")):
        os.chown(path, OTHER, READERS)
    keeping = upkeep.Keeping(ledger, packing.Access(), LATER_S)
    upkeep.pseudonymise(ledger, upkeep.Who("bob"), lambda some: upkeep.hide_in_directories(archive, some, keeping))
    assert pack(archive, ledger) == 7
    assert {(path.stat().st_uid, path.stat().st_gid) for path in archive.root.rglob("*")} == {(OTHER, READERS)}


def test_a_disk_that_does_not_answer_for_a_while_is_no_damage(archive: Archive, ledger: Ledger, root: Path) -> None:
    pack(archive, ledger)
    evidence = archive.bucket(4) / "evidence.zip"
    members = [one for files in packed(archive, 4).values() for one in files.values() if one.pack == evidence]
    before = [member.read() for member in members]
    evidence.rename(root / "evidence.zip")
    evidence.mkdir()  # EISDIR, as EIO or ESTALE may come and go
    for member in members:
        with pytest.raises(IsADirectoryError):
            member.read()
    evidence.rmdir()
    (root / "evidence.zip").rename(evidence)
    assert [member.read() for member in members] == before and len(before) == 7


@pytest.mark.parametrize("whole", [False, True])
def test_a_pack_that_is_restored_after_a_late_node_reported_is_whole(
    whole: bool, archive: Archive, ledger: Ledger
) -> None:
    pack(archive, ledger)
    evidence = archive.bucket(4) / "evidence.zip"
    backup = evidence.read_bytes()
    if whole:
        evidence.write_bytes(b"no zip file")
        os.utime(archive.bucket(4))
    else:
        damage(evidence, "/4711.0@")
    put_incoming(archive.root, boundary(4711, "n2", nodelist="n[1-2]"))
    put_incoming(archive.root, boundary(4720, user="bob", uid=BOB))
    sweep(archive, ledger, LATER_S)
    (record,) = ledger.members("c", "4711")
    assert (record.energy_uj, len(ledger.members("c", "4720"))) == (16_000_000_000, 1)
    evidence.write_bytes(backup)
    assert pack(archive, ledger) == 2
    (old,) = (run for run in kept.each_run(archive) if run.job_id == 4711)
    assert [b.node for b in read_kept(archive, old)] == ["n1", "n2"] and record_in(archive, old) == record


def test_no_month_is_sealed_without_what_a_damaged_pack_holds(tmp_path: Path) -> None:
    archive, _ = make_archive(tmp_path / "site", 7)
    for run in archive.all_runs():
        (archive.job(run) / RECORD).write_text(to_json(sum_boundaries(read_kept(archive, run))))
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    for path in archive.jobs.rglob(RECORD):
        os.utime(path, (0, 0))
    with packing.PackLease(ledger, archive.cluster) as lease:
        for part in archive.portions():
            packing.pack(archive, part, LATER_S, LATER_S, NOBODY, lease)
    ledger.close()
    evidence = archive.bucket(0) / "evidence.zip"
    whole = evidence.read_bytes()
    evidence.write_bytes(whole[:-30])
    os.utime(archive.bucket(0))
    with pytest.raises(DataError, match=r"jobs/0/evidence\.zip: cannot be read"):
        verifying.seal(archive, MONTH, AFTER_S)
    evidence.write_bytes(whole)
    os.utime(archive.bucket(0))
    manifest = verifying.seal(archive, MONTH, AFTER_S)
    assert verifying.verify(archive, MONTH).manifest == manifest and verifying.verify(archive, MONTH).faults == []
    evidence.write_bytes(whole[:-30])
    os.utime(archive.bucket(0))
    found = verifying.verify(archive, MONTH)
    assert "jobs/0/evidence.zip" in [one.where for one in found.faults]


@pytest.mark.skipif(os.getuid() != 0, reason="becoming other users needs root")
def test_a_run_that_cannot_be_read_or_renamed_stays_alone(archive: Archive, ledger: Ledger, root: Path) -> None:
    before = records(archive)
    archive.job(Run(4713, 0)).rename(archive.jobs / "4713.0")
    archive.job(Run(4711, 0)).rename(archive.jobs / "4711.0@5")
    archive.job(Run(4714, 0)).rename(archive.jobs / "4714.0@5")
    for path in (root, *root.rglob("*")):
        os.chown(path, OTHER, READERS)
    os.chown(archive.boundaries(Run(4712, 0)) / "n1.json", 0, 0)
    (archive.boundaries(Run(4712, 0)) / "n1.json").chmod(0o600)
    for run in (Run(4713, 0), Run(4711, 0, 5)):
        archive.job(run).chmod(0o550)  # another directory above it is written in it
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(READERS)
            os.setuid(OTHER)
            own = open_ledger(str(root / "ledger.db"), create=True)
            code = 0 if pack(archive, own) == 4 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [run.name for run in archive.all_runs()] == ["4711.0@5", "4713.0", "4712.0"]
    assert records(archive) == before


def test_a_rebuild_that_lacks_a_damaged_packs_records_says_so(archive: Archive, ledger: Ledger, root: Path) -> None:
    pack(archive, ledger)
    own = archive.bucket(4) / f"{ALICE}.zip"
    whole = own.read_bytes()
    (archive.bucket(4) / "evidence.zip").unlink()  # else these records are summed from it
    own.write_bytes(whole[:-30])
    os.utime(archive.bucket(4))
    other = open_ledger(str(root / "other.db"), create=True)
    with pytest.raises(DataError, match=rf"3 records taken; of 1 damaged pack none, the first is .*{ALICE}\.zip"):
        upkeep.rebuild(other, archive)
    put_incoming(archive.root, {**boundary(4711, user="bob", uid=BOB), "cluster": "d"})
    sweep(Archive(archive.root, "d"), ledger, START_S + 2000.0)
    command = ["ledger", "--ledger", str(root / "other.db"), "--archive", str(archive.root), "rebuild"]
    assert main(command) == DataError.exit_code and len(other.members("d", "4711")) == 1
    assert len(other.members("c", "4716")) == 1 and other.members("c", "4711") == []
    own.write_bytes(whole)
    os.utime(archive.bucket(4))
    assert upkeep.rebuild(other, archive) == 4
    other.close()
