"""Software power meters beside an external one on Grid'5000 (Jay et al., CCGrid 2023, hal-03974900).

A node (two Xeon E5-2698 v4, eight idle V100) ran three NAS benchmarks, `perf` read RAPL's packages and memory, and a
wattmeter in front of the power supplies measured once a second. Published are the wattmeter's energies and a straight
line of its power against RAPL's. Ours: the energies by `energy.integrate`; the line, and a model of the wall, by
`energy.calibration` (`perun calibrate`) from the ten runs in which RAPL was read every 100 ms; and, by that model, the
wall's energy of the ten runs of the day before, which it has not seen.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache

from bench.reproduce.gauge import node_power
from bench.reproduce.rows import Compared, Line
from bench.reproduce.source import Repository
from perun_hpc.data_model.sensor import Reading
from perun_hpc.energy import calibration, uncertainty
from perun_hpc.energy.integrate import integrate

DATA = Repository(
    "vladostp/an-experimental-comparison-of-software-based-power-meters",
    "053af37928bc20d5d3125a27a3a280e32dec0ebf",
    "CC BY-SA 4.0",
    "Jay et al., CCGrid 2023",
)
TITLE = "RAPL and a wattmeter on Grid'5000"
STUDIES = "CPU_benchmarks/analyze-results"
RESULTS = "CPU_benchmarks/results"
BENCHMARKS = ("EP", "LU", "MG")
NS_PER_S = 1_000_000_000
METER_ERROR = 0.01
"""The meter's own relative error (k=1), as `perun calibrate` takes it by default."""
EVENING_S = 3 * 3600
"""The ten runs of the fit lie within."""
ROW_S = 10
"""Of the rows of the fit. The command takes no less than five minutes: its meters are read seldom."""
METER = node_power("wattmeter", "wattmetrev3-1", host="gemini-1", update_ns=NS_PER_S)


@dataclass(frozen=True)
class Run:
    """One benchmark of one run: when it ran, the wattmeter's readings, and joules of RAPL by component."""

    benchmark: str
    t0_ns: int
    t1_ns: int
    meter: Sequence[Reading]
    rapl_j: Mapping[str, float]


def lines() -> Iterator[Line]:
    """The table's lines."""
    runs = list(_evaluated())
    named = {name: runs[number :: len(BENCHMARKS)] for number, name in enumerate(BENCHMARKS)}
    published = _published_energies()
    for what, whole in (("from its first reading to its last", False), ("of the whole benchmark [a]", True)):
        compared = [
            Compared(kj, *(one / 1e3 for one in _metered(named[benchmark][run], whole)))
            for (benchmark, run), kj in published.items()
        ]
        yield Line(f"the wattmeter's energy, {what}", "kJ", compared, 2)
    slope, intercept_w = _published_line()
    rows = list(_rows())
    line = calibration.fit([_together(row) for row in rows], METER_ERROR)
    rise, rest = line.slopes["cpu"], line.static_w
    yield Line("wall against RAPL, slope [b]", "W/W", [Compared(slope, rise.value, 2 * rise.u)], 3)
    yield Line("wall against RAPL, at 0 W", "W", [Compared(intercept_w, rest.value, 2 * rest.u)], 0)
    model = calibration.fit(rows, METER_ERROR)
    proposed = calibration.relative_error(model, rows, METER_ERROR, EVENING_S)
    scatter = model.unseen_rmse_w / (math.fsum(row.wall_w for row in rows) / len(rows))
    for text, error in (("", proposed), (", the scatter of the fit alone [c]", scatter)):
        for benchmark in BENCHMARKS:
            compared = [_modelled(run, model, error) for run in named[benchmark]]
            yield Line(f"{benchmark} of the day before by the model{text}", "kJ", compared, 2)


def _modelled(run: Run, model: calibration.WallModel, error: float) -> Compared:
    """A run's energy at the wall by the model, with such a relative standard uncertainty."""
    seconds = (run.t1_ns - run.t0_ns) / NS_PER_S
    ours_j = model.static_w.value * seconds
    ours_j += math.fsum(one.value * run.rapl_j[name] for name, one in model.slopes.items())
    return Compared(_metered(run, True)[0] / 1e3, ours_j / 1e3, 2 * error * ours_j / 1e3)


def _metered(run: Run, whole: bool) -> tuple[float, float]:
    """The wattmeter's energy of a run in J, and the bound (k = 2): readings a second apart, cut off at both edges.

    Not `whole`: from the first reading in it to the last, as the study has it.
    """
    t0_ns, t1_ns = run.t0_ns, run.t1_ns
    if not whole:
        inside = [one.mono_ns for one in run.meter if t0_ns < one.mono_ns < t1_ns]
        t0_ns, t1_ns = inside[0], inside[-1]
    found = integrate(METER, run.meter, t0_ns, t1_ns, 3 * NS_PER_S)
    peak_uw = max(METER.base(one.ticks) for one in run.meter if one.ticks is not None)
    edges = [uncertainty.Edge(peak_uw, METER.update_ns)] * 2
    return found.energy_uj / 1e6, 2 * uncertainty.random_uj(edges) / 1e6


