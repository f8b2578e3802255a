"""The node's agent: one thread, one loop; readings at every job's edges and on the grid, records at every job's end."""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc._version import __version__
from perun_hpc.agent import booking, intervals, machine, spool
from perun_hpc.agent.boundary import Cost, boundary_record
from perun_hpc.agent.intervals import Intervals, Stretch
from perun_hpc.agent.node import JobUse, Node, Snapshot, resident_b
from perun_hpc.agent.paths import AgentPaths
from perun_hpc.agent.policy import PolicyKeeper
from perun_hpc.agent.server import Peer, Server, listen
from perun_hpc.agent.session import Edge, Session, SessionKey, job_fields
from perun_hpc.agent.shipping import Shipper
from perun_hpc.energy.attribute import JobInput
from perun_hpc.errors import AccessError, DataError, PerunError
from perun_hpc.sampling.schedule import Schedule
from perun_hpc.wire.message import Message, decode

if TYPE_CHECKING:
    from perun_hpc.config.schema import Agent as AgentSettings

SECOND_NS = 1_000_000_000
#: Backends that are read inside the loop; those that can hang live in workers.
INLINE = ("powercap", "hwmon", "cray_pm", "procstat")
HOUSEKEEPING_NS = 10 * SECOND_NS
#: A session whose job has no process and no cgroup any more is given up after this time.
LOST_NS = 600 * SECOND_NS
#: Sealed sessions are remembered this long, so that a hook's message that comes twice changes nothing.
REMEMBER_NS = 86_400 * SECOND_NS
STATE_SCHEMA = "perun.node-state/1"


@dataclass(frozen=True)
class Options:
    """What the command line decides."""

    run_dir: Path
    spool: Path
    root: Path
    policy: Path
    foreground: bool = False


def run(options: Options) -> int:
    """Be the node's agent until nothing is left to do; returns the exit code. A second agent ends at once."""
    paths = AgentPaths(options.run_dir, options.spool, options.root)
    os.umask(0o027)
    make_directories(paths)
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    node = Node.open(options.root, INLINE)
    listener = listen(paths.socket)
    agent = Agent(options, paths, node, listener)
    agent.resume()
    agent.loop()
    return 0


def make_directories(paths: AgentPaths) -> None:
    """Create what is missing of the run directory and the spool."""
    paths.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    paths.run_dir.chmod(0o755)
    paths.inbox.mkdir(mode=0o700, exist_ok=True)
    paths.spool.mkdir(mode=0o750, parents=True, exist_ok=True)
    paths.sessions.mkdir(mode=0o750, exist_ok=True)
    paths.node.mkdir(mode=0o750, exist_ok=True)


