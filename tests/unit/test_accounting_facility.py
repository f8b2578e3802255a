"""Facility meters that the policy declares: read by the collector, held against the nodes' sum by the audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.accounting.archive import Archive
from perun_hpc.accounting.audit import read_meter
from perun_hpc.accounting.facility import PERIOD_S, compare, declared, note_readings
from perun_hpc.backend import file
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.policy import parse
from perun_hpc.config.resolve import JobFacts, resolve
from perun_hpc.errors import ConfigError, DataError
from tests.accounting_data import START_S

KWH = 3_600_000_000_000
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
    assert (findings, said) == ([], "compared with the facility's hall")
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
