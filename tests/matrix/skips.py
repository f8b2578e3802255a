"""Tests that a release leaves out, with the reason: a skip whose reason does not stand here counts as a failure."""

from __future__ import annotations

import re

LEFT_OUT: dict[str, dict[str, str]] = {
    "bookworm": {},
    "trixie": {},
    "forky": {},
}
"""By release: the test's id without parameters, or its file, and why it is not run there."""

_TOO_OLD = r"needs Slurm \d\d\.\d\d or newer"
_TORCH = r"Debian's python3-torch is not installed"  # most of a gigabyte; `make build` does not install it either
_PREPEND = r"there slurmstepd itself puts the launcher in"  # half of the harness's pairs: nothing to be tested

SAID: dict[str, tuple[str, ...]] = {
    "bookworm": (_TOO_OLD, _TORCH, _PREPEND),
    "trixie": (_TOO_OLD, _TORCH, _PREPEND),
    "forky": (_TORCH, _PREPEND),
}
"""By release: what tests themselves may say when they skip; regular expressions for the whole of the reason."""


def left_out(release: str, test: str) -> str | None:
    """Why a test is not run on a release; None where it is."""
    reasons = LEFT_OUT[release]
    return reasons.get(test) or reasons.get(test.partition("::")[0])


def allowed(release: str, reason: str) -> bool:
    """Whether the reason of a skip stands in the lists."""
    listed = LEFT_OUT[release].values()
    return reason in listed or any(re.fullmatch(pattern, reason) for pattern in SAID[release])
