"""One figure beside a peer's, and how both are measured: in turn, so that a busy machine is busy for both."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

T = TypeVar("T")


class Skipped(Exception):
    """The bench cannot run here; the text says why."""


class Median(float):
    """The median of some measurements, which knows the least and the most of them."""

    least: float
    most: float

    @classmethod
    def of(cls, measured: Iterable[float]) -> Median:
        """At least one measurement."""
        values = sorted(measured)
        made = cls(statistics.median(values))
        made.least, made.most = values[0], values[-1]
        return made


@dataclass(frozen=True)
class Result:
    """A figure, lower being better, or higher with `higher_is_better`; without a peer `peer` is empty.

    `value` and `peer_value` are medians of `n` measurements; where they are a `Median`, their spread is shown.
    """

    name: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    n: int = 1
    higher_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer; None without one, or where ours is too small to differ from nothing."""
        if self.peer_value is None:
            return None
        above, below = (self.value, self.peer_value) if self.higher_is_better else (self.peer_value, self.value)
        return above / below if below > 0 else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """The least and the most of our measurements; None where they are not known."""
        return _spread(self.value)

    @property
    def peer_spread(self) -> tuple[float, float] | None:
        """The same of the peer's."""
        return _spread(self.peer_value)

    def to_json(self) -> str:
        """One line of JSON with spreads and ratio."""
        fields = asdict(self)
        del fields["higher_is_better"]
        return json.dumps({**fields, "spread": self.spread, "peer_spread": self.peer_spread, "ratio": self.ratio})


def _spread(value: float | None) -> tuple[float, float] | None:
    return (value.least, value.most) if isinstance(value, Median) else None


def interleaved(arms: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """The measurements of each arm, taken in turn `rounds` times; every second round backwards."""
    taken: dict[str, list[T]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in list(arms)[:: 1 if number % 2 == 0 else -1]:
            taken[name].append(arms[name]())
    return taken


def medians(arms: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Median]:
    """The median of each arm's measurements, see `interleaved`."""
    return {name: Median.of(values) for name, values in interleaved(arms, rounds).items()}


def added(taken: Mapping[str, list[float]], arm: str, base: str) -> Median:
    """What an arm adds to another: the median over rounds of their difference in that round."""
    return Median.of(more - less for more, less in zip(taken[arm], taken[base], strict=True))
