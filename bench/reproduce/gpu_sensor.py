"""NVIDIA's power sensor beside an external meter (Yang, Adamek and Armour, arXiv 2312.02741, SC24).

A meter between the power supply and the card (PMD, thousands of samples a second) and `nvidia-smi` recorded the same
loads. Published is the meter's energy. Ours is what the agent makes of a GPU without an energy counter: a counter made
of the power gauge (`energy.integrate.SyntheticCounter`), asked once a second, with the gain, the lag and the duty cycle
that `backend.nvml` states of that card, and the bounds that `agent.measure.booking` would print. NVML's own energy
counter is not in these data. Published, too, is how far the sensors of 19 cards are off at steady load (their slope
against the meter): those are held against the gain error alone.
"""

from __future__ import annotations

import ast
import csv
import io
import math
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from bench.reproduce.rows import Compared, Line
from bench.reproduce.source import Repository
from perun_hpc.agent.measure.booking import PEAK_NS, SAMPLED
from perun_hpc.backend.nvml import AVERAGE_NS, GAIN_ERROR, PART_TIME, SAMPLED_NS
from perun_hpc.backend.nvml_activity import UPDATE_NS
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy import uncertainty
from perun_hpc.energy.integrate import SyntheticCounter

DATA = Repository(
    "JimZeyuYang/GPU_Power_Benchmark",
    "4b5c944c2454bcb52f28b975c5484aff1a78368f",
    "MIT",
    "Yang et al., arXiv 2312.02741",
)
TITLE = "NVIDIA's power sensor and a meter on the card's cables"
NS_PER_S = 1_000_000_000
ASK_NS = NS_PER_S
LEAD_NS = NS_PER_S // 2
"""Before the first load and after the last, as the study draws them."""
SUMMER_NS = 3600 * NS_PER_S
"""`nvidia-smi` wrote the local time of a British summer."""
AVERAGED, INSTANT = "power.draw [W]", "power.draw.instant [W]"


@dataclass(frozen=True)
class Case:
    """One recording: its folder, the card, the column of its power, and whether that is the mean of a second."""

    folder: str
    card: str
    column: str
    averaged: bool

    @property
    def what(self) -> str:
        """Its name in the table."""
        load = "load on and off every 50 ms" if self.folder.startswith("5050") else "load of 6 s"
        shown = "mean of a second" if self.averaged else "power at that moment"
        return f"{self.card}, {load}, {shown}"


CASES = (
    Case("Transient_Response/A100_TR", "A100", INSTANT, False),
    Case("5050/A100", "A100", INSTANT, False),
    Case("Transient_Response/3090_TR", "RTX 3090", INSTANT, False),
    Case("Transient_Response/3090_TR", "RTX 3090", AVERAGED, True),
    Case("5050/3090", "RTX 3090", INSTANT, False),
    Case("5050/3090", "RTX 3090", AVERAGED, True),
    Case("Transient_Response/4090_TR", "RTX 4090", AVERAGED, True),
    Case("Transient_Response/A5000_TR", "RTX A5000", AVERAGED, True),
    Case("Transient_Response/K40m_TR", "K40m", AVERAGED, False),
)


def lines() -> Iterator[Line]:
    """The table's lines."""
    for case in CASES:
        yield Line(case.what, "J", [_compared(case)], 0)
    slopes = [Compared(1 + percent / 100, 1.0, 2 * GAIN_ERROR) for percent in _published("Gradient")]
    yield Line(f"sensors of {len(slopes)} cards at steady load, taken at their word", "W/W", slopes, 3)


def _compared(case: Case) -> Compared:
    loads = [int(line) * 1000 for line in _text(case, "timestamps.csv").split()[1:]]
    t0_ns, t1_ns = min(loads) - LEAD_NS, max(loads) + LEAD_NS
    energy_uj, most_uw = _counted(_sensor(case), _gauge(case), t0_ns, t1_ns)
    u_uj = _u_uj(case, energy_uj, most_uw, t1_ns - t0_ns)
    return Compared(integral(_meter(case), t0_ns, t1_ns), energy_uj / 1e6, 2 * u_uj / 1e6)


