"""Power and energy of a PDU's outlets, and of its inlets, in the tables that vendors have for them.

A table is known by its objects being there, not by the maker's name. Sources: PowerNet-MIB (APC), PDU2-MIB (Raritan),
Sentry4-MIB (Server Technology), EATON-EPDU-MIB (revision 202303311500Z), VERTIV-V5-MIB (Vertiv, Geist),
SCHLEIFENBAUER-DATABUS-MIB (revision 2023-02-07); docs/meters.md says of which a walk was seen. Other PDUs' objects are
declared by the site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from perun_hpc.meters.finding import Found, RefusedError
from perun_hpc.meters.inventory import UNITS_W, Pdu, Pin
from perun_hpc.meters.numbers import moment, number, stamp
from perun_hpc.meters.polling import Reading
from perun_hpc.meters.series import MOST_W
from perun_hpc.meters.snmp import Snmp, Value

SYSTEM = "1.3.6.1.2.1.1.1.0"
"""sysDescr (RFC 3418): model and firmware."""
_ENTERPRISES = "1.3.6.1.4.1"


@dataclass(frozen=True)
class Column:
    """A column of a table: OID = `prefix`.INDEX[.`suffix`]; `digits` is a like column of decimal digits,
    `most` the number at which it stays.
    """

    prefix: str
    unit: str
    tick: float = 1
    suffix: str = ""
    digits: str = ""
    most: float | None = None

    def oid(self, index: str, prefix: str = "") -> str:
        """Where the object of one row is."""
        return f"{_ENTERPRISES}.{prefix or self.prefix}.{index}{self.suffix and '.' + self.suffix}"


@dataclass(frozen=True)
class Table:
    """Rows of outlets, or of what comes in; `since` and `read_at` are columns of times, where there are such."""

    mib: str
    outlets: bool
    power: Column
    energy: Column
    since: str = ""
    read_at: str = ""


TABLES = (
    Table("PowerNet-MIB rPDU2Device", False, Column("318.1.1.26.4.3.1.5", "kW", 0.01),
          Column("318.1.1.26.4.3.1.9", "kWh", 0.1), since="318.1.1.26.4.3.1.10"),
    Table("PowerNet-MIB rPDU2OutletMetered", True, Column("318.1.1.26.9.4.3.1.7", "W"),
          Column("318.1.1.26.9.4.3.1.11", "kWh", 0.1)),
    Table("Sentry4-MIB st4InputCord", False, Column("1718.4.1.3.3.1.3", "W"), Column("1718.4.1.3.3.1.10", "kWh", 0.1)),
    Table("Sentry4-MIB st4Outlet", True, Column("1718.4.1.8.3.1.7", "W"), Column("1718.4.1.8.3.1.14", "Wh")),
    Table("EATON-EPDU-MIB inputTotalPower", False, Column("534.6.6.7.3.5.1.4", "W"), Column("534.6.6.7.3.5.1.5", "Wh"),
          since="534.6.6.7.3.5.1.6"),
    Table("EATON-EPDU-MIB outletPower", True, Column("534.6.6.7.6.5.1.3", "W"), Column("534.6.6.7.6.5.1.4", "Wh"),
          since="534.6.6.7.6.5.1.5"),
    Table("PDU2-MIB inlet", False, Column("13742.6.5.2.3.1.4", "W", suffix="5", digits="13742.6.3.3.4.1.7"),
          Column("13742.6.5.2.3.1.4", "Wh", suffix="8", digits="13742.6.3.3.4.1.7"), read_at="13742.6.5.2.3.1.5"),
    Table("PDU2-MIB outlet", True, Column("13742.6.5.4.3.1.4", "W", suffix="5", digits="13742.6.3.5.4.1.7"),
          Column("13742.6.5.4.3.1.4", "Wh", suffix="8", digits="13742.6.3.5.4.1.7"), read_at="13742.6.5.4.3.1.5"),
    Table("VERTIV-V5-MIB pduMain", False, Column("21239.5.2.3.1.1.9", "W"),
          Column("21239.5.2.3.1.1.12", "Wh", most=9_999_000)),
    Table("VERTIV-V5-MIB pduOutletMeter", True, Column("21239.5.2.3.6.1.12", "W"),
          Column("21239.5.2.3.6.1.15", "Wh", most=9_999_000)),
    Table("SCHLEIFENBAUER-DATABUS-MIB sdbDevIn", False, Column("31034.12.1.1.2.6.1.1.10", "W"),
          Column("31034.12.1.1.2.6.1.1.2", "kWh", most=2**24 - 1)),
    Table("SCHLEIFENBAUER-DATABUS-MIB sdbDevOutMt", True, Column("31034.12.1.1.2.7.2.1.11", "W"),
          Column("31034.12.1.1.2.7.2.1.2", "kWh", most=2**24 - 1)),
)  # fmt: skip


def find_outlets(pdu: Pdu, snmp: Snmp) -> Found:
    """Choose what to read of a PDU: the outlets that feed nodes, else what comes in. RefusedError where none fits."""
    firmware = str(snmp.get([SYSTEM])[0][SYSTEM] or "")[:80]
    notes: list[str] = []
    rows: dict[tuple[bool, str], list[Pin]] = {}
    for table in TABLES:
        for column, kind in ((table.power, "power"), (table.energy, "energy")):
            for index in _indices(snmp, column):
                pin = _pin(pdu, snmp, table, column, kind, index, firmware, notes)
                if pin is not None:
                    rows.setdefault((table.outlets, index), []).append(pin)
    pins = [pin for node, outlets in pdu.feeds.items() for one in outlets for pin in _of(pdu, rows, node, one)]
    if not pdu.feeds and not pdu.objects:
        pins = [pin for (outlets, _), found in rows.items() if not outlets for pin in found]
    for declared in pdu.objects:
        if number(snmp.get([declared.oid])[0][declared.oid]) is None:
            raise RefusedError(f"{pdu.host}: {declared.oid} ({declared.name}) shows no number: correct meters.yaml")
        kind = "power" if declared.unit in UNITS_W else "energy"
        pins.append(
            Pin(
                name=f"{pdu.name}-{declared.name}",
                node=declared.node,
                device=pdu.host,
                kind=kind,
                scope="wall",
                read=(declared.oid,),
                unit=declared.unit,
                tick=declared.tick,
                since=declared.since,
                firmware=firmware,
                firmware_at=SYSTEM,
                basis=f"site: {declared.source}",
            )
        )
    if not pins:
        said = "".join(f"; {note}" for note in notes)
        raise RefusedError(f"{pdu.host}: no known table has a reading{said}: declare its `objects` in meters.yaml")
    return Found(tuple(pins), tuple(notes))


def _indices(snmp: Snmp, column: Column) -> list[str]:
    prefix = f"{_ENTERPRISES}.{column.prefix}."
    found = [oid.removeprefix(prefix) for oid in snmp.walk(prefix.rstrip("."))]
    if not column.suffix:
        return found
    return [index.removesuffix(f".{column.suffix}") for index in found if index.endswith(f".{column.suffix}")]


def _pin(
    pdu: Pdu, snmp: Snmp, table: Table, column: Column, kind: str, index: str, firmware: str, notes: list[str]
) -> Pin | None:
    oid = column.oid(index)
    digits = column.oid(index, column.digits) if column.digits else ""
    since = f"{_ENTERPRISES}.{table.since}.{index}" if table.since and kind == "energy" else ""
    read_at = column.oid(index, table.read_at) if table.read_at else ""
    values, time_s = snmp.get([name for name in (oid, digits, since, read_at) if name])
    if number(values[oid]) is None:
        notes.append(f"{pdu.name}: {table.mib} {index}: {kind} shows {values[oid]}, which is no reading")
        return None
    places = number(values[digits]) if digits else 0.0
    if places is None or places > 9:
        notes.append(f"{pdu.name}: {table.mib} {index}: {kind} has no decimal digits: not taken")
        return None
    stamp_s = moment(values[read_at]) if read_at else None
    lag_s = time_s - stamp_s if stamp_s is not None and 0 <= time_s - stamp_s < 600 else None
    return Pin(
        name=f"{pdu.name}-{index}-{kind}", node="", device=pdu.host, kind=kind, scope="wall", read=(oid,),
        unit=column.unit, tick=float(f"{column.tick * 10 ** -int(places):.9g}"), since=since, lag_s=lag_s,
        firmware=firmware, firmware_at=SYSTEM, basis=f"{table.mib}, row {index}", most=column.most,
    )  # fmt: skip


def _of(pdu: Pdu, rows: Mapping[tuple[bool, str], Sequence[Pin]], node: str, outlet: str) -> list[Pin]:
    """The meters of one outlet (or inlet) that feeds a node: by its index, or by the last number of one alone."""
    named = {key for key in rows if key[1] == outlet} or {key for key in rows if key[1].endswith(f".{outlet}")}
    chosen = {key for key in named if key[0]} or named
    if len(chosen) != 1:
        known = ", ".join([index for outlets, index in rows if outlets] or [index for _, index in rows]) or "none"
        what = "several are" if chosen else "none is"
        raise RefusedError(f"{pdu.host}: outlet {outlet} of {node}: {what} called so; it has {known}")
    return [replace(pin, node=node) for pin in rows[chosen.pop()]]


class Outlets:
    """The pinned meters of one PDU."""

    def __init__(self, snmp: Snmp) -> None:
        """Nothing is sent yet."""
        self._snmp = snmp

    def read(self, pins: Sequence[Pin]) -> Mapping[str, Reading | str]:
        """All objects, some in each request; raises as `Snmp.get` does."""
        values, time_s = self._snmp.get(oid for pin in pins for oid in (*pin.read, pin.since) if oid)
        return {pin.name: self._one(pin, values, time_s) for pin in pins}

    def close(self) -> None:
        """Nothing of it is kept by the device."""
        self._snmp.close()

    def _one(self, pin: Pin, values: Mapping[str, Value | None], time_s: float) -> Reading | str:
        counts = [number(values[oid]) for oid in pin.read]
        if None in counts:
            now = str(self._snmp.get([pin.firmware_at])[0][pin.firmware_at] or "")[:80] if pin.firmware_at else ""
            other = f"; it says it is {now}, it was {pin.firmware} when pinned" if now != pin.firmware else ""
            return f"{pin.read[0]} shows no number of at least 0{other}: if it stays so, perun meters discover"
        total = sum((Decimal(str(values[oid])) for oid in pin.read), Decimal(0))
        if pin.most is not None and total >= Decimal(str(pin.most)):
            return f"{pin.read[0]} shows {total}, the most that it can: reset that counter at the device"
        if pin.kind == "power" and total * pin.base > MOST_W:
            return f"{pin.read[0]} shows {total:g}: more than any rack takes"
        return Reading(total, stamp(values[pin.since]) if pin.since else "", time_s)
