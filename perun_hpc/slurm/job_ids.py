"""The job ids that a user types: several, ranges (`100-105`), array tasks as Slurm writes them (`4711_[1-3,7]`)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from perun_hpc.errors import NotFoundError, UsageError

LARGEST = (1 << 32) - 1
"""Slurm's job ids, array tasks and het offsets have 32 bits."""
DIGITS = len(str(LARGEST))
MOST = 10_000
"""So many jobs are asked for at once."""
_LIST = re.compile(r"[^,\[\]]*(?:\[[^\[\]]*\])?[^,\[\]]*")
_RANGE = re.compile(r"(\d{1,10})-(\d{1,10})")
_TASKS = re.compile(r"(\d{1,10})_\[([^\[\]%]*)(?:%\d+)?\]")
_PIECE = re.compile(r"(\d{1,10})(?:-(\d{1,10})(?::(\d{1,10}))?)?")


def job_id_arguments(text: str) -> tuple[str, str | None]:
    """Split what a user typed (`4711`, `4711_3`, `4711+1`, `4711.0`) into sacct's job id and the step, if any."""
    job, _, step = text.partition(".")
    digits = job.replace("_", "", 1) if "_" in job else job.replace("+", "", 1)
    known = digits.isascii() and digits.isdigit() and job[0].isdigit() and job[-1].isdigit()
    parts = re.split("[_+]", job)
    # Slurm counts jobs from 1; to sacct 0 is everybody's.
    if not known or any(len(part) > DIGITS or int(part) > LARGEST for part in parts) or int(parts[0]) == 0:
        raise NotFoundError(
            f"'{text}' is no job id: write 4711, 4711_3 or 4711_[1-3] (array tasks), 4711+1 (het component) or 4711.0"
        )
    return job, step or None


def expand_ids(words: Iterable[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the ids of what a user typed, in order and each once, and those of them that came out of a range.

    Of a range some may be nobody's or somebody else's. `4711_*` is how Slurm's mails name a whole array.

    Raises
    ------
    NotFoundError
        For what is no job id.
    UsageError
        For a range that runs backwards, and for more than `MOST` jobs.
    """
    ids: dict[str, bool] = {}
    for word in words:
        for part in [one.strip() for one in _LIST.findall(word) if one.strip()] or [word]:
            members = list(_members(part, MOST - len(ids)))
            for one in members:
                ids[one] = ids.get(one, True) and len(members) > 1
    if len(ids) > MOST:
        raise _too_many()
    return tuple(ids), frozenset(one for one, ranged in ids.items() if ranged)


def _members(text: str, most: int) -> Iterable[str]:
    if span := _RANGE.fullmatch(text):
        return [job_id_arguments(str(number))[0] for number in _numbers(text, span[1], span[2], None, most)]
    if tasks := _TASKS.fullmatch(text):
        found: list[str] = []
        for piece in tasks[2].split(","):
            match = _PIECE.fullmatch(piece.strip())
            if match is None:
                raise UsageError(f"'{text}': '{piece}' is no number and no range: write tasks as in 4711_[1-3,7]")
            numbers = _numbers(text, match[1], match[2] or match[1], match[3], most - len(found))
            found += [job_id_arguments(f"{tasks[1]}_{number}")[0] for number in numbers]
        return found
    if text.endswith("_*"):
        return [job_id_arguments(text.removesuffix("_*"))[0]]
    job_id_arguments(text)
    return [text]


def _numbers(text: str, first: str, last: str, step: str | None, most: int) -> range:
    if int(last) < int(first):
        raise UsageError(f"'{text}': the range {first}-{last} runs backwards: write the smaller number first")
    numbers = range(int(first), int(last) + 1, max(int(step or 1), 1))
    if len(numbers) > most:
        raise _too_many()
    return numbers


def _too_many() -> UsageError:
    return UsageError(f"more than {MOST} jobs: ask for fewer at once, or for their sum: perun usage")
