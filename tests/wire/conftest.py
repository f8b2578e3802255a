from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from .sandbox import Sandbox, build, furnish


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the C parts, built once."""
    root = tmp_path_factory.mktemp("c")
    build(root)
    return root


@pytest.fixture
def sandbox(built: Path) -> Iterator[Sandbox]:
    yield furnish(built)
    for name in ("prefix", "run", "etc", "spool"):
        shutil.rmtree(built / name)
