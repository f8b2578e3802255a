"""What ranks handed over is read where nothing can come of it: by another user, without network, without programs.

Root starts one reader for the node before it becomes the service user; it becomes the account `perun-parse` and forks
a process for each session, which is handed open files and answers into memory. Where there is no such account, or the
reader is gone, whoever ships forks that process: the service user's then, with everything else taken from it alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import resource
import signal
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from perun_hpc.agent.base import privilege
from perun_hpc.agent.measure.curve import Curve
from perun_hpc.agent.outbox import regions
from perun_hpc.agent.outbox.regions import CURVE, Found, Handed
from perun_hpc.agent.policy import limits
from perun_hpc.agent.sources.node import data_b
from perun_hpc.data_model import activity, codec
from perun_hpc.data_model.rank_data import MAX_NAME_B
from perun_hpc.data_model.wording import cut
from perun_hpc.energy.region_energy import Method
from perun_hpc.errors import DataError
from perun_hpc.files import write_all
from perun_hpc.process import child, confine
from perun_hpc.process.log import log
from perun_hpc.wire.packet import receive_packet, send_packet

USER = "perun-parse"
CPU_S = 60
"""CPU time in which what the ranks of a session handed over must have been read; the most costs half of that."""
PATIENCE_S = 300
"""A process that has not ended by then is killed: it reads local files."""
BEGIN_S = 10.0
MAX_RESULT_B = 64 << 20
"""Regions of a session take a few MiB (`regions.MAX_RECORD_B`)."""
MAX_PROBLEMS, MAX_PROBLEM_B = 20, 400
NO_MEMORY = 12
"""Exit code of a process that had too little memory."""
_BEGUN = b"begun"


class Reader:
    """The node's reader as agent and shipping children see it; where `socket` is None they do without."""

    def __init__(self, service_uid: int) -> None:
        """Start it, as root; it says what became of it (`poll`). OSError: no process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            # Sessions that ship when the agent has ended still want it: it ends when nobody holds its socket.
            self.child = child.start("reader", partial(_serve, theirs, service_uid), (theirs.fileno(),), outlives=True)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self.socket: socket.socket | None = ours

    def poll(self) -> None:
        """Log once that there is none."""
        if self.socket is None:
            return
        try:
            why = self.socket.recv(MAX_PROBLEM_B).decode(errors="replace")
        except BlockingIOError:
            return
        except OSError as error:
            why = str(error)
        log(f"what ranks hand over is read as the user of the agent: {why or 'the reader has ended'}")
        self.close()

    def close(self) -> None:
        """Let it end, as soon as no child ships any more."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None
        self.child.poll()


def account(service_uid: int) -> pwd.struct_passwd:
    """The second service account; DataError where it is none of its own."""
    try:
        found = pwd.getpwnam(USER)
    except KeyError:
        raise DataError(f"there is no user {USER}; docs/install.md says how to make one") from None
    if found.pw_uid in (0, service_uid):
        raise DataError(f"{USER} is the same user as {'root' if found.pw_uid == 0 else 'the service user'}")
    return found


def _serve(requests: socket.socket, service_uid: int) -> int:
    """The reader's life: become nobody that matters, then fork a process for each session."""
    try:
        privilege.become(account(service_uid))
    except (DataError, OSError) as error:
        requests.send(str(error)[:MAX_PROBLEM_B].encode())
        return 0
    privilege.refuse_calls((*confine.KERNEL, *confine.EXECUTE, *confine.NETWORK))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for its children
    while True:
        with contextlib.suppress(DataError):
            packet, fds = receive_packet(requests)
            if not packet:
                return 0
            try:
                if len(fds) == 1:
                    with contextlib.suppress(OSError):  # whoever asked hears nothing, and does it itself
                        child.start("reading", partial(_one, fds[0], Bounds.decoded(packet)), fds)
            finally:
                for fd in fds:
                    os.close(fd)


@dataclass(frozen=True)
class Bounds:
    """What a session's process may take: memory, priority, CPUs."""

    memory_b: int
    nice: int
    cpus: tuple[int, ...]

    @classmethod
    def of_this_process(cls, memory_b: int) -> Bounds:
        """So much memory, and besides as whoever asks."""
        return cls(memory_b, os.getpriority(os.PRIO_PROCESS, 0), tuple(os.sched_getaffinity(0)))

    @classmethod
    def decoded(cls, packet: bytes) -> Bounds:
        """As they came over the socket; DataError where they are none."""
        try:
            return codec.decode(cls, json.loads(packet))
        except (*codec.MISFITS, RecursionError) as error:
            raise DataError(f"no bounds: {error}") from error

    def take(self) -> None:
        """Take them on: whatever is read here cannot raise them."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, self.nice)
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, self.cpus)
        limits.bound(resource.RLIMIT_DATA, data_b() + self.memory_b, for_good=True)
        limits.bound(resource.RLIMIT_CPU, CPU_S, for_good=True)
        limits.bound(resource.RLIMIT_FSIZE, MAX_RESULT_B, for_good=True)
        limits.bound(resource.RLIMIT_CORE, 0, for_good=True)


def _one(fd: int, bounds: Bounds) -> None:
    """One session: its process, and what became of that; both end after a time."""
    signal.alarm(PATIENCE_S)
    with socket.socket(fileno=fd) as asked:
        asked.send(_BEGUN)
        process = child.start("reading", partial(_read, asked, bounds), (fd,))
        asked.send(str(process.wait()).encode())


def _read(asked: socket.socket, bounds: Bounds) -> int:
    """Read what is handed over the socket, file by file, and write what was found into the first one."""
    bounds.take()
    privilege.refuse_calls((*confine.KERNEL, *confine.EXECUTE, *confine.NETWORK, *confine.OTHERS))
    try:
        _, (into, *curves) = receive_packet(asked)
        curve = Curve((), ())
        for fd in curves:
            with os.fdopen(fd, "rb") as file:
                curve = Curve.of(file)
        rows, problems, cpu_ns = regions.of_ranks(curve, _files(asked))
        found = json.dumps([rows, problems, [[*who, ns] for who, ns in cpu_ns.items()]], separators=(",", ":")).encode()
        write_all(into, found, 0)
    except MemoryError:
        return NO_MEMORY
    return 0


def _files(asked: socket.socket) -> Iterator[tuple[Handed, BinaryIO]]:
    """Every rank's, as they come; an empty word ends them."""
    while True:
        packet, fds = receive_packet(asked)
        if not fds:
            return
        yield codec.decode(Handed, json.loads(packet)), os.fdopen(fds[0], "rb")


