"""Times as Slurm's commands take them, in local time."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from perun_hpc.errors import UsageError

_WORDS = {"midnight": 0, "noon": 12, "fika": 15, "teatime": 16}
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_NOW = re.compile(r"now(?:([+-])(\d+)([a-z]*))?\Z")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*(am|pm)?\Z")
_ISO = re.compile(r"(\d{4})-(\d{1,2})(?:-(\d{1,2}))?(?:t(.+))?\Z")
_AMERICAN = re.compile(r"(\d{1,2})[/.](\d{1,2})(?:[/.](\d{2,4}))?(?:-(.+))?\Z")
_DIGITS = re.compile(r"(\d{2})(\d{2})(\d{2})?(?:-(.+))?\Z")
_EPOCH = re.compile(r"uts(\d{1,12})\Z")


def parse_time(text: str, now: datetime) -> datetime:
    """Return the moment that `text` means.

    Parameters
    ----------
    text
        As sacct takes it: `HH:MM[:SS] [AM|PM]`, `MMDD[YY]`, `MM/DD[/YY]`, `MM.DD[.YY]`, each with `-HH:MM[:SS]`,
        `YYYY-MM-DD[THH:MM[:SS]]`, `today`, `yesterday`, `tomorrow`, `midnight`, `noon`, `fika`, `teatime`,
        `now[{+|-}COUNT[UNIT]]`, `utsEPOCH`; also `YYYY-MM`, the first day of a month. Without a year a month later than
        this one is last year's, as sacct has it.
    now
        The present moment, local and naive, with its `fold`.

    Raises
    ------
    UsageError
        When it is none of these.
    """
    word = text.strip().lower()
    today = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    days = {"today": 0, "yesterday": -1, "tomorrow": 1}
    try:
        if word in days:
            return today + timedelta(days=days[word])
        if word in _WORDS:
            return today + timedelta(hours=_WORDS[word])
        if match := _NOW.match(word):
            return _shifted(now, match)
        if match := _ISO.match(word):
            day = datetime(int(match[1]), int(match[2]), int(match[3] or 1))
            return day + _clock(match[4])
        if match := _AMERICAN.match(word) or _DIGITS.match(word):
            month = int(match[1])
            year = int(match[3]) if match[3] else now.year - (month > now.month)
            day = datetime(year + 2000 if year < 100 else year, month, int(match[2]))
            return day + _clock(match[4])
        if match := _EPOCH.match(word):
            return datetime.fromtimestamp(int(match[1]))
        if _CLOCK.match(word):
            return today + _clock(word)
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(f"time '{text}': {error}: write it as sacct takes it, such as 2026-11-22T14:00") from error
    raise UsageError(
        f"time '{text}' is not understood: write it as sacct takes it, such as 2026-11-22T14:00 or now-2days"
    )


def _shifted(now: datetime, match: re.Match[str]) -> datetime:
    if not match[1]:
        return now
    unit = match[3] or "seconds"
    name = next((u for u in _UNITS if u.startswith(unit.rstrip("s")) and unit), None)
    if name is None:
        raise ValueError(f"unknown unit '{unit}'")
    seconds = int(match[2]) * _UNITS[name]
    # Seconds that pass, as with Slurm: hands of clocks are put forward and back in between.
    return datetime.fromtimestamp(now.timestamp() + (seconds if match[1] == "+" else -seconds))


def in_order(since: datetime, until: datetime, now: datetime) -> None:
    """UsageError where a span begins in the future, or ends before it begins."""
    if since.timestamp() > now.timestamp():
        raise UsageError(f"--since {since:%Y-%m-%d %H:%M} lies in the future: name an earlier time")
    if since.timestamp() > until.timestamp():
        raise UsageError(f"--since {since:%Y-%m-%d %H:%M} lies after --until {until:%Y-%m-%d %H:%M}: exchange them")


def _clock(text: str | None) -> timedelta:
    if text is None:
        return timedelta()
    match = _CLOCK.match(text)
    if match is None:
        raise ValueError(f"'{text}' is no time of day")
    hour, minute, second = int(match[1]), int(match[2]), int(match[3] or 0)
    if match[4]:
        if not 1 <= hour <= 12:
            raise ValueError("hours with AM or PM go from 1 to 12")
        hour = hour % 12 + (12 if match[4] == "pm" else 0)
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError(f"'{text}' is no time of day")
    return timedelta(hours=hour, minutes=minute, seconds=second)
