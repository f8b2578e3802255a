"""Handing sealed sessions over to the archive, in child processes: what hangs, bloats or fails holds up nobody else.

Two lanes ship beside each other, each with at most one child: the quick one takes what ranks handed over little for,
progress and the node ledger; the heavy one the rest, the smallest first. Every session of which more is to be shipped
than the agent has made itself has a process of its own, with bounds of memory and CPU time; so has all that a lane
ships after its child failed. What users handed over is read in another one (`parsing`), whose failure costs the regions
alone. Evidence comes first: a session through whose fault its process fails leaves without energies of steps, then
without its trace, and is set aside in the end.
"""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from perun_hpc import files
from perun_hpc.agent.base import spool
from perun_hpc.agent.base.paths import BOUNDARY, PROGRESS, RANKS, AgentPaths, free_name
from perun_hpc.agent.outbox import losses, parsing, rank_energies, regions
from perun_hpc.agent.outbox.faults import FAULTS, Faults
from perun_hpc.agent.outbox.keeping import Keeper, ship_learnt
from perun_hpc.agent.outbox.losses import Loss, Losses
from perun_hpc.agent.outbox.parsing import Reader
from perun_hpc.agent.policy import limits
from perun_hpc.agent.sources.node import data_b
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.grown import days_of
from perun_hpc.data_model.job import run_of
from perun_hpc.errors import DataError, PerunError
from perun_hpc.process import child
from perun_hpc.process.child import Child
from perun_hpc.process.clock import MACHINE, Clock
from perun_hpc.process.log import log

if TYPE_CHECKING:
    from perun_hpc.config.schema import Store

PATIENCE_NS = 600 * 1_000_000_000
SLOW_NS = 60 * 1_000_000_000
"""After this time an archive that has not answered is named."""
ROUND_S = 300.0
"""After so long a child gives its place to the next one: one that works on is no child that hangs."""
KEEP_LEDGER_S = 30 * 86_400
BACKOFF_NS = (2_000_000_000, 10_000_000_000, 60_000_000_000, 300_000_000_000)
QUICK_B = 1 << 20
"""What ranks may have handed over in a session that the quick lane takes: a tenth of a second's work."""
CPU_S = 60
"""CPU time in which a session's process must have laid the steps over its curve."""
TRIES = 5
"""So often the process of a session fails, through no fault of the archive's, before it is set aside."""
FAILED, MORE, HEAVY, SHIPPED = 1, 2, 4, 8
"""What a lane's child found, added up to its exit code: something could not go; there is more; there is heavy work; a
session went."""
MAX_WHY = 400
DAMAGED = f"{BOUNDARY}.damaged"
_ODD = frozenset((RANKS, regions.CURVE, FAULTS))
"""What is in the directory of a session that is not plain."""
_LATER, _NO_MEMORY = 75, 12
"""Exit codes of a session's process: it could not reach the archive (EX_TEMPFAIL); it had too little memory."""


class Delivery(Keeper, Protocol):
    """Takes what is ready; everything may be delivered twice. OSError or PerunError where it cannot be now."""

    def session(self, directory: Path, record: dict[str, Any]) -> None:
        """A sealed session: its boundary record, and the trace in its directory."""

    def progress(self, directory: Path, record: dict[str, Any], grow: bool) -> None:
        """What is known so far of a session that goes on."""

    def ledger(self, directory: Path, cluster: str, node: str) -> Sequence[str]:
        """The node ledger in a directory; returns what an administrator should hear of."""


