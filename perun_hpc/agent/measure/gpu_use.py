"""How busy a job kept its GPUs, and how much of their memory was in use while it held them alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from perun_hpc.agent.base.session import Session
from perun_hpc.data_model.sensor import Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.counters import span

WHOLE = 1000
"""Utilisations are in thousandths."""


class GpuUse:
    """Sums of what was seen; given about once a second. Of a device that several jobs hold it is nobody's."""

    def __init__(self) -> None:
        self._uses: dict[str, Sensor] = {}
        self._memories: dict[str, Sensor] = {}
        self._last_ns: dict[tuple[str, str], int] = {}

    def follow(self, sensors: Iterable[Sensor]) -> None:
        """Which sensors show a GPU's use and memory."""
        gauges = [one for one in sensors if one.component == "gpu" and one.kind is Kind.GAUGE]
        self._uses = {one.domain: one for one in gauges if one.id.endswith(":utilisation")}
        self._memories = {one.domain: one for one in gauges if one.quantity is Quantity.DATA}

    def note(self, readings: Mapping[str, Reading], holders: Mapping[str, Iterable[Session]]) -> None:
        """Take readings in; a utilisation stands for the time since the one before."""
        for domain, sessions in holders.items():
            held = list(sessions)
            if len(held) != 1 or domain not in held[0].domains:
                for one in held:
                    self._last_ns.pop((one.key.owner, domain), None)
                continue
            self._note_use(held[0], domain, readings)
            memory = self._memories.get(domain)
            reading = readings.get(memory.id) if memory is not None else None
            if memory is not None and reading is not None and reading.ticks is not None:
                held[0].domains[domain].fill(memory.base(reading.ticks))

    def forget(self, session: Session) -> None:
        """The session has ended."""
        for key in [key for key in self._last_ns if key[0] == session.key.owner]:
            del self._last_ns[key]

    def _note_use(self, session: Session, domain: str, readings: Mapping[str, Reading]) -> None:
        key, sensor = (session.key.owner, domain), self._uses.get(domain)
        reading = readings.get(sensor.id) if sensor is not None else None
        if sensor is None or reading is None or reading.ticks is None:
            self._last_ns.pop(key, None)
            return
        before_ns = self._last_ns.get(key)
        self._last_ns[key] = reading.mono_ns
        more_ns = None if before_ns is None else span(before_ns, reading.mono_ns).ns  # its own time stamps may go back
        if more_ns:
            busy = min(max(sensor.base(reading.ticks), 0), WHOLE)
            session.domains[domain].use(busy * more_ns // WHOLE, more_ns)
