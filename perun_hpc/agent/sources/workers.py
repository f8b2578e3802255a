"""Sources that can hang or bloat (vendor libraries, tools), each in a killable child that answers requests.

The agent asks a child at the child's own period and takes the answer whenever it comes. At a job's edge it asks at once
and waits for a short time, once: a child that let it wait in vain is not waited for again before it has answered. One
that stays silent is killed and started again later; its sensors are gaps meanwhile.
"""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.agent.base import privilege
from perun_hpc.backend import catalog
from perun_hpc.backend.base import Discovery
from perun_hpc.backend.sysfile import Files
from perun_hpc.data_model.sensor import Missing, Reading, Sensor
from perun_hpc.errors import PerunError
from perun_hpc.process import child
from perun_hpc.process.child import Child
from perun_hpc.process.clock import Clock

if TYPE_CHECKING:
    from perun_hpc.backend.gpus import Gpu

WAIT_NS = 100_000_000
"""How long a reading at an edge waits for all children together."""
PERIOD_NS = 1_000_000_000
EARLY_NS = 20_000_000
"""By how much a look may come before a child's period is over, and ask nevertheless."""
SHORTEST_NS = 100_000_000
DUTY = 20
"""A child whose answer takes t is asked at most every `DUTY` t."""
LONGEST_NS = 20_000_000_000
PATIENCE_NS = 5_000_000_000
"""A child that answers nothing for this long (or `DUTY` of its usual times) is killed."""
START_NS = 30_000_000_000
RESTART_NS = 60_000_000_000
MAX_B = 192 * 1024
SIGNS = {
    "nvml": ("proc/driver/nvidia", "dev/nvidiactl"),
    "amdsmi": ("dev/kfd",),
    "ipmi": ("dev/ipmi0", "dev/ipmi/0", "dev/ipmidev/0"),
}
"""The backends that need a child, and files one of which a node has that has their hardware."""
AS_ROOT = ("ipmi",)
"""Those whose child begins before the agent becomes the service user: /dev/ipmi0 is root's, and the tool opens it anew
for each reading. So the child keeps root's uid, without any capability, and writes nothing but devices."""


