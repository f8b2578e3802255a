"""`perun sensors`: what this machine can measure, what each reading costs, and what is missing and why."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perun_hpc.agent.sources.workers import SIGNS, open_in_child
from perun_hpc.backend.base import Discovery, Reader, host_name
from perun_hpc.backend.catalog import Catalog, Selection, discover_all, open_backend
from perun_hpc.cli import logs
from perun_hpc.comm import Comm, Place
from perun_hpc.config import user
from perun_hpc.data_model import codec
from perun_hpc.data_model.sensor import Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity, human
from perun_hpc.energy.containment import plan, scope_sentence
from perun_hpc.energy.counters import difference
from perun_hpc.process.clock import MACHINE

PAUSE_S = 0.25
READS = 3
PATIENCE_S = 10.0
NS_PER_S = 1_000_000_000
_FILTERS = ("include_sensors", "exclude_sensors", "include_backends", "exclude_backends")


@dataclass(frozen=True)
class Row:
    """One sensor with what it says now."""

    sensor: Sensor
    reading: Reading
    power_uw: int | None
    cost_us: float
    wanted: bool

    @property
    def value(self) -> str:
        """The value for people; counters of energy show the mean power of the last quarter second first."""
        if self.reading.ticks is None:
            return f"no value: {self.reading.error}"
        shown = human(self.sensor.base(self.reading.ticks), self.sensor.quantity)
        return shown if self.power_uw is None else f"{human(self.power_uw, Quantity.POWER)} ({shown})"

    def to_json(self) -> dict[str, Any]:
        """The sensor's attributes and the reading, values in base units."""
        ticks = self.reading.ticks
        return {
            **self.sensor.to_json(),
            "value": None if ticks is None else self.sensor.base(ticks),
            "base_unit": self.sensor.base_unit,
            "power_uw": self.power_uw,
            "error": self.reading.error,
            "cost_us": round(self.cost_us, 1),
            "active": self.wanted,
        }


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--all", action="store_true", help="also sensors that the configuration leaves out")
    parser.add_argument("--active", action="store_true", help="only sensors that have a value now")
    parser.add_argument(
        "--by-rank", "--by_rank", action="store_true", help="which rank of an MPI run owns which sensor"
    )
    parser.add_argument("--scope", action="store_true", help="one sentence: what this node's energy figures include")
    parser.add_argument("--json", action="store_true", help="print JSON")
    for name in _FILTERS:
        dashed = "--" + name.replace("_", "-")
        parser.add_argument(
            dashed, f"--{name}", nargs="+", metavar="REGEX", help="as the configuration's field of this name"
        )


def run(args: argparse.Namespace) -> int:
    """Print the table, the sentence or the JSON."""
    file = Path(args.configuration) if args.configuration else None
    settings = user.settings(user.load(file, {name: getattr(args, name) for name in _FILTERS}))
    logs.begin(args.log_lvl or settings.log_lvl, args.log_file or settings.log_file)
    selection = Selection(**{name: getattr(settings, name) for name in _FILTERS})
    comm = Comm.detect() if args.by_rank else None
    if comm is not None and not comm.place.leader:
        comm.gather(_owned(comm.place, ()))
        comm.close()
        return 0
    catalog = discover_all(selection=Selection() if args.all else selection, opened=_opened)
    for one in catalog.missing:
        logs.note("INFO", f"{one.what}: {one.why}: {one.remedy}")
    try:
        rows = measure(catalog, selection)
    finally:
        catalog.close()
    if not args.all:
        if idle := selection.unmatched(catalog.sensors):
            print(f"perun: warning: {idle}", file=sys.stderr)
        rows = [row for row in rows if row.wanted]
    if args.active:
        rows = [row for row in rows if row.reading.ticks is not None]
    if comm is not None:
        parts = comm.gather(_owned(comm.place, rows))
        comm.close()
        if parts is not None:
            print(by_rank(parts))
        return 0
    scope = scope_sentence(plan(row.sensor for row in rows), catalog.missing)
    if args.json:
        missing = [codec.encode(one) for one in catalog.missing]
        print(
            json.dumps(
                {"host": host_name(), "sensors": [row.to_json() for row in rows], "missing": missing, "scope": scope}
            )
        )
    elif args.scope:
        print(scope)
    else:
        print(table(rows, catalog.missing, scope))
    return 0


def _opened(name: str, root: Path) -> Discovery:
    """Backends that a stuck driver can hang are opened in a child, and given up after a while."""
    return open_in_child(name, root, PATIENCE_S, MACHINE) if name in SIGNS else open_backend(name, root)


def measure(catalog: Catalog, selection: Selection, pause_s: float = PAUSE_S) -> list[Row]:
    """Read every sensor a few times."""
    readers = [reader for found in catalog.found.values() for reader in found.readers]
    first = [reader.read() for reader in readers]
    time.sleep(pause_s)
    rows = []
    chosen = selection.sensors(catalog.sensors)
    for reader, before in zip(readers, first):
        after, cost_us = _timed(reader)
        for sensor, old, new in zip(reader.sensors, before, after):
            wanted = selection.backend(sensor.backend) and sensor.id in chosen
            rows.append(Row(sensor, new, _power(sensor, old, new), cost_us / len(after), wanted))
    return rows


def _timed(reader: Reader) -> tuple[tuple[Reading, ...], float]:
    """The first of a few readings (later ones come too soon for utilisations), and the median time of one in us."""
    readings, costs = [], []
    for _ in range(READS):
        start_ns = time.perf_counter_ns()
        readings.append(reader.read())
        costs.append((time.perf_counter_ns() - start_ns) / 1000)
    return readings[0], statistics.median(costs)


def _power(sensor: Sensor, before: Reading, after: Reading) -> int | None:
    if sensor.kind is not Kind.COUNTER or sensor.quantity is not Quantity.ENERGY:
        return None
    change = difference(sensor, before, after)
    return sensor.base(change.ticks) * NS_PER_S // change.elapsed_ns if change.ticks and change.elapsed_ns else None


def table(rows: Iterable[Row], missing: Iterable[Missing], scope: str) -> str:
    """The table of sensors, the missing ones with their remedy, and the sentence about scope."""
    cells = [("SENSOR", "VALUE NOW", "UNIT", "SOURCE", "DEVICE", "READ us")]
    cells += [
        (
            row.sensor.id,
            row.value,
            row.sensor.unit,
            f"{row.sensor.backend}, {row.sensor.provenance}",
            row.sensor.device,
            f"{row.cost_us:.1f}",
        )
        for row in rows
    ]
    lines = _columns(cells)
    absent = [(one.what, one.why, f"-> {one.remedy}") for one in missing]
    if absent:
        lines += ["", "missing:", *("  " + line for line in _columns(absent))]
    return "\n".join([*lines, "", scope])


def _columns(cells: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in cells]


def _owned(place: Place, rows: Iterable[Row]) -> bytes:
    sensors = [row.sensor.id for row in rows]
    return json.dumps({"rank": place.rank, "host": host_name(), "sensors": sensors}).encode()


def by_rank(parts: Iterable[bytes | None]) -> str:
    """One line per rank: its host and the sensors that it owns."""
    lines = []
    for number, part in enumerate(parts):
        if part is None:
            lines.append(f"rank {number}: did not answer")
            continue
        owned = json.loads(part)
        names = ", ".join(owned["sensors"]) or "none (another rank of this host owns them)"
        lines.append(f"rank {owned['rank']} on {owned['host']}: {names}")
    return "\n".join(lines)
