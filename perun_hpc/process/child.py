"""The one way in which a process of perun's forks a child that goes on with its own code, or executes a program.

The child begins as a fresh process would: no descriptor but those it is given, no signal handler and no blocked signal
of its parent; it is killed when its parent dies, unless it is to outlive it. Whatever happens in it, it never returns
into the parent's code. `start` is for parents with one thread: a child of more would inherit locks that nobody
releases.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
from collections.abc import Callable, Iterable

from perun_hpc.process.stamp import stamp

_SIGNALS = frozenset(map(int, signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}))
"""Signals that may be blocked and handled."""
_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ)
"""Signals that Python itself ignores, so that a closed peer is an error and not the end."""


class Child:
    """A child as its parent sees it: reaped by whoever asks how it goes."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        """How it ended: its exit code, -N by signal N; None while it runs."""
        if self._code is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # reaped by somebody else: nobody knows how it ended
                self._code = 0
            else:
                self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        """How it ended, waited for."""
        if self._code is None:
            try:
                self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            except ChildProcessError:  # as in `poll`
                self._code = 0
        return self._code

    def kill(self) -> None:
        """Kill it, if it is there and may be killed: one that began as root outlives a parent that is root no more."""
        if self.poll() is None:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


def start(name: str, work: Callable[[], int | None], keep: Iterable[int] = (), outlives: bool = False) -> Child:
    """Fork a child that does `work` and ends with the exit code that it returns (None: 0). OSError: no child.

    Parameters
    ----------
    name : what the line on stderr is about that a failing child leaves.
    keep : the descriptors that the child has besides 0, 1 and 2.
    outlives : it goes on when its parent dies, and bounds its own life.
    """
    parent, kept = os.getpid(), sorted(set(keep))
    # Until the child has handlers of its own, a signal must not run its parent's there.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _live(name, work, 0 if outlives else parent, kept)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return Child(pid)


def execute(command: tuple[str, ...], out: int, err: int, given: int | None = None) -> Child:
    """Execute a program with nothing of this process' but where its output goes. OSError: it is not there.

    Also for parents with threads, which cannot be forked safely. The program is one of perun's own: the first that it
    does is `begin`, or `perun-sample`, which ends with its parent, too.

    Parameters
    ----------
    out, err, given : its stdout, stderr and stdin; None: it is given nothing.
    """
    to: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0) if given is None else (os.POSIX_SPAWN_DUP2, given, 0),
        (os.POSIX_SPAWN_DUP2, out, 1),
        (os.POSIX_SPAWN_DUP2, err, 2),
    ]
    # A name may be empty in an environment that is handed on; here it is an error.
    environment = {name: text for name, text in os.environ.items() if name}
    return Child(os.posix_spawn(command[0], command, environment, file_actions=to, setsigmask=(), setsigdef=_SIGNALS))


def begin(parent: int) -> None:
    """Become a child as `start` makes it, in a program that `execute` executed: alone, and it ends with its parent."""
    close_all_but(())
    _end_with(parent)


def _live(name: str, work: Callable[[], int | None], parent: int | None, keep: list[int]) -> None:
    """The child's whole life; it ends with its parent where that is given."""
    code = 1
    try:
        # The parent's objects stay as they are: collecting one would close a descriptor that is the child's by then.
        gc.freeze()
        close_all_but(keep)
        _forget_signals()
        if parent:
            _end_with(parent)
        code = work() or 0
    except BaseException as error:  # whatever happens, the child ends here
        with contextlib.suppress(Exception):
            os.write(2, f"{stamp()}{name}: {type(error).__name__}: {error}\n".encode(errors="backslashreplace"))
    finally:
        os._exit(code)


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor from 3 on that is not named, whatever the limit is and was when it was opened."""
    at = 3
    for fd in sorted(fd for fd in keep if fd >= 3):
        os.closerange(at, fd)
        at = fd + 1
    os.closerange(at, _beyond_all())


def _beyond_all() -> int:
    """A number above every open descriptor: a limit that was lowered says nothing of those opened before.

    FDSize is how many the kernel has places for, proc_pid_status(5); a listing of all of them costs each a look.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        fd = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return int(os.read(fd, 4096).split(b"FDSize:")[1].split()[0])
        finally:
            os.close(fd)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(limit for limit in (soft, hard, 1024) if limit != resource.RLIM_INFINITY)


def _forget_signals() -> None:
    """No handler, no wake-up descriptor, no blocked signal of the parent's."""
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN if number in _IGNORED else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _end_with(parent: int) -> None:
    """Be killed when the parent dies, whatever hangs here; a program that is executed keeps that."""
    from perun_hpc.process.confine import die_with_parent  # in the child only: ctypes costs memory

    with contextlib.suppress(OSError):
        die_with_parent(signal.SIGKILL)
    if os.getppid() != parent:  # it died before that
        os._exit(1)
