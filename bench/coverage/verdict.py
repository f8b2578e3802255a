"""What the engine printed against the hidden truth: coverage, bias, error, width."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One printed figure: its kind of case, true and printed energy and its standard uncertainty, all in J."""

    kind: str
    true_j: float
    printed_j: float
    u_j: float


@dataclass(frozen=True)
class Verdict:
    """How the bounds of one kind of case fared; all but `n` and `needless` in percent.

    Attributes
    ----------
    covered : figures whose k = 2 bounds hold the truth.
    bias, rmse : of the figures, against the truth.
    width : median of 2u against the truth.
    needless : printed width over the narrowest that covers 95 % (all bounds scaled alike).
    """

    kind: str
    n: int
    covered: float
    bias: float
    rmse: float
    width: float
    needless: float


def judge(kind: str, samples: Iterable[Sample]) -> Verdict:
    """The verdict over the samples of one kind."""
    rows = np.array([(one.true_j, one.printed_j, one.u_j) for one in samples if one.true_j > 0])
    true, printed, u = rows.T
    error, bound = np.abs(printed - true), np.maximum(2 * u, 1e-12)
    scale = float(np.quantile(error / bound, 0.95))
    relative = (printed - true) / true
    return Verdict(
        kind,
        len(rows),
        100 * float(np.mean(error <= bound)),
        100 * float(np.mean(relative)),
        100 * float(np.sqrt(np.mean(relative**2))),
        100 * float(np.median(bound / true)),
        1 / scale if scale > 1e-9 else float("inf"),
    )


def table(verdicts: Iterable[Verdict]) -> str:
    """As Markdown."""
    lines = ["| kind of case | n | covered | bias | RMSE | width | printed / needed |", "|---|---|---|---|---|---|---|"]
    for one in verdicts:
        needless = f"{one.needless:.2f}" if one.needless < 1000 else "-"
        lines.append(
            f"| {one.kind} | {one.n} | {one.covered:.0f} | {one.bias:+.0f} | {one.rmse:.0f} | {one.width:.0f} "
            f"| {needless} |"
        )
    return "\n".join(lines)
