"""What all tests have: the zone in which one lives, where that is what it is about, and `pytest -n N`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tests.examples  # noqa: F401 - it loads the profile of properties

HERE = Path(__file__).resolve().parent


def pytest_configure(config: pytest.Config) -> None:
    """Some tests run as other users: where these may not enter the checkout, all begins anew where they may."""
    open_to_all = all(above.stat().st_mode & 0o001 for above in HERE.parents)
    if open_to_all or os.geteuid() != 0 or "PYTEST_XDIST_WORKER" in os.environ:
        return
    config.pluginmanager.getplugin("capturemanager").stop_global_capturing()
    words = [str(HERE / "open_checkout.sh"), sys.executable, "-m", "pytest", *config.invocation_params.args]
    os.execv(words[0], words)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """How `pytest -n N` shares the tests out."""
    from tests.beside import Beside

    config.option.loadscopereorder = False  # they come in our order
    return Beside(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files for processes beside each other."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        from tests.beside import in_order

        in_order(items)


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
