"""Times as Slurm's commands take them; what they mean was read off `sreport start=...` of Slurm 22.05.8."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import pytest

from perun_hpc.errors import UsageError
from perun_hpc.slurm.times import in_order, parse_time

NOW = datetime(2026, 11, 26, 21, 49, 2)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1231", "2025-12-31T00:00:00"),
        ("1130", "2026-11-30T00:00:00"),
        ("0102", "2026-01-02T00:00:00"),
        ("010225", "2025-01-02T00:00:00"),
        ("1126-14:00", "2026-11-26T14:00:00"),
        ("112225-09:30:15", "2025-11-22T09:30:15"),
        ("12/31", "2025-12-31T00:00:00"),
        ("11/22", "2026-11-22T00:00:00"),
        ("11/22/25", "2025-11-22T00:00:00"),
        ("11.22.25", "2025-11-22T00:00:00"),
        ("11/22/25-14:00", "2025-11-22T14:00:00"),
        ("11/22-09:00", "2026-11-22T09:00:00"),
        ("2026-11-22", "2026-11-22T00:00:00"),
        ("2026-11-22T14:00", "2026-11-22T14:00:00"),
        ("2026-11-22T14:00:30", "2026-11-22T14:00:30"),
        ("14:00", "2026-11-26T14:00:00"),
        ("09:15PM", "2026-11-26T21:15:00"),
        ("9:15am", "2026-11-26T09:15:00"),
        ("12:00AM", "2026-11-26T00:00:00"),
        ("12:00PM", "2026-11-26T12:00:00"),
        ("today", "2026-11-26T00:00:00"),
        ("midnight", "2026-11-26T00:00:00"),
        ("noon", "2026-11-26T12:00:00"),
        ("fika", "2026-11-26T15:00:00"),
        ("teatime", "2026-11-26T16:00:00"),
        ("now", "2026-11-26T21:49:02"),
        ("now-1day", "2026-11-25T21:49:02"),
        ("NOW-2DAYS", "2026-11-24T21:49:02"),
        ("now-1hour", "2026-11-26T20:49:02"),
        ("now-90minutes", "2026-11-26T20:19:02"),
        ("now-1week", "2026-11-19T21:49:02"),
        ("now-3600", "2026-11-26T20:49:02"),
        ("now+1hour", "2026-11-26T22:49:02"),
        ("2026-11", "2026-11-01T00:00:00"),
    ],
)
def test_what_a_time_means(text: str, meant: str) -> None:
    assert parse_time(text, NOW).isoformat() == meant


@pytest.mark.parametrize(
    ("zone", "now", "text", "meant"),
    [
        ("Europe/Berlin", "2027-03-28T04:30+02:00", "now-2hours", "2027-03-28T01:30+01:00"),
        ("Europe/Berlin", "2027-10-31T02:30+01:00", "now-1hour", "2027-10-31T02:30+02:00"),
        ("Europe/Berlin", "2027-10-31T02:30+02:00", "now+1hour", "2027-10-31T02:30+01:00"),
        ("Europe/Berlin", "2027-10-31T02:30+02:00", "now", "2027-10-31T02:30+02:00"),
        ("Europe/Berlin", "2027-10-31T02:30+01:00", "now", "2027-10-31T02:30+01:00"),
        ("Europe/Berlin", "2027-10-31T02:30+01:00", "midnight", "2027-10-31T00:00+02:00"),
        ("Europe/Berlin", "2027-10-31T02:30+01:00", "noon", "2027-10-31T12:00+01:00"),
        ("America/New_York", "2027-11-07T12:00-05:00", "now-1day", "2027-11-06T13:00-04:00"),
        ("America/New_York", "2027-03-14T12:00-04:00", "now-1week", "2027-03-07T11:00-05:00"),
        ("Australia/Lord_Howe", "2027-04-04T01:45+10:30", "now-30minutes", "2027-04-04T01:45+11:00"),
    ],
)
def test_a_count_of_hours_is_of_those_that_passed_whatever_clocks_did(
    local_time: Callable[[str], None], zone: str, now: str, text: str, meant: str
) -> None:
    local_time(zone)
    now_s, meant_s = datetime.fromisoformat(now).timestamp(), datetime.fromisoformat(meant).timestamp()
    assert parse_time(text, datetime.fromtimestamp(now_s)).timestamp() == meant_s


def test_seconds_of_the_epoch() -> None:
    assert parse_time("uts1795356000", NOW).timestamp() == 1_795_356_000


@pytest.mark.parametrize(
    "text",
    ["", "1345", "11/31", "25:00", "13:00PM", "now-1fortnight", "now-", "soon", "1126-", "uts" + "9" * 12, "4711x"],
)
def test_what_is_no_time_is_told_with_what_would_be(text: str) -> None:
    with pytest.raises(UsageError, match="such as"):
        parse_time(text, NOW)


def test_a_span_that_ends_before_it_begins_or_begins_tomorrow_is_told() -> None:
    now = datetime(2026, 12, 1, 18, 0)
    in_order(now, now, now)
    in_order(datetime(2026, 12, 1), datetime(2027, 1, 1), now)
    with pytest.raises(UsageError, match="--since 2026-12-01 18:00 lies after --until 2026-11-30 00:00: exchange them"):
        in_order(now, datetime(2026, 11, 30), now)
    with pytest.raises(UsageError, match="--since 2026-12-02 00:00 lies in the future"):
        in_order(datetime(2026, 12, 2), datetime(2026, 12, 3), now)
