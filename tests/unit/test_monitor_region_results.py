"""Figures of regions from the readings of a run in which not everything was read."""

from __future__ import annotations

import math
import struct
from array import array
from dataclasses import replace

import numpy as np
import pytest

from perun_hpc.agent.measure.curve import Curve
from perun_hpc.data_model import rank_data
from perun_hpc.data_model.data import MetricType, Region
from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.regions import union
from perun_hpc.monitoring.region_results import of_readings

NAN = float("nan")
S = 1_000_000_000
UTILISATION = Sensor(
    id="psutil:cpu:utilisation", host="h", backend="psutil", device="cpu", domain="cpu", component="cpu",
    kind=Kind.GAUGE, quantity=Quantity.UTILISATION, unit="0.1 %",
)  # fmt: skip
BUSY = replace(UTILISATION, id="procstat:cpu:time", kind=Kind.COUNTER, quantity=Quantity.TIME, unit="ns")
MEMORY = replace(
    UTILISATION, id="psutil:memory:used", domain="memory", component="dram", quantity=Quantity.DATA, unit="B"
)
PACKAGE = replace(BUSY, id="powercap:package-0:energy", domain="package-0", quantity=Quantity.ENERGY, unit="uJ")


def laid(sensors: list[Sensor], columns: list[list[float]], *calls: tuple[int, float, float], **about: int) -> Region:
    """The one region of a rank that made these calls (in seconds), over readings of every second from 10 s on."""
    times = np.arange(10, 10 + len(columns[0]), dtype=np.int64) * S
    table = b"".join(struct.pack("<3q", region, int(begin * S), int(end * S)) for region, begin, end in calls)
    samples = [(about.get(key, usual) * S, 0, 0) for key, usual in (("lived", 9), ("ended", 99))]
    rank = rank_data.parse(b"".join(rank_data.final({"rank": 0}, "exit", ["f"], table, samples)))
    known = [[value for value in column if not math.isnan(value)] for column in columns]
    summary = {
        "host": "h", "cpus": 4, "edges": [{"mono_ns": int(times[0])}, {"mono_ns": int(times[-1])}],
        "results": [{"base": one[-1] - one[0] if len(one) > 1 else None, "covered_ns": S} for one in known],
    }  # fmt: skip
    (region,) = of_readings(times, np.array(columns), sensors, [rank], summary)
    return region


@pytest.mark.parametrize(
    ("sensor", "column"),
    [(UTILISATION, [NAN, 1000, 1000, 1000, 1000]), (BUSY, [NAN, 0, 4 * S, 8 * S, 12 * S])],
    ids=["gauge", "counter"],
)
def test_a_gap_at_the_first_reading_is_no_idle_time(sensor: Sensor, column: list[float]) -> None:
    """It was: a region of four seconds on a busy host had 75 %, one of the first two seconds 50 %."""
    for end in (12, 14):
        assert laid([sensor], [column], (0, 10, end)).metrics[MetricType.CPU_UTIL].value == 100


def test_a_gap_in_the_middle_is_no_empty_memory() -> None:
    region = laid([MEMORY], [[800, 800, NAN, 800, 800]], (0, 10, 14))
    assert region.metrics[MetricType.DRAM_MEM].value == 800


def test_what_nobody_read_has_no_figure() -> None:
    region = laid([UTILISATION, PACKAGE], [[NAN, NAN, NAN, 500, NAN], [NAN, NAN, 7, NAN, NAN]], (0, 10, 14))
    assert set(region.metrics) == {MetricType.RUNTIME}


def test_power_is_the_energy_of_the_time_in_which_it_was_counted() -> None:
    region = laid([PACKAGE], [[NAN, NAN, 0, 50e6, 100e6]], (0, 10, 14))
    assert region.metrics[MetricType.POWER].value == 50


def test_a_region_s_energy_has_the_uncertainty_of_its_bounds() -> None:
    """As in the record of a job: a rectangle over what was counted in intervals that are covered in part."""
    column = [0, 10e6, 20e6, 50e6, 60e6]
    sure = laid([PACKAGE], [column], (0, 11, 13)).metrics[MetricType.ENERGY]
    assert (sure.value, sure.low, sure.high, sure.uncertainty) == (40, 40, 40, 0)
    doubtful = laid([PACKAGE], [column], (0, 11.5, 13)).metrics[MetricType.ENERGY]
    assert (doubtful.value, doubtful.low, doubtful.high) == (35, 30, 40)
    assert doubtful.uncertainty == pytest.approx(10 / 12**0.5)
    found = Curve([(10 + at) * S for at in range(5)], [int(one) for one in column]).over(
        union(array("q", (int(11.5 * S), 13 * S)))
    )
    assert (found.uj, found.u_uj) == (35_000_000, pytest.approx(10e6 / 12**0.5))


def test_what_a_counter_did_not_give_is_anything_up_to_its_ceiling() -> None:
    """A second package fell silent in the middle of the region, and gave nothing more."""
    silent = replace(PACKAGE, id="powercap:package-1:energy", domain="package-1", max_uw=100_000_000)
    columns = [[0, 10e6, 20e6, 30e6, 40e6], [0, 10e6, 20e6, NAN, NAN]]
    energy = laid([PACKAGE, silent], columns, (0, 11, 14)).metrics[MetricType.ENERGY]
    assert (energy.value, energy.low, energy.high) == (40, 40, 40 + 2 * 100)
    later = laid([PACKAGE, silent], columns, (0, 13, 14)).metrics
    assert (later[MetricType.ENERGY].value, later[MetricType.ENERGY].high) == (10, 110)
    assert later[MetricType.POWER].high == 110


def test_an_open_call_ends_with_its_rank() -> None:
    region = laid([PACKAGE], [[0, 10e6, 20e6, 50e6, 60e6]], (0, 11, 0), ended=12)
    assert (region.time_s, region.open, region.metrics[MetricType.ENERGY].value) == (1, 1, 10)


def test_calls_have_an_average_a_deviation_and_a_longest() -> None:
    region = laid([PACKAGE], [[0, 1, 2, 3, 4, 5, 6]], (0, 10, 11), (0, 11, 13), (0, 12, 15), (0, 200, 201))
    assert (region.calls, region.mean_s, region.std_s, region.max_s) == (4, 2.0, 1.0, 3.0)
    alone = laid([PACKAGE], [[0, 1, 2]], (0, 10, 11))
    assert (alone.mean_s, alone.std_s, alone.max_s) == (1.0, 0.0, 1.0)


def test_a_call_costs_a_part_of_what_a_region_did_unless_only_a_bound_is_known() -> None:
    counter = [0.0, 10e6, 20e6, 50e6, 60e6]  # uJ: 30 J of the third second
    known = laid([PACKAGE], [counter], (0, 12, 12.4), (0, 12.4, 13))
    assert known.metrics[MetricType.ENERGY].method == "counted"
    assert known.call_energy_j == pytest.approx(15)
    assert known.share == pytest.approx(0.5)
    short = laid([PACKAGE], [counter], (0, 12.4, 12.5))
    assert short.metrics[MetricType.ENERGY].at_most
    assert (short.call_energy_j, short.share) == (None, None)