@dataclass
class _Lane:
    """One child at a time; failures are tried again, less and less often."""

    name: str
    heavy: bool
    due_ns: int | None
    child: Child | None = None
    started_ns: int = 0
    failures: int = 0
    trouble: str = ""
    careful: bool = False
    """Its last child was killed, or could not ship all: what the next one ships has processes of its own."""

    def is_due(self, mono_ns: int) -> bool:
        return self.child is None and self.due_ns is not None and mono_ns >= self.due_ns

    def start(self, work: Callable[[], int], mono_ns: int, keep: Iterable[int]) -> None:
        self.started_ns = mono_ns
        try:
            self.child = child.start("shipping failed", work, keep)
        except OSError as error:
            self._failed(mono_ns)
            log(f"cannot start a process to ship: {error}")
            self.trouble = f"cannot start a process to ship: {error}"
        else:
            self.due_ns = None

    def poll(self, mono_ns: int) -> int | None:
        """Reap the child, kill one that hangs; what it found, None while there is nothing to say."""
        if self.child is None:
            return None
        lasts_ns = mono_ns - self.started_ns
        if lasts_ns > PATIENCE_NS:
            self.child.kill()
        code = self.child.poll()
        if code is None:
            if lasts_ns > ROUND_S * 1e9 + SLOW_NS or (lasts_ns > SLOW_NS and not self.heavy):
                self.trouble = "the archive does not answer: what ships has waited for over a minute"
            return None
        self.child = None
        self.careful = code < 0 or code & FAILED != 0
        self.trouble = f"the process that ships was ended by signal {-code}" if code < 0 else ""
        if code < 0:
            log(f"{self.trouble} after {lasts_ns // 1_000_000_000} s")
        if code >= 0 and (code & SHIPPED or not code & FAILED):
            self.failures = 0  # the archive answers
        if code < 0 or code & FAILED:
            self._failed(mono_ns)
        if code > 0 and code & MORE:
            self.due_ns = mono_ns
        return max(code, 0)

    def _failed(self, mono_ns: int) -> None:
        again_ns = mono_ns + BACKOFF_NS[min(self.failures, len(BACKOFF_NS) - 1)]
        self.due_ns = again_ns if self.due_ns is None else min(self.due_ns, again_ns)
        self.failures += 1


