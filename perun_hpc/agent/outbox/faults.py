"""Sessions that fail to be shipped through a fault of their own: how often, since when and why; beside the evidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from perun_hpc import files
from perun_hpc.process.log import guard

FAULTS = "faults.json"


@dataclass(frozen=True)
class Faults:
    """How often the process that shipped a session failed through the session's fault, since when (epoch), and how."""

    times: int = 0
    since_s: int = 0
    why: str = ""

    @classmethod
    def of(cls, directory: Path) -> Faults:
        """As it stands in the session's directory."""
        try:
            known = json.loads((directory / FAULTS).read_bytes())
            return cls(int(known["times"]), int(known["since_s"]), str(known["why"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def with_one(self, why: str, now_s: int) -> Faults:
        """One more."""
        return Faults(self.times + 1, self.since_s or now_s, why[:300])

    def write(self, directory: Path) -> None:
        """Leave it in the session's directory."""
        guard(f"job {directory.name}", lambda: files.write_json(directory / FAULTS, vars(self)))