def _together(row: calibration.Row) -> calibration.Row:
    return calibration.Row(row.nodes, row.wall_w, {"cpu": math.fsum(row.components_w.values())})


# What the repository holds.


@cache
def _cells(name: str) -> list[tuple[str, str]]:
    """A notebook's code cells: their source, and what they printed."""
    found = []
    for cell in json.loads(DATA.text(f"{STUDIES}/{name}.ipynb"))["cells"]:
        outputs = [one.get("text") or one.get("data", {}).get("text/plain", []) for one in cell.get("outputs", [])]
        found.append(("".join(cell["source"]), "".join("".join(lines) for lines in outputs)))
    return found


def _output(name: str, call: str) -> str:
    """What the first cell with such a call printed."""
    return next((output for source, output in _cells(name) if call in source), "")


def _published_energies() -> dict[tuple[str, int], float]:
    """Benchmark and run -> kJ of the wattmeter, of the rows that the study's notebook shows: the first and the last."""
    said = _output("total-energy-study", "result_df_perf")
    found = re.findall(r"^(\d+) +(EP|LU|MG) NAS Benchmark +PE +([\d.]+) +wattmetre$", said, re.MULTILINE)
    return {(benchmark, int(row) % 30 // 3): float(kj) for row, benchmark, kj in found}


def _published_line() -> tuple[float, float]:
    said = _output("correlation-study", "get_correlation_by_benchmark(experiments_perf, 'Perf'")
    slope, intercept = re.findall(r"Regression: \(([\d.]+), ([\d.]+)\)", said)[0]
    return float(slope), float(intercept)


def _names(study: str, kind: str) -> list[str]:
    """The runs that a study took, in its order."""
    return re.findall(rf"'(perf-{kind}-gemini-1[^']+)'", "\n".join(source for source, _ in _cells(study)))


def _ns(text: str) -> int:
    whole, _, part = text.partition(".")
    seconds = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
    return int(seconds) * NS_PER_S + int(f"{part:0<9}"[:9])


def _table(path: str) -> Iterator[dict[str, str]]:
    return csv.DictReader(io.StringIO(DATA.text(path)))


def _meter(run: str) -> list[Reading]:
    return [
        Reading(round(float(row["value"]) * 1000), _ns(row["timestamp"]))
        for row in _table(f"{RESULTS}/{run}/kwollect-perf_perf.csv")
        if row["metric_id"] == "wattmetre_power_watt"
    ]


def _times(run: str) -> list[tuple[int, int]]:
    (experiment,) = json.loads(DATA.text(f"{RESULTS}/{run}/experiments.json"))["experiments"]
    return [(_ns(one["start_time"]), _ns(one["end_time"])) for one in experiment["benchmarks"]]


def _component(event: str) -> str:
    return "dram" if "ram" in event else "cpu"


def _evaluated() -> Iterator[Run]:
    """The runs in which `perf` gave one sum a benchmark: EP, LU, MG of the first, of the second, and so on."""
    for name in _names("total-energy-study", "evaluate"):
        meter = _meter(name)
        rows = list(_table(f"{RESULTS}/{name}/perf_perf.csv"))
        for benchmark, (t0_ns, t1_ns) in zip(BENCHMARKS, _times(name), strict=True):
            joules = {"cpu": 0.0, "dram": 0.0}
            for row in rows:
                if row["benchmark"].startswith(benchmark):
                    joules[_component(row["event"])] += float(row["value"])
            yield Run(benchmark, t0_ns, t1_ns, meter, joules)


def _rows() -> Iterator[calibration.Row]:
    """Ten seconds each of the runs in which `perf` read every 100 ms, whole ones within a benchmark.

    `perf` says in whole seconds when it began, up to a second before it did; it began no earlier than the benchmark.
    """
    for name in _names("correlation-study", "power-profile"):
        meter = _meter(name)
        table = list(_table(f"{RESULTS}/{name}/perf_perf.csv"))
        for benchmark, (begun_ns, _) in zip(BENCHMARKS, _times(name), strict=True):
            read = [
                (_ns(row["timestamp"]), _component(row["event"]), float(row["value_joules"]))
                for row in table
                if row["benchmark"].startswith(benchmark)
            ]
            later_ns = max(0, begun_ns - read[0][0] // NS_PER_S * NS_PER_S)
            first_ns, last_ns = read[0][0] + later_ns, read[-1][0] + later_ns
            for t0_ns in range(first_ns, last_ns - ROW_S * NS_PER_S, ROW_S * NS_PER_S):
                t1_ns = t0_ns + ROW_S * NS_PER_S
                joules = {"cpu": 0.0, "dram": 0.0}
                for at_ns, component, value_j in read:
                    if t0_ns < at_ns + later_ns <= t1_ns:
                        joules[component] += value_j
                wall = integrate(METER, meter, t0_ns, t1_ns, 3 * NS_PER_S)
                yield calibration.Row(
                    1, wall.energy_uj / 1e6 / ROW_S, {name: value / ROW_S for name, value in joules.items()}
                )
