"""Numbers of things in sentences."""

from __future__ import annotations


def count(number: int, noun: str, many: str = "") -> str:
    """`1 job`, `2 jobs`, `0 jobs`; `many` where the plural is not made by an s."""
    return f"{number} {noun if number == 1 else many or f'{noun}s'}"
