"""Node power from the board's management controller: DCMI's current power, through FreeIPMI's `ipmi-dcmi`.

Only the current power is used: DCMI's own averages may span hours. A chassis may share power supplies between nodes.
Watts count whatever the answer's state bit says (DCMI v1.5, section 6.6.1: "power measurement active"): OpenBMC's
phosphor-host-ipmid answered valid watts without it for years, then with another bit. The sensor's scope tells of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from perun_hpc.backend.base import Clock, Discovery, host_name, monotonic_ns
from perun_hpc.backend.chips import NODE_UW
from perun_hpc.data_model.sensor import Kind, Missing, Reading, Sensor
from perun_hpc.data_model.units import Quantity

COMMAND = ("ipmi-dcmi", "--get-system-power-statistics")
TIMEOUT_S = 20.0
NO_WATTS = 0xFFFF
"""DCMI's current power has 16 bits; firmware that knows none sets them all."""
DEVICES = ("dev/ipmi0", "dev/ipmi/0", "dev/ipmidev/0")

_CURRENT = re.compile(r"^Current Power\s*:\s*(\d+) Watts", re.MULTILINE)
_STATE = re.compile(r"^Power Measurement\s*:\s*(\S.*)$", re.MULTILINE)

Run = Callable[[], str]
"""Runs `ipmi-dcmi` and returns its output; raises OSError."""


def run_tool() -> str:
    """Run `ipmi-dcmi` with a time limit."""
    import subprocess  # only the few machines with a controller need it

    try:
        return subprocess.run(COMMAND, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout
    except subprocess.SubprocessError as error:
        raise OSError(str(error)) from error


def current_power_w(output: str) -> int:
    """Watts in the tool's output; ValueError says what is wrong with it."""
    current = _CURRENT.search(output)
    if current is None:
        raise ValueError("no 'Current Power' in the answer of ipmi-dcmi")
    if current[1] == "0":
        raise ValueError("the controller answers 0 W" + ("" if is_active(output) else ", and that it does not measure"))
    if int(current[1]) == NO_WATTS:
        raise ValueError(f"the controller answers {NO_WATTS} W, all ones, which is no value")
    return int(current[1])


def is_active(output: str) -> bool:
    """Whether the controller calls its power measurement active; a tool that does not tell counts as yes."""
    state = _STATE.search(output)
    return state is None or state[1].strip().lower() in ("active", "available")


class Dcmi:
    """Reader of the node's power; one read takes from milliseconds to seconds."""

    def __init__(self, run: Run, clock: Clock = monotonic_ns, active: bool = True) -> None:
        """`run` asks the controller; `active` is whether it calls its measurement so."""
        self._run = run
        self._clock = clock
        doubt = "" if active else ", which does not call its measurement active"
        self._sensor = Sensor(
            id="ipmi:node:power",
            host=host_name(),
            backend="ipmi",
            device="BMC",
            domain="node",
            component="node",
            kind=Kind.GAUGE,
            quantity=Quantity.POWER,
            unit="W",
            scale_num=1_000_000,
            dtype="u4",
            gain_error=0.05,
            gain_source="assumed 5 % (k=1); controllers rarely state one",
            update_ns=1_000_000_000,
            lag_ns=500_000_000,
            max_uw=NODE_UW,
            scope=f"node, by its management controller{doubt}; a chassis may share power supplies",
        )

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """The node's power."""
        return (self._sensor,)

    def read(self) -> tuple[Reading, ...]:
        """Ask the controller once; the reading's time is the middle of the call."""
        before = self._clock()
        try:
            watts = current_power_w(self._run())
        except (OSError, ValueError) as error:
            return (Reading(None, self._clock(), _line(error)),)
        return (Reading(watts, (before + self._clock()) // 2),)

    def close(self) -> None:
        """Nothing is held open."""


def discover(root: Path = Path("/"), run: Run | None = None, clock: Clock = monotonic_ns) -> Discovery:
    """The node's power, if the machine has an IPMI device, the tool is installed and the controller answers."""
    if not any((root / device).exists() for device in DEVICES):
        return Discovery()
    if run is None:
        import shutil

        if shutil.which(COMMAND[0]) is None:
            return Discovery(
                missing=(Missing("node power (DCMI)", "ipmi-dcmi is not installed", "install freeipmi", "node"),)
            )
        run = run_tool
    try:
        answer = run()
        current_power_w(answer)
    except (OSError, ValueError) as error:
        remedy = "run as root; check that the controller supports DCMI power management"
        return Discovery(missing=(Missing("node power (DCMI)", _line(error), remedy, "node"),))
    return Discovery((Dcmi(run, clock, is_active(answer)),))


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no answer")
