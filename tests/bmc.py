"""A board's management controller: OpenIPMI's simulator, taught DCMI's power reading, for loopback alone.

Sources: ipmi_sim(1), ipmi_lan(5), ipmi_sim_cmd(5).
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MODULE = Path(__file__).parent / "stubs" / "dcmi.c"
HEADER = Path("/usr/include/OpenIPMI/mcserv.h")
BASE_W, STEPS = 170, 20
"""It draws 170 to 189 W, another watt every second."""
USER, PASSWORD = "perun", "test"
WAIT_S = 10.0
CONFIGURATION = """\
name "perun"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {lan}
    priv_limit admin
    allowed_auths_callback none md2 md5 straight
    allowed_auths_user none md2 md5 straight
    allowed_auths_operator none md2 md5 straight
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa123456789abcdef
  endlan
  serial 15 127.0.0.1 {serial} codec VM
  user 2 true "{user}" "{password}" admin 10 none md2 md5 straight
  loadlib "{module}" "{log} {state}"
"""
CONTROLLER = """\
mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr
sensor_add 0x20 0 0 35 0x6f event-only
mc_enable 0x20
"""
"""One controller; the sensor is the watchdog's, which ipmi_sim wants there."""


@dataclass(frozen=True)
class Bmc:
    """A running controller.

    `serial` is the TCP port that qemu's `ipmi-bmc-extern` connects to, `lan` the UDP port of IPMI over LAN.
    """

    serial: int
    lan: int
    log: Path

    def served(self) -> list[tuple[int, int]]:
        """Time in s and W of every reading that it gave."""
        return [(int(when), int(watts)) for when, watts in map(str.split, self.log.read_text().splitlines())]

    def tool(self, *words: str) -> list[str]:
        """A command of FreeIPMI that asks this controller instead of the machine's own."""
        login = ["--username", USER, "--password", PASSWORD, "--privilege-level", "ADMIN"]
        return [*words, "--driver-type", "LAN", "--hostname", f"127.0.0.1:{self.lan}", *login]


def missing() -> str:
    """What is not installed here that it needs; empty if nothing."""
    return ", ".join(
        [name for name in ("ipmi_sim", "cc") if shutil.which(name) is None]
        + ([] if HEADER.exists() else ["OpenIPMI's headers"])
    )


@contextmanager
def running(scratch: Path, active: bool = True) -> Iterator[Bmc]:
    """Run a controller as long as the block; `scratch` is an empty directory for it.

    Parameters
    ----------
    active
        Whether readings say that power measurement is active.
    """
    module, log, file = scratch / "dcmi.so", scratch / "served", scratch / "lan.conf"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", module, MODULE], check=True)
    bmc = Bmc(_free(socket.SOCK_STREAM), _free(socket.SOCK_DGRAM), log)
    log.touch()
    state = "active" if active else "inactive"
    words = {"lan": bmc.lan, "serial": bmc.serial, "module": module, "log": log, "state": state}
    file.write_text(CONFIGURATION.format(user=USER, password=PASSWORD, **words))
    (scratch / "controller").write_text(CONTROLLER)
    (scratch / "kept").mkdir()
    command = ["ipmi_sim", "-n", "-c", str(file), "-f", str(scratch / "controller"), "-s", str(scratch / "kept")]
    # SIGPIPE stays ignored, as Python has it: ipmi_sim would end when it greets a peer that has already left.
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig=KILL", *command], stdin=subprocess.DEVNULL, restore_signals=False
    )
    try:
        _await(bmc.serial, process)
        yield bmc
    finally:
        process.kill()
        process.wait()


def _free(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
