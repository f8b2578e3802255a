"""This process as one rank of a measured run: what it knows of itself, and how it hands its data over.

Armed by `inject/path/sitecustomize.py` in the user's own interpreter. No thread, no timer, no signal handler: two or
three system calls at the start, and at the end one message to whoever measures (the agent, or `perun monitor`).
Standard library only, CPython 3.9 on. Nothing here may raise into the application.
"""

from __future__ import annotations

import atexit
import os
import sys
import time

from perun_hpc.inject import closed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from perun_hpc.inject.regions import Recorder

TIMEOUT_S = 2.0
"""How long whoever measures may take to accept data."""
HASTE_S = 0.05
"""How long it may take to answer a question, and anything once this process, or its launcher, has waited in vain."""
HEAD_B = 64 * 1024
"""Space for the header line before the table of calls that others see grow."""
NAMED_AT_ONCE = 256
"""Names of regions that reach the live header one by one; later ones come in bunches of as many."""

current: Rank | None = None
"""The rank that this process is, None in a process that nobody measures."""


def memory_file(name: str) -> int:
    """A new anonymous file in memory that can be sealed; OSError where the kernel has none."""
    allow_sealing, close_on_exec = 2, 1
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name, allow_sealing | close_on_exec)
    # Pythons built against an old C library (conda) lack it; the running one has it.
    ctypes = closed.load("ctypes")
    fd = int(ctypes.CDLL(None, use_errno=True).memfd_create(name.encode(), allow_sealing | close_on_exec))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "memfd_create")
    return fd


def seal(fd: int) -> None:
    """Make a memory file unchangeable."""
    fcntl = closed.load("fcntl")
    add_seals, all_seals = 1033, 0x1 | 0x2 | 0x4 | 0x8  # F_ADD_SEALS; SEAL, SHRINK, GROW, WRITE
    fcntl.fcntl(fd, add_seals, all_seals)


