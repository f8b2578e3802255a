"""Random machines behind random drivers: whatever shows them, each joule counts once and nothing is passed over."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.backend import cray_pm, hwmon, powercap
from perun_hpc.energy.containment import adding_up, plan

W = 10**6
NS = 1_620_000_000 * 10**9


@st.composite
def machines(draw: st.DrawFn) -> dict[str, Any]:
    """Watts of each socket's CPU and memory, of the accelerators and of the rest; and who shows them."""
    sockets = draw(st.integers(1, 4))
    watts = st.integers(10, 900)
    shown = st.sets(
        st.sampled_from(["powercap", "amd_energy", "amd_hsmp_hwmon", "fam15h_power", "apm_xgene", "ibmpowernv"]),
        max_size=3,
    )
    return {
        "cpu": draw(st.lists(watts, min_size=sockets, max_size=sockets, unique=True)),
        "dram": draw(st.lists(watts, min_size=sockets, max_size=sockets, unique=True)),
        "accel": draw(st.lists(watts, max_size=4)),
        "rest": draw(watts),
        "packages": draw(shown),
        "memory": draw(st.booleans()),
        "node": draw(st.sets(st.sampled_from(["power_meter", "ibmpowernv", "macsmc_hwmon", "corsairpsu"]), max_size=2)),
        "cray": draw(st.sampled_from(["", "whole", "parts", "both"])),
        "numbers": draw(st.permutations(range(24))),
    }


class Tree:
    """The machine's kernel files; a counter's reading stands for its watts."""

    def __init__(self, root: Path, machine: dict[str, Any]) -> None:
        self._root, self._machine = root, machine
        self._numbers = iter(machine["numbers"])
        self.node_w = sum(sum(machine[one]) for one in ("cpu", "dram", "accel")) + machine["rest"]
        self._powercap()
        for driver in sorted(machine["packages"] - {"powercap"} | machine["node"]):
            self._driver(driver)
        if machine["cray"]:
            self._cray()

    def _write(self, name: str, content: object) -> None:
        path = self._root / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")

    def _powercap(self) -> None:
        for number, (cpu, dram) in enumerate(zip(self._machine["cpu"], self._machine["dram"], strict=True)):
            if "powercap" not in self._machine["packages"]:
                return
            zones = {
                f"intel-rapl:{number:x}": (f"package-{number}", cpu),
                f"intel-rapl:{number:x}:0": ("core", cpu // 2),
            }
            if self._machine["memory"]:
                zones[f"intel-rapl:{number:x}:1"] = ("dram", dram)
            for zone, (name, watts) in zones.items():
                for file, content in {
                    "name": name,
                    "energy_uj": watts * W,
                    "max_energy_range_uj": 262143328850,
                }.items():
                    self._write(f"class/powercap/{zone}/{file}", content)

    def _chip(self, driver: str, inputs: list[tuple[str, str, int]]) -> None:
        chip = f"class/hwmon/hwmon{next(self._numbers)}"
        self._write(f"{chip}/name", driver)
        for place, (kind, label, watts) in enumerate(inputs, 1):
            self._write(f"{chip}/{kind}{place}_input", watts * W)
            if label:
                self._write(f"{chip}/{kind}{place}_label", label)

    def _driver(self, driver: str) -> None:
        cpus, drams = list(enumerate(self._machine["cpu"])), list(enumerate(self._machine["dram"]))
        node = [
            ("power", {"macsmc_hwmon": "Total System Power", "corsairpsu": "power total"}.get(driver, ""), self.node_w)
        ]
        if driver == "ibmpowernv":
            kind = "energy"
            inputs = [(kind, f"Chip {n} ", w) for n, w in cpus] + [(kind, f"Chip {n} Vdd", w // 2) for n, w in cpus]
            inputs += [(kind, f"Chip {n} Memory", w) for n, w in drams if self._machine["memory"]]
            self._chip(driver, inputs + [(kind, "System", self.node_w)] * (driver in self._machine["node"]))
        elif driver == "amd_energy":
            cores = [("energy", f"Ecore{n:03}", w // 2) for n, w in cpus]
            self._chip(driver, cores + [("energy", f"Esocket{n}", w) for n, w in cpus])
        elif driver in ("power_meter", "macsmc_hwmon", "corsairpsu"):
            self._chip(driver, node)
        else:
            for _, watts in cpus:
                self._chip(driver, [("power", "CPU power" if driver == "apm_xgene" else "", watts)])

    def _cray(self) -> None:
        files = {"energy": self.node_w, "memory_energy": sum(self._machine["dram"])}
        if self._machine["cray"] != "parts":
            files["cpu_energy"] = sum(self._machine["cpu"])
        if self._machine["cray"] != "whole":
            files |= {f"cpu{number}_energy": watts for number, watts in enumerate(self._machine["cpu"])}
        files |= {f"accel{number}_energy": watts for number, watts in enumerate(self._machine["accel"])}
        for name, watts in files.items():
            self._write(f"cray/pm_counters/{name}", f"{watts} J {NS // 1000} us")


@given(machine=machines())
def test_whoever_shows_a_machine_each_joule_counts_once(machine: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as base:
        tree = Tree(Path(base), machine)
        found = [
            powercap.discover(Path(base), lambda: 0, lambda _: None),
            hwmon.discover(Path(base), lambda: 0),
            cray_pm.discover(Path(base), lambda: 0, lambda: NS),
        ]
        pairs = [
            (sensor, sensor.base(reading.ticks) // W)
            for one in found
            for reader in one.readers
            for sensor, reading in zip(reader.sensors, reader.read(), strict=True)
        ]
        for one in found:
            one.close()
    watts = {sensor.id: shown for sensor, shown in pairs}
    chosen = plan(sensor for sensor, _ in pairs)
    assert len(watts) == len(pairs) == len(chosen.domains) + len(chosen.left_out)
    by_domain = {domain.name: watts[domain.sensor.id] for domain in chosen.domains}
    total_w = sum(by_domain[domain.name] for domain in adding_up(chosen.domains, by_domain))
    for meter in chosen.meters:
        assert sum(by_domain[leaf] for leaf in meter.leaves) <= by_domain[meter.name]
    if machine["node"] or machine["cray"]:
        assert total_w == tree.node_w
    else:
        cpu_w = sum(machine["cpu"]) if machine["packages"] else 0
        memory = machine["memory"] and machine["packages"] & {"powercap", "ibmpowernv"}
        assert total_w == cpu_w + (sum(machine["dram"]) if memory else 0)
