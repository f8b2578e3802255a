"""The reader of a node's power and the tool that it runs: FreeIPMI's own output, of a simulated controller."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from perun_hpc.backend import ipmi
from tests import bmc

CAPTURED = """\
Current Power                        : 183 Watts
Minimum Power over sampling duration : 170 watts
Maximum Power over sampling duration : 189 watts
Average Power over sampling duration : 180 watts
Time Stamp                           : 11/30/2026 - 18:01:53
Statistics reporting time period     : 1000 milliseconds
Power Measurement                    : {state}
"""
"""What ipmi-dcmi 1.6.10 printed of the controller of this test."""
INACTIVE = "does not call its measurement active"
TOLD = {True: "Active", False: "Not Available"}

needs_tools = pytest.mark.skipif(
    bool(bmc.missing()) or not all(map(shutil.which, ("ipmi-dcmi", "ipmitool"))),
    reason="OpenIPMI's simulator, FreeIPMI and ipmitool are not all installed",
)


@pytest.fixture(params=[True, False], ids=["active", "inactive"])
def controller(request, tmp_path):
    """A controller, and whether it calls its measurement active."""
    (tmp_path / "bmc").mkdir()
    with bmc.running(tmp_path / "bmc", active=request.param) as running:
        yield running, request.param


@pytest.fixture
def machine(tmp_path) -> Path:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/ipmi0").touch()
    return tmp_path


def printed(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.parametrize("active", [True, False])
def test_watts_count_whatever_the_state_bit_says_and_the_scope_tells_of_it(machine: Path, active: bool):
    found = ipmi.discover(machine, run=lambda: CAPTURED.format(state=TOLD[active]))
    (reader,) = found.readers
    assert reader.read()[0].ticks == 183
    assert (INACTIVE in found.sensors[0].scope) is not active


def test_a_controller_that_gives_no_watts_and_measures_nothing_is_missing_with_both(machine: Path):
    found = ipmi.discover(machine, run=lambda: CAPTURED.format(state=TOLD[False]).replace("183", "0"))
    assert found.readers == ()
    assert found.missing[0].why == "the controller answers 0 W, and that it does not measure"


@needs_tools
def test_the_tool_prints_today_what_was_captured(controller):
    running, active = controller
    output = printed(*running.tool(*ipmi.COMMAND))

    def shape(text: str) -> list[str]:
        return [re.sub(r"\d+", "N", line) for line in text.splitlines()]

    assert shape(output) == shape(CAPTURED.format(state=TOLD[active]))


@needs_tools
def test_the_reader_gives_what_the_controller_served(machine: Path, controller):
    running, active = controller
    found = ipmi.discover(machine, run=lambda: printed(*running.tool(*ipmi.COMMAND)))
    (reader,) = found.readers
    for _ in range(3):  # the tool takes a second over this way
        assert reader.read()[0].ticks == running.served()[-1][1]
    assert len(running.served()) == 4  # discovery asked once
    assert len({watts for _, watts in running.served()}) > 1
    assert (INACTIVE in found.sensors[0].scope) is not active


@needs_tools
def test_another_tool_sees_the_same_controller(controller):
    running, active = controller
    where = ["-I", "lan", "-H", "127.0.0.1", "-p", str(running.lan), "-U", bmc.USER, "-P", bmc.PASSWORD]
    output = printed("ipmitool", *where, "dcmi", "power", "reading")
    assert f"Instantaneous power reading: {running.served()[-1][1]} Watts" in " ".join(output.split())
    assert f"state is: {'activated' if active else 'deactivated'}" in " ".join(output.split())
