"""Who else belongs to this run: ranks, hosts and the hosts' leaders, with MPI or without.

The only module that talks MPI. It is handed the `mpi4py.MPI` module by whoever knows that the application has
initialised it, except in `Comm.detect`. Everything travels on a duplicate of the world, as bytes. Standard library
otherwise, CPython 3.9 on: it also runs in the user's interpreter.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where a rank sits, as an environment or MPI tells it.

    Attributes
    ----------
    rank, size : in the world.
    host_rank, host_size : among the ranks of its host; size 0 means unknown.
    host_index, hosts : which host, of how many; hosts 0 means unknown.
    source : `mpi`, the name of the environment it was read from, or `alone`.
    """

    rank: int = 0
    size: int = 1
    host_rank: int = 0
    host_size: int = 1
    host_index: int = 0
    hosts: int = 1
    source: str = "alone"

    @property
    def leader(self) -> bool:
        """Whether this is the one rank of its host that owns what the host has once."""
        return self.host_rank == 0


ENVIRONMENTS: tuple[tuple[str, str, str, str, str, str], ...] = (
    # name, rank, size, rank on the host, ranks on the host, number of hosts
    (
        "openmpi",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
        "",
    ),
    ("mpich", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", ""),
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", ""),
    ("slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "", "SLURM_NNODES"),
)
"""What launchers set, in the order in which they are believed: the innermost first."""


def place_from(environ: Mapping[str, str]) -> Place:
    """The place that a launcher's environment names; alone if there is none, or it is not whole."""
    for source, rank, size, host_rank, host_size, hosts in ENVIRONMENTS:
        if source == "slurm" and environ.get("SLURM_STEP_ID", "") in ("", "4294967291", "4294967290"):
            continue  # a batch script or an allocation's shell is not a step's task
        try:
            place = Place(
                rank=int(environ[rank]),
                size=int(environ[size]),
                host_rank=int(environ[host_rank]),
                host_size=int(environ[host_size]) if host_size else slurm_host_size(environ),
                hosts=int(environ[hosts]) if hosts else 0,
                source=source,
            )
        except (KeyError, ValueError):
            continue
        if 0 <= place.rank < place.size and place.host_rank >= 0:
            return place
    return Place()


def slurm_host_size(environ: Mapping[str, str]) -> int:
    """How many tasks of the Slurm step share this node, by `SLURM_STEP_TASKS_PER_NODE` (`2(x3),1`); 0 if unknown."""
    counts: list[int] = []
    try:
        for part in environ["SLURM_STEP_TASKS_PER_NODE"].split(","):
            tasks, _, times = part.partition("(x")
            counts += [int(tasks)] * min(int(times.rstrip(")") or 1), 1 << 16)
        return counts[int(environ["SLURM_NODEID"])]
    except (KeyError, ValueError, IndexError):
        return 0


def run_key(environ: Mapping[str, str]) -> str:
    """A name that all ranks of one launch share and no other launch has; without a launcher, this process'.

    Slurm's step, Open MPI's name space or torchrun's id if they are there, else the parent process: MPICH's ranks of a
    host are children of one proxy.
    """
    if environ.get("SLURM_STEP_ID", "").isdigit() and "SLURM_JOB_ID" in environ:
        return f"{environ['SLURM_JOB_ID']}.{environ.get('SLURM_RESTART_COUNT', '0')}.{environ['SLURM_STEP_ID']}"
    for name in ("PMIX_NAMESPACE", "TORCHELASTIC_RUN_ID"):
        if environ.get(name, "none") != "none":
            return "".join(char if char.isalnum() or char in "-." else "-" for char in environ[name])
    pid = os.getppid() if place_from(environ).size > 1 else os.getpid()
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:  # noqa: PTH123 (pathlib is not loaded)
        started = stat.read().rpartition(")")[2].split()[19]
    return f"{os.uname().nodename.split('.', 1)[0]}.{pid}.{started}"


class Comm:
    """The ranks of a run; with MPI a duplicate of the world, split per host and by the hosts' leaders.

    Parameters
    ----------
    mpi : the `mpi4py.MPI` module after MPI was initialised. Making the object is then collective over the world.
        Without it the object knows its place from the environment and talks to nobody.
    environ : where to look without MPI.
    """

    def __init__(self, mpi: Any = None, environ: Mapping[str, str] = os.environ) -> None:
        self._mpi = mpi
        self.why: str | None = None
        self._world: Any = None
        self._host: Any = None
        self._leaders: Any = None
        self._unsent: list[Any] = []
        if mpi is None:
            self.place = place_from(environ)
            return
        self._world = mpi.COMM_WORLD.Dup()
        self._world.Set_errhandler(mpi.ERRORS_RETURN)
        rank, size = self._world.Get_rank(), self._world.Get_size()
        self._host = self._world.Split_type(mpi.COMM_TYPE_SHARED, rank, mpi.INFO_NULL)
        host_rank, host_size = self._host.Get_rank(), self._host.Get_size()
        self._leaders = self._world.Split(0 if host_rank == 0 else mpi.UNDEFINED, rank)
        numbers = bytearray(struct.pack("<2q", 0, 0))
        if host_rank == 0:
            struct.pack_into("<2q", numbers, 0, self._leaders.Get_rank(), self._leaders.Get_size())
        self._host.Bcast([numbers, mpi.BYTE], 0)
        index, hosts = struct.unpack("<2q", numbers)
        self.place = Place(rank, size, host_rank, host_size, index, hosts, "mpi")

    @classmethod
    def detect(cls, environ: Mapping[str, str] = os.environ) -> Comm:
        """MPI if the application has it running or its launcher set it up, else the environment's place.

        `why` says what is wrong if a launcher started several ranks and mpi4py does not work.
        """
        module = sys.modules.get("mpi4py.MPI")
        if module is not None and module.Is_initialized() and not module.Is_finalized():
            return cls(module)
        comm = cls(None, environ)
        if comm.place.source in ("openmpi", "mpich"):
            try:
                from mpi4py import MPI
            except Exception as error:
                comm.why = f"the launcher started {comm.place.size} ranks, but mpi4py does not work: {error}"
                return comm
            if MPI.Is_initialized() and MPI.COMM_WORLD.Get_size() == comm.place.size:
                return cls(MPI)
            comm.why = (
                f"the launcher started {comm.place.size} ranks, but mpi4py sees one: it belongs to another MPI "
                f"({MPI.Get_library_version().splitlines()[0]})"
            )
        return comm

    def Get_rank(self) -> int:
        """This rank's number in the world."""
        return self.place.rank

    def Get_size(self) -> int:
        """How many ranks the world has."""
        return self.place.size

    @property
    def talks(self) -> bool:
        """Whether the ranks can exchange anything."""
        return self._world is not None

    def gather(self, data: bytes, timeout_s: float = 10.0) -> list[bytes | None] | None:
        """Everybody's bytes at rank 0, by way of the hosts' leaders; None at the others.

        Point to point and with a time limit at each stage, so that a rank that never comes costs the time and its own
        place in the list (None), not a hang.
        """
        if not self.talks:
            return [data] if self.place.rank == 0 else None
        at_host = self.gather_host(struct.pack("<2q", self.place.rank, len(data)) + data, timeout_s)
        if at_host is None:
            return None
        # A leader waits twice as long as its members: the slowest host's members use up the first share.
        at_world = self.gather_leaders(b"".join(part for part in at_host if part), 2 * timeout_s)
        if at_world is None:
            return None
        result: list[bytes | None] = [None] * self.place.size
        for part in at_world:
            for rank, content in _unpack(part or b""):
                if 0 <= rank < len(result):
                    result[rank] = content
        return result

    def gather_host(self, data: bytes, timeout_s: float = 10.0) -> list[bytes | None] | None:
        """The first stage: the bytes of this host's ranks at its leader, None at the others."""
        return self._collect(self._host, data, timeout_s) if self.talks else [data]

    def gather_leaders(self, data: bytes, timeout_s: float = 10.0) -> list[bytes | None] | None:
        """The second stage, called by leaders: their bytes at rank 0, None at the others."""
        return self._collect(self._leaders, data, timeout_s) if self.talks else [data]

    def _collect(self, comm: Any, data: bytes, timeout_s: float) -> list[bytes | None] | None:
        """Everybody's bytes at rank 0 of `comm`, None for who did not send in time; None at the others."""
        mpi, rank, size = self._mpi, comm.Get_rank(), comm.Get_size()
        deadline_s = time.monotonic() + timeout_s
        if rank != 0:
            request = comm.Isend([data, mpi.BYTE], 0, _TAG)
            if not _wait(request.Test, deadline_s):
                self._unsent.append((request, data))  # MPI may still read it
            return None
        parts: list[bytes | None] = [data] + [None] * (size - 1)
        waiting = set(range(1, size))

        def probe() -> bool:
            status = mpi.Status()
            while waiting and comm.Iprobe(mpi.ANY_SOURCE, _TAG, status):
                source = status.Get_source()
                buffer = bytearray(status.Get_count(mpi.BYTE))
                comm.Recv([buffer, mpi.BYTE], source, _TAG)
                parts[source] = bytes(buffer)
                waiting.discard(source)
            return not waiting

        _wait(probe, deadline_s)
        return parts

    def close(self) -> None:
        """Give the communicators back; collective. Nothing of ours is left in MPI."""
        for comm in (self._leaders, self._host, self._world):
            if comm is not None and comm != self._mpi.COMM_NULL:
                comm.Free()
        self._world = self._host = self._leaders = None


_TAG = 17


def _wait(done: Any, deadline_s: float) -> bool:
    pause_s = 1e-5
    while not done():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.01)
    return True


def _unpack(data: bytes) -> list[tuple[int, bytes]]:
    parts, at = [], 0
    while at + 16 <= len(data):
        rank, length = struct.unpack_from("<2q", data, at)
        parts.append((rank, data[at + 16 : at + 16 + length]))
        at += 16 + length
    return parts
