"""A pytest plugin: leaves out, with the reason, what cannot run while libfaketime moves the clock."""

from __future__ import annotations

import pytest

from tests.dates.skips import SKIPS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in the list; its entries are ids without parameters."""
    for item in items:
        why = SKIPS.get(item.nodeid.partition("[")[0])
        if why is not None:
            item.add_marker(pytest.mark.skip(reason=why))
