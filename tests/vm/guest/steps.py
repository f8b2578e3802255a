"""What a scenario is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Again(Enum):
    """How the next step is come to."""

    REBOOT = "reboot"
    """After the guest has booted anew."""

    NEXT_YEAR = "next year"
    """After the machine was off, with its clock a year ahead."""

    STOP = "stop"
    """Not at all."""


@dataclass(frozen=True)
class Step:
    """One row of the table.

    `do` gets what earlier steps kept, over reboots too, and a list for what it found; it raises `Failed`. Without a
    `needed` step the others are not tried.
    """

    name: str
    what: str
    do: Callable[[dict[str, Any], list[str]], Again | None]
    needed: bool = False
