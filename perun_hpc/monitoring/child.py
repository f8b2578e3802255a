"""Running a command as a child: same terminal, same signals, same exit as without us."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

FORWARDED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM,
    signal.SIGWINCH, signal.SIGCONT,
)  # fmt: skip
NOT_FOUND, NOT_EXECUTABLE = 127, 126


class NotStartedError(OSError):
    """The command itself cannot be executed."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: `code` as a shell sees it (128 + N for signal N), `signal` 0 if it exited; its own
    resource use; which rank of the launch it was."""

    code: int
    signal: int
    cpu_ns: int
    rss_peak_b: int
    start_ns: int
    end_ns: int
    rank: int = 0


def run(command: Sequence[str], environ: Callable[[int], Mapping[str, str]]) -> Ended:
    """Run `command` (searched on PATH) and wait for it.

    Signals sent to this process are passed on; those that the terminal sends to the whole foreground group reach the
    child by themselves.

    Parameters
    ----------
    environ : called in the child with its process id; returns its environment.

    Raises
    ------
    NotStartedError
        If the command cannot be started.
    """
    main_thread = threading.current_thread() is threading.main_thread()
    blocked = {*FORWARDED, signal.SIGCHLD} if main_thread else set()
    if main_thread:
        previous_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        start_ns, pid = _start(command, environ, mask)
        return _wait(pid, start_ns, blocked)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if main_thread:
            signal.signal(signal.SIGCHLD, previous_child)


def _start(
    command: Sequence[str], environ: Callable[[int], Mapping[str, str]], mask: set[int | signal.Signals]
) -> tuple[int, int]:
    import time

    report_r, report_w = os.pipe()
    start_ns = time.monotonic_ns()
    pid = os.fork()
    if pid == 0:
        try:
            # Python ignores these two; what it runs expects them as they were.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.execvpe(command[0], list(command), dict(environ(os.getpid())))
        except OSError as error:
            os.write(report_w, str(error.errno or 1).encode())
        finally:
            os._exit(NOT_FOUND)
    os.close(report_w)
    with os.fdopen(report_r, "rb") as report:
        failure = report.read()
    if failure:
        os.waitpid(pid, 0)
        raise NotStartedError(int(failure), os.strerror(int(failure)), command[0])
    return start_ns, pid


def _wait(pid: int, start_ns: int, blocked: set[signal.Signals]) -> Ended:
    import time

    while True:
        done, status, used = os.wait4(pid, os.WNOHANG if blocked else 0)
        if done:
            break
        info = signal.sigwaitinfo(blocked)
        from_terminal = info.si_code > 0
        if info.si_signo != signal.SIGCHLD and not from_terminal:
            os.kill(pid, info.si_signo)
    end_ns = time.monotonic_ns()
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    code = 128 + number if number else os.WEXITSTATUS(status)
    return Ended(code, number, int((used.ru_utime + used.ru_stime) * 1e9), used.ru_maxrss * 1024, start_ns, end_ns)


def die_by(number: int) -> None:
    """End this process by the signal that ended the child, so that whoever waits sees the same."""
    import resource

    # The child has left its core dump if it wanted one; ours would be a second one.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
