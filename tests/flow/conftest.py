"""What every test here leaves behind is closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flow.two_paths import close_readers


@pytest.fixture(autouse=True)
def _readers_are_closed() -> Iterator[None]:
    yield
    close_readers()
