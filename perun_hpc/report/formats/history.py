"""A run beside the earlier ones of its application: what all of them used, and how it compares with the last ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from perun_hpc.config.user import UserSettings
from perun_hpc.data_model.data import DataNode, Metric, MetricType, NodeType, Stats
from perun_hpc.data_model.sensor import Provenance, worst
from perun_hpc.data_model.wording import count
from perun_hpc.report.formats.figures import at_most, bounded, digits

LATEST = 5
"""How many earlier runs a run is compared with."""
J_PER_KWH = 3.6e6


def energy(tree: DataNode) -> Stats | None:
    """A run's energy over its rounds; None where nothing measured it."""
    found = tree.metrics.get(MetricType.ENERGY)
    return found if isinstance(found, Stats) else None


def doubts(energies: Sequence[Metric]) -> float | None:
    """The sum of rounds' standard uncertainties (k=1) in J; None where one of them is not known."""
    known = [one.uncertainty for one in energies if one.uncertainty]
    return math.fsum(known) if known and len(known) == len(energies) else None


def doubt(tree: DataNode) -> float | None:
    """The standard uncertainty (k=1) of one round's mean energy in J: rounds are read by the same sensors, so it does
    not become smaller with their number. None where that of a round is not known."""
    known = _energies(tree)
    whole = doubts(known)
    return None if whole is None else whole / len(known)


def provenance(tree: DataNode) -> Provenance | None:
    """The worst provenance of its rounds' energies; None where nothing measured them."""
    known = [one.provenance for one in _energies(tree)]
    return worst(known) if known else None


def total(trees: Sequence[DataNode], settings: UserSettings) -> str:
    """One sentence: how often an application was run and what all of that used; says of how many it is not known, and
    of how many no sensor measured it."""
    app = trees[0].metadata.get("app", "")
    known = [found for tree in trees if (found := energy(tree)) is not None]
    if not known:
        return f"{app} was run {count(len(trees), 'time')} here; no sensor measured its energy."
    joules = math.fsum(found.sum for found in known)
    doubt_j = _doubt_of_all([tree for tree in trees if energy(tree) is not None])
    used, said = bounded(joules, doubt_j, settings)
    kwh = f"{digits((at_most(joules, doubt_j) or joules) / J_PER_KWH)} kWh, " if joules >= J_PER_KWH / 1000 else ""
    kinds = Counter(kind for tree in trees if (kind := provenance(tree)) not in (None, Provenance.MEASURED))
    marked = "".join(f", {number} of them {kind}" for kind, number in sorted(kinds.items()))
    lost = f", {len(trees) - len(known)} of them not counted: their energy is not known" * (len(known) < len(trees))
    return f"{app} was run {count(len(trees), 'time')} here, in total {used} ({kwh}{said}){marked}{lost}."


def _doubt_of_all(trees: Sequence[DataNode]) -> float | None:
    """The standard uncertainty (k=1) of what these runs used together, in J: the same sensors err in all of them."""
    known = [one for tree in trees if (one := doubts(_energies(tree))) is not None]
    return math.fsum(known) if len(known) == len(trees) else None


def _energies(tree: DataNode) -> list[Metric]:
    """The energy of each round that has one."""
    return [found for run in tree.walk(NodeType.RUN) if isinstance(found := run.metrics.get(MetricType.ENERGY), Metric)]


@dataclass(frozen=True)
class Change:
    """A round's energy beside the geometric mean of those of `runs` earlier runs: how much more, as a fraction of that;
    whether the uncertainties (95 %) and these runs' own spread explain it. What the sensors of one host count wrongly
    in all of them is no part of these, and no PUE, which is another one where a configuration was changed."""

    fraction: float
    within: bool
    runs: int


def change(tree: DataNode, earlier: Sequence[DataNode]) -> Change | None:
    """How a run compares with the last ones before it, the newest first; None where one of the two is not known."""
    before = [one for one in earlier[:LATEST] if energy(one) is not None]
    if energy(tree) is None or not before:
        return None
    # Not for every run: most have none before them.
    from perun_hpc.energy import comparison
    from perun_hpc.report.stored import HOST, of_tree

    then_runs = [one.run([HOST]) for past in before for one in of_tree(past) if one.energy_uj > 0]
    now_runs = [one.run([HOST]) for one in of_tree(tree) if one.energy_uj > 0]
    if not (then_runs and now_runs):
        return None
    found = comparison.energies(then_runs, now_runs)
    return Change(found.change, found.within, len(before))


def against(tree: DataNode, earlier: Sequence[DataNode]) -> str:
    """The same in one sentence; empty where nothing is known."""
    found = change(tree, earlier)
    if found is None:
        return ""
    what = "the run before" if found.runs == 1 else f"the {found.runs} runs before"
    verdict = "within the uncertainties: no difference can be seen" if found.within else "more than they explain"
    return f"Beside {what}: {100 * found.fraction:+.1f} % energy, {verdict}."
