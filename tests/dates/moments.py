"""The moments at which the tests are tried: each is the next of its kind, so that they never lie in the past."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

BEFORE = timedelta(minutes=1)
"""The tests begin so long before the clocks change, or the year: they run on through it."""


@dataclass(frozen=True)
class Moment:
    """A name, what is special about it, when the tests begin there (aware, in its zone), and whether flow tests run."""

    name: str
    what: str
    begin: datetime
    zone: str
    flow: bool = False


def moments(now: datetime) -> list[Moment]:
    """All of them, seen from `now` (aware)."""
    found = [
        Moment("days-10", "ten days ahead", now + timedelta(days=10), "UTC"),
        Moment("days-400", "four hundred days ahead", now + timedelta(days=400), "UTC"),
        Moment("leap-day", "a 29 February", leap_day(now), "UTC"),
        Moment("new-year", "the end of a year", new_year(now, "Europe/Berlin") - BEFORE, "Europe/Berlin", flow=True),
    ]
    for zone in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe"):
        place = zone.rpartition("/")[2].lower().replace("_", "-")
        found += [
            Moment(f"{place}-forward", "clocks go forward", change(now, zone, True) - BEFORE, zone),
            Moment(
                f"{place}-back", "clocks go back", change(now, zone, False) - BEFORE, zone, flow=zone == "Europe/Berlin"
            ),
        ]
    return found


def leap_day(now: datetime) -> datetime:
    """Noon, UTC, of the next 29 February."""
    year = next(y for y in range(now.year, now.year + 9) if calendar.isleap(y) and datetime(y, 2, 29, tzinfo=UTC) > now)
    return datetime(year, 2, 29, 12, tzinfo=UTC)


def new_year(now: datetime, zone: str) -> datetime:
    """The next midnight between two years of a zone."""
    return datetime(now.astimezone(ZoneInfo(zone)).year + 1, 1, 1, tzinfo=ZoneInfo(zone)).astimezone(UTC)


def change(now: datetime, zone: str, forward: bool) -> datetime:
    """The next second (UTC) at which a zone's clocks are put forward, or back.

    Raises
    ------
    ValueError
        Where they are not, within two years.
    """
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    for _ in range(2 * 366 * 24 * 2):
        following = hour + timedelta(minutes=30)
        before, after = (at.astimezone(ZoneInfo(zone)).utcoffset() for at in (hour, following))
        assert before is not None and after is not None
        if before != after and (after > before) == forward:
            return following
        hour = following
    raise ValueError(f"the clocks of {zone} do not change that way")
