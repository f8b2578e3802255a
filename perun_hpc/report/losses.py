"""What a node's agent could not do, in words: for `perun agent status` and `perun doctor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from perun_hpc.report.quantities import duration
from perun_hpc.report.screen import printable

KINDS = {
    "shipping": "shipping fails {since}: {why}",
    "not-shipped": "not shipped {since}: {what}: {why}; it waits in the spool and is tried again",
    "set-aside": "set aside {since}: {what}: failed to be shipped several times; {why}",
    "not-written": "not written {since}: {what}: {why}; it waits in memory until the spool takes it",
    "not-read": "not read {since}: {what}: the root helper is gone, {why}",
    "no-reading": "no reading {since}: {what}: {why}; records of this time have gaps",
    "not-moving": "not moving {since}: {what}: {why}; its energy is missing, not zero",
    "not-there": "not there: {what}: {why}",
    "no-figures": "no figures for monitoring {since}: {what}: {why}; the records miss nothing",
    "not-confined": "not confined: {what}: {why}; the agent measures all the same",
}
"""What is said of a kind of loss; the oldest of several gives time and reason."""


def losses(entries: Sequence[Mapping[str, Any]], now_s: float) -> list[str]:
    """What the agent could not do, one kind a line: what, since when, why, and what becomes of it."""
    lines = []
    for one in entries:
        names, count = one["names"], int(one["count"])
        what = printable(", ".join(names) + (f" and {count - len(names)} more" if count > len(names) else ""))
        since_s = int(one["since_ns"]) // 1_000_000_000
        since = f"since {datetime.fromtimestamp(since_s):%Y-%m-%d %H:%M:%S} ({duration(max(0, now_s - since_s))})"
        form = KINDS.get(one["kind"], "{kind}: {what}, {since}: {why}")
        lines.append(form.format(kind=printable(one["kind"]), what=what, since=since, why=printable(one["why"])))
    return lines or ["losses: none"]
