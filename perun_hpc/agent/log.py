"""The agent's words to its log: one line each; a loss is logged, and the agent goes on."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from perun_hpc.errors import PerunError


def log(text: str) -> None:
    """Write one line with its time."""
    with contextlib.suppress(OSError):  # the log's disk may be full, too
        print(time.strftime("%FT%T%z"), text, file=sys.stderr, flush=True)


def guard(what: str, work: Callable[[], None]) -> None:
    """Do what the disk may refuse."""
    try:
        work()
    except (OSError, PerunError) as error:
        log(f"{what}: {error}")
