"""Senders whose hand-overs were refused, beside the archive."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from perun_hpc.data_model.wording import count
from perun_hpc.files import write_new

REFUSED_S = 86_400
"""For so long `perun collect --status` names a refused hand-over."""
KEPT_REFUSALS = 100
"""Senders of refused hand-overs that are remembered, the latest."""


class Refused:
    """Senders of what is another node's, for `perun collect --status`: when last (epoch seconds), how often, why."""

    def __init__(self, archive: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = archive / ".refused"
        self._clock = clock

    def read(self) -> dict[str, tuple[float, int, str]]:
        """What is known; nothing where nothing was refused, or it cannot be read."""
        try:
            saved = json.loads(self._path.read_bytes())
            return {str(who): (float(last_s), int(count), str(why)) for who, (last_s, count, why) in saved.items()}
        except (OSError, ValueError, TypeError, AttributeError, RecursionError):
            return {}

    def note(self, sender: str, why: str) -> None:
        """Add one, one at a time; what cannot be written is in the log all the same."""
        with contextlib.suppress(OSError):
            known = self.read()
            known[sender] = (self._clock(), known.get(sender, (0.0, 0, ""))[1] + 1, why)
            latest = sorted(known.items(), key=lambda one: one[1][0])[-KEPT_REFUSALS:]
            write_new(self._path, json.dumps(dict(latest)).encode(), durable=False)


def lately_refused(archive: Path, now_s: float) -> list[str]:
    """Who was refused within a day, a sentence each; a node tries again and again."""
    senders = Refused(archive).read().items()
    return [
        f"refused {count(times, 'hand-over')} from {sender}: {why}"
        for sender, (last_s, times, why) in senders
        if now_s - last_s < REFUSED_S
    ]
