"""Sources that can hang or bloat (vendor libraries, tools), each in a killable child that answers one request at once.

A child that does not answer in time is a gap and nothing more; one that stays silent is killed and started again later.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from perun_hpc.backend import catalog
from perun_hpc.backend.base import Discovery
from perun_hpc.data_model.sensor import Missing, Reading, Sensor

ANSWER_S = 0.02
"""How long a read waits for the child; a read that takes longer is the next one's value, too late for this one."""
PATIENCE_NS = 5_000_000_000
RESTART_NS = 60_000_000_000
START_NS = 30_000_000_000
MAX_B = 1 << 20


class Worker:
    """One backend in a child; a `Reader` once the child has said what there is."""

    def __init__(self, name: str, root: Path) -> None:
        self.name = name
        self.missing: tuple[Missing, ...] = ()
        self._root = root
        self._sensors: tuple[Sensor, ...] = ()
        self._socket: socket.socket | None = None
        self._pid = 0
        self._asked_ns: int | None = None
        self._ready = False
        self._again_ns: int | None = 0

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """What the child found at its first start; they stay, also while no child runs."""
        return self._sensors

    @property
    def running(self) -> bool:
        """Whether there is a child."""
        return self._socket is not None

    def tend(self, mono_ns: int) -> bool:
        """Start, greet or kill the child as is due, without waiting; True when its sensors have just become known."""
        if self._socket is None:
            if self._again_ns is not None and mono_ns >= self._again_ns:
                self._start(mono_ns)
            return False
        if not self._ready:
            greeting = self._receive(0.0)
            if greeting is None:
                self._kill_if(mono_ns, START_NS)
                return False
            return self._greet(greeting, mono_ns)
        self._kill_if(mono_ns, PATIENCE_NS)
        return False

    def read(self) -> tuple[Reading, ...]:
        """One reading per sensor, gaps while the child does not answer."""
        now_ns = time.monotonic_ns()
        if self._socket is None or not self._ready:
            return self._gaps(now_ns, f"the {self.name} process does not run")
        if self._asked_ns is not None and self._receive(0.0) is None:
            return self._gaps(now_ns, f"the {self.name} process does not answer")
        try:
            self._socket.send(b"r")
        except OSError:
            self.release(now_ns, RESTART_NS)
            return self._gaps(now_ns, f"the {self.name} process has ended")
        self._asked_ns = now_ns
        answer = self._receive(ANSWER_S)
        if answer is None:
            return self._gaps(now_ns, f"the {self.name} process answers late")
        rows = {row[0]: Reading(row[1], row[2], row[3]) for row in answer}
        lost = Reading(None, now_ns, "not found any more")
        return tuple(rows.get(sensor.id, lost) for sensor in self._sensors)

    def release(self, mono_ns: int, again_after_ns: int | None) -> None:
        """End the child, which lets go of its devices; it is started again after that time, or when asked (None)."""
        self._again_ns = None if again_after_ns is None else mono_ns + again_after_ns
        self.close()

    def wanted(self, mono_ns: int) -> None:
        """A job starts: a released child may come back."""
        if self._socket is None and self._again_ns is None:
            self._again_ns = mono_ns

    def close(self) -> None:
        """Kill the child; one that cannot be killed (a stuck driver) is left behind."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        os.kill(self._pid, signal.SIGKILL)
        self._asked_ns, self._ready = None, False

    def reap(self) -> None:
        """Collect a child that has ended."""
        if self._pid:
            try:
                if os.waitpid(self._pid, os.WNOHANG)[0]:
                    self._pid = 0
            except ChildProcessError:
                self._pid = 0

    def _start(self, mono_ns: int) -> None:
        self.reap()
        if self._pid:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_B)
        self._pid = os.fork()
        if self._pid == 0:
            serve(theirs, lambda: catalog.open_backend(self.name, self._root))
        theirs.close()
        self._socket, self._asked_ns, self._ready = ours, mono_ns, False

    def _greet(self, greeting: Any, mono_ns: int) -> bool:
        self.missing = tuple(Missing(*one) for one in greeting["missing"])
        first = not self._sensors
        if first:
            self._sensors = tuple(Sensor.from_json(one) for one in greeting["sensors"])
        self._ready = True
        if not self._sensors:
            self.release(mono_ns, None)
        return first and bool(self._sensors)

    def _receive(self, wait_s: float) -> Any | None:
        """What the child said, None if nothing in time; a child that ended is released."""
        assert self._socket is not None
        if not select.select([self._socket], [], [], wait_s)[0]:
            return None
        try:
            answer = self._socket.recv(MAX_B)
            said = json.loads(answer) if answer else None
        except (OSError, ValueError):
            said = None
        if said is None:
            self.release(time.monotonic_ns(), RESTART_NS)
            return None
        self._asked_ns = None
        return said

    def _kill_if(self, mono_ns: int, patience_ns: int) -> None:
        if self._asked_ns is not None and mono_ns - self._asked_ns > patience_ns:
            self.release(mono_ns, RESTART_NS)

    def _gaps(self, mono_ns: int, why: str) -> tuple[Reading, ...]:
        return tuple(Reading(None, mono_ns, why) for _ in self._sensors)


def serve(requests: socket.socket, discover: Callable[[], Discovery]) -> None:
    """The child's whole life: say what there is, then answer requests until the agent is gone."""
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        keep = requests.fileno()
        os.closerange(3, keep)
        os.closerange(keep + 1, 4096)
        found = discover()
        missing = [[one.what, one.why, one.remedy] for one in found.missing]
        greeting = {"sensors": [sensor.to_json() for sensor in found.sensors], "missing": missing}
        requests.send(json.dumps(greeting).encode())
        while requests.recv(16):
            rows: list[Sequence[Any]] = []
            for reader in found.readers:
                for sensor, reading in zip(reader.sensors, reader.read(), strict=True):
                    rows.append((sensor.id, reading.ticks, reading.mono_ns, reading.error))
            requests.send(json.dumps(rows).encode())
    finally:
        os._exit(0)


def present(root: Path) -> list[str]:
    """Backends whose hardware seems to be there: no vendor library is touched on a node without its devices."""
    signs = {
        "nvml": ("proc/driver/nvidia", "dev/nvidiactl"),
        "amdsmi": ("dev/kfd",),
        "ipmi": ("dev/ipmi0", "dev/ipmi/0"),
    }
    return [name for name, paths in signs.items() if any((root / path).exists() for path in paths)]
