"""The tests in a checkout below a directory that other users may not enter, as root's home is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "open_checkout.sh"
INSTEAD = "other users may not enter {}: for these tests alone, an open directory stands in its place\n"


def _run(checkout: Path, *command: str) -> subprocess.CompletedProcess[str]:
    home = {**os.environ, "HOME": str(checkout.parent)}
    home.pop("PYENV_ROOT", None)
    return subprocess.run([checkout / "open.sh", *command], cwd=checkout, capture_output=True, text=True, env=home)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one file, its directories open."""
    for above in tmp_path.parents:
        if above.stat().st_uid == os.getuid() and above.name.startswith(("pytest", "popen")):
            above.chmod(0o755)
    tmp_path.chmod(0o755)
    place = tmp_path / "home" / "checkout"
    place.mkdir(parents=True)
    shutil.copy(SCRIPT, place / "open.sh")
    (place / "words").write_text("open\n")
    return place


@pytest.mark.skipif(os.getuid() != 0, reason="root's checkout, another user's test")
def test_another_user_reads_a_checkout_that_lies_below_a_closed_directory(checkout: Path) -> None:
    checkout.parent.chmod(0o700)
    (checkout.parent / "secret").write_text("mine")
    read = ("setpriv", "--reuid=2001", "--regid=2001", "--clear-groups", "cat", str(checkout / "words"))
    assert subprocess.run(read, capture_output=True).returncode != 0
    assert _run(checkout, *read).stdout == INSTEAD.format(checkout.parent) + "open\n"
    assert _run(checkout, "ls", "..").stdout.splitlines()[1:] == ["checkout"]
    assert (checkout.parent.stat().st_mode & 0o777, (checkout.parent / "secret").read_text()) == (0o700, "mine")


@pytest.mark.skipif(os.getuid() != 0, reason="root's checkout, another user's test")
def test_the_interpreters_of_pyenv_stay_where_they_are(checkout: Path) -> None:
    checkout.parent.chmod(0o700)
    kept = checkout.parent / ".pyenv" / "versions"
    kept.mkdir(parents=True)
    (kept / "one").write_text("an interpreter")
    assert _run(checkout, "cat", str(kept / "one")).stdout.splitlines()[1:] == ["an interpreter"]
    assert _run(checkout, "ls", "-A", "..").stdout.splitlines()[1:] == [".pyenv", "checkout"]


@pytest.mark.skipif(os.getuid() != 0, reason="root's checkout, another user's test")
def test_what_tests_leave_in_the_checkout_is_there_afterwards(checkout: Path) -> None:
    checkout.parent.chmod(0o700)
    done = _run(checkout, "sh", "-c", "echo left > left; exit 3")
    assert (done.returncode, (checkout / "left").read_text()) == (3, "left\n")


def test_where_all_is_open_nothing_stands_in_its_place(checkout: Path) -> None:
    done = _run(checkout, "sh", "-c", "ls -a ..; exit 4")
    assert (done.returncode, done.stdout.split()) == (4, [".", "..", "checkout"])


ONE = """
import subprocess

def test_one():
    user = ("setpriv", "--reuid=2001", "--regid=2001", "--clear-groups")
    assert subprocess.run([*user, "cat", "words"], capture_output=True, check=True).stdout == b"open\\n"
"""


@pytest.mark.skipif(os.getuid() != 0, reason="root's checkout, another user's test")
@pytest.mark.parametrize("more", [[], ["-n", "1"]])
def test_pytest_by_hand_begins_anew_where_other_users_may_enter(checkout: Path, more: list[str]) -> None:
    checkout.parent.chmod(0o700)
    tests = checkout / "tests"
    tests.mkdir()
    for name in ("__init__.py", "beside.py", "conftest.py", "examples.py", "open_checkout.sh"):
        shutil.copy(SCRIPT.with_name(name), tests)
    (tests / "unit").mkdir()
    (tests / "unit/test_one.py").write_text(ONE)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYENV_ROOT"))}
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *more, "tests"]
    done = subprocess.run(
        line, cwd=checkout, env={**environ, "HOME": str(checkout.parent)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(INSTEAD.format(checkout.parent))
    assert "1 passed" in done.stdout
