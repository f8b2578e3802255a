"""What is left of root once the agent is the service user: one helper that fetches what is root's, and a list of words.

The inbox and `hook.conf` belong to root, so that the hooks may trust them; so do the kernel's energy counters. The
root helper knows these places from its start and takes the `VERBS`, none of which names a path; it executes nothing,
opens no socket, holds no capability, writes in the run directory alone, and ends with the agent. It looks for counters
in a child of its own, which may hang in a driver, and which hands open descriptors over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from perun_hpc.agent.base import privilege
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.sources.finding import FILES, Findings, find
from perun_hpc.process import child, confine
from perun_hpc.process.child import Child
from perun_hpc.process.clock import Clock
from perun_hpc.process.log import failures, log

TIMEOUT_S = 1.0
MAX_B = 64 * 1024
TICK_NS = 20_000_000
"""Longer than a tick of any kernel (HZ=100 has the longest)."""
_MESSAGE = re.compile(r"[0-9]{1,20}-[a-z-]{1,20}-[0-9]{1,20}-[0-9]{1,10}\.msg")
"""`TIME-VERB-JOB-RESTART.msg`, as the hooks name them; whatever else lies there is not read."""
VERBS = {
    "list": re.compile(""),
    "drop": _MESSAGE,
    "hook": re.compile(r"[0-9]{2,4}"),
    "sensors": re.compile("|".join(FILES)),
}
"""All that the root helper does, and what may stand behind each word: say what lies in the inbox; drop one message from
it; write `hook.conf` with a deadline in ms; open the files of readings of a backend. Anything else is passed over."""
_END = b"end"
FIND_NS = 30_000_000_000
"""A search for sensors that takes longer hangs in a driver."""
DYING_NS = 5_000_000_000
MOST_STUCK = 3
"""So many of its children may be stuck in the kernel before it looks for nothing more."""


class RootHelper:
    """The agent's side: asks, and never waits for long; an answer that is late is taken when it comes."""

    def __init__(self, paths: AgentPaths, policy: Path, clock: Clock) -> None:
        """`policy` is the one that `hook.conf` names for an agent that hooks start."""
        self._inbox = paths.inbox
        self._clock = clock
        self._seen_ns = -1
        self._listed: list[tuple[str, bytes]] | None = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        found, finding = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        life = partial(_live, theirs, finding, paths, policy, clock)
        self._child = child.start("root helper", life, (theirs.fileno(), finding.fileno()))
        theirs.close()
        finding.close()
        ours.settimeout(TIMEOUT_S)
        found.setblocking(False)
        self._socket: socket.socket | None = ours
        self.findings = Findings(found)
        """What `look_for` brought to light."""
        self.trouble = ""
        """Why the root helper is gone; empty while it lives."""

    def check(self) -> None:
        """See whether the root helper has died: for days nobody may have asked it anything."""
        if self._socket is not None and (code := self._child.poll()) is not None:
            self._lost(f"ended by signal {-code}" if code < 0 else f"ended with code {code}")

    def changed(self) -> bool:
        """Whether the inbox was written to since the last look; needs no privilege."""
        try:
            now_ns = self._inbox.stat().st_mtime_ns
        except OSError:
            return False
        changed = now_ns != self._seen_ns
        # The kernel stamps by its tick: what is written later in the same one shows no other time.
        self._seen_ns = now_ns if abs(self._clock.real_ns() - now_ns) > TICK_NS else -1
        return changed

    def messages(self) -> list[tuple[str, bytes]]:
        """Names and packets in the inbox, oldest first; none while the root helper has not said all, then `changed`."""
        if self._socket is None:
            return []
        self._socket.settimeout(TIMEOUT_S if self._listed is None else 0)
        try:
            if self._listed is None:
                self._socket.send(b"list")
                self._listed = []
            while (answer := self._socket.recv(MAX_B)) != _END:
                if not answer:
                    raise BrokenPipeError(errno.EPIPE, "it has ended")
                name, _, packet = answer.partition(b"/")
                self._listed.append((name.decode("ascii", "replace"), packet))
        except (TimeoutError, BlockingIOError):
            failures.say("the root helper does not answer yet: what hooks left in the inbox waits")
            self._seen_ns = -1
            return []
        except OSError as error:
            self._lost(error)
            return []
        finally:
            if self._socket is not None:
                self._socket.settimeout(TIMEOUT_S)
        found, self._listed = self._listed, None
        return found

    def drop(self, name: str) -> None:
        """A message was taken care of."""
        self._say(b"drop " + os.fsencode(name))

    def deadline(self, deadline_ms: int) -> None:
        """Write down how long hooks may wait."""
        self._say(b"hook %d" % deadline_ms)

    def look_for(self, backend: str) -> None:
        """Have a backend's sensors looked for again, by whoever may open them."""
        self._say(b"sensors " + backend.encode())

    def close(self) -> None:
        """Let the root helper end."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _say(self, words: bytes) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(words)
        except TimeoutError:
            failures.say("the root helper takes no messages now")
        except OSError as error:
            self._lost(error)

    def _lost(self, error: OSError | str) -> None:
        self.trouble = f"{error}: what hooks leave in the inbox is read by the next agent: stop this one"
        log(f"the root helper is gone ({self.trouble})")
        self.close()


def _live(requests: socket.socket, finding: socket.socket, paths: AgentPaths, policy: Path, clock: Clock) -> None:
    """The root helper's whole life: what it cannot do it leaves, and the agent tries again."""
    os.umask(0o022)  # hooks of any user's may read hook.conf
    privilege.keep_to((paths.run_dir,), (*confine.EXECUTE, *confine.NETWORK))
    finder: Child | None = None
    started_ns, stuck, wanted = 0, 0, list[str]()
    while True:
        requests.settimeout(TIMEOUT_S if finder is not None else None)
        try:
            words = requests.recv(MAX_B)
        except TimeoutError:
            words = b"-"
        if not words:
            return
        verb, _, rest = words.decode("ascii", "replace").partition(" ")
        with contextlib.suppress(OSError):
            if verb not in VERBS or not VERBS[verb].fullmatch(rest):
                pass
            elif verb == "list":
                _list(requests, paths.inbox)
            elif verb == "drop":
                with _directory(paths.inbox) as inbox:
                    os.unlink(rest, dir_fd=inbox)
            elif verb == "hook":
                _hook_conf(paths.hook_conf, int(rest), policy)
            elif rest not in wanted:
                wanted.append(rest)
            if finder is not None and finder.poll() is not None:
                finder = None
            elif finder is not None and (late_ns := clock.mono_ns() - started_ns - FIND_NS) > 0:
                finder.kill()
                if late_ns > DYING_NS and stuck < MOST_STUCK:  # what cannot be killed is left behind
                    finder, stuck = None, stuck + 1
            if finder is None and wanted:
                started_ns = clock.mono_ns()
                look = partial(find, finding, paths.root, wanted.pop(0))
                finder = child.start("sensors", look, (finding.fileno(),))


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    """A directory, held: what is under its name meanwhile does not count."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _list(requests: socket.socket, inbox: Path) -> None:
    try:
        with _directory(inbox) as here:
            with os.scandir(here) as entries:
                names = sorted(entry.name for entry in entries)
            for name in names:
                if _MESSAGE.fullmatch(name):
                    with contextlib.suppress(OSError):  # no file: those behind it are read all the same
                        requests.send(name.encode() + b"/" + _content(name, here))
    finally:
        requests.send(_END)


def _content(name: str, directory: int) -> bytes:
    """What a plain file of root's with one name holds."""
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != os.geteuid():
            raise OSError(errno.EINVAL, "no message of a hook's", name)
        return os.read(fd, MAX_B - 256)
    finally:
        os.close(fd)


def _hook_conf(path: Path, deadline_ms: int, policy: Path) -> None:
    if "\n" in str(policy):
        return
    partial = f".{path.name}.partial"  # by the directory's descriptor, not by `files`: root follows nobody's links
    with _directory(path.parent.resolve()) as here:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(partial, dir_fd=here)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644, dir_fd=here)
        with os.fdopen(fd, "wb") as file:
            file.write(os.fsencode(f"deadline_ms={deadline_ms}\npolicy={policy}\n"))
        os.rename(partial, path.name, src_dir_fd=here, dst_dir_fd=here)
