"""A job's curves are what its trace holds: means of what was read, gaps where nothing was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perun_hpc.errors import NotFoundError
from perun_hpc.report import curves
from perun_hpc.report.curves import JobCurves, power, trailing
from tests import picture_data
from tests.accounting_data import NS, START_S

HOSTS, SECONDS = 4, 200
START = START_S * NS
END = START + SECONDS * NS


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("curves")
    picture_data.write_trace(base / "job", base / "scratch", HOSTS, SECONDS)
    return base / "job"


@pytest.fixture(scope="module")
def read(trace: Path) -> JobCurves:
    return curves.read(trace, START, END)


def test_power_of_a_counter_is_its_growth_over_the_time_that_was_read() -> None:
    when, joules = np.array([0.0, 1, 2, 3, 4]), np.array([0.0, 10, 30, 30, 70])
    assert power(when, joules, np.array([0.0, 1, 2, 4]), counts=True).tolist() == [10, 20, 20]
    assert power(when, joules, np.array([0.5, 1.5]), counts=True).tolist() == [15]


def test_a_hole_in_the_readings_is_a_gap_and_not_a_mean() -> None:
    when = np.array([0.0, 1, 2, 3, 13, 14, 15])
    watts = power(when, 10 * when, np.arange(0.0, 16), counts=True)
    assert watts[:3].tolist() == [10, 10, 10]
    assert np.isnan(watts[3:13]).all()
    assert watts[13:].tolist() == [10, 10]
    assert np.isnan(power(np.array([1.0]), np.array([5.0]), np.arange(0.0, 3), counts=True)).all()


def test_before_the_first_and_after_the_last_reading_nothing_is_known() -> None:
    when = np.arange(3.0, 8)
    assert (
        np.isnan(power(when, when, np.arange(0.0, 11), counts=True)).tolist() == [True] * 3 + [False] * 4 + [True] * 3
    )


def test_readings_of_a_slower_pace_are_no_gaps() -> None:
    when = np.arange(0.0, 61, 10)
    assert power(when, 5 * when, np.arange(0.0, 61), counts=True).tolist() == pytest.approx([5] * 60)


def test_a_gauge_is_the_mean_of_its_readings() -> None:
    when, watts = np.array([0.0, 1, 2]), np.array([10.0, 20, 20])
    assert power(when, watts, np.array([0.0, 1, 2]), counts=False).tolist() == [15, 20]


def test_how_busy_a_second_was_is_read_at_its_end_and_drawn_where_it_was() -> None:
    when, percent = np.arange(0.0, 6), np.array([50.0, 10, 90, 90, 10, 10])
    assert trailing(when, percent, np.arange(0.0, 6)).tolist() == [10, 90, 90, 10, 10]
    assert trailing(when, percent, np.array([0.0, 2, 4])).tolist() == [50, 50]
    hole = np.array([0.0, 1, 2, 9, 10])
    found = trailing(hole, np.array([5.0, 5, 5, 5, 5]), np.arange(0.0, 11))
    assert np.isnan(found).tolist() == [False] * 2 + [True] * 7 + [False]


def test_power_and_utilisation_rise_in_the_same_column(tmp_path: Path) -> None:
    picture_data.write_trace(tmp_path / "job", tmp_path / "scratch", 1, 100)
    found = curves.read(tmp_path / "job", START, START + 100 * NS)
    assert found.cpu is not None
    rise = [int(np.nanargmax(np.diff(one[:12]))) for one in (found.total.mean, found.cpu.mean)]
    assert rise[0] == rise[1]


def test_components_add_up_and_the_meter_stands_beside_them(read: JobCurves) -> None:
    assert list(read.components) == ["cpu", "dram", "gpu"]
    assert sum(read.components.values()).tolist() == pytest.approx(read.total.mean.tolist())  # type: ignore[union-attr]
    assert read.meter is not None
    assert np.nanmedian(read.meter - read.total.mean) == pytest.approx(110 * HOSTS, rel=0.2)


def test_what_a_host_did_not_read_is_in_no_sum_and_is_counted(read: JobCurves) -> None:
    gap = slice(SECONDS // 2 + 2, SECONDS // 2 + SECONDS // 10 - 2)
    assert np.isnan(read.hosts[1].watts[gap]).all()
    assert set(read.reporting[gap].tolist()) == {HOSTS - 1}
    rest = sum(host.watts[gap] for number, host in enumerate(read.hosts) if number != 1)
    assert read.total.mean[gap].tolist() == pytest.approx(rest.tolist())  # type: ignore[union-attr]
    assert (read.reporting[: SECONDS // 2 - 1] == HOSTS).all()


def test_fewer_columns_keep_the_energy_and_the_least_and_greatest(trace: Path, read: JobCurves) -> None:
    coarse = curves.read(trace, START, END, columns=20)
    assert len(coarse.edges_s) == 21
    assert coarse.energy_uj == pytest.approx(read.energy_uj, rel=0.02)
    assert (coarse.total.low <= coarse.total.mean).all()
    assert (coarse.total.mean <= coarse.total.high).all()
    assert np.nanmax(coarse.total.high) == pytest.approx(np.nanmax(read.total.mean), rel=0.03)
    assert (coarse.total.high > 1.5 * coarse.total.low).any()


def test_hosts_have_their_names_temperatures_and_utilisation(read: JobCurves) -> None:
    assert [host.node for host in read.hosts] == ["n1", "n2", "n3", "n4"]
    assert all(host.hottest_c is not None and 60 < host.hottest_c < 85 for host in read.hosts)
    assert read.cpu is not None
    assert read.gpu is not None
    assert 0 <= np.nanmin(read.cpu.low) <= np.nanmax(read.cpu.high) <= 100
    assert (read.cpu.low <= read.cpu.mean).all()


def test_hosts_of_several_kinds_are_summed_and_their_meters_only_where_all_have_one(tmp_path: Path) -> None:
    picture_data.write_trace(tmp_path / "job", tmp_path / "scratch", 3, 40, bare=1)
    found = curves.read(tmp_path / "job", START, START + 40 * NS)
    assert [host.node for host in found.hosts] == ["n1", "n2", "n3"]
    assert found.nodes == 3
    whole = sum(np.nan_to_num(host.watts) for host in found.hosts)
    assert found.total.mean.tolist() == pytest.approx(whole.tolist())  # type: ignore[union-attr]
    cpu_alone = found.hosts[2].watts
    assert np.nanmax(cpu_alone) < np.nanmax(found.hosts[0].watts)
    assert found.meter is None


def test_a_job_without_a_trace_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no trace was stored"):
        curves.read(tmp_path, START, END)
