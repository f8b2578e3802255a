"""A GPU's counter against its power readings over one job."""

from __future__ import annotations

import pytest

from perun_hpc.agent.measure.checks import Checks
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity

S = 1_000_000_000


def sensor(name: str, quantity: Quantity, kind: Kind) -> Sensor:
    return Sensor(
        id=f"nvml:gpu-a:{name}", host="n", backend="nvml", device="d", domain="gpu-a", component="gpu",
        kind=kind, quantity=quantity, unit="mJ", scale_num=1000,
    )  # fmt: skip


ENERGY = sensor("energy", Quantity.ENERGY, Kind.COUNTER)
AVERAGE = sensor("power-average", Quantity.POWER, Kind.GAUGE)
INSTANT = sensor("power", Quantity.POWER, Kind.GAUGE)


def checked(counted_w: int, seconds: int = 60, held: tuple[str, ...] = ("gpu-a",)) -> dict:
    """A job on a GPU that draws 300 W while its counter shows another power; the job before it was sound."""
    checks = Checks()
    checks.follow([ENERGY, AVERAGE, INSTANT])
    energy_mj = 0
    for second in range(100 + seconds + 1):
        if second == 100:
            checks.begin("job:1.0")
        readings = {ENERGY.id: energy_mj, AVERAGE.id: 300_000, INSTANT.id: 900_000}
        checks.note({name: Reading(ticks, second * S) for name, ticks in readings.items()})
        energy_mj += 1000 * (counted_w if second >= 99 else 300)
    return checks.end("job:1.0", held)


def test_a_sound_counter_passes():
    assert checked(300) == {"gpu-a": {"ratio": 1.0, "flag": ""}}


@pytest.mark.parametrize(("counted_w", "words"), [(0, "frozen"), (100, "0.33 times"), (900, "3.00 times")])
def test_a_counter_that_disagrees_is_flagged(counted_w, words):
    assert words in checked(counted_w)["gpu-a"]["flag"]


def test_short_jobs_and_devices_of_others_are_not_judged():
    assert checked(0, seconds=20) == {}
    assert checked(0, held=()) == {}
