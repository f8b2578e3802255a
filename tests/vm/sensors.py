"""The far ends of the guest's power sensors, an ACPI table and a management controller: what qemu is told of them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests import bmc

METER = Path(__file__).with_name("meter.asl")


@contextmanager
def connected(scratch: Path) -> Iterator[tuple[str, ...]]:
    """Compile the meter's table and run a controller as long as the block; qemu's options for both.

    `scratch` is an empty directory for them. The controller outlives the machine, as one that is plugged in does.
    """
    table = scratch / "meter.aml"
    command = ["iasl", "-p", str(table.with_suffix("")), str(METER)]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    with bmc.running(scratch) as controller:
        # With reconnect= qemu connects once its devices are there; without, qemu 7.2 sends to one that is not.
        where = f"socket,id=bmc,host=127.0.0.1,port={controller.serial},reconnect=1"
        yield (
            *("-acpitable", f"file={table}"),
            *("-chardev", where, "-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc", "-device", "isa-ipmi-kcs,bmc=bmc0"),
        )
