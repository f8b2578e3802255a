"""A running job as its nodes tell it: power now, energy so far, node by node."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from perun_hpc.data_model import codec
from perun_hpc.errors import DataError
from perun_hpc.report import quantities as q
from perun_hpc.report.gpu_pace import mhz
from perun_hpc.report.screen import WIDTH, Style, both_ends, printable, table

SLOW_MS = 2000
"""A resolution above this is said: figures that stand still would look like a fault."""
SHOWN = 12
"""Nodes on the screen; of more the busiest."""


@dataclass(frozen=True)
class GpuNow:
    """What a node saw last of a GPU that the job holds alone; None where nobody knows.

    `busy` in thousandths; `capped`: its power limit holds its clock down, `slowed`: heat or the hardware does.
    """

    gpu: str
    busy: int | None = None
    clock_khz: int | None = None
    limit_mw: int | None = None
    capped: bool | None = None
    slowed: bool | None = None


@dataclass(frozen=True)
class Word:
    """What one node said: the energy of the job (of a component) there up to a moment of its clock; or why nothing."""

    node: str
    energy_uj: int = 0
    mono_ns: int = 0
    resolution_ms: int = 0
    error: str = ""
    job: str = ""
    gpus: tuple[GpuNow, ...] = ()


def parse(line: str) -> Word:
    """Read a line of `process/telling.py`; DataError if it is none."""
    try:
        data = json.loads(line)
        word = Word(**data)
        numbers = (word.energy_uj, word.mono_ns, word.resolution_ms)
        names = isinstance(word.node, str) and isinstance(word.job, str)
        if not names or not all(type(one) is int and 0 <= one < 1 << 63 for one in numbers):
            raise TypeError("a number or a name is none")
        return Word(
            word.node, *numbers, str(word.error), word.job, tuple(codec.decode(GpuNow, one) for one in word.gpus)
        )
    except (*codec.MISFITS, RecursionError) as error:
        raise DataError(f"a node said what nobody understands ({error})") from error


@dataclass
class _Node:
    last: Word
    power_w: float | None = None
    first_said: bool = True


@dataclass
class Live:
    """What is known of the job by now.

    Attributes
    ----------
    label, name, count : the job's id and name, and how many nodes it has.
    members : how the job, or each component of a heterogeneous one, is called, by its number.
    fresh : nodes that said something since it was last shown.
    """

    label: str
    name: str
    count: int
    members: Mapping[str, str] = field(default_factory=dict)
    fresh: set[tuple[str, str]] = field(default_factory=set)
    _nodes: dict[tuple[str, str], _Node] = field(default_factory=dict)

    def take(self, word: Word) -> None:
        """Take in what a node said; two moments make a power. More nodes than the job has are none of its."""
        place = word.job, word.node
        known = self._nodes.get(place)
        if (known is None and len(self._nodes) >= self.count) or (known is not None and word == known.last):
            return
        self.fresh.add(place)
        if known is None:
            self._nodes[place] = _Node(word)
            return
        elapsed_ns = word.mono_ns - known.last.mono_ns
        if word.error:
            known.last = replace(known.last, resolution_ms=0, error=word.error, gpus=())
            known.power_w = None
            return
        if known.last.mono_ns and elapsed_ns > 0:
            known.power_w = (word.energy_uj - known.last.energy_uj) * 1e3 / elapsed_ns
        known.last = word

    @property
    def complete(self) -> bool:
        """Whether every node has said something since it was last shown."""
        return len(self.fresh) >= self.count

    @property
    def energy_uj(self) -> int:
        """Energy so far, of the nodes that speak."""
        return sum(one.last.energy_uj for one in self._nodes.values())

    @property
    def power_w(self) -> float | None:
        """Power between the last two moments, summed; None before any node has two."""
        known = [one.power_w for one in self._nodes.values() if one.power_w is not None]
        return sum(known) if known else None

    @property
    def speaking(self) -> int:
        """Nodes that have a power."""
        return sum(one.power_w is not None for one in self._nodes.values())

    def _called(self, word: Word) -> str:
        """A node; in a heterogeneous job with its component, two of which may share a node."""
        return f"{word.node} {self.members.get(word.job, '')}" if len(self.members) > 1 else word.node

    @property
    def _gpus(self) -> list[tuple[Word, GpuNow]]:
        """The GPUs, each with what its node said last."""
        return [
            (word, one) for _, word in sorted((at, node.last) for at, node in self._nodes.items()) for one in word.gpus
        ]

    @property
    def _coarse_ms(self) -> int:
        return max((one.last.resolution_ms for one in self._nodes.values()), default=0)

    def figures(self, now_s: float) -> dict[str, Any]:
        """For programs; power in W, energy in J, None before anything was counted."""
        return {
            "time_s": round(now_s, 3), "job": self.label, "power_w": self.power_w,
            "energy_j": self.energy_uj / 1e6 or None, "nodes": self.count, "nodes_speaking": self.speaking,
            "gpus": [
                {"node": word.node, **{key: value for key, value in asdict(one).items() if value is not None}}
                for word, one in self._gpus
            ],
        }  # fmt: skip

    def line(self, now_s: float, style: Style) -> str:
        """All of it in one line."""
        power = q.power(None if self.power_w is None else self.power_w * 1e3)
        nodes = f"  {self.speaking} of {self.count} nodes" if self.count > 1 else ""
        why = next((one.last.error for one in self._nodes.values() if one.last.error), "")
        every = f"  (shared: every {self._coarse_ms / 1000:g} s)" if self._coarse_ms > SLOW_MS else ""
        gpus = f"  {_summed([one for _, one in self._gpus])}" if self._gpus else ""
        text = f"{_clock(now_s)}  {self.label}  {power:>7}  {_counted(self.energy_uj):>8} so far{nodes}{every}{gpus}"
        return style.units(style.fit(f"{text}  {why}" if why else text, WIDTH).rstrip())

    def _gpu_lines(self, style: Style) -> list[str]:
        shown = sorted(self._gpus, key=lambda one: (not one[1].slowed, not one[1].capped))[:SHOWN]
        rows = [
            [
                self._called(word),
                printable(one.gpu.removeprefix("gpu-").removeprefix("GPU-"))[:8],
                "-" if one.busy is None else f"{one.busy / 10:.0f} %",
                "-" if one.clock_khz is None else mhz(one.clock_khz),
                "-" if one.limit_mw is None else q.power(one.limit_mw),
                _held_down(one),
            ]
            for word, one in shown
        ]
        head = ("node", "GPU", "busy", "clock", "limit", "")
        more = [f"  and {len(self._gpus) - SHOWN} more GPUs"] if len(self._gpus) > SHOWN else []
        return [*(table(rows, head, (False, False, True, True, True, False), style, widest=40) if rows else []), *more]

    def screen(self, now_s: float, style: Style) -> list[str]:
        """A few lines for a terminal that are drawn anew each time."""
        power = q.power(None if self.power_w is None else self.power_w * 1e3)
        lines = [
            style.bold(both_ends(f"Job {self.label}  {self.name}", _clock(now_s), style)),
            both_ends(
                f"{power} now, {_counted(self.energy_uj)} so far", f"{self.speaking} of {self.count} nodes", style
            ),
        ]
        busiest = sorted(self._nodes.values(), key=lambda one: (-(one.power_w or 0), one.last.node))
        most = max((one.power_w or 0 for one in busiest), default=0) or 1
        rows = [
            [
                self._called(one.last),
                q.power(None if one.power_w is None else one.power_w * 1e3),
                _counted(one.last.energy_uj),
                printable(one.last.error)[:40] or style.bar((one.power_w or 0) / most, 20),
            ]
            for one in busiest[:SHOWN]
        ]
        lines += table(rows, ("node", "power", "energy", ""), (False, True, True, False), style, widest=40)
        if len(busiest) > SHOWN:
            lines.append(f"  and {len(busiest) - SHOWN} more")
        lines += self._gpu_lines(style)
        if self._coarse_ms > SLOW_MS:
            lines.append(f"  shared with others: figures change every {self._coarse_ms / 1000:g} s")
        return [style.units(line) for line in lines]


def _summed(gpus: Sequence[GpuNow]) -> str:
    """All GPUs in a few words; nothing of what no GPU tells."""
    clocks = [one.clock_khz for one in gpus if one.clock_khz is not None]
    held = {"slowed": sum(bool(one.slowed) for one in gpus), "capped": sum(bool(one.capped) for one in gpus)}
    words = [f"GPU {mhz(sum(clocks) / len(clocks))}"] if clocks else []
    return " ".join([*words, *(f"{number}/{len(gpus)} {what}" for what, number in held.items() if number)])


def _held_down(one: GpuNow) -> str:
    if one.slowed:
        return "slowed by heat or the hardware"
    return "held down by its limit" if one.capped else ""


def _counted(uj: int) -> str:
    """An energy so far; before anything was counted it is not known, which is not 0 J."""
    return q.energy(uj or None)


def _clock(now_s: float) -> str:
    return datetime.fromtimestamp(now_s).strftime("%H:%M:%S")
