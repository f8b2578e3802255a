"""Who else belongs to this run: ranks, hosts and the hosts' leaders, with MPI or without.

The only module that talks MPI. It is handed the `mpi4py.MPI` module by whoever knows that the application has
initialised it, except in `Comm.detect`. A collective call is made only after a meeting (`inject/meeting.py`) at which
all that make it were present. Everything travels on a duplicate of the world, as bytes. Standard library otherwise,
CPython 3.9 on: it also runs in the user's interpreter.
"""

from __future__ import annotations

import itertools
import os
import struct
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from perun_hpc.inject import meeting


class Place(NamedTuple):
    """Where a rank sits, as an environment or MPI says.

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
"""What launchers set, in the order in which they are trusted: the innermost first."""


ORDINARY_STEPS_END = 0xFFFFFFF0
"""Above it stand Slurm's batch, external, interactive and pending steps."""


def slurm_step(environ: Mapping[str, str]) -> str | None:
    """The id of the Slurm step that this process is a task of; None in a batch script and in an allocation's shell.

    Those have no `SLURM_STEP_ID`, one beyond the ordinary steps (22.05: 4294967290), or a negative one (26.05: -5, -6).
    """
    text = environ.get("SLURM_STEP_ID", "")
    return text if text.isascii() and text.isdigit() and int(text[:11]) < ORDINARY_STEPS_END else None


def place_from(environ: Mapping[str, str]) -> Place:
    """The place that a launcher's environment names; alone if there is none, or it is not whole."""
    for source, rank, size, host_rank, host_size, hosts in ENVIRONMENTS:
        if source == "slurm" and slurm_step(environ) is None:
            continue
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
    """How many tasks of the Slurm step share this node, by `SLURM_GTIDS` (`4,5`) or `SLURM_STEP_TASKS_PER_NODE`
    (`2(x3),1`); 0 if unknown."""
    if environ.get("SLURM_GTIDS"):
        return environ["SLURM_GTIDS"].count(",") + 1
    counts: list[int] = []
    try:
        for part in environ["SLURM_STEP_TASKS_PER_NODE"].split(","):
            tasks, _, times = part.partition("(x")
            counts += [int(tasks)] * min(int(times.rstrip(")") or 1), 1 << 16)
        return counts[int(environ["SLURM_NODEID"])]
    except (KeyError, ValueError, IndexError):
        return 0


def run_key(environ: Mapping[str, str]) -> str:
    """A name that all ranks of one launch share and no other launch has or had; without a launcher, this process'."""
    return launch_key(environ) or f"{_host()}.{meeting.process(os.getpid())}"


def launch_key(environ: Mapping[str, str]) -> str | None:
    """The name that the ranks of a launch share on all hosts (`shared_key`), else one for each host's: that of the
    process that started them (MPICH: a proxy). None where that cannot be seen: no launcher, a PID namespace per rank.
    """
    shared = shared_key(environ)
    if shared is not None:
        return shared
    source = place_from(environ).source
    rank = next((rank for name, rank, *_ in ENVIRONMENTS if name == source), None)
    parent = "" if rank is None else meeting.process(_launcher(rank))
    return f"{_host()}.{parent}" if parent else None


def _host() -> str:
    return os.uname().nodename.split(".", 1)[0]


def shared_key(environ: Mapping[str, str]) -> str | None:
    """A name that the ranks of a launch share on all its hosts: Open MPI's name space, Slurm's step or torchrun's id;
    None where the launcher gives none."""
    step = slurm_step(environ)
    if "OMPI_COMM_WORLD_RANK" not in environ and step is not None and "SLURM_JOB_ID" in environ:
        return f"{environ['SLURM_JOB_ID']}.{environ.get('SLURM_RESTART_COUNT', '0')}.{step}"
    for name in ("PMIX_NAMESPACE", "TORCHELASTIC_RUN_ID"):
        if environ.get(name, "none") != "none":
            return "".join(char if char.isalnum() or char in "-." else "-" for char in environ[name])
    return None


