"""What is seen of the GPUs of a job that holds them alone: how busy they are, their memory, clock, limit and brakes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.session import Session
from perun_hpc.backend.gpus import CAPPED, SLOWED
from perun_hpc.data_model.sensor import NOT_DUE, Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.counters import span

WHOLE = 1000
"""Utilisations are in thousandths."""
AT_ONCE = 16
"""So many GPUs of a node are named at a time: what is said has to fit into a line of `slurm/overlap.py`."""
_SHOWN = {
    ":utilisation": "busy",
    ":clock-sm": "clock_khz",
    ":clock-gfx": "clock_khz",
    ":power-limit": "limit_uw",
    ":throttle": "reasons",
}
"""How the ids of sensors end, and what each shows in its base unit."""


class GpuUse:
    """Sums of what was seen; given about once a second. Of a device that several jobs hold it is nobody's."""

    def __init__(self) -> None:
        self._gauges: dict[str, dict[str, Sensor]] = {}
        self._last_ns: dict[tuple[str, str], int] = {}
        self._now: dict[str, dict[str, dict[str, int]]] = {}

    def follow(self, sensors: Iterable[Sensor]) -> None:
        """Which sensors show a GPU's use, memory, clock, limit and what holds its clock down."""
        self._gauges = {}
        for one in sensors:
            if one.component == "gpu" and one.kind is Kind.GAUGE:
                names = [name for end, name in _SHOWN.items() if one.id.endswith(end)]
                names += ["memory_b"] if one.quantity is Quantity.DATA else []
                self._gauges.setdefault(one.domain, {}).update(dict.fromkeys(names, one))

    def note(self, readings: Mapping[str, Reading], holders: Mapping[str, Iterable[Session]]) -> None:
        """Take readings in; what a gauge shows stands for the time since the reading before."""
        for domain, sessions in holders.items():
            held = list(sessions)
            alone = len(held) == 1 and domain in held[0].domains
            for one in held:
                if not alone:
                    self._forget(one.key.owner, domain)
            if alone:
                self._note(held[0], domain, readings)

    def now(self, session: Session) -> list[dict[str, str | int | bool]]:
        """What was seen last of the GPUs that a session holds alone, for `perun watch`; nothing that is not known."""
        seen = self._now.get(session.key.owner, {})
        return [_words(domain, shown) for domain, shown in sorted(seen.items()) if shown][:AT_ONCE]

    def forget(self, session: Session) -> None:
        """The session has ended."""
        for owner, domain in [key for key in self._last_ns if key[0] == session.key.owner]:
            del self._last_ns[owner, domain]
        self._now.pop(session.key.owner, None)

    def _forget(self, owner: str, domain: str) -> None:
        for sensor in self._gauges.get(domain, {}).values():
            self._last_ns.pop((owner, sensor.id), None)
        self._now.get(owner, {}).pop(domain, None)

    def _note(self, session: Session, domain: str, readings: Mapping[str, Reading]) -> None:
        owner, account = session.key.owner, session.domains[domain]
        shown = self._now.setdefault(owner, {}).setdefault(domain, {})
        news: dict[str, int] = {}
        for name, sensor in self._gauges.get(domain, {}).items():
            reading = readings.get(sensor.id)
            if reading is not None and reading.error == NOT_DUE:
                continue
            before_ns = self._last_ns.pop((owner, sensor.id), None)
            shown.pop(name, None)
            if reading is None or reading.ticks is None:
                continue
            shown[name] = sensor.base(reading.ticks)
            self._last_ns[owner, sensor.id] = reading.mono_ns
            # Its own time stamps may go back.
            news[name] = 0 if before_ns is None else span(before_ns, reading.mono_ns).ns or 0
        _book(account, shown, news)


def _words(domain: str, shown: Mapping[str, int]) -> dict[str, str | int | bool]:
    """In thousandths, kHz and mW, and whether its power limit or heat and the like hold its clock down."""
    reasons = shown.get("reasons")
    return {
        "gpu": domain,
        **{name: shown[name] for name in ("busy", "clock_khz") if name in shown},
        **({"limit_mw": shown["limit_uw"] // 1000} if "limit_uw" in shown else {}),
        **({} if reasons is None else {"capped": bool(reasons & CAPPED), "slowed": bool(reasons & SLOWED)}),
    }


def _book(account: DomainAccount, shown: Mapping[str, int], news: Mapping[str, int]) -> None:
    """Add what is new: `shown` in base units, `news` for how long each of them stands, in ns."""
    busy = min(max(shown.get("busy", 0), 0), WHOLE)
    if news.get("busy"):
        account.use(busy * news["busy"] // WHOLE, news["busy"])
    if "memory_b" in news:
        account.fill(shown["memory_b"])
    if news.get("clock_khz"):  # of an idle GPU it says nothing of the work
        account.clock(shown["clock_khz"], busy * news["clock_khz"] // WHOLE)
    if news.get("limit_uw"):
        account.limit(shown["limit_uw"], news["limit_uw"])
    if news.get("reasons"):
        reasons = shown["reasons"]
        account.brake(news["reasons"], capped=bool(reasons & CAPPED), slowed=bool(reasons & SLOWED))
