"""The time that a line of a log begins with, where nobody else adds it."""

from __future__ import annotations

import os
import time

FORM = "%Y-%m-%dT%H:%M:%S%z"


def is_the_journal(descriptor: int) -> bool:
    """Whether lines written there get their time from systemd's journal (see JOURNAL_STREAM in systemd.exec(5))."""
    journal = os.environ.get("JOURNAL_STREAM")
    if not journal:
        return False
    try:
        at = os.fstat(descriptor)
    except OSError:
        return False
    return journal == f"{at.st_dev}:{at.st_ino}"


def stamp(descriptor: int = 2) -> str:
    """Now, and a blank; empty for the journal."""
    return "" if is_the_journal(descriptor) else f"{time.strftime(FORM)} "
