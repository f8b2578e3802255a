"""A job's power over time as one line of its report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.report import quantities as q
from perun_hpc.report.screen import Style, both_ends, wrapped
from perun_hpc.report.sparkline import sparkline

if TYPE_CHECKING:
    from perun_hpc.report.curves import JobCurves

LABEL = 11
NO_POWER = "the trace holds no two readings of power"
COLUMNS = 55
"""What the label and the widest scale (`0 .. 3.71 kW`) leave of the screen."""
ALONE = frozenset({"exclusive", "holder"})
"""Methods by which the job got all that its nodes used."""


def curve_lines(record: EnergyRecord, curves: JobCurves, style: Style) -> list[str]:
    """Return the line, and what is to be said of it.

    Parameters
    ----------
    record
        The run.
    curves
        Its trace, as `report.curves` reads it, in `COLUMNS` columns at most.
    style
        How to draw: blocks, or characters of ASCII.
    """
    watts: Sequence[float] = [float(one) for one in curves.total.mean]
    known = [one for one in watts if not math.isnan(one)]
    if not known or max(known) <= 0:
        return not_drawn(NO_POWER)
    lines = [both_ends(f"{'Over time':<{LABEL}}{sparkline(watts, style)}", f"0 .. {q.power(max(known) * 1e3)}", style)]
    said = []
    if len(known) < len(watts):
        said.append("blank: not read")
    # A column in which some nodes were not read shows less than there was.
    if (least := int(curves.reporting[curves.reporting > 0].min())) < max(curves.nodes, record.num_nodes):
        said.append(f"at times of {least} of {max(curves.nodes, record.num_nodes)} nodes alone")
    if any(method not in ALONE for part in record.components for method in part.methods):
        said.append("the whole nodes' power, with what others did there")
    return [*lines, *(wrapped("; ".join(said), LABEL) if said else [])]


def not_drawn(why: str) -> list[str]:
    """Say why there is no curve."""
    return wrapped(f"not drawn: {why}", LABEL, "Over time")
