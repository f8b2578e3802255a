"""The options of `perun monitor` and `@perun`: one table for files, environment, command line and docs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perun_hpc.config import DEFAULT_LOG_LEVEL, LEVEL_ALIASES, LOG_LEVELS
from perun_hpc.config.kinds import Choice, Kind, Line, Number, OrNothing, Regex, Upper, Words
from perun_hpc.config.option import Option, item

FORMATS = ("text", "json", "hdf5", "pickle", "csv", "functions", "bench", "zarr")
PREFIXES = ("", "k", "M", "G", "T", "m", "u", "µ", "n", "p")
STATISTICS = ("sum", "mean", "avg", "std", "max", "min")
METRICS = (
    "runtime", "energy", "power", "cpu_energy", "cpu_power", "gpu_energy", "gpu_power", "dram_energy", "dram_power",
    "other_energy", "other_power", "cpu_util", "gpu_util", "other_util", "dram_mem", "gpu_mem", "other_memory",
    "net_read", "net_write", "disk_read", "disk_write", "cpu_clock", "gpu_clock", "n_runs", "money", "co2",
)  # fmt: skip

_POSITIVE = Number(0, above=True)
_NOT_NEGATIVE = Number(0)
_TABLE = Words(Choice(METRICS))


class _Expressions(Words):
    """Regular expressions; `none` alone is no expression, as nothing is (perun's way to clear what a file says)."""

    def parse(self, text: str) -> tuple[Any, ...]:
        """The expressions, in order."""
        return () if text.strip().lower() == "none" else super().parse(text)


class _Level(Choice):
    """A level of the log, by its own or by perun's name."""

    def parse(self, text: str) -> str:
        """The level's own name."""
        return super().parse(LEVEL_ALIASES.get(text, text))


_EXPRESSIONS = _Expressions(Regex())
_BENCH = "runtime,energy,power,dram_mem,cpu_util,gpu_power,gpu_mem,disk_read,disk_write,net_read,net_write"


def _option(section: str, kind: Kind, default: str, doc: str) -> Any:
    return item(kind, default, doc, section=section)


def _costs(kind: Kind, default: str, doc: str) -> Any:
    return _option("post-processing", kind, default, doc)


def _measures(kind: Kind, default: str, doc: str) -> Any:
    return _option("monitor", kind, default, doc)


def _leaves(kind: Kind, default: str, doc: str) -> Any:
    return _option("output", kind, default, doc)


def _compares(kind: Kind, default: str, doc: str) -> Any:
    return _option("benchmarking", kind, default, doc)


def _prefix(default: str, of: str, *words: str) -> Any:
    return _option(
        "benchmarking.units",
        Choice(words or PREFIXES),
        default,
        f"prefix of the unit of {of}, in tables and the format bench",
    )


@dataclass(frozen=True)
class UserSettings:
    """All options, with their values."""

    power_overhead: float = _costs(_NOT_NEGATIVE, "0", "constant power of each host that no sensor sees, in W")
    pue: float = _costs(Number(1), "1", "power usage effectiveness of the site")
    emissions_factor: float | str | None = _costs(
        OrNothing((_NOT_NEGATIVE, Upper("[A-Za-z]{3}", "DEU", rule="a country's three letters"))),
        "",
        "CO2 per kWh in g, or a country's three letters; without one none is shown",
    )
    emissions_source: str = _costs(Line(), "", "who states that figure, and when")
    price_factor: float | None = _costs(OrNothing((_NOT_NEGATIVE,)), "", "price of a kWh; without one no cost is shown")
    price_source: str = _costs(Line(), "", "who states that price, and when")
    price_unit: str = _costs(Line(), "€", "currency of that price")
    sampling_period: float = _measures(_POSITIVE, "1", "seconds between readings")
    queue_timeout: float = _measures(
        _POSITIVE, "60", "seconds to wait for the sampling process to start, and for other ranks' data"
    )
    include_backends: tuple[str, ...] = _measures(
        _EXPRESSIONS, "", "only backends whose name starts with one of these expressions"
    )
    exclude_backends: tuple[str, ...] = _measures(
        _EXPRESSIONS, "", "no backends whose name starts with one of these expressions"
    )
    include_sensors: tuple[str, ...] = _measures(
        _EXPRESSIONS, "", "only sensors whose id starts with one of these expressions"
    )
    exclude_sensors: tuple[str, ...] = _measures(
        _EXPRESSIONS, "", "no sensors whose id starts with one of these expressions"
    )
    app_name: str | None = _leaves(
        OrNothing((Line(),)), "", "name under which runs are kept (SLURM: the job's); without one the program's"
    )
    run_id: str | None = _leaves(
        OrNothing((Line(),)), "", "name of this run (SLURM: the job id); without one its start"
    )
    format: str = _leaves(Choice(FORMATS), "text", f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    data_out: str = _leaves(Line(), "./perun_results", "where runs are kept")
    rounds: int = _compares(Number(1, integer=True), "1", "how many times to run the program")
    warmup_rounds: int = _compares(Number(0, integer=True), "0", "how many times to run it before that, unmeasured")
    metrics: tuple[str, ...] = _compares(_TABLE, _BENCH, "metrics of the table and of the format bench")
    region_metrics: tuple[str, ...] = _compares(
        _TABLE, _BENCH, "metrics of the regions, in the table and in the format bench"
    )
    group_by: str = _compares(Choice(("host", "device")), "host", "what a line of the table is of")
    metric_stats: tuple[str, ...] = _compares(
        Words(Choice(STATISTICS)), "avg,max", "what the format bench says of several runs"
    )
    joule: str = _prefix("k", "energies")
    watt: str = _prefix("", "powers")
    byte: str = _prefix("G", "amounts of data")
    second: str = _prefix("", "times")
    percent: str = _prefix("", "percentages", "")
    log_lvl: str = _option("debug", _Level(LOG_LEVELS), DEFAULT_LOG_LEVEL, "what is logged: this and what is worse")
    log_file: str | None = _option("debug", OrNothing((Line(),)), "", "where the log goes; without one to stderr")

    @property
    def period_ns(self) -> int:
        """The sampling period in ns."""
        return max(1, round(self.sampling_period * 1e9))


OPTIONS: Mapping[str, Option] = {
    one.name: Option(name=one.name, default=one.default, **one.metadata) for one in dataclasses.fields(UserSettings)
}
"""All options by name, in the order of their sections."""
