"""The power limit that is in force on each GPU, for what is learnt of its idle power under it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from perun_hpc.data_model.sensor import Reading, Sensor
from perun_hpc.data_model.units import Quantity


class GpuLimits:
    """By energy domain; `settings` says under which limit the open interval was, None where that changed."""

    def __init__(self) -> None:
        self._gauges: list[Sensor] = []
        self._now_uw: dict[str, int] = {}
        self._changed: set[str] = set()

    def follow(self, sensors: Iterable[Sensor]) -> None:
        """Which sensors show a GPU's limit."""
        self._gauges = [one for one in sensors if one.component == "gpu" and one.quantity is Quantity.POWER_LIMIT]

    def note(self, readings: Mapping[str, Reading]) -> bool:
        """Take readings in; True where a limit is another one than before, or is seen for the first time."""
        news = False
        for sensor in self._gauges:
            reading = readings.get(sensor.id)
            if reading is None or reading.ticks is None:
                continue
            limit_uw, before_uw = sensor.base(reading.ticks), self._now_uw.get(sensor.domain)
            if limit_uw != before_uw:
                self._now_uw[sensor.domain] = limit_uw
                self._changed.add(sensor.domain)
                news = True
        return news

    @property
    def settings(self) -> dict[str, str | None]:
        """Domain -> how it was set in the open interval; a GPU that shows no limit is not among them."""
        return {
            domain: None if domain in self._changed else self._word(domain)
            for domain in self._now_uw
        }  # fmt: skip

    @property
    def now(self) -> dict[str, str]:
        """Domain -> how it is set now."""
        return {domain: self._word(domain) for domain in self._now_uw}

    def begin(self) -> None:
        """Another interval begins."""
        self._changed.clear()

    def _word(self, domain: str) -> str:
        return f"{self._now_uw[domain] / 1e6:.4g}W"
