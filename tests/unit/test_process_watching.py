"""Directories under watch, with the kernel's own inotify."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.process.watching import Change, Watching


@pytest.fixture
def watching() -> Iterator[Watching]:
    try:
        found = Watching()
    except OSError as error:
        if error.errno == errno.EMFILE:
            pytest.skip(f"others have all that the kernel gives this user: {error}")
        raise
    yield found
    found.close()


def test_what_is_made_and_removed_is_told_in_order(watching: Watching, tmp_path: Path) -> None:
    assert watching.add(tmp_path)
    (tmp_path / "step_0").mkdir()
    (tmp_path / "step_0").rmdir()
    assert list(watching.take()) == [Change(tmp_path, "step_0", True), Change(tmp_path, "step_0", False)]


def test_a_directory_that_is_made_anew_is_watched_anew(watching: Watching, tmp_path: Path) -> None:
    job = tmp_path / "job_1"
    job.mkdir()
    assert watching.add(job)
    job.rmdir()
    job.mkdir()
    assert watching.add(job)  # before the kernel's word of the end of the former one is read
    assert list(watching.take()) == []
    assert job in watching
    (job / "step_0").mkdir()
    assert list(watching.take()) == [Change(job, "step_0", True)]


def test_what_is_kept_no_longer_tells_nothing(watching: Watching, tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("job_1", "job_2")]
    for place in places:
        place.mkdir()
        assert watching.add(place)
    watching.keep({places[1]})
    assert places[0] not in watching
    for place in places:
        (place / "step_0").mkdir()
    assert list(watching.take()) == [Change(places[1], "step_0", True)]


def test_the_kernel_has_back_what_is_closed_or_what_nobody_has_any_more(watching: Watching) -> None:
    again = Watching().fd  # a user has few of them on the whole machine
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(again)
    watching.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(watching.fd)