class Agent:
    """Sessions, intervals and the loop that serves them."""

    def __init__(self, options: Options, paths: AgentPaths, node: Node, listener: socket.socket) -> None:
        self._paths = paths
        self._node = node
        self._boot = machine.boot_id(options.root)
        self._sensors = intervals.energy_counters(node.sensors)
        self._domains = {domain.name: domain for domain in intervals.domains_of(node.sensors)}
        self._intervals = Intervals(tuple(self._domains.values()), machine.topology(options.root), {})
        self._policy = PolicyKeeper(options.policy, paths.policy)
        self._shipper = Shipper(paths)
        self._selector = selectors.DefaultSelector()
        self._server = Server(listener, self._selector, self._on_message, time.monotonic_ns)
        self._sessions: dict[SessionKey, Session] = {}
        self._uses: dict[SessionKey, JobUse] = {}
        self._done: dict[str, int] = {}
        self._sealing: list[Session] = []
        self._last: Snapshot | None = None
        self._ledger: tuple[str, int] = ("", 0)
        self._ledger_lines: list[str] = []
        self._after: list[Callable[[], None]] = []
        self._started_ns = time.monotonic_ns()
        self._idle_since_ns = self._started_ns
        self._housekeeping_ns = self._started_ns + SECOND_NS
        self._stopping = False
        self._node_cpus = os.cpu_count() or 1
        now_ns, real_ns = time.monotonic_ns(), time.time_ns()
        self._interval = Schedule.starting(10 * SECOND_NS, now_ns, real_ns)
        self._wake, wake_write = socket.socketpair()
        self._wake.setblocking(False)
        wake_write.setblocking(False)
        self._wake_write = wake_write
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._selector.register(self._wake, selectors.EVENT_READ, self._drain_wake)

    # The loop.

    def loop(self) -> None:
        """Serve until stopped, or until nothing was to do for the linger time."""
        while not self._finished():
            timeout_ns = max(0, self._due_ns() - time.monotonic_ns())
            for key, _ in self._selector.select(timeout_ns / SECOND_NS):
                key.data()
            after, self._after = self._after, []
            for work in after:
                work()
            self._tick()
        self._close()

    def _due_ns(self) -> int:
        due = [self._interval.due_mono_ns, self._housekeeping_ns]
        if self._shipper.due_ns is not None and not self._shipper.busy:
            due.append(self._shipper.due_ns)
        return min(due)

    def _tick(self) -> None:
        now_ns = time.monotonic_ns()
        self._interval = self._interval.observe(now_ns, time.time_ns())
        tick, self._interval = self._interval.take(now_ns)
        if tick is not None:
            self._end_interval()
            self._save()
        if self._policy.poll():
            self._settle_policy()
        if self._policy.settled:
            self._seal_ended()
        self._shipper.poll(now_ns)
        if self._shipper.due_ns is not None and now_ns >= self._shipper.due_ns and self._policy.settled:
            self._shipper.start(Path(self._policy.site(self._node.name).store.archive), now_ns)
        if now_ns >= self._housekeeping_ns:
            self._housekeeping_ns = now_ns + HOUSEKEEPING_NS
            self._housekeep(now_ns)

    def _finished(self) -> bool:
        if self._stopping:
            return True
        if self._sessions or self._sealing or self._shipper.busy or not self._policy.settled or self._settings().resident:
            self._idle_since_ns = time.monotonic_ns()
            return False
        return time.monotonic_ns() - self._idle_since_ns > self._settings().linger_ns

    def _settings(self) -> AgentSettings:
        return self._policy.site(self._node.name).agent

    def _on_signal(self, number: int, frame: object) -> None:
        self._stopping = True

    def _drain_wake(self) -> None:
        try:
            while self._wake.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _housekeep(self, now_ns: int) -> None:
        self._policy.check()
        self._server.sweep()
        self._read_inbox()
        self._done = {name: end_ns for name, end_ns in self._done.items() if now_ns - end_ns < REMEMBER_NS}

    def _close(self) -> None:
        """A closing reading, so that the next agent can bridge the time in between."""
        self._end_interval()
        self._seal_ended()
        self._save()
        self._server.close()
        self._node.close()

    # Readings and intervals.

    def _end_interval(self) -> Snapshot:
        """Read everything; the reading ends one interval and starts the next."""
        snapshot = self._node.read()
        uses = {key: self._node.use(session) for key, session in self._sessions.items()}
        if self._last is not None:
            self._book(snapshot, self._stretch(self._last, snapshot, uses))
        else:
            self._intervals.begin(snapshot.mono_ns, snapshot.readings)
        self._last = snapshot
        self._uses = uses
        return snapshot

    def _stretch(self, before: Snapshot, after: Snapshot, uses: dict[SessionKey, JobUse]) -> Stretch:
        jobs = []
        for key, session in self._sessions.items():
            use, used = uses[key], self._uses.get(key, JobUse())
            if use.cpus:
                session.cpus = sorted(use.cpus)
            cpu_ns = None if use.cpu_ns is None else use.cpu_ns - (used.cpu_ns or 0)
            session.cpu_ns = use.cpu_ns or session.cpu_ns
            session.mem_peak_b = max(session.mem_peak_b, use.mem_peak_b or 0)
            session.suspended = bool(use.suspended)
            jobs.append(
                JobInput(
                    party=key.party,
                    cpus=frozenset(session.cpus),
                    cpu_ns=cpu_ns,
                    suspended=session.suspended,
                    exclusive=session.job.get("exclusive", "").lower() in ("1", "yes", "true"),
                )
            )
        busy_ns = {cpu: busy - before.busy_ns.get(cpu, 0) for cpu, busy in after.busy_ns.items()}
        return Stretch(before.mono_ns, after.mono_ns, busy_ns, tuple(jobs))

    def _book(self, snapshot: Snapshot, stretch: Stretch) -> None:
        closed = self._intervals.add(stretch, snapshot.readings)
        middle_ns = snapshot.real_ns - (stretch.t1_ns - stretch.t0_ns) // 2
        day = booking.local_day(middle_ns)
        booking.book(closed, list(self._sessions.values()), self._domains, day)
        live = frozenset(key.party for key in self._sessions)
        self._write_ledger(day, [intervals.ledger_line(window, live) for window in closed])

    def _write_ledger(self, day: str, lines: list[dict[str, Any]]) -> None:
        import json

        self._ledger_lines += [json.dumps(line, separators=(",", ":")) for line in lines]
        try:
            self._ledger = (day, spool.append_lines(self._paths.ledger(day), self._ledger_lines))
            self._ledger_lines.clear()
        except OSError as error:
            self._log(f"node ledger: {error}")
            del self._ledger_lines[:-10_000]

    # Messages.

    def _on_message(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        handlers: dict[str, Callable[[Message, Peer, tuple[int, ...]], dict[str, str]]] = {
            "job-start": self._job_start,
            "job-end": self._job_end,
            "status": self._status,
            "reload": self._reload,
            "stop": self._stop,
        }
        handler = handlers.get(message.verb)
        if handler is None:
            raise DataError(f"verb {message.verb!r} is not known here")
        return handler(message, peer, fds)

    def _only_root(self, peer: Peer) -> None:
        if peer.uid not in (0, os.geteuid()):
            raise AccessError("only root may say that")

    def _job_start(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        self._only_root(peer)
        self._begin(message, "hook")
        return {}

    def _job_end(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        self._only_root(peer)
        self._finish(message, "hook")
        return {}

    def _begin(self, message: Message, source: str) -> None:
        key = SessionKey.of(message.fields)
        hook_ns = _number(message, "hook_mono_ns", time.monotonic_ns())
        if key in self._sessions or self._done.get(key.name, -1) >= hook_ns:
            return
        job = job_fields(message.fields)
        snapshot = self._end_interval()
        session = Session(
            key=key,
            job=job,
            settings={},
            policy_hash="",
            boot_id=self._boot,
            start=Edge(snapshot.real_ns, snapshot.mono_ns, max(0, snapshot.mono_ns - hook_ns), source),
            edges_start=booking.take_edge(snapshot.readings, self._sensors),
            agent_cpu_ns=time.process_time_ns(),
        )
        self._note_failed_edge(session, snapshot, "start")
        self._sessions[key] = session
        self._after.append(lambda: self._after_start(session))

    def _after_start(self, session: Session) -> None:
        """What may wait until the hook has its answer."""
        self._policy.check()
        self._uses[session.key] = self._node.use(session)
        self._paths.session(session.key.name).mkdir(mode=0o750, exist_ok=True)
        if self._policy.settled:
            self._settle_policy()
        self._save()

    def _settle_policy(self) -> None:
        """Freeze the settings of sessions that have none yet."""
        if self._policy.refused:
            self._log(f"policy: {self._policy.refused}; the last good one rules")
        for session in self._sessions.values():
            if not session.settings:
                settings = self._policy.settings(session.job, session.job.get("node", self._node.name))
                session.settings = settings.to_json()
                session.policy_hash = settings.policy_hash

    def _finish(self, message: Message, source: str) -> None:
        key = SessionKey.of(message.fields)
        hook_ns = _number(message, "hook_mono_ns", time.monotonic_ns())
        session = self._sessions.get(key)
        if session is None:
            if self._done.get(key.name, -1) >= 0:
                return
            snapshot = self._end_interval()
            start = Edge(snapshot.real_ns, snapshot.mono_ns, 0, "epilog")
            session = Session(key, job_fields(message.fields), {}, "", self._boot, start)
            session.note("no job-start message")
            self._sessions[key] = session
        else:
            snapshot = self._end_interval()
        session.job = {**job_fields(message.fields), **session.job}
        self._end_session(session, snapshot, max(0, snapshot.mono_ns - hook_ns), source)
        session.exit = {
            name: message.fields[name] for name in ("exit_code", "exit_code2", "derived_ec") if name in message.fields
        }

    def _end_session(self, session: Session, snapshot: Snapshot, late_ns: int, source: str) -> None:
        session.end = Edge(snapshot.real_ns, snapshot.mono_ns, late_ns, source)
        session.edges_end = booking.take_edge(snapshot.readings, self._sensors)
        session.agent_cpu_ns = time.process_time_ns() - session.agent_cpu_ns
        self._note_failed_edge(session, snapshot, "end")
        del self._sessions[session.key]
        self._uses.pop(session.key, None)
        self._node.forget(session)
        self._done[session.key.name] = snapshot.mono_ns
        self._sealing.append(session)
        self._after += [self._policy.check, self._save]

    def _note_failed_edge(self, session: Session, snapshot: Snapshot, which: str) -> None:
        for sensor in self._sensors:
            reading = snapshot.readings[sensor.id]
            if reading.ticks is None:
                session.note(f"no {which} reading of {sensor.domain}: {reading.error}")

    def _seal_ended(self) -> None:
        """Write the boundary records of ended sessions; what a full disk refuses stays in memory."""
        waiting, self._sealing = self._sealing, []
        for session in waiting:
            try:
                self._seal(session)
            except OSError as error:
                self._log(f"cannot seal {session.key.name}: {error}")
                self._sealing.append(session)
        if len(waiting) > len(self._sealing):
            self._save()
            self._shipper.request(time.monotonic_ns())

    def _seal(self, session: Session) -> None:
        assert session.end is not None
        record = boundary_record(
            session,
            session.end,
            self._sensors,
            session.job.get("node", self._node.name),
            self._node_cpus,
            Cost(session.agent_cpu_ns, resident_b(), os.getpid()),
            booking.standard_uj(session, self._domains),
            (),
        )
        self._paths.session(session.key.name).mkdir(mode=0o750, exist_ok=True)
        spool.write_json(self._paths.boundary(session.key.name), record, durable=True)

    def _status(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        sessions = [s for s in self._sessions.values() if peer.uid in (0, os.geteuid(), s.uid)]
        return {
            "version": __version__,
            "uptime_ns": str(time.monotonic_ns() - self._started_ns),
            "pid": str(os.getpid()),
            "sessions": " ".join(session.key.name for session in sessions)[:16384],
            "rss_b": str(resident_b()),
            "cpu_ns": str(time.process_time_ns()),
            "sensors": str(len(self._node.sensors)),
        }

    def _reload(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        self._only_root(peer)
        self._policy.check()
        return {}

    def _stop(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        self._only_root(peer)
        self._stopping = True
        return {}

    # What survives a kill.

    def _read_inbox(self) -> None:
        """Take the messages that hooks left, in the order in which the hooks ran."""
        for path in sorted(self._paths.inbox.glob("*.msg")):
            try:
                message = decode(path.read_bytes())
                if message.verb == "job-start":
                    self._begin(message, "inbox")
                elif message.verb == "job-end":
                    self._finish(message, "inbox")
            except PerunError as error:
                self._log(f"inbox: {path.name}: {error}")
            path.unlink(missing_ok=True)

    def _save(self) -> None:
        if self._last is None:
            return
        state = {
            "schema": STATE_SCHEMA,
            "boot_id": self._boot,
            "mono_ns": self._last.mono_ns,
            "real_ns": self._last.real_ns,
            "readings": {
                one.id: [self._last.readings[one.id].ticks, self._last.readings[one.id].mono_ns]
                for one in self._sensors
            },
            "busy_ns": {str(cpu): busy for cpu, busy in self._last.busy_ns.items()},
            "uses": {key.name: use.cpu_ns for key, use in self._uses.items()},
            "ledger": list(self._ledger),
            "sessions": [session.to_json() for session in [*self._sessions.values(), *self._sealing]],
            "done": self._done,
        }
        try:
            spool.write_json(self._paths.state, state)
        except OSError as error:
            self._log(f"state: {error}")

    def resume(self) -> None:
        """Continue where the last agent of this node stopped, then take what the hooks left."""
        self._end_interval()
        self._read_inbox()

    def _log(self, text: str) -> None:
        print(time.strftime("%FT%T%z"), text, file=sys.stderr, flush=True)


def _number(message: Message, key: str, default: int) -> int:
    text = message.fields.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else default
