"""The node's agent: one thread, one loop; readings at every job's edges and on the grid, records at every job's end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc._version import __version__
from perun_hpc.agent import booking, holdings, intervals, limits, machine, privilege, ranks, spool, state
from perun_hpc.agent.boundary import Cost, boundary_record
from perun_hpc.agent.checks import Checks
from perun_hpc.agent.choice import Choice
from perun_hpc.agent.idling import Idling
from perun_hpc.agent.intervals import Intervals, Stretch
from perun_hpc.agent.learning import Figure, Learning
from perun_hpc.agent.node import JobUse, Node, Snapshot, resident_b
from perun_hpc.agent.paths import AgentPaths
from perun_hpc.agent.policy import PolicyKeeper
from perun_hpc.agent.porter import Porter
from perun_hpc.agent.server import Peer, Server, listen
from perun_hpc.agent.session import Edge, Gap, RankRun, Session, SessionKey, Step, job_fields
from perun_hpc.agent.shipping import Shipper
from perun_hpc.agent.workers import Worker, present
from perun_hpc.energy.attribute import GpuHolding, JobInput
from perun_hpc.energy.containment import Plan, scope_sentence
from perun_hpc.errors import AccessError, DataError, NotFoundError, PerunError
from perun_hpc.sampling.schedule import Schedule
from perun_hpc.wire.message import Message, decode

if TYPE_CHECKING:
    from perun_hpc.agent.trace import Trace
    from perun_hpc.config.resolve import JobSettings

SECOND_NS = 1_000_000_000
INLINE = ("powercap", "hwmon", "cray_pm", "procstat")
"""Backends that are read inside the loop; those that can hang live in workers."""
AS_ROOT = ("ipmi",)
"""Backends whose child begins before the agent becomes the service user."""
FIND_NS = 5 * SECOND_NS
"""So long a trace waits for children that are about to say what they have."""
GPU_BACKENDS = ("nvml", "amdsmi")
INTERVAL_NS = 10 * SECOND_NS
HOUSEKEEPING_NS = SECOND_NS
QUOTA_NS = 10 * SECOND_NS
LOST_NS = 600 * SECOND_NS
"""A session whose cgroup is gone is given up after this time."""
REMEMBER_NS = 86_400 * SECOND_NS
"""Sealed sessions are remembered this long, so that a hook's message that comes twice changes nothing."""
MAX_LINES = 10_000
"""Lines of the node ledger that are kept in memory while the disk takes none."""


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
    privilege.make_directories(paths)
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    node = Node.open(options.root, INLINE)
    node.workers.extend(Worker(name, options.root) for name in present(options.root))
    listener = listen(paths.socket)
    porter = Porter(paths)
    policy = PolicyKeeper(options.policy, paths.policy, paths.policy_kept)
    user = privilege.service_user(policy.service_user)
    if user is not None:
        for worker in node.workers:
            if worker.name in AS_ROOT:
                worker.tend(time.monotonic_ns())
        privilege.hand_over(paths.spool, user)
        privilege.hand_over(paths.private, user)
        privilege.become(user)
    if not options.foreground:
        spool.log_to(paths.log)
    if os.geteuid() == 0:
        why = f"no user {policy.service_user!r} to become: the agent stays root; create one"
        with contextlib.suppress(OSError):  # a full disk must not keep the agent from its work
            print(time.strftime("%FT%T%z"), why, file=sys.stderr, flush=True)
    agent = Agent(options, paths, node, listener, porter, policy)
    agent.resume()
    agent.loop()
    return 0