class Rank:
    """One rank: its place in the job as the launcher said, its samples, its MPI topology."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        job_id, _, restart = settings.get("PERUN_JOB", "0.0").partition(".")
        self.socket = settings.get("PERUN_SOCKET", "")
        self._owner = int(settings["PERUN_OWNER"]) if settings.get("PERUN_OWNER") else None
        self.keys = {"job_id": job_id, "restart_count": restart or "0"}
        self.keys["step_id"] = settings.get("PERUN_STEP", "0")
        self.keys["rank"] = settings.get("PERUN_RANK", "0")
        self.local_rank = settings.get("PERUN_LOCAL_RANK", "0")
        self.ntasks = settings.get("PERUN_NTASKS", "1")
        self.nnodes = settings.get("PERUN_NNODES", "1")
        self.pid = os.getpid()
        # As the launcher set it: the program may change its own before it initialises MPI.
        self._launch = {
            key: os.environ[key] for key in os.environ if key.startswith(("SLURM_", "OMPI_", "PMI", "MPI_"))
        }
        self._timeout_s = HASTE_S if settings.get("PERUN_LATE") else TIMEOUT_S
        self._asks = True
        self.samples: list[tuple[int, int, int]] = []
        self.mpi: dict[str, Any] | None = None
        self.recorder: Recorder | None = None
        self._live = False
        self.sample()

    def sample(self) -> None:
        """Note this process' CPU time and peak memory."""
        resource = closed.load("resource", shared=False)
        used = resource.getrusage(resource.RUSAGE_SELF)
        self.samples.append((time.monotonic_ns(), int((used.ru_utime + used.ru_stime) * 1e9), used.ru_maxrss * 1024))

    def record(self, recorder: Recorder) -> None:
        """Let regions be recorded for this rank; they are announced when the first one is named."""
        self.recorder = recorder
        try:
            recorder.open(on_name=self.announce)
        except (OSError, ValueError, OverflowError):
            self.recorder = None

    def mpi_ready(self, mpi: Any) -> None:
        """MPI was initialised a moment ago: learn this rank's place, and on its host from those of its ranks that are
        at this point, too."""
        if os.getpid() != self.pid:
            return
        try:
            comm = closed.load("perun_hpc.comm")
            self.sample()
            rank, size = mpi.COMM_WORLD.Get_rank(), mpi.COMM_WORLD.Get_size()
            found = comm.host_group(mpi, comm.Seat.from_environ(self._launch))
            place = self._by_launcher(None if found else "not every rank of this host came to this point in time")
            place.update(
                rank=rank,
                size=size,
                thread_level=(
                    mpi.THREAD_SINGLE,
                    mpi.THREAD_FUNNELED,
                    mpi.THREAD_SERIALIZED,
                    mpi.THREAD_MULTIPLE,
                ).index(mpi.Query_thread()),
                library=mpi.Get_library_version().splitlines()[0].rstrip("\0"),
            )
            if found:
                place.update(host_rank=found[0], host_size=found[1], leader=found[0] == 0)
                if found[1] == size:
                    place.update(host_index=0, hosts=1)
            self.mpi = place
            self.announce()
        except Exception as error:  # ours, never the application's
            self.mpi_failed(f"{type(error).__name__}: {error}")

    def mpi_failed(self, why: str) -> None:
        """MPI cannot be asked; the launcher's environment says the place."""
        self.mpi = self._by_launcher(why)

    def _by_launcher(self, why: str | None) -> dict[str, Any]:
        """This rank's place as the launcher's environment says; `why` not as MPI does, None if it will."""
        node = self._launch.get("SLURM_NODEID", "")
        return {
            "rank": int(self.keys["rank"]),
            "size": int(self.ntasks),
            "host_rank": int(self.local_rank),
            "host_size": 0,
            "leader": self.local_rank == "0",
            "host_index": int(node) if node.isdigit() else 0,
            "hosts": int(self.nnodes),
            "thread_level": 0,
            "library": "",
            "why": why,
        }

    def announce(self) -> None:
        """Bring the live header up to date, and hand its memory over once, so that a killed rank loses nothing."""
        if self.recorder is None or os.getpid() != self.pid:
            return
        if len(self.recorder.names) > NAMED_AT_ONCE and len(self.recorder.names) % NAMED_AT_ONCE:
            return  # a name per iteration: each header would repeat them all
        try:
            live = closed.load("perun_hpc.data_model.rank_data").live
            self.recorder.write_head(live(self._about(), self.recorder.names, HEAD_B))
            if not self._live:
                self._live = True
                if self.recorder.has_fd():
                    self._send(self.recorder.fd, live=True)
        except Exception:  # the application goes on without it
            self._live = True

    def hand_over(self, end: str = "exit") -> None:
        """Send everything, sealed. Does nothing in a forked child, or when there is nothing that is not known from
        outside."""
        if os.getpid() != self.pid or not self.socket or (self.recorder is None and self.mpi is None):
            return
        try:
            fd = memory_file("perun-rank")
            try:
                with open(fd, "wb", closefd=False) as file:
                    for part in self.content(end):
                        file.write(part)
                seal(fd)
                self._send(fd, live=False)
            finally:
                os.close(fd)
        except Exception:  # nobody listens, no memory, an interpreter half gone: the application ends as it would
            return

    def content(self, end: str) -> tuple[bytes, ...]:
        """The final message: header line and tables."""
        self.sample()
        recorder = self.recorder
        calls, names, dropped = b"", [], 0
        if recorder is not None:
            calls, names, dropped = recorder.table(), recorder.names, recorder.count()[1]
        final = closed.load("perun_hpc.data_model.rank_data").final
        parts: tuple[bytes, ...] = final(self._about(), end, names, calls, self.samples, dropped)
        return parts

    def energy(self) -> tuple[int, int] | None:
        """The host's energy in uJ and the moment (monotonic ns) up to which it counts, as the agent or the sampling
        process says it; None if nobody does. One that does not answer in `HASTE_S` is not asked again."""
        if not self._asks:
            return None
        answer = self.ask("window", "energy_uj", "mono_ns", timeout_s=HASTE_S)
        return None if answer is None else (int(answer[0]), int(answer[1]))

    def ask(self, verb: str, *names: str, timeout_s: float = TIMEOUT_S) -> list[str] | None:
        """These values of the answer to a question about this run; None if there is none."""
        if not self.socket:
            return None
        keys = {name: self.keys[name] for name in ("job_id", "restart_count")}
        try:
            reply = closed.load("perun_hpc.wire.client").request(
                verb, keys, timeout_s=timeout_s, path=self.socket, owner=self._owner
            )
            return [reply.fields[name] for name in names] if reply.verb == "ok" else None
        except Exception:  # nobody listens, or speaks otherwise
            self._asks = False
            return None

    def _about(self) -> dict[str, Any]:
        """Whose data it is, as the header says it."""
        return {
            "step_id": self.keys["step_id"],
            "rank": int(self.keys["rank"]),
            "local_rank": int(self.local_rank),
            "ntasks": int(self.ntasks),
            "nnodes": int(self.nnodes),
            "pid": self.pid,
            "host": os.uname().nodename.split(".", 1)[0],
            "python": "{}.{}.{}".format(*sys.version_info),
            "mpi": self.mpi,
        }

    def _send(self, fd: int, live: bool) -> None:
        if not self.socket:
            return
        request = closed.load("perun_hpc.wire.client").request
        fields = dict(self.keys, live="1") if live else self.keys
        begin_s = time.monotonic()
        try:
            request("rank-data", fields, fds=(fd,), timeout_s=self._timeout_s, path=self.socket, owner=self._owner)
        finally:
            if time.monotonic() - begin_s >= self._timeout_s:
                self._timeout_s, self._asks = HASTE_S, False


def energy() -> tuple[int, int] | None:
    """`Rank.energy` of this process; None if it is no rank."""
    return None if current is None else current.energy()


def arm(settings: Mapping[str, str]) -> None:
    """Make this process the rank that `settings` (the launcher's environment) describe."""
    global current
    current = Rank(settings)
    atexit.register(current.hand_over)
    closed.load("perun_hpc.inject.mpi_watch").install(current)
