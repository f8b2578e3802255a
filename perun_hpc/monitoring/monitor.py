"""Runs an application once and measures it on this host: `PerunMonitor`."""

from __future__ import annotations

import contextlib
import enum
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from perun_hpc.comm import Comm, Place, launch_key, slurm_step
from perun_hpc.config.user import flat, settings
from perun_hpc.data_model.perun_names import BACKENDS
from perun_hpc.errors import NotFoundError, PerunError, UsageError
from perun_hpc.monitoring import address, callbacks
from perun_hpc.monitoring.application import Application
from perun_hpc.monitoring.enrol import enrol, reachable
from perun_hpc.monitoring.outcome import Result, call
from perun_hpc.monitoring.rundir import RunDirectory, claim
from perun_hpc.monitoring.shared import Event

if TYPE_CHECKING:
    from perun_hpc.backend.backend import Backend
    from perun_hpc.data_model.data import DataNode
    from perun_hpc.monitoring.child import Ended
    from perun_hpc.monitoring.orders import Orders
    from perun_hpc.monitoring.shared import Queue
    from perun_hpc.monitoring.spawn import SamplingProcess

PERUN_MP_START_METHOD: str = "spawn"
"""How the sampling process is started: it inherits nothing of the application, no lock, no library, no MPI."""


