"""What a node has learnt of itself, in the archive: given back to it when its own spool is lost, as at every reboot of
a node whose spool is in memory.

`nodes/NODE/learnt.json`: `{"schema": "perun.learnt/1", "machine": TEXT, "static": {DOMAIN: {DAY: {BIN: NS}}}}`. The
node writes it and nobody else reads it; `machine` is what the figures were learnt on, so that another one under the
same name begins anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perun_hpc.data_model import codec
from perun_hpc.energy.static import BIN_UW, DAY_NS, StaticPower
from perun_hpc.errors import DataError

SCHEMA = "perun.learnt/1"
LEARNT = "learnt.json"
MOST_B = 4 << 20
MOST_DOMAINS = 1024
MOST_NAME = 256
MOST_DAYS = 400
MOST_UW = 1_000_000_000_000
LONGEST_DAY_NS = DAY_NS + 3_600_000_000_000
"""Bounds of what is believed: a megawatt, and as much time in a day as a day of 25 hours has."""


@dataclass(frozen=True)
class Learnt:
    """Static power by energy domain, and the machine whose domains they are."""

    machine: str
    static: Mapping[str, StaticPower]

    def encode(self) -> bytes:
        """As the file holds it."""
        static = {name: power.to_json() for name, power in self.static.items()}
        return json.dumps({"schema": SCHEMA, "machine": self.machine, "static": static}, separators=(",", ":")).encode()

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
            powers = {name: StaticPower.from_json(power) for name, power in static.items()}
        except (*codec.MISFITS, RecursionError) as error:
            raise DataError(f"{LEARNT}: damaged ({type(error).__name__})") from error
        if len(machine) > MOST_NAME or len(powers) > MOST_DOMAINS or not all(map(_can_be, powers, powers.values())):
            raise DataError(f"{LEARNT}: it says what no node can have learnt")
        return cls(machine, powers)


def _can_be(domain: str, power: StaticPower) -> bool:
    times = [(one, time_ns) for seen in power.bins.values() for one, time_ns in seen.items()]
    return (
        0 < len(domain) <= MOST_NAME
        and len(power.bins) <= MOST_DAYS
        and all(day >= 0 for day in power.bins)
        and all(0 <= one <= MOST_UW // BIN_UW and time_ns > 0 for one, time_ns in times)
        and all(sum(seen.values()) <= LONGEST_DAY_NS for seen in power.bins.values())
    )
