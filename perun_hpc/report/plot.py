"""A run as a picture: power over time, by component where it is one host's one round, and utilisation below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.data_model.data import DataNode
from perun_hpc.data_model.sensor import Kind, Sensor, worst
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.attribute import DomainKind
from perun_hpc.energy.containment import plan
from perun_hpc.errors import NotFoundError
from perun_hpc.report import drawing
from perun_hpc.report.formats.readings import Series, series

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Power over time: `watts[i]` from `times_s[i]` to `times_s[i + 1]`, NaN where it is not known."""

    times_s: Floats
    watts: Floats


def write(tree: DataNode, directory: Path, target: Path) -> None:
    """Draw a run whose directory is `directory` into a PNG, SVG or PDF, as the name of `target` says.

    Raises
    ------
    NotFoundError
        If it has no readings of power or energy.
    UnavailableError
        Without matplotlib.
    """
    drawing.check()
    drawing.save(draw(tree, directory), target)


def draw(tree: DataNode, directory: Path) -> Any:
    """The figure, a `matplotlib.figure.Figure`; errors as of `write`."""
    from matplotlib.figure import Figure

    hosts: dict[tuple[str, str], list[Series]] = {}
    for one in series(tree, directory):
        hosts.setdefault((one.round, one.host), []).append(one)
    found = {key: parts for key, ones in hosts.items() if (parts := components(ones))}
    if not found:
        raise NotFoundError(f"run {tree.id} has no readings of power: it was measured without, or they lie elsewhere")
    figure = Figure(figsize=(8, 5), layout="constrained")
    power, load = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    if len(found) == 1:
        parts = next(iter(found.values()))
        times_s = next(iter(parts.values())).times_s
        drawing.stack(power, times_s, {component: curve.watts for component, curve in parts.items()})
    else:
        _beside(power, found)
    _loads(load, hosts)
    kinds = worst(one.sensor.provenance for ones in hosts.values() for one in _bearing(ones))
    power.set(ylabel=f"power / W ({kinds})", ylim=(0, None))
    power.set_title(f"{tree.metadata.get('app', '')}, run {tree.id}".replace("$", r"\$"), loc="left", fontsize="medium")
    power.legend(loc="upper left", fontsize="small", frameon=False)
    load.set(ylabel="CPU / %", ylim=(0, 100), xlabel="time / s")
    for axes in (power, load):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def components(ones: Sequence[Series]) -> dict[str, Curve]:
    """The power of a host's components, from the energy counters that its energy rests on; meters, which contain
    others, where there is nothing else. All have the times of the first counter."""
    import numpy as np

    result: dict[str, Curve] = {}
    bearing = _bearing(ones)
    times = np.array(bearing[0].raw.mono_ns if bearing else (), dtype=np.float64) / 1e9
    for one in bearing:
        name = one.sensor.component if one.sensor.component in drawing.LABELS else "other"
        watts = power_of(one, times)
        result[name] = Curve(times, result[name].watts + watts if name in result else watts)
    return result


def power_of(one: Series, times_s: Floats) -> Floats:
    """The mean power in W between each two of some moments, from the readings of an energy counter: a failed one is
    bridged by the next, before the first and after the last it is not known (NaN)."""
    import numpy as np

    when = np.array(one.raw.mono_ns, dtype=np.float64) / 1e9
    joules = np.array([np.nan if value is None else value for value in one.raw.values], dtype=np.float64) / 1e6
    known = ~np.isnan(joules)
    if known.sum() < 2:
        return np.full(max(0, len(times_s) - 1), np.nan)
    there = np.interp(times_s, when[known], joules[known], left=np.nan, right=np.nan)
    return np.asarray(np.diff(there) / np.diff(times_s), dtype=np.float64)


def _bearing(ones: Sequence[Series]) -> list[Series]:
    """Those that the host's energy rests on."""
    counters = {one.sensor.id: one for one in ones if _counts_energy(one.sensor)}
    domains = plan(one.sensor for one in counters.values()).counted
    leaves = [domain for domain in domains if domain.kind is not DomainKind.METER] or list(domains)
    order = list(drawing.LABELS)
    leaves.sort(key=lambda one: order.index(one.sensor.component) if one.sensor.component in order else len(order))
    return [counters[domain.sensor.id] for domain in leaves if domain.sensor.id in counters]


def _counts_energy(sensor: Sensor) -> bool:
    return sensor.quantity is Quantity.ENERGY and sensor.kind is Kind.COUNTER


def _beside(axes: Any, found: dict[tuple[str, str], dict[str, Curve]]) -> None:
    rounds, hosts = ({key[place] for key in found} for place in (0, 1))
    for (number, host), parts in found.items():
        curves = list(parts.values())
        words = [f"round {number}"] * (len(rounds) > 1) + [host] * (len(hosts) > 1)
        axes.stairs(sum(curve.watts for curve in curves), curves[0].times_s, baseline=None, label=", ".join(words))


def _loads(axes: Any, hosts: dict[tuple[str, str], list[Series]]) -> None:
    import numpy as np

    for ones in hosts.values():
        for one in ones:
            if one.sensor.domain == "cpu" and one.sensor.quantity is Quantity.UTILISATION:
                values = [np.nan if value is None else value / 10 for value in one.raw.values]
                axes.plot(np.array(one.raw.mono_ns) / 1e9, values, linewidth=1)
