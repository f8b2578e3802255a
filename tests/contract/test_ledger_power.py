"""The power goes at any moment while agents ship and the collector works: no joule is lost, whatever was not synced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.power import Lost, Recording, after, record
from tests.power_story import ENERGIES, SYNCS, prepare, recover

EVERY = 7
"""The soak suite `power` tries the moments between as well."""


@pytest.fixture(scope="module", params=sorted(SYNCS))
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    base = tmp_path_factory.mktemp("power")
    prepare(base / "root")
    command = [sys.executable, "-m", "tests.power_story", str(base / "root"), request.param]
    found = record(command, base / "root", base / "log")
    assert recover(base / "root") == ENERGIES
    return found


@pytest.mark.parametrize("lost", list(Lost))
def test_a_loss_of_power_loses_no_evidence(recording: Recording, lost: Lost, tmp_path: Path) -> None:
    for count in range(len(recording.steps), 0, -EVERY):
        root = tmp_path / str(count)
        after(recording, count, lost, count, root)
        assert recover(root) == ENERGIES, f"after {count} of {len(recording.steps)} steps"


def test_the_replay_knows_what_is_not_on_the_disk(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "old").write_text("before")
    script = (
        "import os, sys; r = sys.argv[1]; f = os.open(r + '/new', os.O_WRONLY | os.O_CREAT); os.pwrite(f, b'text', 0);"
        "os.fsync(f); os.pwrite(f, b'TEXT', 0); os.fsync(os.open(r, os.O_RDONLY)); os.rename(r + '/new', r + '/old')"
    )
    recording = record([sys.executable, "-c", script, str(root)], root, tmp_path / "log")
    held: dict[Lost, dict[str, str]] = {}
    for lost in Lost:
        after(recording, len(recording.steps), lost, 1, tmp_path / lost.value)
        held[lost] = {path.name: path.read_text() for path in (tmp_path / lost.value).iterdir()}
    assert held[Lost.NOTHING] == {"old": "TEXT"}
    assert held[Lost.ALL] == {"old": "before", "new": "text"}
    assert held[Lost.DATA] == {"old": "text"}
    assert held[Lost.NAMES] == {"old": "before", "new": "TEXT"}


def test_the_replay_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    for name in ("link", "fails"):
        (tmp_path / name).mkdir()
    script = "import os, sys; os.symlink('x', sys.argv[1] + '/y')"
    with pytest.raises(AssertionError, match="symlink"):
        record([sys.executable, "-c", script, str(tmp_path / "link")], tmp_path / "link", tmp_path / "log")
    with pytest.raises(subprocess.CalledProcessError):
        record([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "fails", tmp_path / "log")
