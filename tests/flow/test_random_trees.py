"""Whatever zones and chips a machine has: no joule twice, no two sensors of one name, and nothing passed over."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.energy.containment import plan
from tests.examples import examples
from tests.flow.test_trees import passed_over
from tests.flow.two_paths import ByAgent, ByMonitor, Machine
from tests.sysfs import moves

RANGE_UJ = 262143328850
SECONDS = 3


@dataclass(frozen=True)
class Made:
    """A tree's text, and what the whole machine takes; `whole`: every counter can be read."""

    text: str
    watts: int
    whole: bool


class _Zones:
    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self._draw = draw
        self.lines: list[str] = []
        self.whole = True

    def add(self, zone: str, name: str, watts: int, start: int | None = None, may_fail: bool = True) -> None:
        base = f"sys/class/powercap/{zone}"
        # No two counters begin at one value: that alone would make two of equal power look like one.
        place = len(self.lines) * RANGE_UJ // 1000
        value = place + self._draw(st.integers(0, RANGE_UJ // 2000)) if start is None else start
        self.lines += [f"{base}/name = {name}", f"{base}/max_energy_range_uj = {RANGE_UJ}"]
        if may_fail and self._draw(st.integers(0, 19)) == 0:
            self.lines.append(f"{base}/energy_uj -> energy_uj")
            self.whole = False
        else:
            self.lines += [f"{base}/energy_uj = {value}", f"move {base}/energy_uj {watts}"]


@st.composite
def powercap_trees(draw: Callable[[Any], Any]) -> Made:
    """Packages with dies, mirrored or not, cores, memory, platforms, and a second door."""
    sockets, dies = draw(st.integers(1, 6)), draw(st.sampled_from([1, 1, 2, 4]))
    mirrored, dram, cores = (draw(st.booleans()) for _ in range(3))
    platforms = draw(st.sampled_from(["none", "one", "each", "each, old"]))
    zones, number, total = _Zones(draw), 0, 0
    for socket in range(sockets):
        package, taken, start = draw(st.integers(5, 300)), 0, RANGE_UJ * (80 + socket) // 100
        for die in range(dies):
            name = f"package-{socket}-die-{die}" if dies > 1 else f"package-{socket}"
            zone, memory = f"intel-rapl:{number:x}", draw(st.integers(1, 40))
            number += 1
            zones.add(zone, name, package, start if mirrored else None)
            taken += package if die == 0 or not mirrored else 0
            if cores:
                zones.add(f"{zone}:0", "core", package // 2)
            if dram and not mirrored:
                zones.add(f"{zone}:1", "dram", memory)
                taken += memory
            if draw(st.booleans()):
                zones.add(f"intel-rapl-mmio:{number:x}", name, package, start)
        rest = draw(st.integers(0, 50))
        if platforms.startswith("each"):
            zones.add(
                f"intel-rapl:{number:x}", f"psys-{socket}" if socket and platforms == "each" else "psys", taken + rest
            )
            number += 1
            taken += rest
        total += taken
    if platforms == "one":
        rest = draw(st.integers(0, 50))
        zones.add(f"intel-rapl:{number:x}", "psys", total + rest)
        total += rest
    vendor = draw(st.sampled_from(["GenuineIntel", "AuthenticAMD"]))
    lines = [f"proc/cpuinfo = vendor_id : {vendor}\\nflags : fpu\\n\\n", *zones.lines]
    return Made("\n".join(lines), total, zones.whole)


@st.composite
def hwmon_trees(draw: Callable[[Any], Any]) -> str:
    """Chips of a few names with a few labels, so that both come twice; below `device/` or not."""
    lines = []
    for chip in range(draw(st.integers(1, 6))):
        base = f"sys/class/hwmon/hwmon{chip}"
        files = base + draw(st.sampled_from(["", "/device"]))
        lines.append(
            f"{base}/name = {draw(st.sampled_from(['power_meter', 'ina226', 'corsairpsu', 'amd_energy', 'chip']))}"
        )
        for channel in range(1, 1 + draw(st.integers(0, 3))):
            kind = draw(st.sampled_from(["power{}_input", "power{}_average", "energy{}_input"])).format(channel)
            lines.append(f"{files}/{kind} = {draw(st.integers(1_000_000, 200_000_000))}")
            label = draw(st.sampled_from(["", "Socket 0", "VDD", "Module Power Socket 0", "CPU Power Socket 0"]))
            if label:
                lines.append(f"{files}/{kind.partition('_')[0]}_label = {label}")
    return "\n".join(lines)


@given(made=powercap_trees())
@examples(30)
def test_a_machines_zones_are_counted_once_and_none_is_passed_over(made: Made) -> None:
    with tempfile.TemporaryDirectory() as base:
        machine = Machine(made.text, Path(base) / "root")
        assert not passed_over(machine)
        sensors = [sensor for one in machine.discover() for sensor in one.sensors]
        watts = {Path(path).parent.name: value for path, value in moves(made.text).items()}
        chosen = plan(sensors)
        of = {domain.name: watts[domain.sensor.device] for domain in chosen.domains}
        for meter in chosen.meters:
            assert sum(of[leaf] for leaf in meter.leaves) <= of[meter.name]
        ways = ByMonitor(machine, Path(base) / "monitor"), ByAgent(machine, Path(base) / "agent")
        for second in range(SECONDS + 1):
            if second:
                machine.pass_second()
            for way in ways:
                way.read(second == SECONDS)
        monitor, agent = (way.told() for way in ways)
        assert monitor.energy_uj == agent.energy_uj
        told_uj, true_uj = monitor.energy_uj or 0, made.watts * SECONDS * 10**6
        assert told_uj <= true_uj + 100
        assert not made.whole or told_uj == pytest.approx(true_uj, abs=100)


@given(tree=hwmon_trees())
@examples(100)
def test_a_machines_chips_have_names_of_their_own_and_none_is_passed_over(tree: str) -> None:
    with tempfile.TemporaryDirectory() as base:
        assert not passed_over(Machine(tree, Path(base) / "root"))
