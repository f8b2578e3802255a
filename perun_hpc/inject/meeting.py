"""Ranks agree outside of MPI that all of them are there, before any of them makes a collective call.

A meeting is a directory that its members share: each member adds a symbolic link, its badge, on a seat of its own, and
one more link, the decision, is made once for all. Making a link is atomic and either succeeds or finds the one that is
there: whoever sees every seat taken tries `go`, whoever has waited long enough tries `no`, and all follow the one that
was first. Only after `go` may a member make a collective call, since all others follow the same `go`.
Standard library only, CPython 3.9 on: this runs in the user's interpreter.
"""

from __future__ import annotations

import contextlib
import os
import time

from perun_hpc.inject import closed

SHARED_MEMORY = "/dev/shm"
_PREFIX = "perun-meet"
_DECISION = "decision"
_GO, _NO = "go", "no"


class Meeting:
    """One member's view of a meeting.

    Parameters
    ----------
    path : of the directory, the same for all members and for no other meeting; made by whoever comes first.
    seat, seats : this member's number, and how many members must come.
    rank, world : what goes on the badge: the member's number in the world of the collective call, and a name of that
        world without blanks. Members that name different worlds, or the same number, do not agree.
    remote : whether members are on other hosts, so that the file system may show what they do only to who asks anew.

    Raises OSError where the directory cannot be made, or is not this user's alone.
    """

    def __init__(self, path: str, seat: int, seats: int, rank: int, world: str, remote: bool = False) -> None:
        self._path = path
        self._seat = seat
        self._seats = seats
        self._remote = remote
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        self._seated = False
        self._fd = own(path)
        self._badge = f"{rank} {world}"

    def agreed(self, wait_s: float) -> bool:
        """Say "here" and wait for the decision, which all members follow: to be called, with the collective call that
        follows, `undisturbed`."""
        try:
            os.symlink(self._badge, str(self._seat), dir_fd=self._fd)
        except FileExistsError:  # two that take themselves for the same member: nothing is certain
            self._decide(_NO)
            return False
        except OSError:
            return False
        self._seated = True
        return self._wait(time.monotonic() + wait_s)

    def _wait(self, deadline_s: float) -> bool:
        pause_s, longest_s = 0.001, 0.25 if self._remote else 0.02
        while (decision := self._decision()) is None:
            ranks = self.ranks()
            if ranks is not None:
                decision = self._decide(_GO if ranks else _NO)
            elif time.monotonic() > deadline_s:
                decision = self._decide(_NO)
            if decision is not None:
                break
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, longest_s)
            if self._remote:
                self._look_again()
        return decision == _GO

    def ranks(self) -> list[int] | None:
        """The ranks on the badges, by seat; empty if they do not fit together, None while somebody is missing."""
        try:
            badges = [os.readlink(str(seat), dir_fd=self._fd).split() for seat in range(self._seats)]
        except OSError:
            return None
        try:
            ranks, worlds = [int(badge[0]) for badge in badges], {badge[1] for badge in badges}
        except (ValueError, IndexError):
            return []
        return ranks if len(worlds) == 1 and len(set(ranks)) == len(ranks) else []

    def _decision(self) -> str | None:
        try:
            return os.readlink(_DECISION, dir_fd=self._fd)
        except OSError:
            return None

    def _decide(self, word: str) -> str:
        """Try to decide; returns what was decided, by whomever."""
        with contextlib.suppress(OSError):
            os.symlink(word, _DECISION, dir_fd=self._fd)
        return self._decision() or _NO  # the directory is gone: nobody can decide any more

    def _look_again(self) -> None:
        """Change the directory, so that a network file system's client asks for it anew."""
        with contextlib.suppress(OSError):
            os.mkdir(f"look-{self._seat}", dir_fd=self._fd)
            os.rmdir(f"look-{self._seat}", dir_fd=self._fd)

    def remove(self) -> None:
        """Take it all away: the collective call is done, so that everybody has read the decision."""
        self._unlink(*map(str, range(self._seats)))
        self._take_down()
        self.close()

    def leave(self) -> None:
        """After `no`: give the seat up; whoever leaves last takes the rest away. Members that come later find `no`
        until then, and too few of them after it."""
        if self._seated:
            self._unlink(str(self._seat))
        self._take_down()
        self.close()

    def close(self) -> None:
        """Look at it no more, and leave it as it is. A second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _take_down(self) -> None:
        with contextlib.suppress(OSError):
            if self._fd >= 0 and not any(name.isdigit() for name in os.listdir(self._fd)):
                self._unlink(_DECISION)
                os.rmdir(self._path)

    def _unlink(self, *names: str) -> None:
        if self._fd >= 0:
            for name in names:
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._fd)


def own(path: str) -> int:
    """A descriptor of a directory that is this user's alone; OSError where it is not, or a link."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        os.close(fd)
        raise PermissionError(f"{path} belongs to somebody else, or others can write there")
    return fd


class undisturbed:
    """Keeps signals back that have a handler in Python, so that nothing takes a member away between its word and its
    call; others act as ever."""

    def __enter__(self) -> None:
        signal = closed.load("signal")
        handled = {number for number in signal.valid_signals() if callable(signal.getsignal(number))}
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, handled)

    def __exit__(self, *_: object) -> None:
        signal = closed.load("signal")
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)


def process(pid: int) -> str:
    """A name of a process that no other process of this machine has, or had if its start can be read.

    Empty for 0, which is the parent of the first process of a PID namespace.
    """
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            started = stat.read().rpartition(")")[2].split()[19]
    except (OSError, IndexError):  # hidden (hidepid): the id is unique while the process lives
        started = "0"
    try:
        space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return ""
    return f"{space}-{pid}-{started}" if pid else ""


def on_host(name: str) -> str:
    """The path of a meeting of this host's ranks; `name` begins with that of the process that started them."""
    _sweep(name.partition("-")[0])
    return f"{SHARED_MEMORY}/{_PREFIX}-{os.geteuid()}-{name}"


def _sweep(space: str) -> None:
    """Take away what killed ranks left behind: meetings of processes that are gone."""
    beginning = f"{_PREFIX}-{os.geteuid()}-{space}-"
    for name in os.listdir(SHARED_MEMORY):
        pid = name[len(beginning) :].partition("-")[0]
        if not name.startswith(beginning) or not pid.isdigit() or _alive(int(pid[:9])):
            continue
        with contextlib.suppress(OSError):  # others may make what has such a name: it is left alone
            path = f"{SHARED_MEMORY}/{name}"
            fd = own(path)
            for entry in sorted(os.listdir(fd)):  # seats before the decision
                with contextlib.suppress(OSError):
                    os.unlink(entry, dir_fd=fd)
            os.close(fd)
            os.rmdir(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
