"""The far ends of the guest's power sensors: what qemu is told, and what they served."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.vm.bmc import Bmc

METER = Path(__file__).with_name("meter.asl")


@dataclass(frozen=True)
class Sensors:
    """qemu's options for an ACPI power meter and a management controller, and the latter."""

    options: tuple[str, ...]
    bmc: Bmc


def connect(scratch: Path) -> Sensors:
    """Compile the meter's table and start a controller; `scratch` is a directory for both."""
    table, path = scratch / "meter.aml", scratch / "bmc.sock"
    command = ["iasl", "-p", str(table.with_suffix("")), str(METER)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    bmc = Bmc(path)
    bmc.start()
    # With reconnect= qemu connects once its devices are there; without, qemu 7.2 sends to one that is not.
    options = (
        *("-acpitable", f"file={table}"),
        *("-chardev", f"socket,id=bmc,path={path},reconnect=1", "-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc"),
        *("-device", "isa-ipmi-kcs,bmc=bmc0"),
    )
    return Sensors(options, bmc)