def __getattr__(name: str) -> Any:
    if name == "log":  # this module's logger; `logging` is imported by whoever asks for it
        import logging

        return logging.getLogger(__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class MonitorStatus(enum.Enum):
    """Where a monitor stands.

    Attributes
    ----------
    SETUP : made, nothing started.
    READY : the sampling process has taken its first reading.
    RUNNING : the application runs.
    PROCESSING : it has ended and its data are being evaluated; what a good run returns.
    SCRIPT_ERROR : the application raised, or ended with a code other than 0.
    PERUN_ERROR : something else of perun's failed: its data could not be kept or evaluated.
    SP_ERROR : the sampling process did not start, or was lost; the application ran all the same.
    MPI_ERROR : other ranks' data did not arrive.
    FILE_NOT_FOUND : there is no such script or command.
    CLOSED : `close` was called.
    """

    SETUP = enum.auto()
    READY = enum.auto()
    RUNNING = enum.auto()
    PROCESSING = enum.auto()
    SCRIPT_ERROR = enum.auto()
    PERUN_ERROR = enum.auto()
    SP_ERROR = enum.auto()
    MPI_ERROR = enum.auto()
    FILE_NOT_FOUND = enum.auto()
    CLOSED = enum.auto()


class Assigned(NamedTuple):
    """Sensors that this rank owns: those of a backend, all that the configuration selects if `sensors` is empty."""

    backend: str
    sensors: tuple[str, ...] = ()

    @classmethod
    def of(cls, key: str, entry: Sequence[Any]) -> Assigned:
        """An entry of `l_assigned_sensors`, whatever tuple it is: one of these, (backend, names), or, under the name of
        the sensor, (backend, ...) as perun 1.0 has it."""
        first = str(entry[0]) if entry else key
        backend = {theirs: ours for ours, theirs in BACKENDS.items()}.get(first, first)
        if isinstance(entry, cls) or (len(entry) == 2 and isinstance(entry[1], (tuple, list, set, frozenset))):
            return cls(backend, tuple(map(str, entry[1])))
        return cls(backend, () if key in (first, backend) else (f"{re.escape(key)}$",))


COME_S, READY_S = 3.0, 10.0
"""How long the ranks of a host wait for the one that samples: until it makes itself known, and until it is ready."""

OF_RANKS = ("amdsmi", "nvml")
"""Backends of devices that a launcher may show to one rank of a host alone."""

DEFAULT_SENSORS: dict[str, tuple[Any, ...]] = {"*": Assigned("*")}
"""Whatever the machine has, with the estimate where nothing measures power."""


class PerunMonitor:
    """Runs an application and measures it.

    Parameters
    ----------
    app : what to run.
    comm : the ranks of this launch; the leader of a host samples, the others only run.
    backends : by name, where the sensors come from; empty for the default ones.
    l_assigned_sensors : sensors that this rank owns, tuples by sensor or backend (see `Assigned.of`); empty: it samples
    nothing.
    config : as `perun_hpc.config.user.load` returns it; frozen here.

    Attributes
    ----------
    status : `MonitorStatus`.
    sp_ready_event, start_event, stop_event, close_event : shared with the sampling process of the run in progress;
    they, the queue and the process have the methods of their namesakes in `multiprocessing`.
    queue : brings its one final message (path, status, error); None while there is no sampling process.
    perunSP : the sampling process, None while there is none.
    data : tree of the last run, also if the application raised; None where nothing was recorded on this rank.
    directory : of the last run.
    """

    def __init__(
        self,
        app: Application,
        comm: Comm,
        backends: dict[str, Backend],
        l_assigned_sensors: dict[str, tuple[Any, ...]],
        config: ConfigParser,
    ) -> None:
        self._app = app
        self._comm = comm
        self._backends = backends
        self._l_sensors_config = l_assigned_sensors
        self._config = config
        self._settings = settings(config)
        self.status = MonitorStatus.SETUP
        self.sp_ready_event, self.start_event, self.stop_event, self.close_event = Event(), Event(), Event(), Event()
        self.queue: Queue | None = None
        self.perunSP: SamplingProcess | None = None
        self._prepared: SamplingProcess | None = None
        self.data: DataNode | None = None
        self.directory: RunDirectory | None = None
        self.live_files: tuple[str, ...] = ()
        self.agent_socket: str | None = None
        self._by_agent = False
        self._rounds = 0

    def adopt(self, process: SamplingProcess) -> None:
        """Use a sampling process that was started before this object, and its events, for the next recorded run."""
        self.sp_ready_event, self.start_event, self.stop_event, self.close_event, _ = process.signals
        self._prepared = process

    def close(self) -> None:
        """End a sampling process that is still there; a second call does nothing."""
        self.close_event.set()
        self._reap()
        if self._prepared is not None:
            self._prepared.end()
        self.status = MonitorStatus.CLOSED

    def run_application(self, run_id: str, record: bool = True) -> tuple[MonitorStatus, DataNode | None, Any]:
        """Run the application once.

        Whatever a callable raises reaches the caller after its data was saved; the tree is then in `data`. What goes
        wrong in perun is a warning and the status PERUN_ERROR; the application's result stays what it is.

        Parameters
        ----------
        run_id : id of the tree; empty: the round's number, from 0. Where the configuration names none, the first one is
        the id of the directory, too; empty: the start time, `SLURM`: the job's id.
        record : False runs it without measuring, as warm-up rounds are.

        Returns
        -------
        The status; the run's tree, None if nothing was recorded by this rank; the application's result: what the
        callable returned, or the exit code of a command (128 + N for signal N).

        Raises
        ------
        UsageError
            After `close`.
        """
        if self.status is MonitorStatus.CLOSED:
            raise UsageError("this monitor was closed: make a new PerunMonitor")
        self.data = None
        if not record:
            return self._run_bare()
        try:
            command = None if self._app.function is not None else self._app.command()
        except NotFoundError:
            self.status = MonitorStatus.FILE_NOT_FOUND
            return self.status, None, None
        number, self._rounds = self._rounds, self._rounds + 1
        place, rank_server = self._comm.place, ""
        # Ranks that call a function and have no word of each other: each host's is a run of its own.
        alone = command is None and (place.source == "torchrun" or self._comm.why is not None)
        samples = joins = False
        status = MonitorStatus.SP_ERROR  # unless it is something else that keeps it from being measured
        try:
            try:
                if self.directory is None and (place.leader or not alone):
                    at = Place() if alone else place
                    wanted = self._settings.run_id or run_id or None
                    self.directory = claim(Path(self._settings.data_out), self._app.name, wanted, at)
                self._by_agent = command is not None and reachable(os.environ, self.agent_socket)
                samples = place.leader and bool(self._l_sensors_config) and not self._by_agent
                if samples:
                    rank_server = address.make(_desk_name(self._comm, number) or _own_name())
                    measures = self._start_sampling(run_id, number, rank_server)
                else:
                    measures = True
                    if command is not None and not self._by_agent:
                        rank_server = _register(_desk_name(self._comm, number), place)
                        joins = bool(rank_server)
                    if joins and self._l_sensors_config and _sees_gpus():
                        self._start_sampling(run_id, number, rank_server, claims=True)
            except Exception as error:  # whatever it is, the application is not to suffer from it
                callbacks.warn(f"{error}: the application runs unmeasured")
                measures, status = False, MonitorStatus.PERUN_ERROR
            if not measures:
                self.status = status
                result = self._run(command, "", record=False)
                return self.status, None, result.value()
            self.status = MonitorStatus.RUNNING
            self.start_event.set()
            result = self._run(command, rank_server, record=True)
            self.status = MonitorStatus.PROCESSING
            try:
                self._work_up(result, run_id, number, rank_server if joins else "", samples, alone)
                if result.trouble is not None:
                    raise result.trouble
            except Exception as error:  # the application has ended as it has
                callbacks.warn(f"this run's data could not be evaluated ({type(error).__name__}: {error})")
                self.status = MonitorStatus.PERUN_ERROR
            if result.failed and self.status is MonitorStatus.PROCESSING:
                self.status = MonitorStatus.SCRIPT_ERROR
        finally:
            try:
                self._reap()
                if samples:
                    address.remove(rank_server)
            except Exception as error:
                callbacks.warn(f"{error}: perun leaves something behind")
        return self.status, self.data, result.value()

    def _work_up(self, result: Result, run_id: str, number: int, joined: str, samples: bool, alone: bool) -> None:
        """Make the run's tree of what there is, or hand over this rank's part; `joined`: its rank server."""
        if joined and result.ended is not None:
            _tell_end(joined, result.ended)
        if self.perunSP is not None and not samples:
            self.stop_event.set()
            self._final()
        if samples:
            self._collect(result, number, alone)
        elif self._by_agent:
            self.data = agent_node(str(number), os.environ, result.ended) if self._comm.place.rank == 0 else None
        elif result.rank_data:
            self._comm.gather_host(result.rank_data, self._settings.queue_timeout)
        if self.data is not None and run_id:
            self.data.metadata["round"] = self.data.id
            self.data.id = self.directory.run_id if run_id == "SLURM" and self.directory else run_id

    def _run_bare(self) -> tuple[MonitorStatus, DataNode | None, Any]:
        try:
            command = None if self._app.function is not None else self._app.command()
        except NotFoundError:
            self.status = MonitorStatus.FILE_NOT_FOUND
            return self.status, None, None
        self.status = MonitorStatus.RUNNING
        result = self._run(command, "", record=False)
        self.status = MonitorStatus.SCRIPT_ERROR if result.failed else MonitorStatus.PROCESSING
        return self.status, None, result.value()

    # The application.

    def _run(self, command: list[str] | None, rank_server: str, record: bool) -> Result:
        place = self._comm.place
        key = self.directory.run_id if self.directory else "0"
        rank = {
            "PERUN_SOCKET": rank_server, "PERUN_OWNER": str(os.geteuid()),
            "PERUN_JOB": f"{key}.0", "PERUN_STEP": "0", "PERUN_RANK": str(place.rank),
            "PERUN_LOCAL_RANK": str(place.host_rank), "PERUN_NTASKS": str(place.size), "PERUN_NNODES": str(place.hosts),
        }  # fmt: skip

        if command is None:
            return call(self._app, rank if record else None)
        from perun_hpc.monitoring import child

        def environ(pid: int) -> Mapping[str, str]:
            # Called in the child: it is the process that the agent is to know.
            try:
                known = rank
                if self._by_agent:
                    known = enrol(command, os.environ, self.agent_socket) or {**rank, "PERUN_SOCKET": ""}
                return self._app.environ(os.environ, known, pid) if record else os.environ
            except Exception:  # what is to run runs
                return os.environ

        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or its reader is gone
            sys.stdout.flush()
        self._app.ended = replace(child.run(command, environ), rank=place.rank)
        return Result(ended=self._app.ended)

    # The sampling process.

    def _start_sampling(self, run_id: str, number: int, rank_server: str, claims: bool = False) -> bool:
        from perun_hpc.monitoring.orders import Orders

        assert self.directory is not None
        chosen = self._settings
        assigned = [Assigned.of(key, entry) for key, entry in self._l_sensors_config.items()]
        names = {one.backend for one in assigned}
        # Where some entries name sensors, those that do not stand for all of their backend.
        wanted = tuple(
            sensor for one in assigned for sensor in (one.sensors or (re.escape(one.backend.strip("*")),))
        ) * any(one.sensors for one in assigned)
        place = self._comm.place
        host = os.uname().nodename.split(".", 1)[0]
        orders = Orders(
            directory=str(self.directory.host(number, f"{host}.{place.rank}" if claims else host).absolute()),
            run_id=self.directory.run_id,
            host=host,
            period_ns=chosen.period_ns,
            backends=OF_RANKS if claims else None if "*" in names else tuple(sorted(names)),
            include_backends=chosen.include_backends,
            exclude_backends=chosen.exclude_backends,
            include_sensors=wanted or chosen.include_sensors,
            exclude_sensors=chosen.exclude_sensors,
            socket=rank_server,
            parent=os.getpid(),
            # The ranks of a function are there or not, and hand nothing in at the rank server.
            ranks=max(0, place.host_size - 1) if place.size > 1 and self._app.function is None else 0,
            live=() if claims else self.live_files,
            claims=claims,
            app=self._app.name,
            config=flat(chosen),
        )
        return self._spawn(orders)

    def _spawn(self, orders: Orders) -> bool:
        from perun_hpc.monitoring.spawn import SamplingProcess

        for event in (self.sp_ready_event, self.start_event, self.stop_event):
            event.clear()
        events = self.sp_ready_event, self.start_event, self.stop_event, self.close_event
        try:
            self.perunSP, self._prepared = self._prepared or SamplingProcess(events), None
            self.perunSP.give(orders)
        except OSError as error:
            callbacks.warn(f"the sampling process could not be started ({error}); the application runs unmeasured")
            return False
        self.queue = self.perunSP.signals.queue
        # What is needed later is imported while the other side starts.
        import perun_hpc.monitoring.child
        import perun_hpc.monitoring.gather  # noqa: F401

        deadline = self._settings.queue_timeout
        while not self.sp_ready_event.wait(0.1):
            deadline -= 0.1
            if deadline <= 0 or not self.perunSP.is_alive():
                why = (
                    self._final()[2]
                    if not self.perunSP.is_alive()
                    else f"not ready after {self._settings.queue_timeout:g} s"
                )
                callbacks.warn(f"the sampling process did not start ({why}); the application runs unmeasured")
                return False
        self.status = MonitorStatus.READY
        return True

    def _final(self) -> tuple[str, str, str]:
        """The sampling process' final message; a failure if it never comes. Waits as long as the process lives."""
        assert self.queue is not None
        assert self.perunSP is not None
        try:
            path, state, error = self.queue.get()
        except EOFError:
            self.perunSP.join()
            return "", "failed", f"it ended with code {self.perunSP.exitcode}"
        return path, state, error

    def _reap(self) -> None:
        process, self.perunSP, self.queue = self.perunSP, None, None
        if process is None:
            return
        self.stop_event.set()
        process.join(1.0)
        process.end()

    # What came of it.

    def _collect(self, result: Result, number: int, alone: bool) -> None:
        from perun_hpc.monitoring.gather import collect, of_host

        parts = of_host(self._comm, result, self._settings)  # while it samples: others may still be at work
        self.stop_event.set()
        path, state, error = self._final()
        if state != "complete":
            callbacks.warn(f"the sampling process failed ({error}); this run has no figures")
            # One that says why did its part until perun could not go on.
            self.status = MonitorStatus.PERUN_ERROR if path else MonitorStatus.SP_ERROR
            return
        assert self.directory is not None
        try:
            self.data, missing = collect(
                self._comm, self.directory, number, Path(path), self._settings, result, parts, alone
            )
        except (PerunError, OSError, ValueError) as problem:
            callbacks.warn(f"this run's data could not be evaluated ({problem}); they stay in {path}")
            self.status = MonitorStatus.PERUN_ERROR
            return
        if missing:
            callbacks.warn(missing)
            self.status = MonitorStatus.MPI_ERROR


def agent_node(run_id: str, environ: Mapping[str, str], ended: Ended | None) -> DataNode:
    """The tree of a run that the node's agent measures: what is known here, and which job to ask for the rest."""
    from perun_hpc.data_model.data import Aggregate, DataNode, Metric, MetricType, NodeType

    job = {"job_id": environ["SLURM_JOB_ID"], "step_id": slurm_step(environ)}
    node = DataNode(run_id, NodeType.RUN, metadata={"state": "complete", **job})
    if ended is not None:
        runtime_s = (ended.end_ns - ended.start_ns) / 1e9
        node.metrics[MetricType.RUNTIME] = Metric(MetricType.RUNTIME, runtime_s, Aggregate.MAX)
    return node


def _desk_name(comm: Comm, number: int) -> str:
    """The name under which the ranks of this host find their rank server in this round; empty where they share none."""
    import zlib

    key = launch_key(os.environ) if comm.place.size > 1 else None
    return f"perun-{os.geteuid()}-{zlib.crc32(os.fsencode(key)):08x}-{number}" if key else ""


def _own_name() -> str:
    """A name that nobody can foresee."""
    return f"perun-{os.geteuid()}-{os.urandom(8).hex()}"


def _sees_gpus() -> bool:
    """Whether a GPU may be here that the leader of this host is not shown (Slurm's ConstrainDevices, containers)."""
    import ctypes

    from perun_hpc.backend.nvml import LIBRARY

    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return Path("/dev/kfd").exists()
    return True


def _register(name: str, place: Place) -> str:
    """Register a rank that is about to start with the leader's sampling process; it waits for this process to end.

    Returns the address of its rank server; empty where it does not come (the leader's command is started without perun,
    say), and at once where nobody knows where to look (a PID namespace of its own).
    """
    from perun_hpc.errors import PerunError
    from perun_hpc.wire.client import request

    if not name:
        if place.host_rank == 1:
            callbacks.warn("ranks of this host cannot find each other here; the regions of all but the first are lost")
        return ""
    fd, begin_s, wait_s = os.pidfd_open(os.getpid()), time.monotonic(), COME_S
    try:
        while time.monotonic() - begin_s < wait_s:
            for rank_server in address.find(name):
                wait_s = COME_S if rank_server.startswith("@") and wait_s == COME_S else READY_S
                with contextlib.suppress(PerunError):
                    request("rank-start", {"rank": str(place.rank)}, (fd,), 2.0, rank_server, os.geteuid())
                    return rank_server
            time.sleep(0.05)
        callbacks.warn(f"rank {place.rank}: the sampling process of this host does not answer; its regions are lost")
        return ""
    finally:
        os.close(fd)


def _tell_end(rank_server: str, ended: Ended) -> None:
    """Report to the leader's sampling process how a rank's command ended."""
    from perun_hpc.data_model import codec
    from perun_hpc.errors import PerunError
    from perun_hpc.wire.client import request

    fields = {name: str(value) for name, value in codec.encode(ended).items()}
    with contextlib.suppress(PerunError):  # the leader has ended, or was killed
        request("rank-end", fields, (), 2.0, rank_server, os.geteuid())
