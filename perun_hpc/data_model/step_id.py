"""How steps are called: Slurm's words beside the signed numbers that boundary records hold."""

from __future__ import annotations

BATCH, EXTERN, INTERACTIVE = "batch", "extern", "interactive"
FURTHER = "further"
"""All steps whose numbers a record does not list, as one."""
_NUMBERS = {FURTHER: -1, EXTERN: -4, BATCH: -5, INTERACTIVE: -6}
"""Slurm's own (slurm.h, as signed 32-bit integers), and -1, which no step has."""
_WORDS = {number: word for word, number in _NUMBERS.items()}


def number_of(step: str) -> int:
    """The number of a step by its name: `0`, `batch`."""
    return _NUMBERS[step] if step in _NUMBERS else int(step)


def name_of(number: int) -> str:
    """The name of a step by its number."""
    return _WORDS.get(number, str(number))


def order_of(step: str) -> tuple[int, int, str]:
    """Batch and interactive first, then numbers, then what is left."""
    if step in (BATCH, INTERACTIVE):
        return 0, 0, step
    return (1, int(step), "") if step.isdigit() else (2, step == EXTERN, step)
