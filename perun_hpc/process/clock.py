"""The time, as something that comes in: who asks for it is given a clock, which a test turns as it likes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """Two times in ns: `mono_ns` since the boot, which never jumps, and `real_ns` since the epoch, as it is set."""

    mono_ns: Callable[[], int]
    real_ns: Callable[[], int]


MACHINE = Clock(time.monotonic_ns, time.time_ns)
"""The machine's own."""
