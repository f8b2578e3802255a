"""Sensors that come, go and come again while the agent runs: a module loaded late, a driver reloaded.

The kernel's files change under the agent's open descriptors. A listing that needs no privilege shows that they did;
the root helper's child then opens what there is now (`RootHelper`) and hands the descriptors over.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import stat
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from perun_hpc.backend import catalog
from perun_hpc.backend.base import Discovery, Reader
from perun_hpc.backend.cray_pm import COUNTERS, FRESHNESS, PmCounters
from perun_hpc.backend.hwmon import HWMON, INPUT
from perun_hpc.backend.powercap import POWERCAP
from perun_hpc.backend.sysfile import DUMB, Combined, Files, NumberFiles, descriptors_of
from perun_hpc.data_model.sensor import Missing, Sensor
from perun_hpc.errors import DataError
from perun_hpc.process import child
from perun_hpc.process.clock import Clock
from perun_hpc.wire.packet import MAX_FDS, receive_packet, send_packet

FILES = {
    "powercap": (POWERCAP, re.compile("energy_uj|power_uw")),
    "hwmon": (HWMON, re.compile(rf"{INPUT.pattern}|in\d+_input")),
    "cray_pm": (COUNTERS, re.compile(rf"(?:(?:cpu|memory|accel)\d*_)?(?:energy|power)|{FRESHNESS}")),
}
"""The backends whose files are the kernel's, opened as root: their directory, and the names of the files that hold
readings. Drivers answer them (registers, ACPI, mailboxes, buses), so that a read of one may never come back."""
MOST = 1024
"""Sensors of one backend that are taken."""
MOST_FILES = 1024
"""Files that one sensor may be read from."""
PATIENCE_NS = 5_000_000_000
"""So long the agent's start waits for one chip, zone or input."""
TRIES = 4
LATER = "look for a stuck driver in the kernel's log; it is tried again every ten minutes"

Listing = frozenset[tuple[str, str, int]]


def listing(root: Path, backend: str) -> Listing:
    """Every file of readings there is now, with its inode: another one after a driver was loaded again."""
    base, names = FILES[backend]
    found: list[tuple[str, str, int]] = []
    for place in (str(root / base), *(one.path for one in _entries(root / base))):
        for directory in (place, f"{place}/device") if base == HWMON else (place,):
            try:  # not by `_entries`: of a hundred zones that would be half of the time
                with os.scandir(directory) as entries:
                    found += [(directory, one.name, one.inode()) for one in entries if names.fullmatch(one.name)]
            except OSError:
                continue
    return frozenset(found)


def outline(root: Path, backend: str) -> frozenset[tuple[str, int]]:
    """What stands in a backend's own directory, with its inode: a driver makes it anew, with all that is below."""
    return frozenset((one.name, one.inode()) for one in _entries(root / FILES[backend][0]))


def may_hang(root: Path, backend: str) -> bool:
    """Whether a backend's files are of those that may hang, and some are there; listing them calls no driver."""
    return backend in FILES and any(True for _ in _entries(root / FILES[backend][0]))


def _entries(directory: Path | str) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        yield from entries


def find(to: socket.socket, root: Path, backend: str, skip: Collection[str] = ()) -> None:
    """Open what a backend finds below `root` and send it: the life of a child, which may hang in a driver.

    Only a regular file below `root`'s /sys that is named as the backend's readings are leaves this process. Of what can
    hang it says first what it is about to read; `skip` names what it shall not.
    """
    found = catalog.open_backend(backend, root, about=partial(_say_about, to), skip=skip)
    missing = [[one.what, one.why, one.remedy, one.component] for one in found.missing]
    send_packet(to, json.dumps({"backend": backend, "missing": missing[:50]}).encode())
    top = (root / "sys").resolve()
    for reader in found.readers:
        if isinstance(reader, PmCounters) and reader.freshness >= 0 and _of_the_backend(reader.freshness, top, backend):
            send_packet(to, b'{"renewals": true}', (reader.freshness,))
        cost_ns = reader.cost_ns if isinstance(reader, Files) else 0
        for sensor, fds in descriptors_of(reader):
            if 0 < len(fds) <= MOST_FILES and all(_of_the_backend(fd, top, backend) for fd in fds):
                *first, last = (fds[at : at + MAX_FDS] for at in range(0, len(fds), MAX_FDS))
                for some in first:
                    send_packet(to, json.dumps({"files": len(some)}).encode(), some)
                send_packet(to, json.dumps({"sensor": sensor.to_json(), "cost_ns": cost_ns}).encode(), last)
    send_packet(to, b"{}")


def _say_about(to: socket.socket, what: str) -> None:
    send_packet(to, json.dumps({"about": what[:1000]}).encode())


