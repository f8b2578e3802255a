"""What a node has learnt of itself, in the archive: given back to it when its own spool is lost, as at every reboot of
a node whose spool is in memory.

`nodes/NODE/learnt.json`: `{"schema": "perun.learnt/1", "machine": TEXT, "static": {DOMAIN: {DAY: {BIN: NS}}}}`. The
node writes it; `machine` is what the figures were learnt on, so that another one under the same name begins anew.

Of nodes of one machine the collector keeps the static power that most of them have, `CLUSTER/learnt.json`:
`{"schema": "perun.typical/1", "machines": {MACHINE: {DOMAIN: UW}}}`. A node is given that of its own machine, so that
one that never idles knows what the others learnt; no single node decides it, by whatever names it hands over.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perun_hpc.archive.places import NODES
from perun_hpc.data_model import codec
from perun_hpc.energy.static import BIN_UW, DAY_NS, StaticPower
from perun_hpc.errors import DataError

SCHEMA = "perun.learnt/1"
TYPICAL = "perun.typical/1"
LEARNT = "learnt.json"
FEWEST = 3
"""So many nodes of a machine must have learnt a figure before others take their median."""
MOST_B = 4 << 20
MOST_DOMAINS = 1024
MOST_NAME = 256
MOST_DAYS = 400
MOST_UW = 1_000_000_000_000
LONGEST_DAY_NS = DAY_NS + 3_600_000_000_000
"""Bounds of what is believed: a megawatt, and as much time in a day as a day of 25 hours has."""


@dataclass(frozen=True)
class Learnt:
    """Static power by energy domain, and the machine whose domains they are.

    `typical_uw` is what most nodes of that machine have, for the domains of which this one knows nothing. `sender` is
    the address from which the collector took it; empty where the node itself wrote it into the archive.
    """

    machine: str
    static: Mapping[str, StaticPower]
    typical_uw: Mapping[str, int] = field(default_factory=dict)
    sender: str = ""

    def encode(self) -> bytes:
        """As the file holds it."""
        static = {name: power.to_json() for name, power in self.static.items()}
        typical = {"typical": dict(self.typical_uw)} if self.typical_uw else {}
        sender = {"sender": self.sender} if self.sender else {}
        value = {"schema": SCHEMA, "machine": self.machine, "static": static, **typical, **sender}
        return json.dumps(value, separators=(",", ":")).encode()

    @classmethod
    def read(cls, path: Path) -> Learnt:
        """What a file holds; DataError as `parse`, of a file of any length."""
        with path.open("rb") as file:
            return cls.parse(file.read(MOST_B + 1))

    @classmethod
    def parse(cls, data: bytes) -> Learnt:
        """Inverse of `encode`. DataError where it is too long, damaged, or says what cannot be."""
        if len(data) > MOST_B:
            raise DataError(f"{LEARNT}: more than {MOST_B} bytes are more than a node can have learnt")
        try:
            value = json.loads(data)
            if value["schema"] != SCHEMA:
                raise DataError(f"{LEARNT}: written by another version of perun")
            machine, static = codec.decode(str, value["machine"]), codec.decode(dict[str, Any], value["static"])
            typical_uw = codec.decode(dict[str, int], value.get("typical", {}))
            sender = codec.decode(str, value.get("sender", ""))
            powers = {name: StaticPower.from_json(power) for name, power in static.items()}
        except (*codec.MISFITS, RecursionError) as error:
            raise DataError(f"{LEARNT}: damaged ({type(error).__name__})") from error
        sound = all(map(_can_be, powers, powers.values())) and _all_powers(typical_uw)
        if max(len(machine), len(sender)) > MOST_NAME or len(powers) > MOST_DOMAINS or not sound:
            raise DataError(f"{LEARNT}: it says what no node can have learnt")
        return cls(machine, powers, typical_uw, sender)


def typical(known: Iterable[Learnt]) -> dict[str, dict[str, int]]:
    """What most nodes of a machine have learnt: machine -> domain -> static power in uW, the median of the nodes'.

    One address is one node: whoever sits there has as many names as the resolver has spellings of them.
    """
    found: dict[str, dict[str, dict[str | int, int]]] = {}
    for number, one in enumerate(known):
        for domain, power in one.static.items():
            uw = power.estimate_uw()
            if uw is not None:
                found.setdefault(one.machine, {}).setdefault(domain, {})[one.sender or number] = uw
    enough = {
        machine: {domain: _median(seen.values()) for domain, seen in domains.items() if len(seen) >= FEWEST}
        for machine, domains in found.items()
    }
    return {machine: domains for machine, domains in enough.items() if domains}


def _median(values: Collection[int]) -> int:
    """The lower one of the two in the middle (`statistics` costs an agent that lives on a megabyte)."""
    return sorted(values)[(len(values) - 1) // 2]


def keep_typical(cluster: Path, write: Callable[[Path, bytes], None]) -> None:
    """Bring what most nodes have up to date, from all that the nodes of a cluster's directory handed over, if any."""
    paths, target = sorted(cluster.glob(f"{NODES}/*/{LEARNT}")), cluster / LEARNT
    if paths or target.exists():
        found = {"schema": TYPICAL, "machines": typical(_readable(paths))}
        write(target, json.dumps(found, separators=(",", ":")).encode())


def _readable(paths: Iterable[Path]) -> Iterator[Learnt]:
    """What they hold, one at a time: that of one may be a megabyte, and nodes are thousands."""
    for path in paths:
        with contextlib.suppress(OSError, DataError):
            yield Learnt.read(path)


def typical_of(cluster: Path, machine: str) -> dict[str, int]:
    """What most nodes of a machine have; empty where nobody knows."""
    try:
        with (cluster / LEARNT).open("rb") as file:
            value = json.loads(file.read(MOST_B))
        found = codec.decode(dict[str, int], value["machines"].get(machine, {}) if value["schema"] == TYPICAL else {})
    except (OSError, AttributeError, RecursionError, *codec.MISFITS):
        return {}
    return found if _all_powers(found) else {}


def _all_powers(powers: Mapping[str, int]) -> bool:
    named = all(0 < len(domain) <= MOST_NAME for domain in powers)
    return named and len(powers) <= MOST_DOMAINS and all(0 <= uw <= MOST_UW for uw in powers.values())


def _can_be(domain: str, power: StaticPower) -> bool:
    times = [(one, time_ns) for seen in power.bins.values() for one, time_ns in seen.items()]
    return (
        0 < len(domain) <= MOST_NAME
        and len(power.bins) <= MOST_DAYS
        and all(day >= 0 for day in power.bins)
        and all(0 <= one <= MOST_UW // BIN_UW and time_ns > 0 for one, time_ns in times)
        and all(sum(seen.values()) <= LONGEST_DAY_NS for seen in power.bins.values())
    )
