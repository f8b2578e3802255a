from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hanging import mount, unmount

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


@pytest.fixture
def hanging(sandbox: Sandbox) -> Iterator[Path]:
    """A mounted file system that answers nothing, as that of a file server that is gone."""
    place = sandbox.root / "hangs"
    place.mkdir()
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs root and /dev/fuse: a file system that never answers")
    try:
        device = mount(str(place))
    except OSError as error:
        pytest.skip(str(error))
    yield place
    unmount(str(place), device)
    place.rmdir()
