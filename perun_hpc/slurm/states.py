"""Slurm's job states: their names, their short codes, and which of them waste energy."""

from __future__ import annotations

from collections.abc import Iterable

from perun_hpc.errors import UsageError

CODES = {
    "BF": "BOOT_FAIL", "CA": "CANCELLED", "CD": "COMPLETED", "DL": "DEADLINE", "F": "FAILED", "NF": "NODE_FAIL",
    "OOM": "OUT_OF_MEMORY", "PD": "PENDING", "PR": "PREEMPTED", "R": "RUNNING", "RQ": "REQUEUED", "RS": "RESIZING",
    "RV": "REVOKED", "S": "SUSPENDED", "TO": "TIMEOUT",
}  # fmt: skip
RUN_AGAIN = frozenset({"REQUEUED", "PREEMPTED", "NODE_FAIL"})
"""Final states of a run after which Slurm may start the job once more."""
ENDED_BY_SLURM = RUN_AGAIN | {"TIMEOUT", "CANCELLED", "BOOT_FAIL", "DEADLINE"}
"""Final states in which the exit code is Slurm's doing, not the program's."""
WASTED_STATES = ENDED_BY_SLURM | {"FAILED", "OUT_OF_MEMORY"}
"""Final states whose energy counts as wasted."""
FINAL_STATES = WASTED_STATES | {"COMPLETED", "REVOKED"}


def parse_states(words: Iterable[str]) -> tuple[str, ...]:
    """Return full names for what a user typed; `UsageError` names the allowed ones."""
    states = []
    for word in words:
        state = CODES.get(word.upper(), word.upper())
        if state not in CODES.values():
            raise UsageError(f"state '{word}': unknown to Slurm: choose from {', '.join(sorted(CODES.values()))}")
        states.append(state)
    return tuple(states)
