"""Handing sealed sessions over to the archive, in a child process: an archive that hangs holds up nobody else."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from perun_hpc.agent import losses, regions
from perun_hpc.agent.delivery import ArchiveDelivery
from perun_hpc.agent.log import log
from perun_hpc.agent.losses import Loss, Losses
from perun_hpc.agent.paths import BOUNDARY, PROGRESS, AgentPaths
from perun_hpc.agent.spool import read_json
from perun_hpc.errors import PerunError
from perun_hpc.process import child
from perun_hpc.process.child import Child

if TYPE_CHECKING:
    from perun_hpc.config.schema import Store

PATIENCE_NS = 600 * 1_000_000_000
SLOW_NS = 60 * 1_000_000_000
"""After this time an archive that has not answered is named."""
KEEP_LEDGER_S = 30 * 86_400
BACKOFF_NS = (2_000_000_000, 10_000_000_000, 60_000_000_000, 300_000_000_000)


class Delivery(Protocol):
    """Takes what is ready; everything may be delivered twice. OSError or PerunError where it cannot be now."""

    def session(self, directory: Path, record: dict[str, Any]) -> None:
        """A sealed session: its boundary record, and the trace in its directory."""

    def progress(self, directory: Path, record: dict[str, Any], grow: bool) -> None:
        """What is known so far of a session that goes on."""

    def ledger(self, directory: Path, cluster: str, node: str) -> None:
        """The node ledger in a directory."""


class Shipper:
    """At most one child that ships; failures are tried again, less and less often."""

    def __init__(self, paths: AgentPaths, losses: Losses) -> None:
        self._paths = paths
        self._losses = losses
        self._child: Child | None = None
        self._started_ns = 0
        self._failures = 0
        self.due_ns: int | None = 0
        """When to try next (monotonic); None when nothing waits."""
        self._tell()

    @property
    def busy(self) -> bool:
        """Whether a child is at work."""
        return self._child is not None

    def request(self, mono_ns: int) -> None:
        """Something is ready."""
        self.due_ns = mono_ns

    def is_due(self, mono_ns: int) -> bool:
        """Whether a child should be started now."""
        return self._child is None and self.due_ns is not None and mono_ns >= self.due_ns

    def start(self, store: Store, home: tuple[str, str], mono_ns: int) -> None:
        """Fork the child; `home` is the cluster and the node under which the node ledger stands."""
        self._started_ns = mono_ns
        try:
            # What waits when the agent ends is on its way all the same.
            self._child = child.start("shipping failed", lambda: _ship(self._paths, store, home), outlives=True)
        except OSError as error:
            self._failed(mono_ns)
            log(f"no process to ship: {error}")
            self._tell(f"no process to ship with: {error}")
        else:
            self.due_ns = None

    def poll(self, mono_ns: int) -> None:
        """Reap the child; kill one that hangs."""
        if self._child is None:
            return
        lasts_ns = mono_ns - self._started_ns
        if lasts_ns > PATIENCE_NS:
            self._child.kill()
        code = self._child.poll()
        if code is None:
            if lasts_ns > SLOW_NS:
                self._tell("the archive does not answer: what ships has waited for over a minute")
            return
        self._child = None
        if code < 0:
            log(f"the process that ships was ended by signal {-code} after {lasts_ns // 1_000_000_000} s")
        self._tell(f"the process that ships was ended by signal {-code}" if code < 0 else "")
        if code == 0:
            self._failures = 0
        else:
            self._failed(mono_ns)

    def _tell(self, trouble: str = "") -> None:
        """Put what is known of the last attempt, and what is wrong with shipping itself, where it is asked for."""
        self._losses.follow(losses.SHIPPING, {"all": trouble} if trouble else {})
        self._losses.put(losses.NOT_SHIPPED, losses.read_undelivered(self._paths))
        self._losses.put(losses.SET_ASIDE, losses.find_set_aside(self._paths))

    def _failed(self, mono_ns: int) -> None:
        self.due_ns = mono_ns + BACKOFF_NS[min(self._failures, len(BACKOFF_NS) - 1)]
        self._failures += 1


def _ship(paths: AgentPaths, store: Store, home: tuple[str, str]) -> int:
    """The child's whole life, bounded also when no agent is left to see that it hangs."""
    signal.alarm(PATIENCE_NS // 1_000_000_000)
    return 0 if ship_all(paths, delivery(store), home, store.write == "archive") else 1


def delivery(store: Store) -> Delivery:
    """Where the policy says that records and traces go."""
    if not store.collector:
        return ArchiveDelivery(Path(store.archive))
    from perun_hpc.agent.handover import StreamDelivery, address

    return StreamDelivery(address(store.collector))


def ship_all(paths: AgentPaths, to: Delivery, home: tuple[str, str], grow: bool = False) -> bool:
    """Ship every sealed session, what is known of live ones and the node ledger; True when nothing is left.

    One failure does not hold up others; each is left for `perun agent status`, with when it began. `grow`: traces of
    live sessions go into the archive while they grow.
    """
    work: list[tuple[str, Path | None, Callable[[], None]]] = [
        (f"job {one.name}", one, _session(one, to, grow))
        for one in sorted(paths.sessions.iterdir())
        if _is_session(one)
    ]
    if home[0]:
        work.append(("the node ledger", None, lambda: ship_ledger(paths, to, *home)))
    before = losses.read_undelivered(paths)
    failed: dict[str, Loss] = {}
    for what, directory, ship_it in work:
        try:
            ship_it()
        except (OSError, PerunError) as error:
            known = before.get(what)
            uid = known.uid if known else _uid(directory)
            failed[what] = Loss(str(error), known.since_ns if known else time.time_ns(), uid)
            if known is None:
                log(f"cannot ship {what}: {error}")
    again = [(loss.since_ns, what) for what, loss in failed.items() if what in before]
    if again:  # one line for all of them: a week without an archive must not fill the log
        since_ns, what = min(again)
        since = time.strftime("%FT%T%z", time.localtime(since_ns // 1_000_000_000))
        log(f"still cannot ship {len(again)}, since {since}: {what}: {failed[what].why}")
    for what in before.keys() - failed.keys():
        log(f"shipped {what} at last")
    losses.keep_undelivered(paths, failed)
    return not failed


def _uid(directory: Path | None) -> int | None:
    """Whose job a session is of, as its record says; None where there is none, or it is damaged."""
    for path in (directory / BOUNDARY, directory / PROGRESS) if directory is not None else ():
        record = read_json(path)
        if isinstance(record, dict) and isinstance(record.get("uid"), int):
            return int(record["uid"])
    return None


def _is_session(path: Path) -> bool:
    """Whether it is a session's directory; what others leave there is not ours to ship."""
    return re.fullmatch(r"\d+\.\d+", path.name, re.ASCII) is not None and path.is_dir()


def _session(directory: Path, to: Delivery, grow: bool) -> Callable[[], None]:
    if (directory / BOUNDARY).exists():
        return lambda: ship(directory, to)
    return lambda: ship_progress(directory, to, grow)


def ship(directory: Path, to: Delivery) -> None:
    """Deliver one sealed session, then drop its directory; may be repeated."""
    record = read_json(directory / BOUNDARY)
    if record is None:
        return
    record["regions"], problems = regions.of_session(directory, record)
    record["steps"] = regions.with_energies(directory, record)
    record["notes"] = [*record.get("notes", ()), *problems[:20]]
    to.session(directory, record)
    import shutil

    shutil.rmtree(directory)


def ship_progress(directory: Path, to: Delivery, grow: bool) -> None:
    """Deliver what a live session has said of itself, once."""
    record = read_json(directory / PROGRESS)
    if record is not None:
        to.progress(directory, record, grow)
        (directory / PROGRESS).unlink(missing_ok=True)


def ship_ledger(paths: AgentPaths, to: Delivery, cluster: str, node: str) -> None:
    """Deliver the node ledger; days long past leave the spool."""
    to.ledger(paths.node, cluster, node)
    for path in paths.node.glob("????-??-??.jsonl"):
        if time.time() - path.stat().st_mtime > KEEP_LEDGER_S:
            path.unlink()
