"""The zone in which a test lives, where local days or times are what it is about."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def local_time() -> Iterator[Callable[[str], None]]:
    """Call it with a zone: local time is that one's, here and in programs that the test starts, until the test ends."""
    before = os.environ.get("TZ")

    def enter(zone: str | None) -> None:
        os.environ.pop("TZ", None)
        if zone is not None:
            os.environ["TZ"] = zone
        time.tzset()

    yield enter
    enter(before)


@pytest.fixture
def utc(local_time: Callable[[str], None]) -> None:
    """For tests whose fixed times are of a day in UTC."""
    local_time("UTC")
