"""GPUs that a job holds without using them: no work for a minute, and no more power than an idle device takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from perun_hpc.agent.base.session import Session
from perun_hpc.data_model.sensor import NOT_DUE, Kind, Reading, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.energy.counters import span

LEAST_NS = 60_000_000_000
"""A shorter pause is not idling."""
NEAR_UW = 15_000_000
"""So much above its idle power a GPU still counts as idle."""


class Idling:
    """What was seen of the GPUs' use; given about once a second."""

    def __init__(self) -> None:
        self._uses: dict[str, str] = {}
        self._powers: dict[str, Sensor] = {}
        self._since: dict[tuple[str, str], int] = {}
        self._counted: dict[tuple[str, str], int] = {}
        self._peaks: dict[str, int] = {}

    def follow(self, sensors: Iterable[Sensor]) -> None:
        """Which sensors show a GPU's use and power."""
        for sensor in sensors:
            if sensor.component == "gpu" and sensor.id.endswith(":utilisation"):
                self._uses[sensor.domain] = sensor.id
            elif sensor.component == "gpu" and sensor.kind is Kind.GAUGE and sensor.quantity is Quantity.POWER:
                self._powers[sensor.domain] = sensor

    def note(
        self, readings: Mapping[str, Reading], idle_uw: Mapping[str, int], holders: Mapping[str, Iterable[Session]]
    ) -> None:
        """Take readings in; what they add goes to the accounts of the sessions that hold the device.

        `idle_uw` is the idle power of a domain where it is known (else utilisation alone decides).
        """
        for domain, use in self._uses.items():
            reading = readings.get(use)
            if reading is not None and reading.error == NOT_DUE:
                continue
            if reading is None or reading.ticks is None:
                self._peaks.pop(domain, None)
                idle = False
            else:
                self._peaks[domain] = max(reading.ticks, self._peaks.get(domain, 0))
                idle = reading.ticks == 0 and self._draws_little(domain, readings, idle_uw.get(domain, 0))
            for session in holders.get(domain, ()):
                self._account(session, domain, reading, idle)

    def peaks(self) -> dict[str, int]:
        """Highest utilisation of each watched GPU since the last call."""
        peaks, self._peaks = self._peaks, {}
        return peaks

    def forget(self, session: Session) -> None:
        """The session has ended."""
        for held in [held for held in self._since if held[0] == session.key.owner]:
            del self._since[held], self._counted[held]

    def _draws_little(self, domain: str, readings: Mapping[str, Reading], idle_uw: int) -> bool:
        sensor = self._powers.get(domain)
        reading = readings.get(sensor.id) if sensor is not None else None
        if sensor is None or reading is None or reading.ticks is None or idle_uw <= 0:
            return True
        return sensor.base(reading.ticks) <= idle_uw + NEAR_UW

    def _account(self, session: Session, domain: str, reading: Reading | None, idle: bool) -> None:
        held, account = (session.key.owner, domain), session.domains.get(domain)
        if reading is None or account is None or not idle:
            self._since.pop(held, None)
            self._counted.pop(held, None)
        else:
            since_ns = self._since.setdefault(held, reading.mono_ns)
            counted_ns = self._counted.setdefault(held, since_ns)
            more_ns = span(counted_ns, reading.mono_ns).ns  # a device's own time stamps may go back
            if reading.mono_ns - since_ns >= LEAST_NS and more_ns is not None:
                account.hold_idle(more_ns)
                self._counted[held] = reading.mono_ns
        if account is not None and account.idle_ns is None and reading is not None and reading.ticks is not None:
            account.hold_idle(0)
