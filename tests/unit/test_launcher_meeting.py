"""Meetings: all members follow one decision, which is `go` only if every one of them came."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from perun_hpc.inject import meeting
from perun_hpc.inject.meeting import Meeting


def meet(path: Path, seats: int, come: dict[int, tuple[int, str]], waits: dict[int, float]) -> dict[int, bool]:
    """What each seat that comes, with a rank and a world, is told; each waits as long as it is said to."""
    told: dict[int, bool] = {}

    def member(seat: int) -> None:
        rank, world = come[seat]
        here = Meeting(str(path), seat, seats, rank, world)
        told[seat] = here.agreed(waits[seat])
        here.close()

    threads = [threading.Thread(target=member, args=(seat,)) for seat in come]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return told


@pytest.mark.parametrize("seats", [1, 2, 5, 16])
def test_all_that_come_go(tmp_path, seats):
    come = {seat: (seat + 10, "w") for seat in range(seats)}
    assert meet(tmp_path / "m", seats, come, dict.fromkeys(come, 60.0)) == dict.fromkeys(range(seats), True)
    one = Meeting(str(tmp_path / "m"), 0, seats, 10, "w")
    assert one.ranks() == list(range(10, 10 + seats))
    one.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [0, 1, 3])
def test_where_one_does_not_come_nobody_goes(tmp_path, missing):
    come = {seat: (seat, "w") for seat in range(4) if seat != missing}
    waits = {seat: 60.0 for seat in come} | {min(come): 0.05}  # the first that gives up decides for all
    assert set(meet(tmp_path / "m", 4, come, waits).values()) == {False}
    late = Meeting(str(tmp_path / "m"), missing, 4, missing, "w")
    assert not late.agreed(60.0)
    late.leave()
    late.close()


def test_however_time_runs_out_all_are_told_the_same(tmp_path):
    """Members that give up at the very moment at which the last one comes."""
    chance = random.Random(7)
    seen = set()
    for number in range(150):
        come = {seat: (seat, "w") for seat in range(3)}
        told = meet(tmp_path / str(number), 3, come, {seat: chance.choice([0.0, 0.003, 60.0]) for seat in come})
        assert len(set(told.values())) == 1, (number, told)
        seen.add(told[0])
    assert seen == {True, False}


@pytest.mark.parametrize(
    "come",
    [
        {0: (0, "4"), 1: (1, "2")},  # two worlds
        {0: (0, "2"), 1: (0, "2")},  # two singletons, or one rank twice
    ],
)
def test_members_that_do_not_fit_together_do_not_go(tmp_path, come):
    assert meet(tmp_path / "m", 2, come, dict.fromkeys(come, 60.0)) == {0: False, 1: False}


def test_two_that_take_themselves_for_the_same_member_stop_all(tmp_path):
    first, second = (Meeting(str(tmp_path / "m"), 0, 2, 0, "w") for _ in range(2))
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(first.agreed(60.0)))
    thread.start()
    while not (tmp_path / "m" / "0").is_symlink():
        pass
    assert not second.agreed(60.0)
    thread.join(60)
    assert answers == [False]
    second.leave()
    assert (tmp_path / "m" / "0").is_symlink()  # the seat is the other one's
    first.leave()
    assert list(tmp_path.iterdir()) == []


def test_a_member_that_is_killed_after_its_word_costs_nobody_anything(tmp_path):
    """It said that it is there and never made its call: the others were told `no`, or all had come."""
    text = (
        "import os, sys\nfrom perun_hpc.inject import meeting\nm = meeting.Meeting(sys.argv[1], 0, 3, 0, 'w')\n"
        "m._wait = lambda deadline_s: os.kill(os.getpid(), 9)\nm.agreed(60)\n"
    )
    subprocess.run([sys.executable, "-c", text, str(tmp_path / "m")], timeout=60, check=False)
    assert (tmp_path / "m" / "0").is_symlink()
    assert meet(tmp_path / "m", 3, {1: (1, "w")}, {1: 0.05}) == {1: False}


@pytest.mark.parametrize("what", ["others can write", "another user's", "a link", "a file"])
def test_a_place_that_is_not_this_user_s_alone_is_none(tmp_path, what):
    path = tmp_path / "m"
    if what == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        path.symlink_to(tmp_path / "elsewhere")
    elif what == "a file":
        path.touch()
    else:
        path.mkdir(mode=0o700)
        if what == "others can write":
            path.chmod(0o770)
        elif os.geteuid() == 0:
            os.chown(path, 1, 1)
        else:
            pytest.skip("needs root")
    with pytest.raises(OSError):
        Meeting(str(path), 0, 1, 0, "w")


def test_what_killed_ranks_left_goes_with_the_next_meeting(tmp_path):
    gone = subprocess.Popen(["true"])
    gone.wait()
    space = meeting.process(os.getpid()).partition("-")[0]
    left = Path(f"{meeting.SHARED_MEMORY}/perun-meet-{os.geteuid()}-{space}-{gone.pid}-1-init")
    lives = Path(meeting.on_host(f"{meeting.process(os.getpid())}-x"))
    Meeting(str(left), 0, 2, 0, "w").agreed(0.0)
    still = Meeting(str(lives), 0, 2, 0, "w")
    still.agreed(0.0)
    meeting.on_host(f"{meeting.process(os.getpid())}-y")
    assert not left.exists()
    assert lives.exists()
    still.leave()
    assert not lives.exists()


def test_what_others_call_a_meeting_is_left_alone(tmp_path):
    """A link to a directory of this user's, under the name of a meeting that is over."""
    (tmp_path / "thesis").touch()
    gone = subprocess.Popen(["true"])
    gone.wait()
    space = meeting.process(os.getpid()).partition("-")[0]
    trap = Path(f"{meeting.SHARED_MEMORY}/perun-meet-{os.geteuid()}-{space}-{gone.pid}-1-trap")
    trap.symlink_to(tmp_path)
    try:
        meeting.on_host(f"{meeting.process(os.getpid())}-y")
        assert (tmp_path / "thesis").exists()
    finally:
        trap.unlink()


def test_a_process_has_a_name_of_its_own_and_nobody_has_none():
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    names = {meeting.process(os.getpid()), meeting.process(os.getppid()), meeting.process(other.pid)}
    other.communicate(b"\n")
    assert len(names) == 3
    assert meeting.process(0) == ""
