"""Sources that go bad while the agent runs: who counts in their place, and when they count again.

A meter, a management controller, a driver or a RAPL zone may stop answering for good. What energy rests on, and has
given nothing for a minute, is set aside where another source that does answer counts the same; it counts again once it
has answered for ten minutes. Where nothing else counts the same it stays: its next reading covers the time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.energy.containment import EnergyDomain, plan
from perun_hpc.energy.integrate import counter_id

BAD_NS = 60_000_000_000
"""So long it has given nothing: longer than a driver or a controller takes to begin anew."""
WELL_NS = 600_000_000_000
"""So long it has answered: one that fails now and then is not taken back each time."""


@dataclass(frozen=True)
class _Since:
    """Since when a sensor has answered, or has not and why (monotonic ns), and what it showed first."""

    mono_ns: int
    why: str = ""
    ticks: int | None = None


@dataclass(frozen=True)
class Decision:
    """The sensors that are set aside from now on, and what is to be said of those for which that is news."""

    silent: frozenset[str]
    said: tuple[str, ...]


class Fallback:
    """Watches the sources of energy over time."""

    def __init__(self) -> None:
        self._since: dict[str, _Since] = {}

    def note(self, sensors: Iterable[Sensor], readings: Mapping[str, Reading], still: Mapping[str, str]) -> None:
        """What the sensors gave at a reading; `still` says of counters that were read why they measured nothing.

        A counter that stood still when it was set aside answers again once it moves.
        """
        since: dict[str, _Since] = {}
        for sensor in sensors:
            reading = readings.get(sensor.id)
            if reading is None:
                continue
            before = self._since.get(sensor.id)
            why = still.get(sensor.id, "") if reading.ticks is not None else reading.error or "no reading"
            if not why and before is not None and before.ticks is not None and before.ticks == reading.ticks:
                why = before.why
            known = before is not None and bool(before.why) == bool(why)
            since[sensor.id] = before if known and before else _Since(reading.mono_ns, why, reading.ticks)
        self._since = since

    def decide(self, sensors: Sequence[Sensor], silent: Collection[str], now_ns: int) -> Decision:
        """Who is set aside now, among sensors of which `silent` were so far."""
        if not silent and not any(one.why for one in self._since.values()):
            return Decision(frozenset(), ())
        aside: set[str] = {name for name in silent if not self._is_well(name, sensors, now_ns)}
        chosen = plan(sensors, silent).domains
        said = []
        for domain in chosen:
            since = self._since.get(domain.sensor.id)
            if since is None or not since.why or now_ns - since.mono_ns < BAD_NS:
                continue
            # RAPL shows all packages of a node or none: where one zone fails another source stands in for all of them.
            kin = [one for one in chosen if _kin(one.sensor, domain.sensor)]
            for lost in ([domain], kin):
                without = aside.union(*(_made_of(one.sensor, sensors) for one in lost))
                others = [self._stands_in(one, chosen, sensors, without) for one in lost]
                if domain.sensor.id not in aside and None not in others:
                    aside = without
                    said += [
                        f"{one.name}: {_name(other.sensor, sensors)} counts it from now on, "
                        f"since {_name(domain.sensor, sensors)} has given nothing for a minute ({since.why})"
                        for one, other in zip(lost, others, strict=True) if other is not None
                    ]  # fmt: skip
        back = [name for name in sorted(set(silent) - aside) if name in {one.id for one in sensors}]
        said += [f"{name} answers again and counts from now on" for name in back]
        return Decision(frozenset(aside), tuple(said))

    def _is_well(self, name: str, sensors: Iterable[Sensor], now_ns: int) -> bool:
        """Whether a sensor that was set aside may count again: the gauge decides for the counter that is made of it."""
        gauge = next((one.id for one in sensors if one.kind is Kind.GAUGE and counter_id(one.id) == name), name)
        since = self._since.get(gauge)
        return since is not None and not since.why and now_ns - since.mono_ns >= WELL_NS

    def _stands_in(
        self,
        domain: EnergyDomain,
        chosen: Collection[EnergyDomain],
        sensors: Sequence[Sensor],
        without: Collection[str],
    ) -> EnergyDomain | None:
        """Who would count in a domain's place and answers: of a meter another meter, too; None: nobody."""
        before = {one.name for one in chosen}
        for other in plan(sensors, without).domains:
            same = other.name == domain.name
            another = domain.sensor.component == other.sensor.component == "node" and other.name not in before
            made = counter_id(other.sensor.id) if other.sensor.kind is Kind.GAUGE else ""
            since = self._since.get(other.sensor.id)
            if (same or another) and made not in without and since is not None and not since.why:
                return other
        return None


def _kin(one: Sensor, other: Sensor) -> bool:
    """Whether two sensors show parts of one kind, by one backend."""
    return (one.backend, one.component) == (other.backend, other.component)


def _made_of(sensor: Sensor, sensors: Iterable[Sensor]) -> set[str]:
    """The ids of a sensor, and of the gauge that it is made of."""
    return {sensor.id, *(one.id for one in sensors if one.kind is Kind.GAUGE and counter_id(one.id) == sensor.id)}


def _name(sensor: Sensor, sensors: Iterable[Sensor]) -> str:
    """What stands behind a domain, as the site knows it: the gauge, of a counter that is made of one."""
    return min(_made_of(sensor, sensors) - {sensor.id}, default=sensor.id)