class Agent:
    """Sessions, intervals and the loop that serves them."""

    def __init__(
        self,
        options: Options,
        paths: AgentPaths,
        node: Node,
        listener: socket.socket,
        porter: Porter,
        policy: PolicyKeeper,
    ) -> None:
        now_ns, real_ns = time.monotonic_ns(), time.time_ns()
        self._paths = paths
        self._node = node
        self._boot = machine.boot_id(options.root)
        if policy.names_sensors:
            node.choose(Choice.of(policy.site(node.name)))
        self._sensors = intervals.energy_counters(node.sensors)
        self._domains = {domain.name: domain for domain in intervals.domains_of(node.sensors)}
        self._topology = machine.topology(options.root, intervals.packages(self._domains.values()))
        self._intervals = Intervals(tuple(self._domains.values()), self._topology)
        self._learning = Learning()
        self._idling = Idling()
        self._checks = Checks()
        self._policy = policy
        self._porter = porter
        self._shipper = Shipper(paths)
        self._selector = selectors.DefaultSelector()
        self._server = Server(listener, self._selector, self._on_message, time.monotonic_ns)
        self._sessions: dict[SessionKey, Session] = {}
        self._gone_ns: dict[SessionKey, int] = {}
        self._uses: dict[SessionKey, JobUse] = {}
        self._parent_cpu_ns: int | None = None
        self._static: Mapping[str, Figure] = {}
        self._traces: dict[SessionKey, Trace] = {}
        self._live_data: dict[tuple[SessionKey, int, int], int] = {}
        self._shown: dict[SessionKey, tuple[int, int]] = {}
        self._watched: set[int] = set()
        self._most_watched = machine.allow_files() // 3
        self._done: dict[str, int] = {}
        self._over: set[SessionKey] = set()
        self._sealing: list[Session] = []
        self._seal_again_ns = 0
        self._last: Snapshot | None = None
        self._points: list[tuple[int, int]] = []
        self._ledger: tuple[str, int] = ("", 0)
        self._ledger_lines: list[str] = []
        self._home = ("", node.name)
        self._after: list[Callable[[], None]] = []
        self._started_ns = self._idle_since_ns = now_ns
        self._housekeeping_ns = now_ns + HOUSEKEEPING_NS
        self._quota_ns = now_ns
        self._interval = Schedule.starting(self._longest_interval_ns(), now_ns, real_ns)
        self._stopping = False
        self._wake, self._wake_write = socket.socketpair()
        for end in (self._wake, self._wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)  # wakes the loop
        self._selector.register(self._wake, selectors.EVENT_READ, self._drain_wake)

    def _longest_interval_ns(self) -> int:
        """At most what the policy says, and a quarter of the shortest time in which a counter can wrap."""
        from perun_hpc.energy.counters import longest_poll_ns

        polls = [poll_ns for sensor in self._sensors if (poll_ns := longest_poll_ns(sensor)) is not None]
        most_ns = self._site().sampling.interval_ns if self._policy.settled else INTERVAL_NS
        return max(SECOND_NS // 10, min([most_ns, *polls]))

    # The loop.

    def loop(self) -> None:
        """Serve until stopped, or until nothing was to do for the linger time."""
        while not self._finished():
            ready = self._wait()
            self._server.turn()
            for key, _ in ready:
                key.data()
            after, self._after = self._after, []
            for work in after:
                work()
            self._tick()
        self._close()

    def _wait(self) -> list[tuple[selectors.SelectorKey, int]]:
        """Wait for a message until something is due; epoll counts whole milliseconds, the rest of the last is slept."""
        left_ms = (self._due_ns() - time.monotonic_ns()) // 1_000_000
        ready = self._selector.select((left_ms - 0.5) / 1000)
        left_ns = self._due_ns() - time.monotonic_ns()
        if not ready and 0 < left_ns < 1_000_000:
            time.sleep(left_ns / SECOND_NS)
        return ready

    def _due_ns(self) -> int:
        due = [self._interval.due_mono_ns, self._housekeeping_ns]
        due += [trace.schedule.due_mono_ns for trace in self._traces.values()]
        return min(due)

    def _tick(self) -> None:
        now_ns, real_ns = time.monotonic_ns(), time.time_ns()
        self._interval = self._interval.observe(now_ns, real_ns)
        tick, self._interval = self._interval.take(now_ns)
        snapshot = self._end_interval() if tick is not None else None
        if snapshot is not None:
            self._show(snapshot)
        self._sample(now_ns, real_ns, snapshot)
        if tick is not None:
            self._save()
        if self._policy.poll():
            self._settle_policy()
            self._choose()
        if self._sealing and self._policy.settled and now_ns >= self._seal_again_ns:
            self._seal_ended()
        self._shipper.poll(now_ns)
        if self._shipper.is_due(now_ns) and self._policy.settled:
            self._shipper.start(Path(self._site().store.archive), self._home, now_ns)
        if now_ns >= self._housekeeping_ns:
            self._housekeeping_ns = now_ns + HOUSEKEEPING_NS
            self._housekeep(now_ns)

    def _sample(self, now_ns: int, real_ns: int, snapshot: Snapshot | None) -> None:
        """Store a row in every trace that is due; whatever the number of jobs, the sensors are read once."""
        due = [(trace, tick) for trace in self._traces.values() if (tick := trace.take(now_ns, real_ns)) is not None]
        if not due:
            return
        if snapshot is None:
            snapshot = self._node.read()
            self._note_point(snapshot)
        for trace, tick in due:
            trace.add(tick, snapshot.readings)

    def _finished(self) -> bool:
        if self._stopping:
            return True
        if self._sessions or self._sealing or self._shipper.busy or not self._policy.settled:
            self._idle_since_ns = time.monotonic_ns()
            return False
        agent = self._site().agent
        return not agent.resident and time.monotonic_ns() - self._idle_since_ns > agent.linger_ns

    def _site(self) -> JobSettings:
        return self._policy.site(self._node.name)

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
        self._tend_workers(now_ns)
        for session in list(self._sessions.values()):
            if not session.cpus or now_ns - session.start.mono_ns < INTERVAL_NS:
                self._learn(session)
            self._begin_trace(session, now_ns)
            self._give_up_lost(session, now_ns)
        self._check_memory()
        if now_ns >= self._quota_ns and self._policy.settled:
            self._quota_ns = now_ns + QUOTA_NS
            self._guard("quota", self._keep_quota)
        self._guard("log", lambda: spool.bound_log(self._paths.log))
        horizon_ns = now_ns - REMEMBER_NS
        self._done = {name: end_ns for name, end_ns in self._done.items() if end_ns > horizon_ns}

    def _tend_workers(self, now_ns: int) -> None:
        """Start, ask and watch the children; account the sensors that one has just found."""
        allowed = self._site().sensors.backends if self._policy.settled else ()
        for worker in self._node.workers:
            chosen = worker.name in allowed or (self._policy.settled and not allowed)
            if worker.name in GPU_BACKENDS and self._lets_go():
                worker.release(None, "no job ran")
            elif chosen and worker.tend(now_ns):
                self._account_anew()
        readings = self._node.poll()
        if self._node.workers:
            self._checks.note(readings)
            self._idling.note(
                readings, self._intervals.static_uw, holdings.holders(self._sessions.values(), self._node)
            )

    def _lets_go(self) -> bool:
        """Whether the GPUs are nobody's now, by the policy; a job's start takes them again."""
        return self._policy.settled and not self._sessions and self._site().sensors.gpu_release == "when-idle"

    def _choose(self) -> None:
        """Account the sensors that the policy names, as often as it says."""
        choice = Choice.of(self._site())
        if choice == self._node.choice and self._interval.period_ns == self._longest_interval_ns():
            self._parametrise()
            return
        self._account_anew(choice)
        for one in self._node.not_there:
            self._log(f"{one.what}: {one.why}: {one.remedy}")

    def _account_anew(self, choice: Choice | None = None) -> None:
        """There are new sensors, or others count: the domains may be others from now on."""
        self._end_interval()
        self._node.choose(choice or self._node.choice)
        self._node.follow_gauges()
        self._sensors = intervals.energy_counters(self._node.sensors)
        self._domains = {domain.name: domain for domain in intervals.domains_of(self._node.sensors)}
        self._intervals.change(tuple(self._domains.values()))
        self._idling.follow(self._node.sensors)
        self._checks.follow(self._node.sensors)
        self._parametrise()
        self._interval = Schedule.starting(self._longest_interval_ns(), time.monotonic_ns(), time.time_ns())
        self._end_interval()

    def _parametrise(self) -> None:
        """Give the attribution what the policy, the vendors' libraries and idle times say of the domains."""
        energy = self._site().energy if self._policy.settled else None
        if energy is not None:
            self._intervals.node = replace(self._topology, kappa=(round(energy.kappa * 1000), 1000))
        self._static = self._learning.figures(self._domains.values(), energy)
        self._intervals.static_uw = {name: figure.uw for name, figure in self._static.items()}
        self._intervals.slices = {gpu.domain: gpu.slices for gpu in holdings.gpus_of(self._node) if gpu.slices}

    def _release_gpus(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        """Let go of all GPUs, for a reset; the next job's start takes them again."""
        self._only_root(peer)
        self._end_interval()
        for worker in self._node.workers:
            if worker.name in GPU_BACKENDS:
                worker.release(None, "the GPUs were released")
        return {}

    def _give_up_lost(self, session: Session, now_ns: int) -> None:
        """End a session whose job has no cgroup any more, if no hook tells of its end.

        A job that no agent saw start may have been over by then; any other one may still get its first cgroup.
        """
        had_one = bool(session.cpus) or session.start.source == "inbox"
        if self._uses.get(session.key, JobUse()).cpu_ns is not None or not had_one:
            self._gone_ns.pop(session.key, None)
        elif now_ns - self._gone_ns.setdefault(session.key, now_ns) > LOST_NS:
            del self._gone_ns[session.key]
            session.note("no job-end message")
            self._end_session(session, self._end_interval(), now_ns, "restart")

    def _keep_quota(self) -> None:
        """Drop the oldest traces, those of running jobs last, while the spool is above its quota."""
        excess_b = spool.size_b(self._paths.spool) - self._site().store.spool_quota_b
        if excess_b <= 0:
            return
        from perun_hpc.agent import quota

        if not self._shipper.busy:
            dropped, freed_b = quota.drop_waiting(self._paths, excess_b)
            excess_b -= freed_b
            for name in dropped:
                self._log(f"trace of {name}: {quota.WHY}")
        live = [key for key in self._traces if key in self._sessions]
        for key in sorted(live, key=lambda one: self._sessions[one].start.mono_ns):
            if excess_b <= 0:
                break
            directory = self._paths.session(key.name)
            excess_b -= spool.size_b(directory)
            self._traces.pop(key).discard(directory)
            self._sessions[key].trace = {"stored": False, "why": quota.WHY, "lost": True}
            self._log(f"trace of {key.name}: {quota.WHY}")

    def _check_memory(self) -> None:
        """End, rather than disturb a job, when the memory cap is exceeded; the next hook starts a fresh agent."""
        held_b = limits.over_memory(self._site().agent) if self._policy.settled else None
        if held_b is not None and not self._stopping:
            why = f"the agent exceeded its memory cap with {held_b} bytes and ended"
            self._log(why)
            for session in self._sessions.values():
                session.add_gap(Gap("agent", self._started_ns, time.monotonic_ns(), why))
            self._stopping = True

    def _learn(self, session: Session) -> None:
        """Look which CPUs the job got; its cgroup comes after its prolog, grows, and goes before its epilog."""
        use = self._node.use(session)
        if use.cpus:
            session.cpus = sorted(use.cpus)

    def _close(self) -> None:
        """A closing reading, so that the next agent can bridge the time in between."""
        self._end_interval()
        for key, trace in self._traces.items():
            self._guard(f"trace of {key.name}", trace.pause)
        if self._policy.settled:
            self._seal_ended()
        self._save()
        if self._policy.settled and not self._shipper.busy:
            self._shipper.start(Path(self._site().store.archive), self._home, time.monotonic_ns())
        self._server.close()
        self._porter.close()
        self._node.close()

    # Readings and intervals.

    def _end_interval(self) -> Snapshot:
        """Read everything; the reading ends one interval and starts the next."""
        snapshot = self._node.read(fresh=True)
        self._checks.note(snapshot.readings)
        uses = {key: self._node.use(one) for key, one in self._sessions.items() if key not in self._over}
        parent_cpu_ns = self._node.parent_cpu_ns() if self._sessions else None
        if self._last is None:
            self._intervals.begin(snapshot.mono_ns, snapshot.readings)
            self._points = [(snapshot.mono_ns, 0)]
        else:
            self._note_point(snapshot)
            self._book(snapshot, self._stretch(self._last, snapshot, uses, parent_cpu_ns))
        for session in self._sessions.values():
            booking.take_late_edges(session, snapshot.readings, self._sensors)
        self._last = snapshot
        self._uses = uses
        self._parent_cpu_ns = parent_cpu_ns
        return snapshot

    def _stretch(
        self, before: Snapshot, after: Snapshot, uses: Mapping[SessionKey, JobUse], parent_cpu_ns: int | None
    ) -> Stretch:
        spent: dict[SessionKey, int] = {}
        gone = []
        for key, use in uses.items():
            used = self._uses.get(key, JobUse())
            if use.cpu_ns is None:
                gone.append(key)
            else:
                spent[key] = max(0, use.cpu_ns - (used.cpu_ns or 0))
        if len(gone) == 1 and parent_cpu_ns is not None and self._parent_cpu_ns is not None:
            # The cgroup of an ended job is gone before Epilog; the one above it keeps the time.
            spent[gone[0]] = max(0, parent_cpu_ns - self._parent_cpu_ns - sum(spent.values()))
        jobs = []
        for key, use in uses.items():
            session = self._sessions[key]
            if use.cpus:
                session.cpus = sorted(use.cpus)
            session.cpu_ns += spent.get(key, 0)
            session.memory_b = use.memory_b or session.memory_b
            session.mem_peak_b = max(session.mem_peak_b, use.mem_peak_b or 0)
            session.suspended = bool(use.suspended)
            jobs.append(
                JobInput(
                    party=key.party,
                    cpus=frozenset(session.cpus) or self._guessed_cpus(session),
                    cpu_ns=spent.get(key),
                    memory_b=holdings.memory_b(session, self._topology),
                    suspended=session.suspended,
                    exclusive=self._alone(session),
                    gpus=self._gpus_of(session),
                )
            )
        busy_ns = {cpu: busy - before.busy_ns.get(cpu, 0) for cpu, busy in after.busy_ns.items()}
        return Stretch(before.mono_ns, after.mono_ns, busy_ns, tuple(jobs))

    def _gpus_of(self, session: Session) -> dict[str, GpuHolding]:
        """The GPUs that Slurm gave to the job, as energy domains."""
        names = session.job.get("gpus", "")
        return holdings.held(names, self._node) if names and self._node.workers else {}

    def _guessed_cpus(self, session: Session) -> frozenset[int]:
        """As many free CPUs as Slurm gave to a job whose cpuset nobody knows."""
        taken = {cpu for other in self._sessions.values() for cpu in other.cpus}
        free = [cpu for cpu in sorted(self._topology.core_of) if cpu not in taken]
        return frozenset(free[: session.cpus_on_node])

    def _alone(self, session: Session) -> bool:
        """Whether the job holds the whole node."""
        everything = len(self._topology.core_of)
        given = max(len(session.cpus), session.cpus_on_node)
        return session.exclusive or (len(self._sessions) == 1 and 0 < everything <= given)

    def _note_point(self, snapshot: Snapshot) -> None:
        """Add a point to the node's own curve of this interval, for sessions with flagged steps."""
        if self._points and any(session.steps for session in self._sessions.values()):
            self._points.append((snapshot.mono_ns, self._points[-1][1] + self._intervals.since(snapshot.readings)))

    def _book(self, snapshot: Snapshot, stretch: Stretch) -> None:
        before = {key: session.energy_uj for key, session in self._sessions.items() if session.steps}
        closed = self._intervals.add(stretch, snapshot.readings)
        middle_ns = snapshot.real_ns - (stretch.t1_ns - stretch.t0_ns) // 2
        day = booking.local_day(middle_ns)
        booking.book(closed, list(self._sessions.values()), self._domains, day)
        if self._learning.take(closed, stretch, self._topology, self._domains, self._idling.peaks(), snapshot.real_ns):
            self._parametrise()
        live = frozenset(key.party for key in self._sessions)
        self._write_ledger(day, [intervals.ledger_line(window, live) for window in closed])
        for key, before_uj in before.items():
            self._extend_curve(self._sessions[key], before_uj, snapshot.mono_ns)
        self._points = [(snapshot.mono_ns, 0)]

    def _extend_curve(self, session: Session, before_uj: int, mono_ns: int) -> None:
        from perun_hpc.agent import curve

        if not self._alone(session):
            return
        points = [(mono_ns, session.energy_uj)]
        if len(self._points) > 1:
            points = curve.spread(self._points, before_uj, session.energy_uj - before_uj)
        path = self._paths.curve(session.key.name)
        self._guard("curve", lambda: curve.extend(path, points))

    def _show(self, snapshot: Snapshot) -> None:
        """Note what users of a shared node may see by now.

        All sessions at the same moments, which no user has in his hand: what happens in between would tell what the
        others do.
        """
        for session in self._sessions.values():
            resolution_ns = self._resolution_ns(session)
            if snapshot.mono_ns // resolution_ns != self._shown_of(session)[0] // resolution_ns:
                self._shown[session.key] = (snapshot.mono_ns, session.energy_uj)
                self._curve_of_shared(session)

    def _shown_of(self, session: Session) -> tuple[int, int]:
        """The moment (monotonic) and the energy that the session's user saw last."""
        return self._shown.get(session.key, (session.start.mono_ns, 0))

    def _curve_of_shared(self, session: Session) -> None:
        """Continue the curve of a session with flagged steps by what may be seen of it."""
        from perun_hpc.agent import curve

        if session.steps and not self._alone(session):
            path, point = self._paths.curve(session.key.name), self._shown_of(session)
            self._guard("curve", lambda: curve.extend(path, [point]))

    def _write_ledger(self, day: str, lines: list[dict[str, Any]]) -> None:
        import json

        self._ledger_lines += [json.dumps(line, separators=(",", ":")) for line in lines]
        try:
            self._ledger = (day, spool.append_lines(self._paths.ledger(day), self._ledger_lines))
            self._ledger_lines.clear()
        except OSError as error:
            self._log(f"node ledger: {error}")
            del self._ledger_lines[:-MAX_LINES]

    # Messages.

    def _on_message(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        handlers: dict[str, Callable[[Message, Peer, tuple[int, ...]], dict[str, str]]] = {
            "job-start": self._job_start,
            "job-end": self._job_end,
            "rank-start": self._rank_start,
            "rank-data": self._rank_data,
            "window": self._window,
            "status": self._status,
            "reload": self._reload,
            "stop": self._stop,
            "release-gpus": self._release_gpus,
        }
        handler = handlers.get(message.verb)
        if handler is None:
            raise DataError(f"verb {message.verb!r} is not known here")
        return handler(message, peer, fds)

    def _only_root(self, peer: Peer) -> None:
        if peer.uid != 0:
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
        former = self._other_run(key)
        if former is not None:
            former.note("no job-end message")
            self._end_session(former, snapshot, snapshot.mono_ns, "restart")
        session = Session(
            key=key,
            job=job,
            settings={},
            policy_hash="",
            boot_id=self._boot,
            start=Edge(snapshot.real_ns, snapshot.mono_ns, max(0, snapshot.mono_ns - hook_ns), source),
            edges_start=booking.take_edge(snapshot.readings, self._sensors),
            agent_cpu_ns=-time.process_time_ns(),
        )
        self._home = (job.get("cluster", ""), job.get("node", self._node.name))
        self._sessions[key] = session
        self._save()  # before the hook's answer: an agent that is killed now has not forgotten what it took
        self._checks.begin(key.party)
        self._after.append(lambda: self._after_start(session))

    def _after_start(self, session: Session) -> None:
        """What may wait until the hook has its answer."""
        for worker in self._node.workers:
            worker.wanted(time.monotonic_ns())
        self._policy.check()
        self._uses[session.key] = self._node.use(session)
        self._parent_cpu_ns = self._node.parent_cpu_ns()
        self._guard("spool", lambda: self._paths.session(session.key.name).mkdir(mode=0o750, exist_ok=True))
        if self._policy.settled:
            self._settle_policy()
        self._save()

    def _settle_policy(self) -> None:
        """Freeze the settings of sessions that have none yet."""
        if self._policy.refused:
            self._log(f"policy: {self._policy.refused}; the last good one rules")
        limits.step_back(self._site().agent)
        self._porter.deadline(self._site().hooks.deadline_ns // 1_000_000, self._policy.source)
        for session in (*self._sessions.values(), *self._sealing):
            if not session.settings:
                self._freeze(session, None)

    def _freeze(self, session: Session, flag: str | None) -> None:
        settings = self._policy.settings(session.job, session.job.get("node", self._node.name), flag)
        session.settings = settings.to_json()
        session.monitored = settings.monitors(flag is not None)
        session.policy_hash = settings.policy_hash

    def _finish(self, message: Message, source: str) -> None:
        key = SessionKey.of(message.fields)
        hook_ns = _number(message, "hook_mono_ns", time.monotonic_ns())
        # The Epilog of a requeued job already says the next run's count (22.05); a node has one run of a job at a time.
        session = self._sessions.get(key) or self._other_run(key)
        if session is None and self._ended_lately(key, hook_ns):
            return
        snapshot = self._end_interval()
        if session is None:
            start = Edge(snapshot.real_ns, snapshot.mono_ns, 0, "epilog")
            session = Session(key, job_fields(message.fields), {}, "", self._boot, start)
            session.agent_cpu_ns = -time.process_time_ns()
            session.note("no job-start message")
            self._sessions[key] = session
        elif hook_ns < session.start.mono_ns - session.start.late_ns:
            return  # a late message of the run before this one
        session.job = {**job_fields(message.fields), **session.job}
        told = ("exit_code", "exit_code2", "derived_ec")
        session.exit = {name: message.fields[name][:64] for name in told if name in message.fields}
        self._end_session(session, snapshot, hook_ns, source)

    def _other_run(self, key: SessionKey) -> Session | None:
        """A live session of another run of the same job."""
        return next((one for one in self._sessions.values() if one.key.job_id == key.job_id), None)

    def _ended_lately(self, key: SessionKey, hook_ns: int) -> bool:
        """Whether this run has a record already, or another run of the job ended just now."""
        prefix = f"{key.job_id}."
        others = [end_ns for name, end_ns in self._done.items() if name.startswith(prefix)]
        return key.name in self._done or any(hook_ns - end_ns < 60 * SECOND_NS for end_ns in others)

    def _end_session(self, session: Session, snapshot: Snapshot, hook_ns: int, source: str) -> None:
        key = session.key
        # A clock that was set meanwhile does not make the job longer.
        real_ns = session.start.real_ns + snapshot.mono_ns - session.start.mono_ns
        session.end = Edge(real_ns, snapshot.mono_ns, max(0, snapshot.mono_ns - hook_ns), source)
        session.edges_end = booking.take_edge(snapshot.readings, self._sensors)
        session.agent_cpu_ns += time.process_time_ns()
        self._shown[key] = (snapshot.mono_ns, session.energy_uj)
        self._curve_of_shared(session)
        booking.note_failed_edges(session, snapshot.readings, self._sensors)
        if session.start.source == "inbox" and hook_ns < session.start.mono_ns:
            session.note("no reading during the job: no agent ran")
            if session.energy_uj == 0:
                session.domains.clear()
                session.shares.clear()
            else:  # booked as its energy before its end was known: the node ledger closes with it
                session.note("its energy is that of the moments between its end and the agent's knowing of it")
        for step in session.steps.values():
            for run in step.ranks.values():
                self._end_rank(session, step, run, snapshot)
        del self._sessions[key]
        self._over.discard(key)
        self._uses.pop(key, None)
        self._shown.pop(key, None)
        self._node.forget(session)
        self._idling.forget(session)
        session.checks = self._checks.end(key.party, self._gpus_of(session))
        self._done[key.name] = snapshot.mono_ns
        self._sealing.append(session)
        self._save()
        self._after.append(self._policy.check)

    # Ranks of flagged steps.

    def _session_of(self, message: Message, peer: Peer) -> Session:
        session = self._sessions.get(SessionKey.of(message.fields))
        if session is None:
            raise NotFoundError("no such job on this node")
        ranks.check_member(self._paths.root, peer, session)
        return session

    def _rank_start(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        session = self._session_of(message, peer)
        now_ns, real_ns = time.monotonic_ns(), time.time_ns()
        first = not any(run.end_ns is None for step in session.steps.values() for run in step.ranks.values())
        if len(self._watched) >= self._most_watched:
            raise DataError(f"more than {self._most_watched} ranks live on this node: this one is not kept")
        pidfd = os.pidfd_open(peer.pid)
        try:
            step, run = ranks.register(session, message.fields, peer.pid, now_ns, real_ns)
        except PerunError:
            os.close(pidfd)
            raise
        self._watch(session, step, run, pidfd)
        if first:
            self._step_edge(session)
            self._curve_of_shared(session)
            self._after += [lambda: self._flagged(session, step.options), self._save]
        reply = {
            "period_ms": str(session.period_ns // 1_000_000),
            "resolution_ms": str(self._resolution_ns(session) // 1_000_000),
            "owner_hint": "1" if run.local_rank == 0 else "0",
        }
        if step.options and run.rank == 0 and self._policy.settled:
            refused = self._policy.settings(session.job, self._name_of(session), step.options).notes
            reply.update({"note": "; ".join(refused)[:240]} if refused else {})
        return reply

    def _watch(self, session: Session, step: Step, run: RankRun, pidfd: int) -> None:
        """See the rank's end, however it comes."""

        def on_end() -> None:
            self._selector.unregister(pidfd)
            self._watched.discard(pidfd)
            os.close(pidfd)
            if session.key in self._sessions and run.end_ns is None:
                others = any(
                    r.end_ns is None and r is not run for s in session.steps.values() for r in s.ranks.values()
                )
                if not others:
                    self._step_edge(session)
                assert self._last is not None
                self._end_rank(session, step, run, self._last)

        self._selector.register(pidfd, selectors.EVENT_READ, on_end)
        self._watched.add(pidfd)

    def _step_edge(self, session: Session) -> None:
        """A reading where the first rank begins or the last one ends, for the curve of a job that is alone."""
        if self._alone(session):
            self._note_point(self._node.read())

    def _end_rank(self, session: Session, step: Step, run: RankRun, snapshot: Snapshot) -> None:
        if run.end_ns is None:
            run.end_ns, run.end_mono_ns = time.time_ns(), time.monotonic_ns()
        fd = self._live_data.pop((session.key, step.step_id, run.rank), None)
        if fd is not None:
            self._guard("rank data", lambda: self._keep_data(session, step.step_id, run.rank, fd))
            os.close(fd)

    def _flagged(self, session: Session, options: str) -> None:
        """The job has a flagged step: its options count, and it always leaves a trace."""
        if self._policy.settled:
            self._freeze(session, options)
        self._begin_trace(session, time.monotonic_ns())

    def _rank_data(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        session = self._session_of(message, peer)
        run = ranks.find(session, message.fields, peer.pid)
        if len(fds) != 1:
            raise DataError("rank data comes with one memory file")
        ranks.check_memory(fds[0])
        where = (session.key, ranks.number(message.fields, "step_id"), run.rank)
        former = self._live_data.pop(where, None)
        if former is not None:
            os.close(former)
        if message.fields.get("live") == "1":
            self._live_data[where] = os.dup(fds[0])
        else:
            self._keep_data(session, where[1], where[2], fds[0])
        run.has_data = True
        return {}

    def _keep_data(self, session: Session, step_id: int, rank: int, fd: int) -> None:
        ranks.keep(self._paths.session(session.key.name), step_id, rank, ranks.content(fd))

    def _resolution_ns(self, session: Session) -> int:
        """Finest resolution in time in which the job's user may see energy."""
        shared = session.settings.get("privacy", {}).get("shared_resolution_ns", INTERVAL_NS)
        return session.period_ns if self._alone(session) else max(session.period_ns, int(shared))

    def _window(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        """The job's energy so far: as of now where it is alone, else what may be seen on a shared node."""
        session = self._session_of(message, peer)
        if self._alone(session):
            assert self._last is not None
            if time.monotonic_ns() - self._last.mono_ns > SECOND_NS // 100:
                self._end_interval()
            self._shown[session.key] = (self._last.mono_ns, session.energy_uj)
        mono_ns, energy_uj = self._shown_of(session)
        return {"energy_uj": str(energy_uj), "mono_ns": str(mono_ns)}

    # Traces.

    def _begin_trace(self, session: Session, now_ns: int) -> None:
        from perun_hpc.agent import trace

        key = session.key
        if not session.settings or not session.monitored or session.trace.get("lost"):
            return
        if not (session.steps or trace.may_be_wanted(session.settings)):
            return
        if now_ns - session.start.mono_ns < FIND_NS and any(worker.starting for worker in self._node.workers):
            return  # their sensors are to have columns
        period_ns = self._resolution_ns(session)
        held = self._traces.get(key)
        if held is not None and held.period_ns <= period_ns:
            return
        directory = self._paths.session(key.name)
        try:
            if held is not None:
                held.seal()
            self._traces[key] = trace.Trace.begin(
                session, directory, self._node.sensors, self._name_of(session), period_ns, now_ns, time.time_ns()
            )
        except OSError as error:
            self._log(f"trace of {key.name}: {error}")
            session.trace = {"stored": False, "why": str(error)[:200], "lost": True}

    def _name_of(self, session: Session) -> str:
        return session.job.get("node", self._node.name)

    def _seal_trace(self, session: Session) -> None:
        from perun_hpc.agent import trace

        held = self._traces.pop(session.key, None)
        if held is None or session.end is None:
            return
        if trace.wanted(session.settings, bool(session.steps), session.end.mono_ns - session.start.mono_ns):
            try:
                session.trace = held.seal()
            except OSError as error:
                session.trace = {"stored": False, "why": str(error)[:200]}
                held.discard(self._paths.session(session.key.name))
        else:
            session.trace = {"stored": False, "why": "the job was short"}
            held.discard(self._paths.session(session.key.name))

    # Sealing.

    def _seal_ended(self) -> None:
        """Write the boundary records of ended sessions; what a full disk refuses stays in memory."""
        waiting, self._sealing = self._sealing, []
        for number, session in enumerate(waiting):
            try:
                self._seal(session)
            except OSError as error:
                self._log(f"cannot seal {session.key.name}: {error}")
                # The others would fare alike; the next time they come first.
                self._sealing = [*waiting[number + 1 :], session]
                self._seal_again_ns = time.monotonic_ns() + SECOND_NS
                break
        if len(waiting) > len(self._sealing):
            self._save()
            self._shipper.request(time.monotonic_ns())

    def _seal(self, session: Session) -> None:
        assert session.end is not None
        if not session.settings:
            self._freeze(session, None)
        self._seal_trace(session)
        directory = self._paths.session(session.key.name)
        if not session.monitored:
            self._drop(directory)
            return
        record = boundary_record(
            session,
            session.end,
            self._sensors,
            self._name_of(session),
            len(self._topology.core_of),
            Cost(session.agent_cpu_ns, resident_b(), os.getpid(), os.geteuid()),
            booking.standard_uj(session, self._domains),
            self._static,
            scope_sentence(Plan(tuple(self._domains.values()), ())),
        )
        privilege.make_spool(self._paths)
        directory.mkdir(mode=0o750, exist_ok=True)
        spool.write_json(self._paths.boundary(session.key.name), record, durable=True)

    def _drop(self, directory: Path) -> None:
        import shutil

        shutil.rmtree(directory, ignore_errors=True)

    # Words from an administrator.

    def _status(self, message: Message, peer: Peer, fds: tuple[int, ...]) -> dict[str, str]:
        sessions = [session for session in self._sessions.values() if peer.uid in (0, session.uid)]
        return {
            "version": __version__,
            "uptime_ns": str(time.monotonic_ns() - self._started_ns),
            "pid": str(os.getpid()),
            "uid": str(os.geteuid()),
            "sessions": " ".join(session.key.name for session in sessions)[:16384],
            "rss_b": str(resident_b()),
            "cpu_ns": str(time.process_time_ns()),
            "sensors": str(len(self._node.sensors)),
            "policy": (self._policy.refused or "")[:512],
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
        if not self._porter.changed():
            return
        messages = self._porter.messages()
        ends = {name.split("-")[3]: name for name, _ in messages if re.match(r"\d+-job-end-\d+-", name)}
        for name, packet in messages:
            try:
                message = decode(packet)
                if message.verb == "job-start":
                    # A job whose end waits here, too, is over: nothing of what is read meanwhile is its.
                    key = SessionKey.of(message.fields)
                    if ends.get(str(key.job_id), "") > name and key not in self._sessions:
                        self._over.add(key)
                    self._begin(message, "inbox")
                elif message.verb == "job-end":
                    self._finish(message, "inbox")
            except PerunError as error:
                self._log(f"inbox: {name}: {error}")
            self._porter.drop(name)
        self._over.clear()

    def _save(self) -> None:
        if self._last is None:
            return
        now = state.NodeState(
            boot_id=self._boot,
            last=self._last,
            uses=self._uses,
            parent_cpu_ns=self._parent_cpu_ns,
            ledger=self._ledger,
            sessions=(*self._sessions.values(), *self._sealing),
            done=self._done,
            static=self._learning.to_json(),
            home=self._home,
        )
        self._guard("state", lambda: state.save(self._paths, now, [sensor.id for sensor in self._sensors]))

    def resume(self) -> None:
        """Continue where the last agent of this node stopped, then take what the hooks left."""
        former = state.load(self._paths)
        if former is not None:
            self._learning.restore(former.static)
            self._parametrise()
        if former is not None and all(sensor.id in former.last.readings for sensor in self._sensors):
            self._take_over(former)
        else:
            self._end_interval()
        self._read_inbox()

    def _take_over(self, former: state.NodeState) -> None:
        same_boot = bool(self._boot) and former.boot_id == self._boot
        self._done = dict(former.done) if same_boot else dict.fromkeys(former.done, 0)
        self._ledger = former.ledger
        self._home = former.home
        for session in former.sessions:
            if session.end is not None:
                self._sealing.append(session)
            elif same_boot:
                self._sessions[session.key] = session
            else:
                session.note("the node was restarted")
                session.end = Edge(former.last.real_ns, former.last.mono_ns, 0, "restart")
                session.edges_end = booking.take_edge(former.last.readings, self._sensors)
                session.agent_cpu_ns = max(0, session.agent_cpu_ns)
                self._done[session.key.name] = 0
                self._sealing.append(session)
        if not same_boot:
            self._end_interval()
            return
        self._last, self._uses, self._parent_cpu_ns = former.last, dict(former.uses), former.parent_cpu_ns
        self._intervals.begin(former.last.mono_ns, former.last.readings)
        snapshot = self._end_interval()
        for session in self._sessions.values():
            # The counters went on; only who used the CPUs meanwhile is known less well.
            gap = Gap("agent", former.last.mono_ns, snapshot.mono_ns, "the agent was restarted")
            session.add_gap(gap)
            session.agent_cpu_ns -= time.process_time_ns()
            self._resume_trace(session, snapshot)
            self._resume_ranks(session, snapshot)

    def _resume_trace(self, session: Session, snapshot: Snapshot) -> None:
        from perun_hpc.agent.trace import Trace

        directory = self._paths.session(session.key.name)
        period_ns = self._resolution_ns(session)
        try:
            held = Trace.resume(directory, period_ns, snapshot.mono_ns, snapshot.real_ns)
        except (OSError, DataError) as error:
            session.trace = {"stored": False, "why": str(error)[:200], "lost": True}
        else:
            if held is not None:
                self._traces[session.key] = held

    def _resume_ranks(self, session: Session, snapshot: Snapshot) -> None:
        for step in session.steps.values():
            for run in step.ranks.values():
                if run.end_ns is not None:
                    continue
                try:
                    pidfd = os.pidfd_open(run.pid)
                except OSError:
                    self._end_rank(session, step, run, snapshot)
                else:
                    self._watch(session, step, run, pidfd)

    def _guard(self, what: str, work: Callable[[], None]) -> None:
        """Do what the disk may refuse; the loss is logged, the loop goes on."""
        try:
            work()
        except (OSError, PerunError) as error:
            self._log(f"{what}: {error}")

    def _log(self, text: str) -> None:
        with contextlib.suppress(OSError):  # the log's disk may be full, too
            print(time.strftime("%FT%T%z"), text, file=sys.stderr, flush=True)


def _number(message: Message, key: str, default: int) -> int:
    text = message.fields.get(key, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else default