class Worker:
    """One backend in a child; a `Reader` of the last answer once the child has said what there is.

    The child finds the backend's sensors itself, but where it is given open readers (`hold`): kernel files whose reads
    take milliseconds, of which one that hangs must not stop the agent.
    """

    def __init__(self, name: str, root: Path, clock: Clock, **more: Any) -> None:
        """`more` are parameters that the backend's `discover` alone has."""
        self.name = name
        self.clock = clock
        self.missing: tuple[Missing, ...] = ()
        self.gpus: tuple[Gpu, ...] = ()
        self.heard = False
        """Whether a child has said what there is, or was given up before it did."""
        self.wanted_back = ""
        """Why the library should let go of its devices as soon as no job runs, as the child said last."""
        self.period_ns = PERIOD_NS
        """How often it is asked; a slow child is asked less often."""
        self._root = root
        self._more = more
        self._held: tuple[Files, ...] | None = None
        self._sensors: tuple[Sensor, ...] = ()
        self._order: tuple[str, ...] = ()
        self._last: dict[str, Reading] = {}
        self._socket: socket.socket | None = None
        self._child: Child | None = None
        self._greeted = False
        self._asked_ns: int | None = None
        self._began_ns = 0
        self._took_ns = 0
        self._tardy = False
        self._again_ns: int | None = 0
        self._why = f"the {name} process is not running"

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """What the children found so far; they stay, also while no child runs."""
        return self._sensors

    @property
    def starting(self) -> bool:
        """Whether a child is about to say what there is."""
        return self._socket is not None and not self._greeted

    @property
    def resting(self) -> bool:
        """Whether it was asked to let go of its devices, and gives nothing for that reason."""
        return self._socket is None and self._again_ns is None

    @property
    def owes(self) -> bool:
        """Whether an answer is due."""
        return self._asked_ns is not None and self._greeted

    @property
    def can_wait(self) -> bool:
        """Whether an answer is due that usually comes within the time that an edge may wait."""
        return self.owes and not self._tardy and self._took_ns < WAIT_NS

    def tardy(self) -> None:
        """It was waited for in vain: do not wait again before it has answered."""
        self._tardy = True

    def tend(self, mono_ns: int) -> bool:
        """Start, greet, ask or kill the child as is due, without waiting; True: others are there."""
        self._reap()
        if self._socket is None:
            if self._again_ns is not None and mono_ns >= self._again_ns and self._child is None:
                self._start(mono_ns)
            return False
        if not self._greeted:
            greeting = self._receive()
            if greeting is not None:
                return self._greet(greeting, mono_ns)
            self._kill_after(START_NS, mono_ns)
            return False
        self.poll(mono_ns)
        self._kill_after(max(PATIENCE_NS, DUTY * self._took_ns), mono_ns)
        return False

    def poll(self, mono_ns: int) -> None:
        """Take the answer that is there, ask again when it is time."""
        self.collect()
        # From question to question: an answer may lie there until the next look. A look may come a little early.
        if mono_ns - self._began_ns >= max(self.period_ns - EARLY_NS, min(LONGEST_NS, DUTY * self._took_ns)):
            self.ask(mono_ns)

    def ask(self, mono_ns: int) -> None:
        """Ask for readings, unless an answer is due already."""
        if self._socket is None or not self._greeted or self._asked_ns is not None:
            return
        try:
            self._socket.send(b"r")
            self._asked_ns = self._began_ns = mono_ns
        except OSError:
            self._ended()

    def collect(self) -> bool:
        """Take the answer, if it is there."""
        if not self._greeted or self._asked_ns is None:
            return False
        answer = self._receive()
        if answer is None:
            return False
        try:
            took_ns, last = int(answer["ns"]), dict(zip(self._order, map(_reading, answer["rows"]), strict=True))
            self.wanted_back = str(answer.get("back", ""))[:256]
        except (KeyError, TypeError, ValueError):
            self._ended()
            return False
        self._tardy, self._took_ns, self._last = False, took_ns, last
        return True

    def read(self) -> tuple[Reading, ...]:
        """The last answer, at its own times; gaps when there is none, or the child owes one for too long."""
        now_ns = self.clock.mono_ns()
        silent = self._asked_ns is not None and now_ns - self._asked_ns > max(PERIOD_NS, DUTY * self._took_ns)
        if self._tardy or silent:
            return tuple(Reading(None, now_ns, f"the {self.name} process does not answer") for _ in self._sensors)
        lost = Reading(None, now_ns, self._why)
        return tuple(self._last.get(sensor.id, lost) for sensor in self._sensors)

    def release(self, again_ns: int | None, why: str) -> None:
        """End the child, which lets go of its devices; it starts again then (monotonic), or when `wanted` (None)."""
        self.heard |= self._socket is not None
        self._again_ns, self._why = again_ns, why
        self.close()

    def wanted(self, mono_ns: int) -> None:
        """A job starts: a released child may come back."""
        if self._socket is None and self._again_ns is None:
            self._again_ns = mono_ns

    @property
    def held(self) -> tuple[Files, ...]:
        """The open readers that the child reads, instead of what it finds."""
        return self._held or ()

    def hold(self, readers: Sequence[Files], elsewhere: Collection[str]) -> None:
        """Have the next child read these, which are this worker's from now on; `elsewhere` are others' sensors now."""
        for reader in self.held:
            reader.close()
        self._held = tuple(readers)
        new = tuple(sensor for reader in readers for sensor in reader.sensors)
        named = {sensor.id for sensor in new}.union(elsewhere)
        self._sensors = (*(sensor for sensor in self._sensors if sensor.id not in named), *new)
        again_ns = self.clock.mono_ns() if readers else None
        self.release(again_ns, f"the {self.name} process has only begun" if readers else "it is not there any more")

    def close(self) -> None:
        """Kill the child; one that cannot be killed (a stuck driver) is left behind."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        self.wanted_back = ""
        self._last.clear()
        self._asked_ns, self._greeted, self._tardy = None, False, False
        if self._child is not None:
            self._child.kill()  # one that began as root ends with its socket

    def _start(self, mono_ns: int) -> None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            self.heard = True
            self._again_ns, self._why = mono_ns + RESTART_NS, f"cannot start the {self.name} process: {error}"
            return
        try:
            life = partial(_live, theirs, self.name, self._root, self.clock, self._held, self._more)
            files = (fd for reader in self.held for fd in reader.descriptors)
            self._child = child.start(self.name, life, (theirs.fileno(), *files))
        except OSError as error:
            ours.close()
            self.heard = True
            self._again_ns, self._why = mono_ns + RESTART_NS, f"cannot start the {self.name} process: {error}"
            return
        finally:
            theirs.close()
        ours.setblocking(False)
        self._socket, self._asked_ns = ours, mono_ns

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            self._child = None

    def _greet(self, greeting: Any, mono_ns: int) -> bool:
        from perun_hpc.backend.gpus import Gpu

        try:
            self.missing = tuple(Missing(*one) for one in greeting["missing"])
            before, self.gpus = self.gpus, tuple(Gpu.from_json(one) for one in greeting["gpus"])
            found = tuple(Sensor.from_json(one) for one in greeting["sensors"])
        except (PerunError, KeyError, TypeError, ValueError):
            self._ended()
            return False
        self._order = tuple(sensor.id for sensor in found)
        known = {sensor.id for sensor in self._sensors}
        new = tuple(sensor for sensor in found if sensor.id not in known)
        self._sensors += new
        self._greeted, self._began_ns, self._took_ns, self._why = True, 0, 0, "not found any more"
        if not found:
            self.release(None, f"{self.name} found nothing")
            return False
        self.ask(mono_ns)
        return bool(new) or self.gpus != before

    def _receive(self) -> Any | None:
        """What the child said, None if nothing yet; a child that ended is released."""
        if self._socket is None:
            return None
        try:
            said = json.loads(self._socket.recv(MAX_B))
        except BlockingIOError:
            return None
        except (OSError, ValueError):
            self._ended()
            return None
        self._asked_ns = None
        return said

    def _ended(self) -> None:
        self.release(self.clock.mono_ns() + RESTART_NS, f"the {self.name} process has ended")

    def _kill_after(self, patience_ns: int, mono_ns: int) -> None:
        if self._asked_ns is not None and mono_ns - self._asked_ns > patience_ns:
            self.release(mono_ns + RESTART_NS, f"the {self.name} process did not answer and was killed")

    def fileno(self) -> int:
        """For poll."""
        assert self._socket is not None
        return self._socket.fileno()


def _reading(row: Any) -> Reading:
    """One reading of an answer; ValueError or TypeError if it is none."""
    reading = Reading(*row)
    if not isinstance(reading.mono_ns, int) or not isinstance(reading.ticks, int | None):
        raise TypeError("a reading is no number")
    return reading


def refresh(workers: Sequence[Worker], until_ns: int, clock: Clock) -> None:
    """Wait until that moment (monotonic) for the answers of those that usually answer in time."""
    waiting = [worker for worker in workers if worker.can_wait]
    while waiting and (left_ns := until_ns - clock.mono_ns()) > 0:
        for worker in _ready(waiting, left_ns):
            worker.collect()
        waiting = [worker for worker in waiting if worker.can_wait]
    for worker in waiting:
        worker.tardy()


def _ready(workers: Sequence[Worker], left_ns: int) -> list[Worker]:
    """Those that say something within that time. Not by select(2), which takes descriptors below 1024 only."""
    poll = select.poll()
    for worker in workers:
        poll.register(worker, select.POLLIN)
    ready = {fd for fd, _ in poll.poll(-(-left_ns // 1_000_000))}
    return [worker for worker in workers if worker.fileno() in ready]


class Waiting:
    """A worker for a tool that has time: every reading is asked for now, and waited for."""

    def __init__(self, worker: Worker, patience_ns: int) -> None:
        self._worker = worker
        self._patience_ns = patience_ns

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """What the child found."""
        return self._worker.sensors

    def read(self) -> tuple[Reading, ...]:
        """Ask and wait; gaps when no answer comes in time."""
        clock = self._worker.clock
        until_ns = clock.mono_ns() + self._patience_ns
        self._worker.ask(clock.mono_ns())
        # However long it took before: an edge of a job does not wait for a slow one, a tool does.
        while self._worker.owes and (left_ns := until_ns - clock.mono_ns()) > 0:
            if _ready([self._worker], left_ns):
                self._worker.collect()
        if self._worker.owes:
            self._worker.tardy()
        return self._worker.read()

    def close(self) -> None:
        """End the child."""
        self._worker.close()


def open_in_child(name: str, root: Path, patience_s: float, clock: Clock) -> Discovery:
    """One backend in a child, for a tool: what it found, or that it did not answer in time."""
    worker, patience_ns = Worker(name, root, clock), int(patience_s * 1e9)
    until_ns = clock.mono_ns() + patience_ns
    worker.tend(clock.mono_ns())
    while worker.starting and clock.mono_ns() < until_ns:
        time.sleep(0.002)
        worker.tend(clock.mono_ns())
    if worker.starting:
        worker.close()
        why, remedy = f"no answer for {patience_s:g} s", "look for a stuck driver in the kernel's log"
        return Discovery(missing=(Missing(name, why, remedy),))
    return Discovery((Waiting(worker, patience_ns),) if worker.sensors else (), worker.missing)


def _live(
    requests: socket.socket,
    name: str,
    root: Path,
    clock: Clock,
    held: tuple[Files, ...] | None,
    more: Mapping[str, Any],
) -> None:
    if held is not None:
        serve(requests, lambda: Discovery(held), clock)
        return
    if name in AS_ROOT and os.geteuid() == 0:
        privilege.keep_to((root / "dev",), ())
    serve(requests, lambda: catalog.open_backend(name, root, **more), clock)


def serve(requests: socket.socket, discover: Callable[[], Discovery], clock: Clock) -> None:
    """The child's whole life: say what there is, then answer requests until the agent is gone."""
    found = discover()
    gpus = [gpu.to_json() for reader in found.readers for gpu in getattr(reader, "gpus", ())]
    missing = [[one.what, one.why, one.remedy, one.component] for one in found.missing]
    greeting = {"sensors": [sensor.to_json() for sensor in found.sensors], "gpus": gpus, "missing": missing}
    try:
        requests.send(json.dumps(greeting).encode())
        back = ""
        while requests.recv(16):
            start_ns = clock.mono_ns()
            rows = [tuple(reading) for reader in found.readers for reading in reader.read()]
            answer = {"ns": clock.mono_ns() - start_ns, "rows": rows}
            requests.send(json.dumps({**answer, "back": back}, separators=(",", ":")).encode())
            # After the answer, for an edge waits for that: the next one says it.
            back = next((why for one in found.readers if (why := getattr(one, "wanted_back", ""))), "")
    except (BrokenPipeError, ConnectionResetError):  # the agent is gone in the middle of an answer
        pass
    found.close()


def present(root: Path) -> list[str]:
    """Backends whose hardware seems to be there: no vendor library is touched on a node without its devices."""
    return [name for name, paths in SIGNS.items() if any((root / path).exists() for path in paths)]
