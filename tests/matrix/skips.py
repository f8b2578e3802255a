"""Tests that a release leaves out, with the reason: a skip whose reason does not stand here counts as a failure."""

from __future__ import annotations

import re

_WAITS = "tests/mpi/test_launcher_waits.py"

LEFT_OUT: dict[str, dict[str, str]] = {
    "bookworm": {},
    "trixie": {
        f"{_WAITS}::test_ranks_end_as_without_perun_under_open_mpi[the last rank isolated-none]": (
            "Open MPI 5.0.7's mpirun ends by SIGSEGV when it is given two programs, whatever they are"
        ),
    },
    "forky": {},
}
"""By release: the test's id, with or without parameters, or its file, and why it is not run there."""

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
    names = (test, test.partition("[")[0], test.partition("::")[0])
    return next((reasons[name] for name in names if name in reasons), None)


def allowed(release: str, reason: str) -> bool:
    """Whether the reason of a skip stands in the lists."""
    listed = LEFT_OUT[release].values()
    return reason in listed or any(re.fullmatch(pattern, reason) for pattern in SAID[release])
