"""Facility meters that the policy declares: read by the collector, held against the nodes' sum by the audit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perun_hpc.accounting.audit import read_meter
from perun_hpc.accounting.facility import PERIOD_S, compare, declared, note_readings
from perun_hpc.archive.places import Archive
from perun_hpc.backend import file
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.policy import parse
from perun_hpc.config.resolve import JobFacts, resolve
from perun_hpc.errors import ConfigError, DataError
from tests.accounting_data import START_S

KWH = 3_600_000_000_000
LONG = b'time,kwh\n"' + b"x" * 200_000
POLICY = """
sensors:
  files:
    - {name: hall, path: /meters/hall, kind: counter, unit: J, range: 1000 kWh, component: facility}
    - {name: psu, path: /meters/psu, kind: counter, unit: J, component: node}
"""


def files(text: str = POLICY) -> tuple[object, ...]:
    return tuple(resolve(compile_policy(parse(text.encode(), "policy.yaml")), JobFacts()).sensors.files)


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    (tmp_path / "c").mkdir()
    (tmp_path / "root" / "meters").mkdir(parents=True)
    return Archive(tmp_path, "c")


def show(archive: Archive, kwh: float) -> None:
    (archive.root / "root" / "meters" / "hall").write_text(f"{round(kwh * 3_600_000)}\n")


def test_an_hour_of_a_declared_meter_that_wraps(archive: Archive) -> None:
    meters = declared(files())  # type: ignore[arg-type]
    assert [meter.name for meter in meters] == ["hall"]
    for minute in range(0, 61):
        show(archive, (999 + minute / 30) % 1000)
        assert note_readings(archive, meters, START_S + 60 * minute, archive.root / "root") == []
    path = archive.base / "facility" / "hall.csv"
    assert len(path.read_text().splitlines()) == 1 + 3600 // PERIOD_S + 1
    assert read_meter(path, START_S, START_S + 3600, 1000 * KWH) == pytest.approx(2 * KWH)
    findings, said = compare(archive, meters, 2 * KWH, START_S, START_S + 3600, 0.1)
    assert (findings, said) == ([], "compared with the facility's hall: 2 kWh, of which the nodes' sum is 100.0 %")
    (finding,), _ = compare(archive, meters, KWH, START_S, START_S + 3600, 0.1)
    assert "50.0 %" in finding.what and finding.off_uj == pytest.approx(-KWH)
    with pytest.raises(DataError, match="went back"):
        read_meter(path, START_S, START_S + 3600)


def test_what_a_meter_does_not_show_is_said(archive: Archive) -> None:
    meters = declared(files())  # type: ignore[arg-type]
    (problem,) = note_readings(archive, meters, START_S, archive.root / "root")
    assert "hall" in problem and "no reading" in problem
    (archive.root / "root" / "meters" / "hall").write_text("offline\n")
    (problem,) = note_readings(archive, meters, START_S, archive.root / "root")
    assert "pattern does not match" in problem
    assert not (archive.base / "facility").exists()
    findings, said = compare(archive, meters, KWH, START_S, START_S + 3600, 0.1)
    assert findings == [] and "not compared" in said
    assert compare(archive, [], KWH, START_S, START_S + 3600, 0.1) == ([], "")


def test_no_node_takes_a_facility_meter_for_its_own(archive: Archive) -> None:
    show(archive, 1)
    (archive.root / "root" / "meters" / "psu").write_text("5\n")
    found = file.discover(archive.root / "root", [file.Declaration.from_policy(d) for d in files()])  # type: ignore[arg-type]
    assert [sensor.component for sensor in found.sensors] == ["node"]
    found.close()


def test_a_facility_meter_is_a_counter() -> None:
    with pytest.raises(ConfigError, match="a facility meter is a counter"):
        files("sensors: {files: [{name: h, path: /h, kind: power, unit: W, component: facility}]}")


@pytest.mark.parametrize("content", ["9" * 400, "\0" * 10, "-", "1e5 \udcff"])
def test_whatever_a_meter_shows_the_next_one_is_read(archive: Archive, content: str) -> None:
    wing = "    - {name: wing, path: /meters/wing, kind: counter, unit: J, component: facility}"
    meters = declared(files(POLICY + wing))  # type: ignore[arg-type]
    at = archive.root / "root" / "meters"
    (at / "hall").write_bytes(content.encode(errors="surrogateescape"))
    (at / "wing").write_text("7200000\n")
    problems = note_readings(archive, meters, START_S, archive.root / "root")
    assert (archive.base / "facility" / "wing.csv").read_text() == f"time,kwh\n{START_S},2.000000000\n"
    if content.startswith("1e5"):  # the first whole number in the text counts
        assert problems == []
    else:
        assert len(problems) == 1 and "facility meter hall" in problems[0]


@pytest.mark.parametrize("kind", ["pipe", "directory", "/dev/zero"])
def test_a_meter_that_is_no_file_is_not_waited_for(archive: Archive, kind: str) -> None:
    meters = declared(files())  # type: ignore[arg-type]
    hall = archive.root / "root" / "meters" / "hall"
    if kind == "pipe":
        os.mkfifo(hall)
    elif kind == "directory":
        hall.mkdir()
    else:
        hall.symlink_to(kind)
    (problem,) = note_readings(archive, meters, START_S, archive.root / "root")
    assert "facility meter hall" in problem and "no reading in this sweep" in problem


def test_a_line_that_a_full_disk_cut_short_costs_that_reading_alone(archive: Archive) -> None:
    meters = declared(files())  # type: ignore[arg-type]
    path = archive.base / "facility" / "hall.csv"
    for minute in range(0, 61, 5):
        show(archive, 10 + minute / 60)
        assert note_readings(archive, meters, START_S + 60 * minute, archive.root / "root") == []
        if minute == 30:
            with path.open("r+b") as readings:
                readings.truncate(path.stat().st_size - 12)
            os.utime(path, (START_S + 60 * minute, START_S + 60 * minute))
    assert read_meter(path, START_S, START_S + 3600) == pytest.approx(KWH)


@pytest.mark.parametrize(
    "damage", [b"nan,nan\n", b"inf,1\n", b"1795356000,nan\n", b"1795357000,1e999\n", b"\0\n", b'"', b"1,2,3\n", b"5\n"]
)
def test_lines_that_are_no_readings_are_left_out(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "meter.csv"
    path.write_bytes(b"\xef\xbb\xbftime,kwh\n%d,10\n%d,12\n" % (START_S, START_S + 3600) + damage)
    assert read_meter(path, START_S, START_S + 3600) == 2 * KWH


@pytest.mark.parametrize("content", [b"", b"time;kwh\n1;2\n", b"time,kwh\n1,\xff\n", b"\0", LONG])
def test_a_meter_file_without_readings_is_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "meter.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"meter\.csv: ") as caught:
        read_meter(path, START_S, START_S + 3600)
    assert "\n" not in str(caught.value)
