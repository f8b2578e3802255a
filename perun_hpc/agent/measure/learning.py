"""Static power of every domain: what the policy says of the node type, else what the node's own idle times taught."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from perun_hpc.agent.measure.intervals import Closed, Stretch
from perun_hpc.data_model import codec
from perun_hpc.energy.attribute import OTHER, DomainKind, NodeInput
from perun_hpc.energy.containment import EnergyDomain
from perun_hpc.energy.static import DAY_NS, MOST_BUSY, NS_PER_S, SHORTEST_NS, StaticPower
from perun_hpc.process.log import log

if TYPE_CHECKING:
    from perun_hpc.config.schema import Energy


@dataclass(frozen=True)
class Figure:
    """Static power of one domain, and where it comes from: `policy`, `learnt`, `nodes` (what most nodes of this
    machine have learnt), `otherwise` (learnt while governor or power caps were others), `estimate`, or `unknown`.

    Of one that is not known half of the least power seen is taken, of a GPU 0.
    """

    uw: int
    source: str

    def to_json(self) -> dict[str, Any]:
        """As the boundary record holds it."""
        return {"uw": self.uw, "from": self.source}


@dataclass
class _IdleTime:
    """Idle time in a row, until it is long enough to be learnt from."""

    t1_ns: int
    key: str
    duration_ns: int = 0
    energy_uj: int = 0
    busy_ns: int = 0


MOST_SETTINGS = 8
"""Of a domain static power is known under so many settings of the CPUs at most: a power manager may set any."""
LOWEST, NODES = "lowest", "nodes"
"""Where the least powers, and what other nodes have learnt, stand among what was learnt of domains: no domain has that
name."""


class Learning:
    """What the node's idle times taught so far, and the least power of every domain; adjoining idle intervals are taken
    together. It is kept by domain and by how its CPUs are set, or by the GPU's power limit (`_keyed`).

    `news` is set wherever more becomes known than before; `typical_uw` is what most nodes of this machine have learnt.
    """

    def __init__(self) -> None:
        self.news = False
        self._known: dict[str, StaticPower] = {}
        self._idle: dict[str, _IdleTime] = {}
        self._lowest_uw: dict[str, int] = {}
        self.typical_uw: dict[str, int] = {}

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        beside = {LOWEST: dict(self._lowest_uw), NODES: dict(self.typical_uw)}
        return {**beside, **{name: power.to_json() for name, power in self._known.items()}}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take over what an earlier agent learnt."""
        self._lowest_uw = codec.decode(dict[str, int], data.get(LOWEST, {}))
        self.typical_uw = codec.decode(dict[str, int], data.get(NODES, {}))
        self._known = {}
        for name in data.keys() - {LOWEST, NODES}:
            try:
                self._known[name] = StaticPower.from_json(data[name])
            except codec.MISFITS as error:  # damage, or what a later agent wrote beside, costs itself
                log(f"what was learnt of {name[:40]!r} cannot be used, it is learnt anew: {error}")
        self.news = bool(self._known)

    @property
    def known(self) -> Mapping[str, StaticPower]:
        """What is known of every domain."""
        return self._known

    def add(self, before: Mapping[str, StaticPower], real_ns: int) -> None:
        """Take in what this node learnt before its spool was lost."""
        for name, power in before.items():
            self._known[name] = self._known.get(name, StaticPower()).plus(power, real_ns // DAY_NS)
        self.news = bool(self._known)

    def take(
        self,
        closed: Iterable[Closed],
        stretch: Stretch,
        node: NodeInput,
        domains: Mapping[str, EnergyDomain],
        gpu_peaks: Mapping[str, int],
        real_ns: int,
        setting: str | None = "",
        gpu_settings: Mapping[str, str | None] | None = None,
    ) -> bool:
        """Learn from the intervals that one stretch closed; True when a figure may have changed.

        `gpu_peaks` holds the highest utilisation that was seen of each GPU; one that is missing was not watched.
        `setting` says how the CPUs were set all the time (`CpuSettings.idle_key`), None: in several ways; so does
        `gpu_settings` of GPUs that show their power limit.
        """
        learnt = False
        gpus_idle = all(gpu_peaks.get(one.name) == 0 for one in domains.values() if one.kind is DomainKind.GPU)
        busy_of = cache(partial(_busy, stretch, node))
        for interval in closed:
            name, total_uj = interval.shares.domain, interval.shares.total_uj
            domain = domains.get(name)
            busy_ns, cpus = busy_of(domain.package if domain and node.package_of else None)
            if domain is not None and domain.kind is DomainKind.GPU:
                idle = gpu_peaks.get(name) == 0
                busy_ns, cpus = 0, 1
            else:
                idle = (
                    busy_ns is not None
                    and busy_ns < MOST_BUSY * (stretch.t1_ns - stretch.t0_ns) * cpus
                    and (domain is not None or gpus_idle)
                )
            seen = not interval.gap and not stretch.unseen and interval.t0_ns == stretch.t0_ns
            whole = seen and total_uj is not None and total_uj >= 0
            if whole and (domain is None or domain.kind is not DomainKind.GPU):
                learnt |= self._see(name, total_uj or 0, interval.t1_ns - interval.t0_ns)
            of_gpu = domain is not None and domain.kind is DomainKind.GPU
            own = (gpu_settings or {}).get(name, "") if of_gpu else setting
            if not idle or not whole or own is None:
                self._idle.pop(name, None)
                continue
            key = _keyed(name, own)
            held = self._idle.setdefault(name, _IdleTime(interval.t0_ns, key))
            if (held.t1_ns, held.key) != (interval.t0_ns, key):
                held = self._idle[name] = _IdleTime(interval.t0_ns, key)
            held.t1_ns = interval.t1_ns
            held.duration_ns += interval.t1_ns - interval.t0_ns
            held.energy_uj += total_uj or 0
            held.busy_ns += busy_ns or 0
            if held.duration_ns >= SHORTEST_NS:
                before = self._known.get(key, StaticPower())
                after = before.observe(real_ns, held.duration_ns, held.energy_uj, held.busy_ns, cpus)
                del self._idle[name]
                self._make_room(name, key)
                self._known[key] = after
                learnt |= after is not before
        self.news |= learnt
        return learnt

    def _see(self, name: str, energy_uj: int, duration_ns: int) -> bool:
        """Keep the least power of a domain; True where it is less than before."""
        power_uw = energy_uj * NS_PER_S // duration_ns if duration_ns >= NS_PER_S else None
        if power_uw is None or power_uw >= self._lowest_uw.get(name, power_uw + 1):
            return False
        self._lowest_uw[name] = power_uw
        return True

    def _make_room(self, name: str, key: str) -> None:
        """Forget the setting under which a domain idled least, where there is one too many."""
        others = [one for one in self._settings_of(name) if one != key]
        if len(others) >= MOST_SETTINGS:
            del self._known[min(others, key=lambda one: self._known[one].seen_ns)]

    def _settings_of(self, name: str) -> list[str]:
        """Under which names static power of a domain is kept."""
        return [one for one in self._known if one == name or one.startswith(f"{name}{_AT}")]

    def _otherwise(self, name: str) -> int | None:
        """A domain's static power under the setting under which it idled longest; None where it is known under none."""
        known = [self._known[one] for one in self._settings_of(name)]
        known = [one for one in known if one.estimate_uw() is not None]
        return max(known, key=lambda one: one.seen_ns).estimate_uw() if known else None

    def figures(
        self,
        domains: Iterable[EnergyDomain],
        energy: Energy | None,
        setting: str = "",
        gpu_settings: Mapping[str, str] | None = None,
    ) -> dict[str, Figure]:
        """The figure of every domain, by its name, as CPUs and GPUs are set now; a meter's is that of its residual."""
        found: dict[str, Figure] = {}
        meters = 0
        for domain in domains:
            name, stated = domain.name, None
            if domain.kind is DomainKind.METER:
                name = f"{OTHER}-{domain.name}" if meters else OTHER
                meters += 1
            elif energy is not None and domain.kind is DomainKind.PACKAGE:
                stated = energy.package_static_uw
            elif energy is not None and domain.kind is DomainKind.GPU:
                stated = energy.gpu_idle_uw
            of_gpu = domain.kind is DomainKind.GPU
            key = _keyed(name, (gpu_settings or {}).get(name, "") if of_gpu else setting)
            known = self._known.get(key)
            learnt = known.estimate_uw() if known is not None else None
            if isinstance(stated, int):
                found[domain.name] = Figure(stated, "policy")
            elif learnt is not None:
                found[domain.name] = Figure(learnt, "learnt")
            elif key in self.typical_uw:
                found[domain.name] = Figure(self.typical_uw[key], "nodes")
            elif (otherwise := self._otherwise(name)) is not None:
                found[domain.name] = Figure(otherwise, "otherwise")
            elif name in self.typical_uw:
                found[domain.name] = Figure(self.typical_uw[name], "otherwise")
            else:
                found[domain.name] = Figure(self._lowest_uw.get(name, 0) // 2, "unknown")
        return found


_AT = "@"


def _keyed(name: str, setting: str) -> str:
    """Under which name static power of a domain is kept: with how its CPUs were set, where that is known."""
    return f"{name}{_AT}{setting}" if setting else name


def _busy(stretch: Stretch, node: NodeInput, package: int | None) -> tuple[int | None, int]:
    """Busy time of a package's CPUs (None: of all), None where one of them was not read; and their number."""
    cpus = [cpu for cpu in node.core_of if package is None or node.package_of[cpu] == package]
    if stretch.unread and any(cpu in stretch.unread for cpu in cpus):
        return None, len(cpus)
    return sum(stretch.busy_ns.get(cpu, 0) for cpu in cpus), len(cpus)