def open_bounded(root: Path, backend: str, patience_ns: int, clock: Clock) -> Discovery:
    """What a backend finds, by a child: a read that never comes back costs what it was of, and not this process.

    Parameters
    ----------
    root : below which /sys is.
    backend : one of `FILES`.
    patience_ns : so long one chip or input may take.
    clock : the machine's.

    Returns
    -------
    What was found; of what hangs, that it is missing. After `TRIES` such nothing of the backend is read.
    """
    skip: list[str] = []
    for _ in range(TRIES):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                try:
                    finder = child.start("sensors", partial(find, theirs, root, backend, skip), (theirs.fileno(),))
                except OSError as error:
                    return Discovery(missing=(Missing(backend, f"cannot look for it: {error}", LATER, "node"),))
            ours.setblocking(False)
            findings = Findings(ours)
            found = _await(findings, ours, patience_ns, clock)
            if found is not None:
                finder.wait()
                return found
            ended = finder.poll() is not None
            finder.kill()  # one that is stuck in the kernel is left behind
            findings.drop()
            if ended or not findings.about or findings.about in skip:
                break
            skip.append(findings.about)
    why = f"{DUMB}: looking for it did not come to an end ({', '.join(skip) or 'nothing was read yet'})"
    return Discovery(missing=(Missing(backend, why, LATER, "node"),))


def _await(findings: Findings, sock: socket.socket, patience_ns: int, clock: Clock) -> Discovery | None:
    """What a child finds; None where it has ended without, or has said nothing for too long."""
    ready = select.poll()
    ready.register(sock, select.POLLIN)
    until_ns = clock.mono_ns() + patience_ns
    while (left_ns := until_ns - clock.mono_ns()) > 0:
        if not ready.poll(-(-left_ns // 1_000_000)):
            continue
        before = findings.packets
        found = findings.take()
        if found is not None:
            return found[1]
        if findings.packets == before:  # it has closed its end
            return None
        until_ns = clock.mono_ns() + patience_ns
    return None


def _of_the_backend(fd: int, top: Path, backend: str) -> bool:
    path = Path(f"/proc/self/fd/{fd}").readlink()  # what was opened, whatever links led there
    named = FILES[backend][1].fullmatch(path.name)
    return named is not None and path.is_relative_to(top) and stat.S_ISREG(os.fstat(fd).st_mode)


class Findings:
    """The agent's end: puts together what the child sends, a packet at a time, without waiting."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._backend = ""
        self._missing: tuple[Missing, ...] = ()
        self._found: list[tuple[Sensor, int, tuple[int, ...]]] = []
        self._files: tuple[int, ...] = ()
        self._renewals = -1
        self.about = ""
        """What the child was about to read when it was last heard of."""
        self.packets = 0

    def take(self) -> tuple[str, Discovery] | None:
        """A backend and all that was found of it, once that has arrived; DataError where it is no such thing."""
        while True:
            try:
                packet, fds = receive_packet(self._socket)
            except OSError:
                return None
            if not packet:
                return None
            self.packets += 1
            try:
                said = json.loads(packet)
                if "missing" in said:
                    self.drop()
                    self._backend, self._missing = str(said["backend"]), tuple(Missing(*one) for one in said["missing"])
                elif "about" in said:
                    self.about = str(said["about"])
                elif not said:
                    return self._backend, self._whole()
                elif "renewals" in said and len(fds) == 1 and self._renewals < 0:
                    (self._renewals,), fds = fds, ()
                elif "files" in said and len(self._files) < MOST_FILES:
                    self._files += fds
                    fds = ()
                elif fds and len(self._found) < MOST:
                    self._found.append((Sensor.from_json(said["sensor"]), int(said["cost_ns"]), (*self._files, *fds)))
                    fds, self._files = (), ()
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"what was found of sensors is damaged: {error}") from error
            finally:
                for fd in fds:
                    os.close(fd)

    def _whole(self) -> Discovery:
        found, self._found = self._found, []
        if self._backend == "cray_pm":  # one reader for all: they are renewed together
            renewals, self._renewals = self._renewals, -1
            sensors, files = tuple(one[0] for one in found), [fd for _, _, fds in found for fd in fds]
            return Discovery((PmCounters.of(sensors, files, renewals),) if found else (), self._missing)
        readers: list[Reader] = []
        alike = [one for one in found if self._backend == "powercap" and len(one[2]) == 1]  # a hundred zones cost less
        if alike:
            readers.append(NumberFiles.of(tuple(one[0] for one in alike), [fds[0] for _, _, fds in alike]))
        for sensor, cost_ns, fds in (one for one in found if one not in alike):
            reader: Files = NumberFiles.of((sensor,), fds) if len(fds) == 1 else Combined.of(sensor, fds)
            reader.cost_ns = cost_ns
            readers.append(reader)
        return Discovery(tuple(readers), self._missing)

    def drop(self) -> None:
        """Close what a child left that did not come to its end."""
        renewals = (self._renewals,) if self._renewals >= 0 else ()
        for fd in (*self._files, *renewals, *(fd for _, _, fds in self._found for fd in fds)):
            os.close(fd)
        self._found, self._files, self._renewals = [], (), -1
