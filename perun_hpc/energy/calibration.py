"""What nodes draw at the wall, by what their sensors show: P_wall = b0 + sum over components of b_c P_c, fitted.

Rows are times between two readings of a meter. b0 has what no sensor shows and does not change: fans at rest, disks,
the power supply's own loss; a slope above 1 is the loss and cooling that grow with a component's power, and the gain by
which its sensor is off. Least squares; bounds are those of a jackknife over blocks of successive rows, since errors of
one row come back in the next (a meter's reading ends one and begins the other), times Student's t / 2, and the meter's
own gain, which is in all coefficients alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perun_hpc.energy.comparison import t_975
from perun_hpc.errors import DataError

BLOCKS = 12
LEAST_ROWS = 2 * BLOCKS
MOST_CONDITION = 300.0
"""Of the components scaled to one: beyond, they moved together all the time, and no fit tells them apart."""
LEAST_ERROR = 0.001
DAY_ERROR = 0.005
"""What the wall moves by from one day to the next while no sensor shows it (fans, air), relative, k=1: the day before
ten runs on Grid'5000 that were fitted took 0.5 % more (Jay et al., CCGrid 2023; docs/method.md)."""
DAYS_S = 2 * 86_400
"""Times that lie farther apart have days in their scatter."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One time between two readings of a meter: how many nodes it fed, mean powers in W of meter and components."""

    nodes: int
    wall_w: float
    components_w: Mapping[str, float]


@dataclass(frozen=True)
class Coefficient:
    """A coefficient and its standard uncertainty (k=1)."""

    value: float
    u: float


@dataclass(frozen=True)
class WallModel:
    """A fit: `static_w` a node, slopes by component (W/W); `spans_w` is between which powers each component was.

    `rmse_w` is of the fit, `unseen_rmse_w` of rows that the fit at hand had not seen, both a node. `left_out` are
    components without power of their own in these times.
    """

    static_w: Coefficient
    slopes: Mapping[str, Coefficient]
    rmse_w: float
    unseen_rmse_w: float
    rows: int
    spans_w: Mapping[str, tuple[float, float]]
    left_out: tuple[str, ...]


def fit(rows: Sequence[Row], gain_u: float) -> WallModel:
    """Fit a node type's model.

    Parameters
    ----------
    rows : in the order of time, of nodes of one type.
    gain_u : the meter's own relative standard uncertainty (k=1).

    Raises
    ------
    DataError
        Where the rows are too few, or two components moved together all the time.
    """
    if len(rows) < LEAST_ROWS:
        raise DataError(
            f"{len(rows)} times between readings of the meter, with records of all its nodes: {LEAST_ROWS} are needed; "
            "let it run longer"
        )
    nodes = np.array([row.nodes for row in rows], dtype=float)
    wall = np.array([row.wall_w for row in rows]) / nodes
    names = sorted({name for row in rows for name in row.components_w})
    columns = {name: np.array([row.components_w.get(name, 0.0) for row in rows]) / nodes for name in names}
    moved = [name for name in names if float(np.ptp(columns[name])) > 1e-3 * max(1.0, float(columns[name].max()))]
    if not moved:
        raise DataError("no component's power changed in these times: put load on the nodes, and take it off again")
    table = np.column_stack([np.ones(len(rows)), *(columns[name] for name in moved)])
    _tell_apart(table, moved)
    found = _solve(table, wall, nodes)
    off = wall - table @ found
    spread, unseen = _jackknife(table, wall, nodes)
    errors = [math.hypot(float(s), gain_u * abs(float(b))) for s, b in zip(spread, found, strict=True)]
    return WallModel(
        static_w=Coefficient(float(found[0]), errors[0]),
        slopes={
            name: Coefficient(float(b), u) for name, b, u in zip(moved, found[1:], errors[1:], strict=True)
        },
        rmse_w=math.sqrt(float(np.sum(off**2)) / max(1, len(rows) - len(found))),
        unseen_rmse_w=unseen,
        rows=len(rows),
        spans_w={name: (float(columns[name].min()), float(columns[name].max())) for name in moved},
        left_out=tuple(name for name in names if name not in moved),
    )  # fmt: skip


def relative_error(model: WallModel, rows: Sequence[Row], gain_u: float, span_s: float) -> float:
    """Relative standard uncertainty (k=1) of an energy at the wall by a model, of what it was not fitted to.

    Parameters
    ----------
    model, rows : the fit and what it was made from.
    gain_u : the meter's own relative standard uncertainty (k=1).
    span_s : from the first reading to the last.
    """
    mean_w = math.fsum(row.wall_w / row.nodes for row in rows) / len(rows)
    day = DAY_ERROR if span_s < DAYS_S else 0.0
    return max(LEAST_ERROR, math.hypot(model.unseen_rmse_w / mean_w, gain_u, day))


def _solve(table: Floats, wall: Floats, nodes: Floats) -> Floats:
    weights = np.sqrt(nodes)[:, None]
    found = np.linalg.lstsq(table * weights, wall * weights[:, 0], rcond=None)[0]
    return np.asarray(found, dtype=np.float64)


def _tell_apart(table: Floats, names: Sequence[str]) -> None:
    centred = table[:, 1:] - table[:, 1:].mean(axis=0)
    scaled = centred / np.linalg.norm(centred, axis=0)
    if len(names) > 1 and float(np.linalg.cond(scaled)) > MOST_CONDITION:
        raise DataError(
            f"{' and '.join(names)} moved together all the time: run loads that use one of them at a time, or fit them "
            "as one (--together)"
        )


def _jackknife(table: Floats, wall: Floats, nodes: Floats) -> tuple[Floats, float]:
    """Return each coefficient's standard uncertainty, and the RMSE of the blocks that were left out in turn."""
    blocks = np.array_split(np.arange(len(wall)), BLOCKS)
    found = []
    off: list[float] = []
    for block in blocks:
        kept = np.ones(len(wall), dtype=bool)
        kept[block] = False
        one = _solve(table[kept], wall[kept], nodes[kept])
        found.append(one)
        off += (wall[block] - table[block] @ one).tolist()
    without = np.array(found)
    mean = without.mean(axis=0)
    spread = np.sqrt((BLOCKS - 1) / BLOCKS * np.sum((without - mean) ** 2, axis=0)) * t_975(BLOCKS - 1) / 2
    return spread, math.sqrt(float(np.mean(np.square(off))))
