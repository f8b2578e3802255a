"""The user's configuration: INI files, environment, command line.

Lowest to highest: defaults, `~/.config/perun.ini`, `./.perun.ini`, the file of `-c`, `PERUN_<OPTION>`, the command line
or a decorator's keywords. Every option is known: anything else is an error, in one line.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perun_hpc.config import DEFAULT_LOG_LEVEL, LOG_LEVELS
from perun_hpc.errors import ConfigError

Convert = Callable[[str], Any]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _nothing_or(text: str) -> str | None:
    return None if text.strip() in ("", "None") else text.strip()


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError("must be greater than 0")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError("must not be negative")
    return value


def _nothing_or_not_negative(text: str) -> float | None:
    return None if _nothing_or(text) is None else _not_negative(text)


def _emissions(text: str) -> float | str | None:
    word = text.strip()
    return word.upper() if len(word) == 3 and word.isalpha() else _nothing_or_not_negative(text)


def _pue(text: str) -> float:
    value = float(text)
    if not 1 <= value < float("inf"):
        raise ValueError("must be at least 1")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError("must not be negative")
    return value


def _rounds(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError("must be at least 1")
    return value


def _one_of(*choices: str) -> Convert:
    def convert(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return convert


FORMATS = ("text", "json", "hdf5", "pickle", "csv", "bench", "zarr")
PREFIXES = ("", "k", "M", "G", "T", "m", "u")
METRICS = (
    "runtime", "energy", "power", "cpu_energy", "cpu_power", "gpu_energy", "gpu_power", "dram_energy", "dram_power",
    "other_energy", "other_power", "cpu_util", "gpu_util", "dram_mem", "gpu_mem", "net_read", "net_write", "disk_read",
    "disk_write", "cpu_clock", "gpu_clock", "n_runs", "money", "co2",
)  # fmt: skip
_BENCH = "runtime,energy,power,dram_mem,cpu_util,gpu_power,gpu_mem,disk_read,disk_write,net_read,net_write"


def _metrics(text: str) -> tuple[str, ...]:
    words = _words(text)
    for word in words:
        if word not in METRICS:
            raise ValueError(f"{word!r} is no metric: known are {', '.join(METRICS)}")
    return words


def _stats(text: str) -> tuple[str, ...]:
    words = _words(text)
    for word in words:
        if word not in ("sum", "mean", "avg", "std", "max", "min"):
            raise ValueError(f"{word!r} is no statistic: known are avg, max, min, std, sum")
    return words


@dataclass(frozen=True)
class Option:
    """One option: where it stands, its default as text, and how text becomes a value (ValueError if it cannot)."""

    section: str
    name: str
    default: str
    convert: Convert


OPTIONS: tuple[Option, ...] = (
    Option("post-processing", "power_overhead", "0", _not_negative),
    Option("post-processing", "pue", "1.0", _pue),
    Option("post-processing", "emissions_factor", "", _emissions),
    Option("post-processing", "emissions_source", "", str),
    Option("post-processing", "price_factor", "", _nothing_or_not_negative),
    Option("post-processing", "price_source", "", str),
    Option("post-processing", "price_unit", "€", str),
    Option("monitor", "sampling_period", "1", _positive),
    Option("monitor", "queue_timeout", "60", _positive),
    Option("monitor", "include_backends", "", _words),
    Option("monitor", "exclude_backends", "", _words),
    Option("monitor", "include_sensors", "", _words),
    Option("monitor", "exclude_sensors", "", _words),
    Option("output", "app_name", "", _nothing_or),
    Option("output", "run_id", "", _nothing_or),
    Option("output", "format", "text", _one_of(*FORMATS)),
    Option("output", "data_out", "./perun_results", str),
    Option("benchmarking", "rounds", "1", _rounds),
    Option("benchmarking", "warmup_rounds", "0", _count),
    Option("benchmarking", "metrics", _BENCH, _metrics),
    Option("benchmarking", "region_metrics", _BENCH.replace(",energy", ""), _metrics),
    Option("benchmarking", "group_by", "host", _one_of("host", "device")),
    Option("benchmarking", "metric_stats", "avg,max", _stats),
    Option("benchmarking.units", "joule", "k", _one_of(*PREFIXES)),
    Option("benchmarking.units", "watt", "", _one_of(*PREFIXES)),
    Option("benchmarking.units", "byte", "G", _one_of(*PREFIXES)),
    Option("benchmarking.units", "second", "", _one_of(*PREFIXES)),
    Option("benchmarking.units", "percent", "", _one_of("")),
    Option("debug", "log_lvl", DEFAULT_LOG_LEVEL, _one_of(*LOG_LEVELS)),
    Option("debug", "log_file", "", _nothing_or),
)

_BY_NAME = {option.name: option for option in OPTIONS}


@dataclass(frozen=True)
class UserSettings:
    """All options, converted."""

    power_overhead: float
    pue: float
    emissions_factor: float | str | None
    emissions_source: str
    price_factor: float | None
    price_source: str
    price_unit: str
    sampling_period: float
    queue_timeout: float
    include_backends: tuple[str, ...]
    exclude_backends: tuple[str, ...]
    include_sensors: tuple[str, ...]
    exclude_sensors: tuple[str, ...]
    app_name: str | None
    run_id: str | None
    format: str
    data_out: str
    rounds: int
    warmup_rounds: int
    metrics: tuple[str, ...]
    region_metrics: tuple[str, ...]
    group_by: str
    metric_stats: tuple[str, ...]
    joule: str
    watt: str
    byte: str
    second: str
    percent: str
    log_lvl: str
    log_file: str | None

    @property
    def period_ns(self) -> int:
        """The sampling period in ns."""
        return max(1, round(self.sampling_period * 1e9))


def defaults() -> configparser.ConfigParser:
    """A parser that holds every option with its default."""
    parser = configparser.ConfigParser(interpolation=None)
    for option in OPTIONS:
        if not parser.has_section(option.section):
            parser.add_section(option.section)
        parser.set(option.section, option.name, option.default)
    return parser


def load(
    file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
    directory: Path | None = None,
) -> configparser.ConfigParser:
    """The configuration in force.

    Parameters
    ----------
    file : of `-c`; it has to exist.
    overrides : command line or decorator keywords by option name; None values do not count, zeros do.
    environ, home, directory : where `PERUN_<OPTION>`, `.config/perun.ini` and `.perun.ini` are looked for.

    Returns
    -------
    A parser that has every option.

    Raises
    ------
    ConfigError
        In one line, for an unknown section or option or a value that cannot be.


    """
    parser = defaults()
    home_file = (Path(environ.get("HOME", "/")) if home is None else home) / ".config" / "perun.ini"
    for path in (home_file, (Path() if directory is None else directory) / ".perun.ini"):
        try:
            there = path.is_file()
        except OSError:  # in another user's home, which cannot be looked into
            there = False
        if there:
            _read(parser, path)
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"configuration file {file} does not exist: check -c")
        _read(parser, file)
    for option in OPTIONS:
        text = environ.get(f"PERUN_{option.name.upper()}")
        if text is not None:
            _set(parser, option, text, f"environment variable PERUN_{option.name.upper()}")
    for name, value in (overrides or {}).items():
        if value is None:
            continue
        if name not in _BY_NAME:
            raise ConfigError(_unknown(name, "keyword"))
        text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        _set(parser, _BY_NAME[name], text, f"option {name}")
    return parser


def settings(parser: configparser.ConfigParser) -> UserSettings:
    """Freeze a configuration; ConfigError for what cannot be."""
    for section in parser.sections():
        for name in parser[section]:
            _check_known(section, name, "configuration")
    base = defaults()
    values = {}
    for option in OPTIONS:
        text = parser.get(option.section, option.name, fallback=base.get(option.section, option.name))
        values[option.name] = _convert(option, text, "configuration")
    return UserSettings(**values)


def _read(parser: configparser.ConfigParser, path: Path) -> None:
    one = configparser.ConfigParser(interpolation=None)
    try:
        one.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    for section in one.sections():
        for name, text in one[section].items():
            _check_known(section, name, str(path))
            _set(parser, _BY_NAME[name], text, f"{path}, [{section}] {name}")


def _check_known(section: str, name: str, where: str) -> None:
    option = _BY_NAME.get(name)
    if option is None:
        raise ConfigError(f"{where}, [{section}]: {_unknown(name, 'option')}")
    if option.section != section:
        raise ConfigError(f"{where}: option {name} belongs into section [{option.section}], not [{section}]")


def _unknown(name: str, what: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, _BY_NAME, n=1)
    return f"unknown {what} {name!r}" + (f": did you mean {near[0]!r}?" if near else ": see perun showconf --default")


def _set(parser: configparser.ConfigParser, option: Option, text: str, where: str) -> None:
    _convert(option, text, where)
    parser.set(option.section, option.name, text)


def _convert(option: Option, text: str, where: str) -> Any:
    try:
        return option.convert(text)
    except ValueError as error:
        why = str(error)
        if why.startswith(("could not convert", "invalid literal")):
            why = "must be a number"
        raise ConfigError(f"{where}: {text!r} is no value for {option.name}: {why}") from error
