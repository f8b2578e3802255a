"""Reading the pinned meters for ever: a thread for each device, so that one that hangs costs itself alone.

A device has one request in flight, at its own moment of the period; after a failure it is asked less often. What could
not be read leaves no row: missing is never zero.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

from perun_hpc.archive.meter_readings import SCHEMA, STATES, Meter
from perun_hpc.errors import DataError, NotFoundError, PerunError
from perun_hpc.files import write_json
from perun_hpc.meters.inventory import Pin
from perun_hpc.meters.numbers import number, pointed, stamp
from perun_hpc.meters.redfish import BusyDeviceError, Redfish
from perun_hpc.meters.series import MOST_W, Series

log = logging.getLogger(__name__)

LONGEST_S = 900.0
"""A device that fails is asked this often at least."""
JITTER = 0.05
NOTE_S = 10.0
"""How often it is said how things go."""
STACK_B = 512 << 10
"""A thread's: a site has thousands of devices."""


@dataclass(frozen=True)
class Reading:
    """What one meter showed: the number in its ticks, a counter's start, and when (epoch seconds)."""

    value: Decimal
    since: str
    time_s: float


class Device(Protocol):
    """What can be read of one device."""

    def read(self, pins: Sequence[Pin]) -> Mapping[str, Reading | str]:
        """By a meter's name its reading, or why there is none. PerunError where the device as a whole has none."""

    def close(self) -> None:
        """Leave it as it was; raises nothing."""


class Controller:
    """The meters of one management controller."""

    def __init__(self, redfish: Redfish) -> None:
        """Nothing is sent yet."""
        self._redfish = redfish
        self._logins = 0

    def read(self, pins: Sequence[Pin]) -> Mapping[str, Reading | str]:
        """Each document is asked for once, one after the other."""
        documents: dict[str, Any] = {}
        found: dict[str, Reading | str] = {}
        for pin in pins:
            try:
                found[pin.name] = self._one(pin, documents)
            except NotFoundError as error:
                found[pin.name] = f"{error}: {self._other(pin, documents)}"
        if self._redfish.logins != self._logins:
            self._logins = self._redfish.logins
            if pins and (other := self._other(pins[0], documents)).startswith("the firmware"):
                log.warning("%s: %s", self._redfish.host, other)
        return found

    def close(self) -> None:
        """Delete the session."""
        self._redfish.close()

    def _one(self, pin: Pin, documents: dict[str, Any]) -> Reading | str:
        total, time_s = Decimal(0), 0.0
        for place in pin.read:
            value, time_s = self._at(place, documents)
            if number(value) is None:
                shown = "nothing" if value is None else "no number of at least 0"
                return f"{place} shows {shown}: {self._other(pin, documents)}"
            total += Decimal(str(value).strip())
        if pin.kind == "power" and total == 0 and (why := self._zero(pin, documents)):
            return why
        if pin.kind == "power" and total * pin.base > MOST_W:
            return f"{pin.read[0]} shows {total:g}: more than any node takes"
        return Reading(total, stamp(self._at(pin.since, documents)[0]) if pin.since else "", time_s)

    def _zero(self, pin: Pin, documents: dict[str, Any]) -> str:
        """Why 0 W is no reading; empty where the node is off."""
        try:
            state = self._at(f"{pin.on}#/PowerState", documents)[0] if pin.on else None
        except (NotFoundError, DataError):
            state = None
        return "" if state == "Off" else f"{pin.read[0]} shows 0 W while the node is {state or 'in no known state'}"

    def _other(self, pin: Pin, documents: dict[str, Any]) -> str:
        """What to do about a meter that shows nothing any more."""
        if pin.firmware_at:
            try:
                now = self._at(pin.firmware_at, documents)[0]
            except PerunError:
                now = None
            if isinstance(now, str) and now[:80] != pin.firmware:
                return f"the firmware is {now[:80]}, it was {pin.firmware} when pinned: perun meters discover"
        return "if it stays so, perun meters discover"

    def _at(self, place: str, documents: dict[str, Any]) -> tuple[Any, float]:
        uri, _, pointer = place.partition("#")
        if uri not in documents:
            documents[uri] = self._redfish.get(uri)
        answer = documents[uri]
        return pointed(answer.document, pointer), answer.time_s


@dataclass
class State:
    """How it goes with one meter, for whoever looks."""

    pin: Pin
    read_s: float | None = None
    problem: str = ""
    since_s: float = 0.0


