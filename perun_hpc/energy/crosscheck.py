"""Counters held against what else shows their device's work: a GPU's against its integrated power, CPUs' against time.

Frozen and diverging counters are flagged.
"""

from __future__ import annotations

from dataclasses import dataclass

from perun_hpc.data_model.sensor import Provenance, Sensor
from perun_hpc.energy.counters import NS_PER_S
from perun_hpc.energy.integrate import Integral, is_integrated

TOLERANCE = 0.2
LEAST_COVERAGE = 0.9
CPU_UW = 20_000
"""No logical CPU that works takes less, with its part of caches and memory controller: of the most frugal (an Atom's
core at its lowest clock, one of two threads) it is five times as much. A server of 256 takes 5 W by this, and 100."""
LEAST_BUSY_NS = 1_000_000_000
NO_MEASUREMENT = "its counter shows less than its CPUs take"


@dataclass(frozen=True, slots=True)
class Check:
    """`ratio` is counter over integral; `flag` is empty when they agree, and says what is wrong when not."""

    ratio: float | None
    flag: str = ""


def compare(counter_uj: int | None, integral: Integral, tolerance: float = TOLERANCE) -> Check:
    """Compare over the same time span; without a counter or with gaps in the power there is nothing to say.

    The counter passes when it lies within the tolerance of the range that the power readings allow. NVIDIA's fields 83
    and 186 rest on the same sensor, so agreement there is no independent proof.

    Parameters
    ----------
    counter_uj : the counter's difference in uJ; None when it is not known.
    integral : of the power readings.
    tolerance : relative; how far outside the range of the power readings a counter may lie.

    Returns
    -------
    The ratio of the two, None when there is nothing to say, and what is wrong.
    """
    whole_ns = integral.covered_ns + integral.gap_ns
    if counter_uj is None or not integral.energy_uj or integral.covered_ns < LEAST_COVERAGE * whole_ns:
        return Check(None)
    ratio = counter_uj / integral.energy_uj
    if counter_uj == 0:
        return Check(ratio, "the counter is frozen while power flows")
    highest = integral.high_uj if integral.high_uj is not None else integral.energy_uj
    if not integral.low_uj * (1 - tolerance) <= counter_uj <= highest * (1 + tolerance):
        return Check(ratio, f"the counter shows {ratio:.2f} times the integrated power")
    return Check(ratio)


def may_stand_still(sensor: Sensor) -> bool:
    """Whether a counter may show nothing for a while and measure all the same.

    A GPU may be switched off, one made of a gauge waits after power has fallen, and nobody says how often a file that a
    site declares is renewed. Of these the whole run alone is judged.
    """
    return sensor.component == "gpu" or sensor.backend == "file" or is_integrated(sensor)


def shows_too_little(sensor: Sensor, counted_uj: int, busy_ns: int) -> bool:
    """Whether an energy of CPUs cannot be what they took, as they worked so long.

    Counters of virtual machines and of platforms that the hardware does not measure move seldom or never.

    Parameters
    ----------
    sensor : of a CPU package, or of a meter that contains all of them.
    counted_uj : what it showed.
    busy_ns : how long its logical CPUs worked meanwhile, added up.

    Returns
    -------
    False where they worked for too short a time to say, and of a simulated one, which takes what its simulator gives.
    """
    if sensor.provenance in (Provenance.SIMULATED, Provenance.ESTIMATED) or busy_ns < LEAST_BUSY_NS:
        return False
    return counted_uj + sensor.base(sensor.resolution) < CPU_UW * busy_ns // NS_PER_S
