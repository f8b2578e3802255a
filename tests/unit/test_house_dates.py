"""The moments of `make dates`: the next of each kind, wherever one starts."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests import junit
from tests.dates import table
from tests.dates.moments import Moment, change, leap_day, moments, new_year
from tests.stamp import stamp

NOW = datetime(2026, 11, 29, 14, tzinfo=UTC)


@pytest.mark.parametrize(
    ("zone", "forward", "at"),
    [
        ("Europe/Berlin", True, "2027-03-28T01:00Z"),
        ("Europe/Berlin", False, "2027-10-31T01:00Z"),
        ("America/New_York", True, "2027-03-14T07:00Z"),
        ("America/New_York", False, "2027-11-07T06:00Z"),
        ("Australia/Lord_Howe", True, "2027-10-02T15:30Z"),
        ("Australia/Lord_Howe", False, "2027-04-03T15:00Z"),
    ],
)
def test_clocks_change_when_they_do(zone: str, forward: bool, at: str) -> None:
    assert change(NOW, zone, forward) == datetime.fromisoformat(at)


def test_leap_days_and_ends_of_years_to_come() -> None:
    assert leap_day(NOW) == datetime(2028, 2, 29, 12, tzinfo=UTC)
    assert leap_day(datetime(2096, 3, 1, tzinfo=UTC)) == datetime(2104, 2, 29, 12, tzinfo=UTC)
    assert new_year(NOW, "Europe/Berlin") == datetime(2026, 12, 31, 23, tzinfo=UTC)
    assert new_year(datetime(2026, 12, 31, 23, 30, tzinfo=UTC), "Europe/Berlin").year == 2027


def test_all_moments_lie_ahead_and_two_have_the_flow_tests() -> None:
    found = moments(NOW)
    assert len({moment.name for moment in found}) == 10
    assert all(moment.begin > NOW for moment in found)
    assert sum(moment.flow for moment in found) == 2


def test_a_row_names_what_failed_and_why_others_were_skipped() -> None:
    moment = Moment("leap-day", "a 29 February", datetime(2028, 2, 29, 12, tzinfo=UTC), "UTC")
    first = junit.Result(4, ("a.py::b", "a.py::c"), {"no gcc": 2})
    row = table.row(moment, junit.run_alone(first, junit.Result(1, ("a.py::b",), {})), ["unit"])
    cells = f"unit | 8 | 5, of them 1 only alone | 1: a.py::b | 2: no gcc | {stamp()}"
    assert row == f"| leap-day (a 29 February) | 2028-02-29 12:00 | UTC | {cells} |"
    assert table.rows(f"{table.HEAD}\n{row}\n") == {"leap-day": row}
