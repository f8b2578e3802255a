"""What all pictures of perun share: matplotlib, the colours and names of components, stacked power, saving."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc import extras, files
from perun_hpc.errors import UnavailableError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

SUFFIXES = (".png", ".svg", ".pdf")
LABELS = {"cpu": "CPU", "dram": "memory", "gpu": "GPU", "other": "other", "node": "node"}
"""Components from the bottom of a stack to its top, and what a legend calls them."""
COLOURS = {"cpu": "#0072b2", "dram": "#56b4e9", "gpu": "#e69f00", "other": "#8b949e", "node": "#9a5ea1"}
"""Distinct for people who see red and green alike, after Okabe and Ito."""


def check() -> None:
    """UnavailableError without matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"a picture needs matplotlib: {extras.remedy('matplotlib')}") from error


def save(figure: Any, target: Path) -> None:
    """Write a figure as PNG, SVG or PDF, as the name of `target` says; nobody sees half of it."""
    with files.Replacement(target) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script that no font here has is drawn as boxes
        figure.savefig(partial, format=target.suffix[1:], dpi=150)


def stack(axes: Any, edges_s: Floats, parts: Mapping[str, Floats]) -> None:
    """Draw the power of components upon each other: `watts[i]` from `edges_s[i]` to `edges_s[i + 1]`."""
    import numpy as np

    below: Any = 0.0
    for component, watts in parts.items():
        top = below + watts  # above a gap nothing is known either
        if not np.isnan(top).all():
            axes.stairs(
                top, edges_s, baseline=below, fill=True, alpha=0.85, lw=0,
                color=COLOURS[component], label=LABELS[component],
            )  # fmt: skip
        below = top