class Seat(NamedTuple):
    """A rank among those of its host, as they are to meet outside of MPI.

    Attributes
    ----------
    number, of : this rank's number on its host, and how many ranks the launcher started there; 0 where unknown.
    name : that they share and no others on this host; empty where there is none.
    """

    number: int = 0
    of: int = 0
    name: str = ""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Seat:
        """As the MPI launcher or Slurm set the environment of this process."""
        place = place_from({key: environ[key] for key in environ if key.startswith(_LAUNCHERS)})
        for source, rank, *_ in ENVIRONMENTS:
            if source == place.source:
                starter, launch = meeting.process(_launcher(rank)), shared_key(environ)
                # Slurm's stepd may be hidden, so that its start is not known: the step's name keeps it apart.
                name = f"{starter}-{launch}" if starter and launch else starter
                return cls(place.host_rank, place.host_size, name)
        return cls()


_LAUNCHERS = ("OMPI_", "PMI_", "MPI_", "SLURM_")


def _launcher(rank: str) -> int:
    """The nearest ancestor that is no part of this rank, as it has not got the variable named `rank`: what started the
    ranks of this host. 0 where there is none in this PID namespace."""
    pid = os.getppid()
    while pid > 1:
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 (pathlib is not loaded)
                if f"\0{rank}=".encode() not in b"\0" + file.read():
                    break
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
                pid = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):  # another user's, as Slurm's stepd is root's
            break
    return pid


HOST_S = 1.0
"""How long the ranks of a host wait for each other when MPI was initialised: all leave that call together."""
WORLD_S = 10.0
"""How long all ranks wait for each other where the program's author asked for them to be gathered."""


def host_group(mpi: Any, seat: Seat) -> tuple[int, int] | None:
    """This rank's number among those of its host, and how many they are, from a communicator of those ranks alone.

    Each rank of the host calls this right after MPI was initialised, if it can; the communicator is made only if they
    all said so outside of MPI, else the answer is None: no rank waits for another one inside of MPI.
    """
    world = mpi.COMM_WORLD
    rank, size = world.Get_rank(), world.Get_size()
    if seat.of == 1 or (seat.of == 0 and size == 1):
        return 0, 1  # with certainty, and without a call
    if size == 1 or not 0 <= seat.number < seat.of or not seat.name or mpi.Get_version() < (3, 0):
        return None
    create = world.Create_group
    try:
        met = meeting.Meeting(meeting.on_host(f"{seat.name}-init"), seat.number, seat.of, rank, str(size))
    except OSError:
        return None
    with meeting.undisturbed():
        if not met.agreed(HOST_S):
            _at_exit(met.leave)
            return None
        group = world.Get_group()
        members = group.Incl(sorted(met.ranks() or ()))
        host = create(members, _TAG)
        number = host.Get_rank()
        host.Free()
    members.Free()
    group.Free()
    if number == 0:
        met.remove()
    met.close()
    return number, seat.of


def _at_exit(function: Any) -> None:
    import atexit

    atexit.register(function)


