"""Power over time as a line of the report, from a trace as an agent ships it."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perun_hpc.archive.places import Archive, Run
from perun_hpc.cli.picture import QUICK_B, in_a_line
from perun_hpc.data_model.record import EnergyRecord, to_json
from perun_hpc.errors import DataError
from perun_hpc.report import curves
from perun_hpc.report.over_time import COLUMNS, LABEL, curve_lines
from perun_hpc.report.screen import WIDTH, Style, cells
from perun_hpc.report.sparkline import sparkline
from tests import picture_data
from tests.accounting_data import NS, START_S

HOSTS, SECONDS = 4, 200


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    base = tmp_path_factory.mktemp("over-time")
    made = Archive(base, "c")
    directory = made.job(Run(4711, 0))
    picture_data.write_trace(directory, base / "scratch", HOSTS, SECONDS)
    (directory / "record.json").write_text(to_json(picture_data.record(HOSTS, SECONDS)))
    return made


@pytest.fixture
def record() -> EnergyRecord:
    return replace(picture_data.record(HOSTS, SECONDS), trace_bytes=1000)


def test_a_line_goes_from_0_to_the_greatest_value_and_has_a_blank_where_nothing_is_known() -> None:
    assert sparkline([0, 1, 2, 4, 7.9, 8], Style()) == "▁▂▃▅██"
    assert sparkline([0, float("nan"), 8], Style()) == "▁ █"
    assert sparkline([0, float("nan"), 4, 8], Style(unicode=False)) == "_ =#"
    assert sparkline([float("nan")], Style()) == " "
    assert sparkline([0, 0], Style()) == "▁▁"
    assert sparkline([], Style()) == ""


def test_the_line_is_as_wide_as_the_screen_has_room_for(archive: Archive, record: EnergyRecord) -> None:
    lines = in_a_line(record, archive, Style())
    assert lines[0].startswith("Over time  ") and lines[0].endswith("W")
    assert len(set(lines[0][LABEL : LABEL + COLUMNS]) - {" "}) > 3
    assert all(cells(line) <= WIDTH for line in lines)
    assert all(line.isascii() for line in in_a_line(record, archive, Style(unicode=False)))


@pytest.mark.parametrize("watts", [0.0123, 1.23, 9.99, 123, 3714, 999_400, 9.99e6])
def test_no_end_of_a_curve_is_cut_off_whatever_its_greatest_power_is(
    archive: Archive, record: EnergyRecord, watts: float
) -> None:
    read = curves.read(archive.job(Run(4711, 0)), record.start_ns, record.end_ns, COLUMNS)
    flat = curves.Envelope(*[np.full(COLUMNS, watts)] * 3)
    line = curve_lines(record, replace(read, total=flat), Style())[0]
    assert line[LABEL : LABEL + COLUMNS] == "█" * COLUMNS and cells(line) <= WIDTH


def test_nodes_that_were_not_read_are_named_and_so_is_what_others_did(archive: Archive, record: EnergyRecord) -> None:
    whole = " ".join(in_a_line(record, archive, Style())[1:])
    assert f"at times of {HOSTS - 1} of {HOSTS} nodes alone" in whole
    assert "others" not in whole
    shared = replace(record, components=tuple(replace(c, methods=("cores",)) for c in record.components))
    assert "with what others did there" in " ".join(" ".join(in_a_line(shared, archive, Style())).split())


def test_the_curve_is_the_traces_own(archive: Archive, record: EnergyRecord) -> None:
    read = curves.read(archive.job(Run(4711, 0)), START_S * NS, (START_S + SECONDS) * NS, COLUMNS)
    drawn = curve_lines(record, read, Style())[0][LABEL : LABEL + COLUMNS]
    most = int(read.total.mean.argmax())
    assert drawn[most] == "█"
    assert drawn[int(read.total.mean.argmin())] == min(drawn)


def test_a_trace_that_is_gone_or_large_is_named_and_a_job_without_one_has_no_line(
    archive: Archive, record: EnergyRecord, tmp_path: Path
) -> None:
    assert in_a_line(replace(record, trace_bytes=0), archive, Style()) == []
    gone = " ".join(in_a_line(record, Archive(tmp_path, "c"), Style()))
    assert "not drawn: no trace of it is stored" in gone
    large = " ".join(in_a_line(replace(record, trace_bytes=QUICK_B + 1), archive, Style()))
    assert "not drawn: its trace is large" in large


def test_a_trace_without_two_readings_is_not_a_damaged_one(record: EnergyRecord, tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive", "c")
    short = replace(record, start_ns=record.end_ns, end_ns=record.end_ns + 5 * NS)  # the readings lie before it
    picture_data.write_trace(archive.job(Run(4711, 0)), tmp_path / "scratch", HOSTS, 2)
    (archive.job(Run(4711, 0)) / "record.json").write_text(to_json(short))
    said = " ".join(" ".join(in_a_line(short, archive, Style())).split())
    assert said == "Over time not drawn: the trace holds no two readings of power: its rows are 1 s apart"


def test_a_damaged_trace_costs_the_line_alone(archive: Archive, record: EnergyRecord, tmp_path: Path) -> None:
    directory = Archive(tmp_path, "c").job(Run(4711, 0))
    (directory / "job.zarr").mkdir(parents=True)
    (directory / "record.json").write_text(to_json(record))
    (directory / "job.zarr" / "zarr.json").write_text("{")
    assert in_a_line(record, Archive(tmp_path, "c"), Style())[0].startswith("Over time  not drawn: its trace cannot")


@pytest.mark.parametrize(
    ("array", "key", "value"),
    [("energy", "shape", [HOSTS, 0, 0]), ("sample_time_offset", "shape", [1, 1]), ("energy", "chunk", 0)],
)
def test_a_trace_whose_shapes_are_damaged_is_refused_in_one_line(
    archive: Archive, record: EnergyRecord, tmp_path: Path, array: str, key: str, value: Any
) -> None:
    shutil.copytree(archive.job(Run(4711, 0)), tmp_path / "job")
    path = tmp_path / "job" / "job.zarr" / "samples" / array / "zarr.json"
    about = json.loads(path.read_text())
    if key == "chunk":
        about["codecs"][0]["configuration"]["chunk_shape"][-1] = value
    else:
        about[key] = value
    path.write_text(json.dumps(about))
    with pytest.raises(DataError, match="cannot be read"):
        curves.read(tmp_path / "job", record.start_ns, record.end_ns)
