"""A curve in one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from perun_hpc.report.screen import Style

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-~=+*#"
GAP = " "


def sparkline(values: Sequence[float], style: Style) -> str:
    """Return a character for each value, from 0 up to the greatest one; a blank where nothing is known (NaN).

    Where the stream's encoding has no blocks they are characters of ASCII, the higher the denser.
    """
    known = [value for value in values if not math.isnan(value)]
    most = max(known, default=0.0)
    steps = _BLOCKS if style.unicode else _ASCII
    if most <= 0:
        return "".join(GAP if math.isnan(value) else steps[0] for value in values)
    return "".join(
        GAP if math.isnan(value) else steps[min(max(int(value / most * len(steps)), 0), len(steps) - 1)]
        for value in values
    )