def _u_uj(case: Case, energy_uj: int, most_uw: int, time_ns: int) -> int:
    """Standard uncertainty (k=1) of an energy of a job that holds the card, as a record has it."""
    sensor = _sensor(case)
    power_uw = round(uncertainty.PEAK * most_uw)
    edges = [uncertainty.Edge(power_uw, sensor.update_ns + sensor.lag_ns // 4)] * 2
    unseen_uj = SAMPLED * power_uw * math.sqrt(sensor.sampled_ns / NS_PER_S * time_ns / NS_PER_S)
    random = {uncertainty.RANDOM: uncertainty.random_uj(edges, (), [unseen_uj])}
    return uncertainty.combined_uj(uncertainty.added([uncertainty.of_sensor(sensor, energy_uj), random]))


def _counted(sensor: Sensor, readings: Sequence[Reading], t0_ns: int, t1_ns: int) -> tuple[int, int]:
    """Energy in uJ between two moments, and the highest mean power in uW between two readings; asked once a second."""
    times = [one.mono_ns for one in readings]
    counter = SyntheticCounter(sensor, 30 * NS_PER_S)
    edges: list[int] = []
    before: tuple[int, int] | None = None
    most_uw = 0
    for now_ns in [t0_ns - ASK_NS, *range(t0_ns, t1_ns, ASK_NS), t1_ns]:
        found = readings[max(0, bisect_left(times, now_ns) - 1)]
        counter, shown = counter.advance(Reading(found.ticks, now_ns))
        assert shown.ticks is not None
        if before and now_ns - before[1] >= PEAK_NS:
            most_uw = max(most_uw, (shown.ticks - before[0]) * NS_PER_S // (now_ns - before[1]))
        before = shown.ticks, now_ns
        if now_ns in (t0_ns, t1_ns):
            edges.append(shown.ticks)
    return edges[1] - edges[0], most_uw


def _sensor(case: Case) -> Sensor:
    """The gauge as `backend.nvml` describes it."""
    return Sensor(
        id="nvml:gpu:power",
        host="published",
        backend="nvml",
        device=case.card,
        domain="gpu",
        component="gpu",
        kind=Kind.GAUGE,
        quantity=Quantity.POWER,
        unit="mW",
        scale_num=1000,
        update_ns=UPDATE_NS,
        lag_ns=AVERAGE_NS // 2 if case.averaged else 0,
        sampled_ns=SAMPLED_NS if case.card in PART_TIME else 0,
        gain_error=GAIN_ERROR,
    )


# What the repository holds.


def _text(case: Case, name: str) -> str:
    return DATA.text(f"plotting/data/{case.folder}/{name}")


def _gauge(case: Case) -> list[Reading]:
    rows = csv.DictReader(io.StringIO(_text(case, "gpudata.csv")), skipinitialspace=True)
    return [Reading(round(float(row[case.column]) * 1000), _local_ns(row["timestamp"])) for row in rows]


def _local_ns(text: str) -> int:
    at = datetime.strptime(text, "%Y/%m/%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
    return int(at.replace(microsecond=0).timestamp()) * NS_PER_S + at.microsecond * 1000 - SUMMER_NS


VOLT, AMPERE, TICKS_PER_MS = 0.007568, 0.0488, 2933.5
"""One step of the meter's voltages and currents and of its clock, as the study reads them."""
BEGUN_US = 50_000
"""How much earlier than the time that was written down the meter's first sample is, as the study has it."""


def _meter(case: Case) -> list[tuple[float, float]]:
    begun_us = int(_text(case, "PMD_start_ts.txt")) - BEGUN_US
    return metered(DATA.file(f"plotting/data/{case.folder}/PMD_data.bin"), begun_us / 1e6)


def metered(data: bytes, first_s: float) -> list[tuple[float, float]]:
    """Time in s and power in W of each of the meter's samples: a clock of 16 bits, then four pairs of V and A."""
    samples, turns, last, begun = [], 0, 0, None
    for clock, *raw in struct.iter_unpack("<9H", data[: len(data) // 18 * 18]):
        turns += clock < last
        last = clock
        ms = (turns * 65536 + clock) / TICKS_PER_MS
        begun = ms if begun is None else begun
        steps = [_twelve(value) for value in raw]
        watts = math.fsum(volt * VOLT * ampere * AMPERE for volt, ampere in zip(steps[::2], steps[1::2], strict=True))
        samples.append((first_s + (ms - begun) / 1e3, watts))
    return samples


def _twelve(value: int) -> int:
    """The upper twelve bits; below zero nothing flows."""
    step = value >> 4
    return 0 if step & 0x800 else step


def integral(samples: Sequence[tuple[float, float]], t0_ns: int, t1_ns: int) -> float:
    """Joules between two moments, by straight lines between samples."""
    inside = [one for one in samples if t0_ns / 1e9 <= one[0] <= t1_ns / 1e9]
    return math.fsum((a[1] + b[1]) / 2 * (b[0] - a[0]) for a, b in zip(inside, inside[1:], strict=False))


def _published(name: str) -> list[float]:
    """A row of figures that the study's plot has as literals."""
    for node in ast.walk(ast.parse(DATA.text("plotting/figure_plotting.py"))):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "Data":
            values = ast.literal_eval(node.value)
            if name in values:
                return [float(value) for value in values[name]]
    return []
