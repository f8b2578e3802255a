"""A sealed month: verified from a copy alone, to the microjoule; whatever was touched is named, with its day."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.accounting import statement
from perun_hpc.accounting import verify as verifying
from perun_hpc.accounting.manifest import day_file, manifest_file
from perun_hpc.accounting.signing import sign, signature_of
from perun_hpc.archive.meter_readings import month_file
from perun_hpc.archive.places import Archive
from perun_hpc.cli.main import main
from perun_hpc.errors import DataError, UsageError
from tests.examples import examples
from tests.month_archive import AFTER_S, MONTH, PARTIES, make_archive

SEED = 7


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "energy"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "x", "-f", path], check=True)
    public = path.with_suffix(".pub").read_text()
    (path.parent / "signers").write_text(f'energy@site.example namespaces="perun-month" {public}')
    return path


@pytest.fixture
def sealed(tmp_path: Path, key: Path, utc: None) -> Archive:
    """A copy, in a second directory, of an archive that was sealed and signed."""
    archive, _ = make_archive(tmp_path / "site", SEED)
    meter = month_file(archive.facility("main"), MONTH)
    meter.parent.mkdir()
    meter.write_text("time,kwh,covered_s,reading,since\n1762000000.000,0,0,0,\n1762000300.000,1.5,300,1.5,\n")
    verifying.seal(archive, MONTH, AFTER_S)
    sign(manifest_file(archive, MONTH), key)
    shutil.copytree(tmp_path / "site", tmp_path / "copy")
    shutil.rmtree(tmp_path / "site")
    return Archive(tmp_path / "copy", "c")


def check(archive: Archive, key: Path) -> int:
    signers = str(key.parent / "signers")
    return main(["verify", MONTH, "--archive", str(archive.root), "--cluster", "c", "--signers", signers])


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


@given(st.integers(0, 10**9))
@examples(10)
def test_a_copy_has_the_sums_that_were_put_in(seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        archive, log = make_archive(Path(name) / "site", seed)
        verifying.seal(archive, MONTH, AFTER_S)
        shutil.move(Path(name) / "site", Path(name) / "copy")
        copy = Archive(Path(name) / "copy", "c")
        found = verifying.verify(copy, MONTH)
    assert found.faults == [] and found.late == [] and found.manifest.findings == ()
    for one in found.manifest.days:
        sums = {name: getattr(one.sums, f"{name}_uj") for name in ("counted", "jobs", *PARTIES)}
        assert sums == log.days.get(one.day, dict.fromkeys(sums, 0))
    assert found.manifest.accounts == log.accounts
    assert found.manifest.unrecorded == log.unrecorded
    recorded = found.manifest.sums.recorded_uj
    assert recorded == sum(log.accounts.values()) == found.manifest.sums.jobs_uj - sum(log.unrecorded.values())


@given(st.integers(0, 10**9))
@examples(25)
def test_a_touched_byte_is_named_by_file_and_day(seed: int) -> None:
    dice = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        archive, _ = make_archive(Path(name), seed)
        verifying.seal(archive, MONTH, AFTER_S)
        path = dice.choice([p for kind in ("nodes", "jobs") for p in sorted((archive.base / kind).rglob("*.json*"))])
        flip(path, dice.randrange(path.stat().st_size), 1 << dice.randrange(8))
        named = path.relative_to(archive.base).as_posix()
        faults = [one for one in verifying.verify(archive, MONTH).faults if named in one.what]
    assert len(faults) == 1 and faults[0].where.startswith(f"{MONTH}-")
    if path.suffix == ".jsonl":
        assert faults[0].where == path.stem


def test_a_signed_month_is_accepted_elsewhere(
    sealed: Archive, key: Path, capsys: pytest.CaptureFixture[str], local_time: Callable[[str], None]
) -> None:
    local_time("Pacific/Auckland")
    assert check(sealed, key) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "signed by energy@site.example" in said and "to the microjoule, from the evidence alone" in said


@pytest.mark.parametrize("kind", ["manifest", "signature", "list", "node", "record", "meter"])
def test_a_tampered_file_of_each_kind_is_refused(
    sealed: Archive, key: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    day = next(p.stem for p in sealed.node_ledgers())
    manifest = manifest_file(sealed, MONTH)
    path = {
        "manifest": manifest,
        "signature": signature_of(manifest),
        "list": day_file(sealed, day),
        "node": sealed.node_ledgers()[0],
        "meter": month_file(sealed.facility("main"), MONTH),
        "record": next(sealed.jobs.glob("*/*/boundary/*.json")),
    }[kind]
    flip(path, path.stat().st_size // 2)
    code = check(sealed, key)
    said = "".join(capsys.readouterr())
    assert code != 0 and path.name in said
    day = f"{MONTH}-30" if kind == "meter" else day
    assert kind in ("manifest", "signature", "record") or day in said


def test_a_day_that_was_made_anew_breaks_the_chain(sealed: Archive, key: Path) -> None:
    """Whoever changes evidence, list and manifest alike, has no signature; without it the later days give it away."""
    ledger = sealed.node_ledgers()[0]
    lines = ledger.read_text().replace('"idle":', '"system":', 1)
    ledger.write_text(lines)
    shutil.move(manifest_file(sealed, MONTH).parent, sealed.root / "kept")
    verifying.seal(sealed, MONTH, AFTER_S)
    assert check(sealed, key) == 1
    old = json.loads((sealed.root / "kept" / "manifest.json").read_text())["days"]
    new = json.loads(manifest_file(sealed, MONTH).read_text())["days"]
    changed = [before["day"] for before, now in zip(old, new, strict=True) if before["sha256"] != now["sha256"]]
    assert changed == [one["day"] for one in new if one["day"] >= ledger.stem]


def test_a_stranger_s_signature_does_not_count(sealed: Archive, key: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other], check=True)
    sign(manifest_file(sealed, MONTH), other)
    assert check(sealed, key) == 1
    signature_of(manifest_file(sealed, MONTH)).unlink()
    assert check(sealed, key) == 1
    assert main(["verify", MONTH, "--archive", str(sealed.root), "--cluster", "c"]) == 0


def test_what_comes_later_is_named_and_in_no_sum(sealed: Archive, key: Path) -> None:
    before = verifying.verify(sealed, MONTH)
    ledger = sealed.node_ledgers()[0]
    late = {"t0_ns": 1, "t1_ns": 2, "domain": "dram-0", "total_uj": 5, "shares": {"idle": 5}, "method": "cores"}
    with ledger.open("a") as file:
        file.write(json.dumps(late) + "\n")
    record = next(sealed.jobs.glob("*/*/boundary/*.json"))
    again = json.loads(record.read_text())
    again["node"] = again["nodelist"] = "n9"
    record.with_name("n9.json").write_text(json.dumps(again))
    (sealed.base / "nodes" / "n9").mkdir()
    (sealed.base / "nodes" / "n9" / f"{MONTH}-30.jsonl").write_text(json.dumps(late) + "\n")
    found = verifying.verify(sealed, MONTH)
    assert found.faults == [] and len(found.late) == 3
    assert found.late_uj == sum(share["energy_uj"] for share in again["shares"])
    assert found.manifest.sums == before.manifest.sums
    assert check(sealed, key) == 0


def test_half_a_line_when_a_month_is_sealed_comes_later_with_its_rest(tmp_path: Path, utc: None) -> None:
    """A delivery goes on, or was broken off, while the month is sealed: lines go where they belong in the archive."""
    archive, _ = make_archive(tmp_path / "site", SEED)
    ledger = archive.node_ledgers()[0]
    late = {"t0_ns": 1, "t1_ns": 2, "domain": "dram-0", "total_uj": 5, "shares": {"idle": 5}, "method": "cores"}
    line = json.dumps(late) + "\n"
    for said in (line[:20], line[20:] + line[:-1]):
        with ledger.open("a") as file:
            file.write(said)
        if not manifest_file(archive, MONTH).exists():
            verifying.seal(archive, MONTH, AFTER_S)
        found = verifying.verify(archive, MONTH)
        assert found.faults == []
        assert [one for one in found.late if ledger.name in one and "lines after byte" in one]


def test_readings_of_meters_that_come_later_are_named(
    sealed: Archive, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    meter, new = (month_file(sealed.facility(name), MONTH) for name in ("main", "new"))
    meter.write_text(meter.read_text() + "1762000600.000,3,300,3,\n")
    new.write_text("time,kwh,covered_s,reading,since\n")
    assert check(sealed, key) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"facility/{meter.name}: lines after byte" in said
    assert f"facility/{new.name}" in said
    meter.unlink()
    assert check(sealed, key) == 1
    assert f"facility/{meter.name} is gone" in " ".join(capsys.readouterr().out.split())


def test_a_directory_that_was_renamed_is_found_and_one_that_is_gone_is_named(sealed: Archive, key: Path) -> None:
    directory = next(sealed.jobs.glob("*/*"))
    directory.rename(directory.with_name(f"{directory.name}@1795356000"))
    assert verifying.verify(sealed, MONTH).moved == len(list(directory.parent.glob("*@*/boundary/*")))
    assert check(sealed, key) == 0
    shutil.rmtree(directory.with_name(f"{directory.name}@1795356000"))
    gone = [one for one in verifying.verify(sealed, MONTH).faults if one.what.endswith(" is gone")]
    assert gone and all(directory.name in one.what for one in gone)


def test_months_are_a_chain(tmp_path: Path, utc: None) -> None:
    archive, _ = make_archive(tmp_path, SEED)
    (archive.node_ledgers()[0].parent / "2025-10-31.jsonl").touch()
    first = verifying.seal(archive, "2025-10", AFTER_S)
    second = verifying.seal(archive, MONTH, AFTER_S)
    assert (first.after, second.after) == ("0" * 64, first.days[-1].sha256)
    text = manifest_file(archive, "2025-10").read_text()
    manifest_file(archive, "2025-10").write_text(text.replace(first.days[-1].sha256, "1" * 64))
    assert any("the month before" in one.what for one in verifying.verify(archive, MONTH).faults)


def test_coreutils_read_the_lists(sealed: Archive) -> None:
    day = sealed.node_ledgers()[0].stem
    done = subprocess.run(["sha256sum", "-c", day_file(sealed, day)], cwd=sealed.base, capture_output=True)
    assert done.returncode == 0 and f"nodes/n1/{day}.jsonl: OK".encode() in done.stdout


def test_a_month_is_sealed_once_and_when_it_is_over(tmp_path: Path, utc: None) -> None:
    archive, _ = make_archive(tmp_path, SEED)
    with pytest.raises(UsageError, match="goes on until"):
        verifying.seal(archive, MONTH, AFTER_S - 5 * 86_400)
    verifying.seal(archive, MONTH, AFTER_S)
    with pytest.raises(UsageError, match="never change"):
        verifying.seal(archive, MONTH, AFTER_S)


CARBON = "carbon_location: {{g_per_kwh: {g}, stage: operational, source: grid, date: 2026-12-01}}"
EMBODIED = "embodied: {kg: 1200, low: 900, high: 2000, lifetime: 1826 d, source: maker, date: 2024-05-01}"


def perun(archive: Archive, *words: str) -> int:
    return main([words[0], MONTH, *words[1:], "--archive", str(archive.root), "--cluster", "c"])


def test_a_corrected_factor_is_a_revision_and_no_joule_changes(
    tmp_path: Path, key: Path, utc: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, log = make_archive(tmp_path / "site", SEED)
    policy = tmp_path / "policy.yaml"
    monkeypatch.setenv("PERUN_POLICY", str(policy))
    policy.write_text(f"footprint:\n  {CARBON.format(g=400)}\n")
    assert perun(archive, "seal", "--no-slurm", "--key", str(key)) == 0
    manifest = manifest_file(archive, MONTH).read_bytes()
    assert perun(archive, "seal") == 64
    assert "so are the policy's factors" in capsys.readouterr().err
    policy.write_text(f"footprint:\n  {CARBON.format(g=380)}\n  {EMBODIED}\n")
    assert perun(archive, "seal", "--no-slurm", "--key", str(key)) == 0
    assert manifest_file(archive, MONTH).read_bytes() == manifest
    (_, first), (path, second) = statement.revisions(archive, MONTH)
    assert (first.jobs.energy_uj, first.others.energy_uj) == (second.jobs.energy_uj, second.others.energy_uj)
    assert first.jobs.energy_uj == sum(log.accounts.values())
    assert first.jobs.co2_mg == {"co2_location_g": round(first.jobs.energy_uj / 3.6e12 * 400_000)}
    assert second.jobs.co2_mg == {"co2_location_g": round(second.jobs.energy_uj / 3.6e12 * 380_000)}
    shared = second.embodied
    assert first.embodied is None and shared is not None
    assert shared.total == sum(shared.accounts.values()) + shared.idle and shared.low < shared.total < shared.high
    nodes = {p.parent.name for p in archive.node_ledgers()}
    assert shared.total == len(nodes) * round(1200e6 * 30 / 1826) and shared.accounts.keys() == log.accounts.keys()
    policy.unlink()
    shutil.copytree(archive.root, tmp_path / "copy")
    copy = Archive(tmp_path / "copy", "c")
    assert check(copy, key) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Factors, revision 2" in said and "embodied, in no figure above" in said
    value = json.loads(path.read_text())
    value["jobs"]["co2_mg"]["co2_location_g"] -= 1
    for name in (path.name, "factors.1.json"):
        changed = Archive(tmp_path / f"changed-{name}", "c")
        shutil.copytree(archive.root, changed.root)
        (changed.base / "months" / MONTH / name).write_text(json.dumps(value))
        assert check(changed, key) == 1
        assert name in capsys.readouterr().out
    (_, wrong), *_ = [(one.where, one.what) for one in verifying.verify(changed, MONTH).faults]
    assert "revision" in wrong


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "perun.month/1"}', '{"schema": "perun.month/2"}', "9" * 5000])
def test_a_manifest_that_is_none_is_one_line(sealed: Archive, text: str) -> None:
    manifest_file(sealed, MONTH).write_text(text)
    with pytest.raises(DataError, match="damaged manifest"):
        verifying.verify(sealed, MONTH)


def test_a_list_does_not_lead_out_of_the_archive(sealed: Archive) -> None:
    path = day_file(sealed, f"{MONTH}-01")
    path.write_text(path.read_text() + f"{'0' * 64}  nodes/../../../etc/passwd\n")
    assert any("none of sha256sum's" in one.what for one in verifying.verify(sealed, MONTH).faults)


def test_an_archive_that_is_not_there_is_not_sealed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("none", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert perun(Archive(tmp_path / place, "c"), "seal", "--no-slurm") == 66
        said = capsys.readouterr().err
        assert (
            said
            == f"perun: {tmp_path / place}/c is not there: name the archive by --archive, the cluster by --cluster\n"
        )
    assert not list(tmp_path.glob("*/*"))


def test_a_month_of_which_nothing_is_known_is_not_sealed_as_0_j(
    tmp_path: Path, utc: None, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, _ = make_archive(tmp_path, SEED)
    options = ["--no-slurm", "--archive", str(archive.root), "--cluster", "c"]
    assert main(["seal", "2024-03", *options]) == 66
    assert f"{archive.base} has no evidence of 2024-03" in capsys.readouterr().err
    assert not manifest_file(archive, "2024-03").exists()


def test_a_place_that_takes_nothing_is_one_line(tmp_path: Path, utc: None, capsys: pytest.CaptureFixture[str]) -> None:
    archive, _ = make_archive(tmp_path, SEED)
    manifest_file(archive, MONTH).parents[1].symlink_to("/sys/kernel")
    assert perun(archive, "seal", "--no-slurm") == 77
    said = capsys.readouterr().err
    assert said.startswith("perun: ") and "/months/2025-11" in said and said.count("\n") == 1


@pytest.mark.parametrize("month", ["2026-13", "2026", "nov", "2026-11-01", "0000-01"])
def test_what_is_no_month_is_one_line(month: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", month]) == 64
    assert "write it like 2026-11" in capsys.readouterr().err