def meter_of(pin: Pin, period_s: float) -> Meter:
    """What there is to say of a meter that is read in rounds of so many seconds, before any reading."""
    return Meter(
        node=pin.node, kind=pin.kind, scope=pin.scope, lag_s=pin.lag_s, base=float(pin.base), by=pin.by,
        device=pin.device, period_s=period_s * pin.every, basis=pin.basis,
    )  # fmt: skip


@dataclass
class Poller:
    """Reads every device until it is stopped.

    `open_device` makes the reader of a host; `directory` takes the series; `period_s` is between two rounds.
    """

    pins: Sequence[Pin]
    open_device: Callable[[str], Device]
    directory: Path
    period_s: float
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.states = {pin.name: State(pin) for pin in self.pins}
        self._said: dict[str, str] = {}

    def run(self, rounds: int | None = None) -> None:
        """Poll until `stop` is set, or so many rounds; every session is ended when it returns."""
        threading.stack_size(STACK_B)
        threads = []
        for host in dict.fromkeys(pin.device for pin in self.pins):
            ours = [pin for pin in self.pins if pin.device == host]
            threads.append(threading.Thread(target=self._device, args=(host, ours, rounds), name=host, daemon=True))
        for thread in threads:
            thread.start()
        while alive := [thread for thread in threads if thread.is_alive()]:
            alive[0].join(NOTE_S)
            self.note()

    def note(self) -> None:
        """Say in `meters.json` how it goes with each meter."""
        meters = {
            name: replace(meter_of(s.pin, self.period_s), read_s=s.read_s, problem=s.problem, since_s=s.since_s)
            for name, s in list(self.states.items())
        }
        said = {"schema": SCHEMA, "time_s": time.time(), "meters": {name: vars(one) for name, one in meters.items()}}
        try:
            write_json(self.directory / STATES, said)
        except OSError as error:
            self._say("", f"{self.directory}: cannot be written ({error.strerror})")

    # ------------------------------------------------------------------------------------------------------ one device

    def _device(self, host: str, pins: list[Pin], rounds: int | None) -> None:
        series: dict[str, Series] = {}
        device: Device | None = None
        if rounds is None and self.stop.wait(random.uniform(0, self.period_s)):
            return
        failures = count = 0
        try:
            while not self.stop.is_set():
                began_s = time.monotonic()
                wait_s = self.period_s
                try:
                    device = device or self.open_device(host)
                    self._round(host, device, [pin for pin in pins if count % pin.every == 0], series)
                    failures = 0
                except PerunError as error:
                    failures += 1
                    wait_s = min(LONGEST_S, self.period_s * 2 ** min(failures - 1, 10))
                    if isinstance(error, BusyDeviceError):
                        wait_s = max(wait_s, min(LONGEST_S, error.retry_s))
                    self._fail(host, pins, str(error))
                except Exception:  # a fault of perun's own costs this round of this device
                    log.exception("%s: a fault of perun", host)
                count += 1
                if rounds is not None and count >= rounds:
                    return
                spent_s = time.monotonic() - began_s
                self.stop.wait(max(1.0, wait_s - spent_s) * random.uniform(1 - JITTER, 1 + JITTER))
        finally:
            if device is not None:
                device.close()

    def _round(self, host: str, device: Device, pins: Sequence[Pin], series: dict[str, Series]) -> None:
        if not pins:
            return
        found = device.read(pins)
        wrong = []
        for pin in pins:
            reading = found.get(pin.name, "the device did not answer for it")
            state = self.states[pin.name]
            if isinstance(reading, str):
                wrong.append(f"{pin.name}: {reading}")
                self._stand(state, reading)
                continue
            try:
                if pin.name not in series:
                    series[pin.name] = Series(self.directory / f"{pin.name}.csv", pin, self.period_s)
                series[pin.name].add(reading.time_s, reading.value, reading.since)
                state.read_s = reading.time_s
                self._stand(state, "")
            except OSError as error:
                wrong.append(f"{pin.name}: {self.directory} takes no readings ({error.strerror})")
                self._stand(state, wrong[-1])
        self._say(host, "; ".join(wrong))

    def _fail(self, host: str, pins: Iterable[Pin], why: str) -> None:
        for pin in pins:
            self._stand(self.states[pin.name], why)
        self._say(host, why)

    @staticmethod
    def _stand(state: State, problem: str) -> None:
        if problem != state.problem:
            state.problem, state.since_s = problem, time.time()

    def _say(self, host: str, why: str) -> None:
        """A line when it changes, not one a minute."""
        before, self._said[host] = self._said.get(host, ""), why
        if why and why != before:
            log.warning("%s%s: no reading", f"{host}: " if host and not why.startswith(host) else "", why)
        elif before and not why:
            log.warning("%s: readings again", host)
