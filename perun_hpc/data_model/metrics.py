"""Figures for a monitoring system, and the texts in which Prometheus takes them: its own (0.0.4) and OpenMetrics (1.0).

Names end in their unit (seconds, bytes, joules), counters in `_total`. Where a value is not known there is no sample.

Sources: https://prometheus.io/docs/instrumenting/exposition_formats/, https://prometheus.io/docs/practices/naming/ and
https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from perun_hpc.data_model.wording import plain

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
LONGEST = 128
"""Characters of a label's value."""
_UNITS = ("seconds", "bytes", "joules")


@dataclass(frozen=True)
class Sample:
    """One value and its labels."""

    value: float
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """All samples of one name; a counter's name is written without `_total`."""

    name: str
    help: str
    samples: tuple[Sample, ...]
    counter: bool = False


def gauge(name: str, about: str, value: float | None, **labels: str) -> Family:
    """A family of one value; of none where that is not known."""
    return Family(name, about, () if value is None else (Sample(value, labels),))


def joules(energy_uj: int) -> float:
    """An energy in the base unit."""
    return energy_uj / 1_000_000


def text(families: Iterable[Family], openmetrics: bool = False) -> bytes:
    """The families as a scraper takes them; those without samples are left out, those of one name are one."""
    merged: dict[str, list[Family]] = {}
    for family in families:
        if family.samples:
            merged.setdefault(family.name, []).append(family)
    lines = []
    for name, parts in merged.items():
        of_samples = f"{name}_total" if parts[0].counter else name
        about = name if openmetrics else of_samples
        lines.append(f"# HELP {about} {_escaped(parts[0].help)}")
        lines.append(f"# TYPE {about} {'counter' if parts[0].counter else 'gauge'}")
        unit = name.rpartition("_")[2]
        if openmetrics and unit in _UNITS:
            lines.append(f"# UNIT {about} {unit}")
        lines += [f"{of_samples}{_labels(one.labels)} {one.value!r}" for part in parts for one in part.samples]
    if openmetrics:
        lines.append("# EOF")
    return "".join(f"{line}\n" for line in lines).encode()


def _labels(labels: Mapping[str, str]) -> str:
    pairs = [f'{name}="{_escaped(plain(value, LONGEST))}"' for name, value in labels.items()]
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
