"""What is written about a track in its own directory of a session, `tracks/PERIOD/track.json`, and read back."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from perun_hpc import files
from perun_hpc.data_model.sensor import Sensor
from perun_hpc.errors import DataError
from perun_hpc.store import codec, layout
from perun_hpc.store.layout import Json, Plan, Track

TRACKS = "tracks"
TRACK = "track.json"


@dataclass(frozen=True)
class Description:
    """A track that one node writes.

    Attributes
    ----------
    home : the track's directory, where its journals are, too.
    job_dir : the job's directory where the track is written into a shared store; None: it stays in its session.
    sync_ns : its journal is made durable this often; None: never.
    level : how hard its chunks are compressed, 0 to 9.
    sealed : what it holds, once it has ended: the fields of `SealedTrace` but its directory.
    """

    home: Path
    plan: Plan
    node: str
    sensors: tuple[Sensor, ...]
    period_ns: int
    job_dir: Path | None
    sync_ns: int | None
    level: int
    energy_step_uj: int
    sealed: Json | None = None

    def __post_init__(self) -> None:
        if self.job_dir is not None:
            _directory(self.job_dir)
        if not 0 <= self.level <= 9:
            raise ValueError(f"level {self.level}")

    @property
    def session(self) -> Path:
        """The session's directory."""
        return self.home.parent.parent

    @cached_property
    def track(self) -> Track:
        """The track as the plan has it; in a shared store other hardware may have taken its group."""
        parts = layout.arrays(self.sensors, self.energy_step_uj)
        group, _ = self.plan.groups(self.period_ns, layout.signature(parts))
        return Track(self.plan, self.period_ns, parts, group)

    def write(self) -> None:
        """Write it down; OSError where the disk does not take it."""
        value = {
            "plan": json.loads(self.plan.to_json()),
            "node": self.node,
            "sensors": [sensor.to_json() for sensor in self.sensors],
            "period_ns": self.period_ns,
            "job_dir": str(self.job_dir) if self.job_dir else None,
            "sync_ns": self.sync_ns,
            "level": self.level,
            "energy_step_uj": self.energy_step_uj,
            "sealed": self.sealed,
        }
        files.write_new(self.home / TRACK, json.dumps(value).encode(), durable=self.sync_ns is not None)

    def ended(self, sealed: Json) -> Description:
        """The same of a track that is sealed."""
        return dataclasses.replace(self, sealed=sealed)

    @classmethod
    def of(cls, home: Path, value: Json) -> Description:
        """What `descriptions` gives, checked; DataError where it is damaged."""
        path = home / TRACK
        try:
            found = cls(
                home=home,
                plan=Plan.from_json(json.dumps(value["plan"]).encode(), str(path)),
                node=value["node"],
                sensors=tuple(Sensor.from_json(sensor) for sensor in value["sensors"]),
                period_ns=layout.checked_period_ns(value["period_ns"]),
                job_dir=Path(value["job_dir"]) if value["job_dir"] else None,
                sync_ns=value["sync_ns"],
                level=int(value.get("level", codec.LEVEL)),
                energy_step_uj=value["energy_step_uj"],
                sealed=value["sealed"],
            )
            if not (isinstance(found.sealed, dict | None) and isinstance(found.sync_ns, int | None)):
                raise TypeError("sealed or sync_ns")
            found.node.encode()
            found.track.plan.nodes.index(found.node)
            return found
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, ArithmeticError) as error:
            raise DataError(f"{path}: damaged ({type(error).__name__}: {error})") from error


def descriptions(directory: Path) -> Iterator[tuple[Path, Json]]:
    """Every track in a session's directory: its own directory and what was written about it, for `Description.of`."""
    for path in sorted((directory / TRACKS).glob(f"*/{TRACK}")):
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: damaged: {error}") from error
        if not isinstance(value, dict) or not {"job_dir", "sealed"} <= value.keys():
            raise DataError(f"{path}: damaged: not the description of a track")
        if value["sealed"] is not None and not _is_seal(value["sealed"]):
            raise DataError(f"{path}: damaged: it says that the track has ended, and not how")
        yield path.parent, value


def _is_seal(value: object) -> bool:
    """Whether that is what sealing leaves: what shipping and marks need of it."""
    if not isinstance(value, dict) or value.get("state") not in ("complete", "partial"):
        return False
    return isinstance(value.get("why"), str) and all(type(value.get(key)) is int for key in ("first", "last", "rows"))


def _directory(path: Path) -> None:
    """ValueError where no directory can have such a name."""
    encoded = os.fsencode(path)
    if not path.is_absolute() or b"\0" in encoded or len(encoded) >= 4096 or max(map(len, encoded.split(b"/"))) > 255:
        raise ValueError(f"job_dir {str(path)[:80]!r}")