class Comm:
    """The ranks of a run; with MPI a duplicate of the world, split per host and by the hosts' leaders.

    Parameters
    ----------
    mpi : the `mpi4py.MPI` module after MPI was initialised. Making the object is then collective over the world, once
        all ranks have met; where one does not come in `WORLD_S` seconds, `why` says so, the object talks to nobody, and
        this process asks no second time. Without it the object knows its place from the environment.
    environ : where to look without MPI.
    shared : a directory that all hosts share, where ranks on several hosts meet.
    """

    def __init__(self, mpi: Any = None, environ: Mapping[str, str] = os.environ, shared: str = ".") -> None:
        self._mpi = mpi
        self.why: str | None = None
        self._world: Any = None
        self._host: Any = None
        self._leaders: Any = None
        self._unsent: list[Any] = []
        self.place = place_from(environ)
        if mpi is None:
            return
        rank, size = mpi.COMM_WORLD.Get_rank(), mpi.COMM_WORLD.Get_size()
        with meeting.undisturbed():
            met = _all_here(environ, rank, size, "", shared) if size > 1 else None
            if met is not None or size == 1:
                self._split(met)
                return
        self.why = _NOT_ALL
        if self.place.size != size:
            self.place = Place(rank, size, rank, 0, 0, 0, "mpi")

    def _split(self, met: meeting.Meeting | None) -> None:
        """Make the communicators; collective, all ranks have met."""
        mpi = self._mpi
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
        if met is not None and rank == 0:
            met.remove()
        elif met is not None:
            met.close()

    @classmethod
    def detect(cls, environ: Mapping[str, str] = os.environ, shared: str = ".") -> Comm:
        """MPI if the application has it running or its launcher set it up, else the environment's place.

        `why` says what is wrong if a launcher started several ranks and they cannot talk over MPI.

        Parameters
        ----------
        environ : where the launcher's variables are looked for.
        shared : a directory that all hosts share, where ranks on several hosts meet.

        Returns
        -------
        The communicator; collective where MPI runs, or where a launcher of MPI started this process.
        """
        module = sys.modules.get("mpi4py.MPI")
        if module is not None and module.Is_initialized():
            return cls(None if module.Is_finalized() else module, environ, shared)
        comm = cls(None, environ)
        if comm.place.source in ("openmpi", "mpich"):
            try:
                import mpi4py
            except Exception as error:
                comm.why = f"the launcher started {comm.place.size} ranks, but mpi4py does not work: {error}"
                return comm
            if not mpi4py.rc.initialize:
                comm.why = f"the launcher started {comm.place.size} ranks, but this program initialises MPI later"
                return comm
            with meeting.undisturbed():
                # To import mpi4py.MPI initialises MPI, which is collective, too. The same file works for all or none.
                world = f"{sys.implementation.cache_tag}:{mpi4py.__file__}:{environ.get('MPI4PY_LIBMPI', '')}"
                met = _all_here(environ, comm.place.rank, comm.place.size, "".join(world.split()), shared)
                if met is None:
                    comm.why = _NOT_ALL
                    return comm
                try:
                    from mpi4py import MPI
                except Exception as error:
                    comm.why = f"the launcher started {comm.place.size} ranks, but mpi4py does not work: {error}"
                    return comm
                if MPI.Is_initialized() and MPI.COMM_WORLD.Get_size() == comm.place.size:
                    comm._mpi = MPI
                    comm._split(met)
                    return comm
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

        Parameters
        ----------
        data : what this rank sends.
        timeout_s : of the first stage, in seconds; the second one may take twice as long.

        Returns
        -------
        The bytes by rank, None for who sent nothing in time; None at all ranks but 0. Without MPI this rank's alone.
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
        """The first stage: the bytes of this host's ranks at its leader, None at the others.

        Parameters
        ----------
        data : what this rank sends.
        timeout_s : how long it waits, in seconds.

        Returns
        -------
        The bytes in the order of the host's ranks, None for who sent nothing in time; None at all but the leader.
        """
        return self._collect(self._host, data, timeout_s) if self.talks else [data]

    def gather_leaders(self, data: bytes, timeout_s: float = 10.0) -> list[bytes | None] | None:
        """The second stage, called by leaders: their bytes at rank 0, None at the others.

        Parameters
        ----------
        data : what this rank sends.
        timeout_s : how long it waits, in seconds.

        Returns
        -------
        The bytes in the order of the leaders, None for who sent nothing in time; None at all ranks but 0.
        """
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
_NOT_ALL = f"not all ranks of this launch came within {WORLD_S:g} s: each host stays on its own"
_meetings = itertools.count()
_given_up = False


def _all_here(environ: Mapping[str, str], rank: int, size: int, world: str, shared: str) -> meeting.Meeting | None:
    """The meeting of all ranks of the launch before the same collective call; None if not all of them came.

    Once some rank has not come, this process asks no more.
    Ranks of one host meet in its shared memory, ranks of several in the directory `shared`.
    """
    global _given_up
    if _given_up:
        return None
    number, seat, met = next(_meetings), Seat.from_environ(environ), None
    try:
        if seat.of == size and seat.name:
            path = meeting.on_host(f"{seat.name}-{number}")
            met = meeting.Meeting(path, seat.number, size, rank, f"{size}{world}")
        elif (key := shared_key(environ) or _hydra_key()) is not None:
            path = os.path.join(shared, f".perun-meet-{key}-{number}")  # noqa: PTH118
            met = meeting.Meeting(path, rank, size, rank, f"{size}{world}", remote=True)
    except OSError:
        met = None
    if met is not None and met.agreed(WORLD_S):
        return met
    if met is not None:
        _at_exit(met.leave)
    _given_up = True
    return None


def _hydra_key() -> str | None:
    """The address of the mpiexec that started the proxy that started this process (MPICH), on whichever host."""
    try:
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:  # noqa: PTH123
            words = file.read().decode("utf-8", "replace").split("\0")
        return "hydra-" + words[words.index("--control-port") + 1].replace("/", "-")
    except (OSError, ValueError, IndexError):
        return None


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
