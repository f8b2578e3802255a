"""Directories under watch, with the kernel's own inotify."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from perun_hpc.process.watching import Change, Signs, Watching

Kind = TypeVar("Kind", Watching, Signs)


def opened(kind: type[Kind]) -> Iterator[Kind]:
    try:
        found = kind()
    except OSError as error:
        if error.errno == errno.EMFILE:
            pytest.skip(f"others have all that the kernel gives this user: {error}")
        raise
    yield found
    found.close()


@pytest.fixture
def watching() -> Iterator[Watching]:
    yield from opened(Watching)


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


def overflow(directory: Path) -> None:
    """More than the kernel keeps for whoever does not listen; what comes after it is lost."""
    step = directory / "step_9"
    for _ in range(int(Path("/proc/sys/fs/inotify/max_queued_events").read_text()) // 2 + 1):
        step.mkdir()
        step.rmdir()


def test_a_directory_whose_end_the_kernel_could_not_tell_is_watched_anew(watching: Watching, tmp_path: Path) -> None:
    job, other = tmp_path / "job_1", tmp_path / "job_2"
    for place in (job, other):
        place.mkdir()
        assert watching.add(place)
    overflow(other)
    job.rmdir()
    job.mkdir()
    assert Change(None, "", False) in list(watching.take())
    assert job not in watching
    assert other not in watching
    assert watching.add(job)
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


@pytest.fixture
def signs() -> Iterator[Signs]:
    yield from opened(Signs)


def heard(signs: Signs) -> bool:
    """Whether the kernel has told of something since this was asked last."""
    return bool(select.select((signs.fd,), (), (), 0)[0]) and signs.clear()


def test_whatever_happens_to_a_file_or_in_a_directory_is_heard_of_once(signs: Signs, tmp_path: Path) -> None:
    events, inbox, aside = tmp_path / "cgroup.events", tmp_path / "inbox", tmp_path / "aside"
    inbox.mkdir()
    events.write_text("frozen 0\n")
    assert signs.keep({events, inbox})
    assert not heard(signs)
    for change in (
        lambda: events.write_text("frozen 1\n"),
        lambda: (inbox / "partial").write_text(""),
        lambda: (inbox / "partial").rename(inbox / "1.msg"),
        lambda: (inbox / "1.msg").rename(aside),
        lambda: aside.rename(inbox / "policy"),
        lambda: (inbox / "policy").unlink(),
    ):
        change()
        assert heard(signs)
        assert not heard(signs)
    events.read_text()
    aside.write_text("")
    assert not heard(signs)


def test_what_is_gone_or_kept_no_longer_is_not_watched(signs: Signs, tmp_path: Path) -> None:
    step, other = tmp_path / "step_0", tmp_path / "step_1"
    for one in (step, other):
        one.write_text("frozen 0\n")
    assert signs.keep({step, other})
    step.unlink()
    assert heard(signs)
    assert not signs.keep({step, other})  # somebody has to look
    step.write_text("frozen 0\n")
    assert signs.keep({step, other})
    step.write_text("frozen 1\n")  # of the new one
    assert heard(signs)
    assert signs.keep({step})
    other.write_text("frozen 1\n")
    assert not heard(signs)


def test_a_directory_whose_name_is_anothers_by_now_is_watched_anew(signs: Signs, tmp_path: Path) -> None:
    policy, link = tmp_path / "policy", tmp_path / "link"
    policy.mkdir()
    link.symlink_to(policy)
    for exchange in (
        lambda: policy.rename(tmp_path / "policy.old"),
        lambda: policy.rmdir(),
        lambda: (link.unlink(), link.symlink_to(tmp_path / "policy.old")),
    ):
        assert signs.keep({policy, link})  # two names, one place
        exchange()
        policy.mkdir(exist_ok=True)
        heard(signs)
        assert signs.keep({policy, link})
        heard(signs)
        for one in (policy, link):
            (one / "policy.yaml").write_text("")
            (one / "policy.yaml").unlink()
            assert heard(signs)
    assert signs.keep({policy})
    (policy / "policy.yaml").write_text("")
    assert heard(signs)


def test_what_is_written_again_and_again_in_a_directory_is_heard_of_when_it_is_closed(
    signs: Signs, tmp_path: Path
) -> None:
    events = tmp_path / "memory.events"
    events.write_text("max 0\n")
    assert signs.keep({tmp_path})
    with events.open("r+") as file:
        for number in range(100):
            file.write(f"max {number}\n")
            file.flush()
        assert not heard(signs)
    assert heard(signs)