# Whoever ships.


def read_regions(reader: socket.socket | None, memory_b: int, directory: Path, record: Mapping[str, Any]) -> Found:
    """The regions of a session and what could not be read, by a process that may take so much memory.

    DataError where that process fails or says what cannot be: a fault of what was handed over.
    """
    handed = list(regions.handed_over(directory, record))
    if not handed:
        return Found([], [], {})
    into = os.memfd_create("regions", os.MFD_CLOEXEC)
    try:
        with _begun(reader, Bounds.of_this_process(memory_b)) as asked:
            with contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError):  # why is to be heard yet
                _hand_over(asked, into, directory, handed)
            code = _heard(asked)
        if code != "0":
            raise DataError(f"the process that read them {_words(code, memory_b)}")
        return checked(os.pread(into, MAX_RESULT_B, 0), [one for one, _ in handed])
    finally:
        os.close(into)


def _begun(reader: socket.socket | None, bounds: Bounds) -> socket.socket:
    """A socket to a process that reads one session: of the node's reader if there is one."""
    for there in (reader, None) if reader is not None else (None,):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(PATIENCE_S if there is None else BEGIN_S)
        with contextlib.suppress(OSError if there is not None else TimeoutError), theirs:
            if there is not None:
                send_packet(there, json.dumps(codec.encode(bounds)).encode(), (theirs.fileno(),))
            else:
                child.start("reading", partial(_one, theirs.fileno(), bounds), (theirs.fileno(),))
            theirs.close()
            if ours.recv(len(_BEGUN)) == _BEGUN:
                ours.settimeout(PATIENCE_S)
                return ours
        ours.close()
    raise DataError("no process began to read them")


def _hand_over(asked: socket.socket, into: int, directory: Path, handed: Sequence[tuple[Handed, Path]]) -> None:
    """Give the process its files, opened: it could open none of them."""
    with contextlib.ExitStack() as opened:
        files = [into]
        with contextlib.suppress(FileNotFoundError):
            files.append(opened.enter_context((directory / CURVE).open("rb")).fileno())
        send_packet(asked, b"into", files)
    for one, path in handed:
        with path.open("rb") as file:
            send_packet(asked, json.dumps(codec.encode(one)).encode(), (file.fileno(),))
    send_packet(asked, b"end")


def _heard(asked: socket.socket) -> str:
    """The last word over a socket; that the other end left something unread is said before it, once."""
    for _ in range(2):
        with contextlib.suppress(ConnectionResetError):
            try:
                return asked.recv(16).decode(errors="replace")
            except TimeoutError:
                break
    return ""


def _words(code: str, memory_b: int) -> str:
    if code == str(NO_MEMORY):
        return f"took more than its {memory_b >> 20} MiB of memory"
    if code == str(-signal.SIGXCPU):
        return f"took more than its {CPU_S} s of CPU time"
    if not code:
        return f"did not end within {PATIENCE_S} s, or was killed"
    return f"was killed by signal {code[1:]}" if code.startswith("-") else f"failed with code {code}"


def checked(data: bytes, handed: Sequence[Handed]) -> Found:
    """What a process says that it found of these ranks; DataError where that cannot be: it may be a user's by now."""
    ranks = {(one.step_id, one.rank) for one in handed}
    try:
        rows, problems, used = json.loads(data)
        found = [_row(row, ranks) for row in rows[: regions.MAX_RECORD]]
        cpu_ns = dict(_used(one, ranks) for one in used[: len(ranks)])
        return Found(found, [cut(str(one), MAX_PROBLEM_B) for one in problems[:MAX_PROBLEMS]], cpu_ns)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"the process that read them gave an impossible answer: {type(error).__name__}") from error


def _used(one: Sequence[Any], ranks: Collection[tuple[int, int]]) -> tuple[tuple[int, int], int]:
    step_id, rank, ns = one
    if (step_id, rank) not in ranks or type(ns) is not int or not 0 <= ns < 1 << 62:
        raise ValueError("no CPU time of these ranks")
    return (step_id, rank), ns


def _row(row: Mapping[str, Any], ranks: Collection[tuple[int, int]]) -> dict[str, Any]:
    numbers = {key: row[key] for key in regions.NUMBERS}
    sound = all(type(number) is int and abs(number) < 1 << 63 for number in numbers.values())
    if not sound or (row["step_id"], row["rank"]) not in ranks:
        raise ValueError("no region of these ranks")
    method = Method(row["method"]).value
    ran = activity.parsed(row.get("ran"))
    shown = {"ran": list(ran)} if ran else {}
    return {**numbers, "name": cut(str(row["name"]), MAX_NAME_B), "method": method, **shown}
