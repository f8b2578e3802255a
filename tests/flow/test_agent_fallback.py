"""A source that goes bad while the agent runs: who counts in its place, and what the job's record says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.backend.base import Reader
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from tests.flow.two_paths import SILENT, ByAgent, Machine, close_readers

J = 1_000_000
PACKAGE = """
sys/class/powercap/intel-rapl:0/name = package-0
sys/class/powercap/intel-rapl:0/energy_uj = 5000000000
sys/class/powercap/intel-rapl:0/max_energy_range_uj = 262143328850
move sys/class/powercap/intel-rapl:0/energy_uj 40
"""
METER = """
sys/class/hwmon/hwmon7/name = power_meter
sys/class/hwmon/hwmon7/power1_average = 100000000
sys/class/hwmon/hwmon7/power1_average_interval = 100
"""
PSYS = """
sys/class/powercap/intel-rapl:1/name = psys
sys/class/powercap/intel-rapl:1/energy_uj = 900000000
sys/class/powercap/intel-rapl:1/max_energy_range_uj = 262143328850
move sys/class/powercap/intel-rapl:1/energy_uj 70
"""
AMD_ENERGY = """
sys/class/hwmon/hwmon7/name = amd_energy
sys/class/hwmon/hwmon7/energy1_label = Esocket0
sys/class/hwmon/hwmon7/energy1_input = 7000000000
move sys/class/hwmon/hwmon7/energy1_input 40
"""


class Bmc:
    """A management controller that always shows 100 W, or nothing."""

    answers = True

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def sensors(self) -> tuple[Sensor, ...]:
        """Its one power."""
        return (
            Sensor(
                id="ipmi:node:power", host="n1", backend="ipmi", device="bmc", domain="node", component="node",
                kind=Kind.GAUGE, quantity=Quantity.POWER, unit="uW", update_ns=10**9, max_uw=10**10, scope="node",
            ),
        )  # fmt: skip

    def read(self) -> tuple[Reading, ...]:
        """What it shows now."""
        ticks = 100 * J if self.answers else None
        return (Reading(ticks, self._machine.now_ns, None if self.answers else "no answer"),)

    def close(self) -> None:
        """Nothing is open."""


def story(tmp_path: Path, tree: str, bad: str, silent_s: range, seconds: int, bmc: bool = False) -> tuple[dict, list]:
    """The record of a job of so many seconds in which `bad` told nothing for a time, and what the agent said."""
    machine = Machine(tree, tmp_path / "root")
    beside: list[Reader] = [Bmc(machine)] if bmc else []
    agent, said = ByAgent(machine, tmp_path / "agent", 10, beside), []
    agent.read(False)
    for second in range(1, seconds + 1):
        machine.pass_second()
        if second in (silent_s.start, silent_s.stop):
            machine.silence(bad, SILENT if second == silent_s.start else "")
        agent.read(second == seconds)
        if second % 10 == 0:
            said += agent.look_for_silence()
    record = agent.record()
    close_readers()
    return record, said


def test_a_meter_that_fails_for_good_is_followed_by_the_management_controller_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    record, said = story(tmp_path, PACKAGE + METER, "hwmon7", range(15, 10_000), 200, bmc=True)
    (why,) = said
    assert "node: ipmi:node:power counts it from now on, since hwmon:node:power has given nothing" in why
    assert why in record["notes"]
    assert record["state"] == "closed"
    domains = record["domains"]
    assert domains["package-0"]["node_uj"] == pytest.approx(200 * 40 * J, abs=100)
    assert domains["other"]["energy_uj"] == pytest.approx(200 * 60 * J, abs=2 * 100 * J)  # a second at each change
    assert domains["other"]["gap_ns"] <= 80 * 10**9


def test_a_counter_without_another_one_is_waited_for_and_its_next_reading_covers_the_time(tmp_path: Path) -> None:
    record, said = story(tmp_path, AMD_ENERGY, "hwmon7", range(15, 150), 200)
    assert not said
    assert record["domains"]["package-0"]["node_uj"] == pytest.approx(200 * 40 * J, abs=100)


def test_a_meter_that_fails_leaves_its_place_to_a_narrower_one(tmp_path: Path) -> None:
    record, said = story(tmp_path, PACKAGE + PSYS + METER, "hwmon7", range(15, 10_000), 200)
    assert "psys: powercap:psys:energy counts it" in said[0] or "node: powercap:psys:energy counts it" in said[0]
    assert "psys" in record["scope"] or "platform" in record["scope"]
    assert record["domains"]["package-0"]["energy_uj"] == pytest.approx(200 * 40 * J, abs=100)


def test_a_zone_that_fails_is_followed_by_another_driver_of_the_same_counter(tmp_path: Path) -> None:
    record, said = story(tmp_path, PACKAGE + AMD_ENERGY, "intel-rapl:0", range(15, 10_000), 200)
    assert "package-0: hwmon:package-0:energy counts it" in said[0]
    assert record["domains"]["package-0"]["node_uj"] == pytest.approx(200 * 40 * J, abs=100)
    assert record["state"] == "closed"


def test_a_zone_that_fails_where_nothing_else_shows_all_of_its_kind_is_kept(tmp_path: Path) -> None:
    second = PACKAGE.replace("rapl:0", "rapl:1").replace("package-0", "package-1").replace("= 5", "= 9")
    record, said = story(tmp_path, PACKAGE + second + AMD_ENERGY, "intel-rapl:0", range(15, 10_000), 200)
    assert not said
    assert record["domains"]["package-1"]["node_uj"] == pytest.approx(200 * 40 * J, abs=100)
    assert record["why"] == "no end reading of package-0: the file holds no number"


def test_zones_of_which_one_fails_are_followed_by_a_driver_that_shows_all(tmp_path: Path) -> None:
    second = PACKAGE.replace("rapl:0", "rapl:1").replace("package-0", "package-1").replace("= 5", "= 9")
    other = AMD_ENERGY.replace("energy1", "energy2").replace("Esocket0", "Esocket1")
    tree = PACKAGE + second + AMD_ENERGY + "".join(other.splitlines(keepends=True)[2:])
    record, said = story(tmp_path, tree, "intel-rapl:0", range(15, 10_000), 200)
    assert [one.split(" counts it")[0] for one in said] == [
        "package-0: hwmon:package-0:energy", "package-1: hwmon:package-1:energy",
    ]  # fmt: skip
    assert [record["domains"][f"package-{n}"]["node_uj"] for n in (0, 1)] == pytest.approx(
        [8000 * J, 8000 * J], abs=100
    )
    assert record["state"] == "closed"


def test_a_source_that_answers_again_for_ten_minutes_counts_again(tmp_path: Path) -> None:
    record, said = story(tmp_path, PACKAGE + METER, "hwmon7", range(15, 155), 900, bmc=True)
    assert [one for one in said if "answers again" in one]
    assert record["domains"]["other"]["energy_uj"] == pytest.approx(900 * 60 * J, abs=3 * 100 * J)
    assert record["state"] == "closed"
