"""A pytest plugin: leaves out, with the reason, what the list has for the release of `$PERUN_MATRIX`."""

from __future__ import annotations

import os

import pytest

from tests.matrix import skips


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in the list."""
    for item in items:
        why = skips.left_out(os.environ["PERUN_MATRIX"], item.nodeid)
        if why is not None:
            item.add_marker(pytest.mark.skip(reason=why))
