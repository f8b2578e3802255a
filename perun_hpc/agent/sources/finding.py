"""Sensors that come, go and come again while the agent runs: a module loaded late, a driver reloaded.

The kernel's files change under the agent's open descriptors. A listing that needs no privilege shows that they did;
the root helper's child then opens what there is now (`RootHelper`) and hands the descriptors over.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from perun_hpc.backend import catalog
from perun_hpc.backend.base import Discovery, Reader
from perun_hpc.backend.hwmon import HWMON, INPUT
from perun_hpc.backend.powercap import POWERCAP
from perun_hpc.backend.sysfile import Combined, Files, NumberFiles, descriptors_of
from perun_hpc.data_model.sensor import Missing, Sensor
from perun_hpc.errors import DataError
from perun_hpc.wire.packet import MAX_FDS, receive_packet, send_packet

FILES = {
    "powercap": (POWERCAP, re.compile("energy_uj|power_uw")),
    "hwmon": (HWMON, re.compile(rf"{INPUT.pattern}|in\d+_input")),
}
"""The backends whose files are root's: their directory, and the names of the files that hold readings."""
MOST = 1024
"""Sensors of one backend that are taken."""

Listing = frozenset[tuple[str, str, int]]


def listing(root: Path, backend: str) -> Listing:
    """Every file of readings there is now, with its inode: another one after a driver was loaded again."""
    base, names = FILES[backend]
    found: list[tuple[str, str, int]] = []
    for place in _entries(root / base):
        for directory in (place.path, f"{place.path}/device"):
            found += [(directory, one.name, one.inode()) for one in _entries(directory) if names.fullmatch(one.name)]
    return frozenset(found)


def _entries(directory: Path | str) -> Iterator[os.DirEntry[str]]:
    with contextlib.suppress(OSError), os.scandir(directory) as entries:
        yield from entries


def find(to: socket.socket, root: Path, backend: str) -> None:
    """Open what a backend finds below `root` and send it: the life of the root helper's child.

    Only a regular file below `root`'s /sys that is named as the backend's readings are leaves this process.
    """
    found = catalog.open_backend(backend, root)
    missing = [[one.what, one.why, one.remedy, one.component] for one in found.missing]
    for reader in found.readers:
        if isinstance(reader, Combined) and len(reader.descriptors) > MAX_FDS:
            (sensor,) = reader.sensors
            why = "it is read from many files, which an agent that runs already cannot take over"
            missing.append([sensor.device, why, "restart the agent", sensor.component])
    send_packet(to, json.dumps({"backend": backend, "missing": missing[:50]}).encode())
    top = (root / "sys").resolve()
    for reader in found.readers:
        cost_ns = reader.cost_ns if isinstance(reader, Files) else 0
        for sensor, fds in descriptors_of(reader):
            if 0 < len(fds) <= MAX_FDS and all(_of_the_backend(fd, top, backend) for fd in fds):
                send_packet(to, json.dumps({"sensor": sensor.to_json(), "cost_ns": cost_ns}).encode(), fds)
    send_packet(to, b"{}")


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

    def take(self) -> tuple[str, Discovery] | None:
        """A backend and all that was found of it, once that has arrived; DataError where it is no such thing."""
        while True:
            try:
                packet, fds = receive_packet(self._socket)
            except OSError:
                return None
            if not packet:
                return None
            try:
                said = json.loads(packet)
                if "missing" in said:
                    self._drop()
                    self._backend, self._missing = str(said["backend"]), tuple(Missing(*one) for one in said["missing"])
                elif not said:
                    return self._backend, self._whole()
                elif 1 <= len(fds) <= MAX_FDS and len(self._found) < MOST:
                    self._found.append((Sensor.from_json(said["sensor"]), int(said["cost_ns"]), fds))
                    fds = ()
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"what was found of sensors is damaged: {error}") from error
            finally:
                for fd in fds:
                    os.close(fd)

    def _whole(self) -> Discovery:
        readers: list[Reader] = []
        for sensor, cost_ns, fds in self._found:
            reader: Files = NumberFiles.of((sensor,), fds) if len(fds) == 1 else Combined.of(sensor, fds)
            reader.cost_ns = cost_ns
            readers.append(reader)
        self._found = []
        return Discovery(tuple(readers), self._missing)

    def _drop(self) -> None:
        """What a child left that did not come to its end."""
        for _, _, fds in self._found:
            for fd in fds:
                os.close(fd)
        self._found = []
