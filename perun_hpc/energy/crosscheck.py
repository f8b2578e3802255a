"""A counter held against integrated power of the same device: frozen and diverging counters are flagged."""

from __future__ import annotations

from dataclasses import dataclass

from perun_hpc.energy.integrate import Integral

TOLERANCE = 0.2
LEAST_COVERAGE = 0.9


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