class Shipper:
    """The two lanes, and what is known of what did not leave."""

    def __init__(self, paths: AgentPaths, losses: Losses, clock: Clock, reader: Reader | None = None) -> None:
        self._paths = paths
        self._clock = clock
        self._losses = losses
        self._reader = reader
        self._quick = _Lane("quick", heavy=False, due_ns=0)
        self._heavy = _Lane("heavy", heavy=True, due_ns=None)
        self._tell()

    @property
    def busy(self) -> bool:
        """Whether a child is at work."""
        return self._quick.child is not None or self._heavy.child is not None

    @property
    def waits(self) -> bool:
        """Whether something is to be shipped, now or later."""
        return self.busy or self._quick.due_ns is not None or self._heavy.due_ns is not None

    def request(self, mono_ns: int) -> None:
        """Something is ready."""
        self._quick.due_ns = mono_ns

    def is_due(self, mono_ns: int) -> bool:
        """Whether a child should be started now."""
        return self._quick.is_due(mono_ns) or self._heavy.is_due(mono_ns)

    def start(self, store: Store, home: tuple[str, str], memory_b: int, mono_ns: int) -> None:
        """Fork what is due.

        `home` is the cluster and the node under which the node ledger stands, `memory_b` what both lanes' processes may
        take together.
        """
        reader = self._reader.socket if self._reader else None
        for lane in (self._quick, self._heavy):
            if lane.is_due(mono_ns):
                which = partial(_ship, self._paths, store, home, lane.heavy, lane.careful)
                work = partial(which, memory_b // 2, reader, self._clock)
                lane.start(work, mono_ns, _fds(reader))
                if lane.trouble:
                    self._tell()

    def poll(self, mono_ns: int) -> bool:
        """Reap the children, True where one has ended; kill those that hang."""
        if self._reader:
            self._reader.poll()
        before = self._troubles()
        found = self._quick.poll(mono_ns), self._heavy.poll(mono_ns)
        if (found[0] or 0) & HEAVY and self._heavy.due_ns is None:
            self._heavy.due_ns = mono_ns
        if found != (None, None) or self._troubles() != before:
            self._tell()
        return found != (None, None)

    def _troubles(self) -> dict[str, str]:
        return {lane.name: lane.trouble for lane in (self._quick, self._heavy) if lane.trouble}

    def _tell(self) -> None:
        """Put what is known of the last attempt, and what is wrong with shipping itself, where it is asked for."""
        self._losses.follow(losses.SHIPPING, self._troubles())
        self._losses.put(losses.NOT_SHIPPED, losses.read_undelivered(self._paths))
        self._losses.put(losses.SET_ASIDE, losses.find_set_aside(self._paths))

    def leave(self, store: Store, home: tuple[str, str], memory_b: int) -> None:
        """The agent ends: one last child takes what is left, and outlives it."""
        for lane in (self._quick, self._heavy):
            if lane.child is not None:
                lane.child.kill()
        reader = self._reader.socket if self._reader else None
        work = partial(_ship, self._paths, store, home, None, True, memory_b, reader, self._clock)
        try:
            child.start("shipping failed", work, _fds(reader), outlives=True)
        except OSError as error:
            log(f"cannot start a process to ship: {error}")


def _fds(reader: socket.socket | None) -> tuple[int, ...]:
    return () if reader is None else (reader.fileno(),)


def _ship(
    paths: AgentPaths,
    store: Store,
    home: tuple[str, str],
    heavy: bool | None,
    careful: bool,
    memory_b: int,
    reader: socket.socket | None,
    clock: Clock,
) -> int:
    """The whole life of a lane's child, bounded also when no agent is left to see that it hangs."""
    signal.alarm(PATIENCE_NS // 1_000_000_000)
    to, until_ns = delivery(store), clock.mono_ns() + ROUND_S * 1_000_000_000

    def alone(name: str, work: Callable[[], None]) -> str:
        return _alone(name, work, memory_b, _fds(reader))

    read = partial(parsing.read_regions, reader, memory_b)
    grow = store.write == "archive"
    if not careful:
        limits.bound(resource.RLIMIT_DATA, data_b() + memory_b)
    plain = alone if careful else _here
    return _round(paths, to, home, grow, heavy, plain, alone, read, lambda: clock.mono_ns() > until_ns, clock)


def _alone(name: str, work: Callable[[], None], memory_b: int, keep: Iterable[int]) -> str:
    """Do what may fail in a process of its own; "" when it is done, else the fault's words. OSError: no process."""

    reading, writing = os.pipe()

    def bounded() -> int:
        limits.bound(resource.RLIMIT_DATA, data_b() + memory_b)
        limits.bound(resource.RLIMIT_CPU, CPU_S)
        try:
            work()
        except _Later as error:
            os.write(writing, str(error)[:MAX_WHY].encode(errors="replace"))
            return _LATER
        except MemoryError:
            return _NO_MEMORY
        return 0

    with os.fdopen(reading, "rb") as reader:
        try:
            process = child.start(f"shipping {name} failed", bounded, (writing, *keep))
        finally:
            os.close(writing)
        code = process.wait()
        why = reader.read().decode(errors="replace")
    if code == _LATER:
        raise _Later(why)
    if code == 0:
        return ""
    words = {
        _NO_MEMORY: f"took more than its {memory_b >> 20} MiB of memory",
        -signal.SIGXCPU: f"took more than its {CPU_S} s of CPU time",
    }
    ended = f"was killed by signal {-code}" if code < 0 else f"failed with code {code}, see the agent's log"
    return f"the process that shipped it {words.get(code, ended)}"


def _lift_cpu_bound() -> None:
    """What is left to do depends on nothing that a user handed over."""
    hard_s = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (hard_s, hard_s))


def delivery(store: Store) -> Delivery:
    """Where the policy says that records and traces go."""
    if not store.collector:
        return ArchiveDelivery(Path(store.archive))
    from perun_hpc.archive.handover import StreamDelivery, address, sender

    return StreamDelivery(address(store.collector), sender(store.tls))


class _Later(Exception):
    """The archive does not take it now; the session is not to blame."""


Alone = Callable[[str, Callable[[], None]], str]
"""Does what may fail; "" when it is done, else the words of a fault that is its own. Raises `_Later`."""
Read = Callable[[Path, Mapping[str, Any]], regions.Found]
"""Reads what the ranks of a session handed over. DataError where that is to blame."""


def _here(name: str, work: Callable[[], None]) -> str:
    """In this process."""
    try:
        work()
    except _Later:
        raise
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def ship_all(
    paths: AgentPaths, to: Delivery, home: tuple[str, str], grow: bool = False, clock: Clock = MACHINE
) -> bool:
    """Ship every sealed session, what is known of live ones and the node ledger, here; True when nothing is left.

    One failure does not hold up others. `grow`: traces of live sessions go into the archive while they grow.
    """
    return _round(paths, to, home, grow, None, _here, _here, regions.of_session, lambda: False, clock) & ~SHIPPED == 0


def _round(
    paths: AgentPaths,
    to: Delivery,
    home: tuple[str, str],
    grow: bool,
    heavy: bool | None,
    plain: Alone,
    alone: Alone,
    read: Read,
    enough: Callable[[], bool],
    clock: Clock,
) -> int:
    """Ship what belongs to a lane (all: None), each session once; what was found.

    The list is made again when a heavy session is done: a smaller one that came meanwhile is next; of others it
    is asked again. `plain` does what cannot be large or odd, `alone` the rest.
    """
    found, failed = 0, dict[str, Loss]()
    tried: set[str] = set()
    before = losses.read_undelivered(paths)

    def fails(name: str, directory: Path | None, why: str) -> None:
        known = before.get(name)
        uid = known.uid if known else _uid(directory)
        failed[name] = Loss(why, known.since_ns if known else clock.real_ns(), uid)
        if known is None:
            log(f"cannot ship {name}: {why}")

    while True:
        there = _spooled(paths)
        wanted = [one for one in there if one.is_for(heavy) and one.directory.name not in tried]
        for at in wanted[: 1 if heavy else None]:
            one = at.directory
            if enough():
                found |= MORE
                break
            tried.add(one.name)
            why = _ship_session(paths, one, to, plain if at.plain else alone, alone, read, clock)
            if why:
                fails(f"job {one.name}", one, why)
            elif not one.exists():
                found |= SHIPPED
        if found & MORE or not wanted or not heavy:
            break
    if not heavy:
        if heavy is not None and any(one.is_for(heavy=True) for one in there):
            found |= HEAVY
        going_on = [one.directory for one in there if not one.sealed]
        for name, directory, work in _beside(paths, going_on, to, home, grow, clock):
            try:
                why = plain(name, lambda work=work: _reach(work))  # type: ignore[misc]
            except (_Later, OSError) as error:
                why = str(error)
            if why:
                fails(name, directory, why)
    if before or failed or losses.read_undelivered(paths):
        _remember(paths, before, failed, heavy)
    return found | (FAILED if failed else 0)


def _remember(paths: AgentPaths, before: dict[str, Loss], failed: dict[str, Loss], heavy: bool | None) -> None:
    """Leave word of what did not go; of what another lane tried, its word stays."""
    other_lanes = [one.directory for one in _spooled(paths) if heavy is not None and one.is_for(not heavy)]
    others = {f"job {one.name}" for one in other_lanes}
    others |= {name for name in before if heavy and not name.startswith("job ")}
    again = [(loss.since_ns, name) for name, loss in failed.items() if name in before]
    if again:  # one line for all of them: a week without an archive must not fill the log
        since_ns, name = min(again)
        since = time.strftime("%FT%T%z", time.localtime(since_ns // 1_000_000_000))
        log(f"still cannot ship {len(again)}, since {since}: {name}: {failed[name].why}")
    kept = {name: loss for name, loss in losses.read_undelivered(paths).items() if name in others}
    for name in before.keys() - failed.keys() - kept.keys():
        log(f"shipped {name} at last")
    losses.keep_undelivered(paths, {**kept, **failed})


def _uid(directory: Path | None) -> int | None:
    """Whose job a session is of, as its record says; None where there is none, or it is damaged."""
    for path in (directory / BOUNDARY, directory / PROGRESS) if directory is not None else ():
        record = files.read_json(path)
        if isinstance(record, dict) and isinstance(record.get("uid"), int):
            return int(record["uid"])
    return None


class _Spooled(NamedTuple):
    """A session in the spool: what its ranks handed over; whether it is a record and what the agent sampled, nothing of
    its ranks', no curve for their regions, and nothing that failed before (`plain`). One that is not `sealed` runs on
    and has said something of itself.
    """

    handed_over_b: int
    directory: Path
    sealed: bool
    plain: bool

    def is_for(self, heavy: bool | None) -> bool:
        """Whether it waits for that lane, or for any."""
        return self.sealed and (heavy is None or heavy == (self.handed_over_b > QUICK_B))


def _spooled(paths: AgentPaths) -> list[_Spooled]:
    """Sessions of which something may be shipped, those first whose ranks handed over least.

    What others leave there is not ours to ship. Many may live of which nothing is: each costs one listing.
    """
    found = []
    sessions = os.fspath(paths.sessions)
    for name in os.listdir(sessions):  # noqa: PTH208 - a path of each would cost more than the look
        if run_of(name) is None:
            continue
        try:
            names = os.listdir(f"{sessions}/{name}")  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):  # it may just have been shipped
            continue
        sealed = BOUNDARY in names or DAMAGED in names
        if sealed or PROGRESS in names:
            directory = paths.sessions / name
            handed_over_b = spool.size_b(directory / RANKS) if RANKS in names else 0
            found.append(_Spooled(handed_over_b, directory, sealed, _ODD.isdisjoint(names)))
    return sorted(found)


def _ship_session(
    paths: AgentPaths, directory: Path, to: Delivery, first: Alone, alone: Alone, read: Read, clock: Clock
) -> str:
    """Ship one sealed session; why it is still there, "" where it is not."""
    fault = ""
    for how in (first, alone):  # without its regions at once, if those were the fault
        try:
            fault = how(f"job {directory.name}", lambda: _reach(lambda: ship(directory, to, read)))
        except (_Later, OSError) as error:
            return str(error)
        if not fault or not directory.exists():
            return ""
        faults = Faults.of(directory).with_one(fault, clock.real_ns() // 1_000_000_000)
        faults.write(directory)
        if faults.times >= TRIES:
            put_aside(paths, directory, faults)
            return ""
        if faults.times > 1:
            break
    return fault


def _beside(
    paths: AgentPaths, going_on: Iterable[Path], to: Delivery, home: tuple[str, str], grow: bool, clock: Clock
) -> Iterator[tuple[str, Path | None, Callable[[], None]]]:
    """What goes besides sealed sessions: its name, its session's directory, how."""
    for one in going_on:
        yield f"job {one.name}", one, lambda one=one: ship_progress(one, to, grow)  # type: ignore[misc]
    if home[0]:
        yield "the node ledger", None, lambda: ship_ledger(paths, to, *home, clock)
        yield "what the node has learnt", None, lambda: ship_learnt(paths, to, *home)


def _reach(work: Callable[[], None]) -> None:
    """What the archive or the network is to blame for is no fault of what is shipped."""
    try:
        work()
    except DataError:
        raise
    except (OSError, PerunError) as error:
        raise _Later(str(error)) from error


def put_aside(paths: AgentPaths, directory: Path, faults: Faults) -> None:
    """Move a session out of the way of the others: nothing tries to ship it again, nothing of it is lost."""
    paths.set_aside.mkdir(mode=0o750, exist_ok=True)
    target = paths.set_aside / free_name(paths.set_aside, directory.name)
    directory.rename(target)
    log(f"job {directory.name} is set aside after {faults.times} attempts, its evidence lies in {target}: {faults.why}")


def ship(directory: Path, to: Delivery, read: Read) -> None:
    """Deliver one sealed session, then drop its directory; may be repeated. What was a fault before is left out."""
    record = files.read_json(directory / BOUNDARY)
    if not isinstance(record, dict):
        raise ValueError(f"{directory.name}: its boundary record is damaged")
    faults = Faults.of(directory)
    if faults.times == 0:
        cpu_ns: Mapping[tuple[int, int], int] = {}
        try:
            record["regions"], problems, cpu_ns = read(directory, record)
        except DataError as error:
            problems = [f"regions are left out: {error}"]
        record["steps"] = rank_energies.of_steps(regions.with_energies(directory, record), cpu_ns, record)
    else:
        problems = [f"regions and energies of steps are left out: {faults.why}"]
    if faults.times > 1 and (record.get("trace") or {}).get("stored"):
        record["trace"] = {**record["trace"], "stored": False, "why": f"it could not be shipped: {faults.why}"}
    record["notes"] = [*record.get("notes", ()), *problems[:20]]
    _lift_cpu_bound()
    to.session(directory, record)
    files.remove_tree(directory)


def ship_progress(directory: Path, to: Delivery, grow: bool) -> None:
    """Deliver what a live session has said of itself, once."""
    record = files.read_json(directory / PROGRESS)
    if record is not None:
        to.progress(directory, record, grow)
        (directory / PROGRESS).unlink(missing_ok=True)


def ship_ledger(paths: AgentPaths, to: Delivery, cluster: str, node: str, clock: Clock = MACHINE) -> None:
    """Deliver the node ledger; days long past leave the spool.

    One process at a time: what an agent that was killed had begun to ship may have waited for the archive since, and
    each puts lines where it has seen the archive's end.
    """
    held = os.open(paths.node, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        for line in to.ledger(paths.node, cluster, node):
            log(line)
        for path in days_of(paths.node):
            if clock.real_ns() / 1e9 - path.stat().st_mtime > KEEP_LEDGER_S:
                path.unlink()
    finally:
        os.close(held)
