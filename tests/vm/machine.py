"""One virtual machine: qemu without any accelerator, so that it runs wherever qemu does."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.vm.images import Image

CPUS, MEMORY_MB = 2, 2048


class Silent(RuntimeError):
    """The guest did not say anything for too long, or the machine ended early; the text names its console's log."""


class Machine:
    """A running machine; the guest's program speaks a JSON line at a time over a serial port of its own.

    Parameters
    ----------
    image
        Kernel and initial memory disk; its disk is not touched.
    disk
        The root file system, written to.
    brought
        The file system with what the run brought along.
    log
        What the console shows, appended.
    extra
        More of qemu's options.
    """

    def __init__(self, image: Image, disk: Path, brought: Path, log: Path, extra: Sequence[str] = ()) -> None:
        self._log = log
        self._path = disk.with_suffix(".sock")
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self._path))
        listener.listen(1)
        listener.settimeout(30)
        command = [
            *("setpriv", "--pdeathsig=KILL"),
            *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", str(CPUS)),
            *("-m", str(MEMORY_MB), "-nodefaults", "-display", "none", "-no-user-config"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initrd)),
            *("-append", "root=/dev/vda rw console=ttyS0 loglevel=4 mitigations=off systemd.show_status=auto"),
            *("-drive", f"file={disk},format=raw,if=virtio,cache=unsafe"),
            *("-drive", f"file={brought},format=raw,if=virtio,readonly=on"),
            *("-serial", f"file:{log}.part"),
            *("-device", "virtio-serial", "-chardev", f"socket,id=told,path={self._path}"),
            *("-device", "virtserialport,chardev=told,name=perun-vm"),
            *extra,
        ]
        Path(f"{log}.part").unlink(missing_ok=True)
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            self._socket, _ = listener.accept()
        except TimeoutError:
            self._process.kill()
            assert self._process.stderr is not None
            raise Silent(f"qemu does not start: {self._process.stderr.read().strip()}") from None
        finally:
            listener.close()

    def told(self, deadline: float) -> Iterator[dict[str, Any]]:
        """What the guest says, until the machine ends; `deadline` in monotonic seconds.

        Raises
        ------
        Silent
            At the deadline; the machine is ended.
        """
        pending = b""
        try:
            while True:
                self._socket.settimeout(max(0.1, deadline - time.monotonic()))
                piece = self._socket.recv(65536)
                if not piece:
                    return self._ended()
                *lines, pending = (pending + piece).split(b"\n")
                yield from (json.loads(line) for line in lines)
        except TimeoutError:
            raise Silent(f"out of time; the console is in build/vm/{self._log.name}") from None
        finally:
            self.end()

    def _ended(self) -> None:
        """Raise `Silent` if qemu ended otherwise than by the guest's own power button."""
        assert self._process.stderr is not None
        if self._process.wait() != 0:
            raise Silent(f"qemu ended with {self._process.returncode}: {self._process.stderr.read().strip()}")

    def end(self) -> None:
        """Pull the plug, unless it has ended."""
        self._process.kill()
        self._process.wait()
        self._socket.close()
        self._path.unlink(missing_ok=True)
        part = Path(f"{self._log}.part")
        with self._log.open("ab") as log:
            log.write(part.read_bytes())
        part.unlink()
