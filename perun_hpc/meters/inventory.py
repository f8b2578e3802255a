"""The two files of the poller: `meters.yaml`, which the site writes, and the pinned meters, which it reviews.

`meters.yaml` says which devices there are and who they feed; `perun meters discover` finds what to read there and
writes it down, one entry a meter, with where each is known from; `perun meters poll` reads that and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

from perun_hpc.config.kinds import Choice, Key, Line, ListOf, NodeList, Number, Table, Text, duration, path
from perun_hpc.config.policy import MAX_BYTES, parse_table
from perun_hpc.errors import ConfigError
from perun_hpc.files import write_new
from perun_hpc.inputs import read_regular
from perun_hpc.meters.redfish import Trust
from perun_hpc.slurm import hostlist

SITE = Path("/etc/perun/meters.yaml")
PINNED = Path("/etc/perun/meters.pinned.yaml")
SCOPES = ("wall", "psu-output", "board", "unknown")
"""Before the power supplies, behind them, the board alone; unknown: the device does not say."""
UNITS_J = {"J": 1, "Wh": 3600, "kWh": 3_600_000}
UNITS_W = {"W": 1, "kW": 1000}
_HOST = Text(r"[A-Za-z0-9.:{}\[\]-]+(:\d{1,5})?", "bmc-n1")
_NAME = Text(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,120}", "n1-power")
_WORD = Text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", "bmc")
_PLACE = Text(r"/redfish/\S+#/\S+", "/redfish/v1/Chassis/1/Power#/PowerControl/0/PowerConsumedWatts")
_URI = Text(r"/redfish/v1/\S+", "/redfish/v1/Systems/1")
_OID = Text(r"\d+(\.\d+){3,}", "1.3.6.1.4.1.318.1.1.26.4.3.1.5.1")
_SCOPE = Choice(SCOPES)
_UNIT = Choice((*UNITS_W, *UNITS_J))
_TICK = Number(0, above=True)
_SOURCE = Text(r".*\S.*", "the vendor's manual, page 7")

_OVERRIDE = Table(
    {
        "read": Key(ListOf(_PLACE), "URI#/PROPERTY of each number; several are summed", required=True),
        "unit": Key(_UNIT, "what one is", required=True),
        "scope": Key(_SCOPE, "where in the node's supply it measures", required=True),
        "source": Key(_SOURCE, "how that is known", required=True),
    }
)
_BMC = Table(
    {
        "nodes": Key(NodeList(), "the nodes, as Slurm names them", required=True),
        "host": Key(_HOST, "their controllers' HOST[:PORT]; {} stands for the node's name", required=True),
        "credential": Key(_WORD, "the name of what is sent to log in", required=True),
        "ca": Key(path(), "the CA of their certificates, PEM"),
        "fingerprint": Key(Text(r"([0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2}", "AB:...:CD"), "or the certificate's SHA-256"),
        "system": Key(_URI, "the node's own system, where the controller has several"),
        "power": Key(_OVERRIDE, "read this, whatever discover would find"),
        "energy": Key(_OVERRIDE, "read this, whatever discover would find"),
    }
)
_FED = Table(
    {
        "node": Key(Text(r"\S+", "n1"), "the node that they feed", required=True),
        "outlets": Key(ListOf(Text(r"[\w.:-]+", "1.4")), "outlets, as discover numbers them", required=True),
    }
)
_OIDS = Table(
    {
        "node": Key(Text(r"\S+", "n1", True), "the node that it feeds; empty: no node alone"),
        "oid": Key(_OID, "the object, with its index", required=True),
        "unit": Key(_UNIT, "of the number there", required=True),
        "tick": Key(_TICK, "how much one is, of the unit; 1 where it is left out"),
        "since": Key(_OID, "an object that says since when a counter counts"),
        "name": Key(_WORD, "what its series is called", required=True),
        "source": Key(_SOURCE, "how that is known", required=True),
    }
)
_PDU = Table(
    {
        "name": Key(_WORD, "what its series are called", required=True),
        "host": Key(_HOST, "HOST[:PORT]", required=True),
        "credential": Key(_WORD, "the name of what it is asked with (SNMPv3)", required=True),
        "feeds": Key(ListOf(_FED), "which outlets feed which node; without any its inlets are read"),
        "objects": Key(ListOf(_OIDS), "read these, where discover does not know its tables"),
    }
)
_SITE = Table(
    {
        "cluster": Key(_WORD, "the cluster of these nodes, where the archive has several or cannot be listed"),
        "period": Key(duration("10 s", "1 h"), "how often each device is asked; 60 s where it is left out"),
        "bmcs": Key(ListOf(_BMC), "management controllers, over Redfish"),
        "pdus": Key(ListOf(_PDU), "power distribution units, over SNMPv3"),
    }
)
_PIN = Table(
    {
        "name": Key(_NAME, "its series' name", required=True),
        "node": Key(Text(r"\S+", "n1", True), "the node; empty: none alone", required=True),
        "device": Key(_HOST, "the device's host", required=True),
        "kind": Key(Choice(("power", "energy")), "a momentary power, or a counter", required=True),
        "scope": Key(_SCOPE, "where in the node's supply it measures", required=True),
        "read": Key(ListOf(Text(r"/redfish/\S+#/\S+|\d+(\.\d+)+", "URI#/PROPERTY or OID")), "summed", required=True),
        "unit": Key(_UNIT, "of the number", required=True),
        "tick": Key(_TICK, "how much one is, of the unit", required=True),
        "since": Key(Text(r"/redfish/\S+#/\S+|\d+(\.\d+)+", "URI#/PROPERTY or OID", True), "since when it counts"),
        "on": Key(Text(r"/redfish/\S+", "/redfish/v1/Systems/1", True), "what says whether the node is on"),
        "every": Key(Number(1, 60, integer=True), "it is read in every so many rounds", required=True),
        "lag_s": Key(Number(0, 3600), "how old its readings were at discovery, where it says so"),
        "firmware": Key(Line(), "the device's, when it was pinned", required=True),
        "firmware_at": Key(Text(r"/redfish/\S+#/\S+|\d+(\.\d+)+", "URI#/PROPERTY", True), "what says it"),
        "basis": Key(Line(), "where all this is known from", required=True),
        "most": Key(Number(0, above=True), "at this number a counter stays: it is no reading"),
    }
)
_PINNED = Table({"meters": Key(ListOf(_PIN), "one entry a meter", required=True)})
HEAD = """\
# What `perun meters poll` reads, found by `perun meters discover`. Review it: is `scope` right, is it the node's own?
# Correct meters.yaml (`power`, `energy`, `system`, `feeds`) and discover again rather than editing this.
"""


@dataclass(frozen=True)
class Fixed:
    """What the site says is to be read: several places are summed."""

    read: tuple[str, ...]
    unit: str
    scope: str
    source: str


@dataclass(frozen=True)
class Bmc:
    """One node's management controller."""

    node: str
    host: str
    credential: str
    trust: Trust
    system: str = ""
    power: Fixed | None = None
    energy: Fixed | None = None


@dataclass(frozen=True)
class Object:
    """An SNMP object that the site declares."""

    name: str
    oid: str
    unit: str
    source: str
    node: str = ""
    tick: float = 1
    since: str = ""


@dataclass(frozen=True)
class Pdu:
    """One power distribution unit; `feeds` says node by node which outlets feed it."""

    name: str
    host: str
    credential: str
    feeds: Mapping[str, tuple[str, ...]]
    objects: tuple[Object, ...] = ()


@dataclass(frozen=True)
class Site:
    """What `meters.yaml` says."""

    cluster: str
    period_s: float
    bmcs: tuple[Bmc, ...]
    pdus: tuple[Pdu, ...]


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One meter: what is read where, and what the number means (see `_PIN`)."""

    name: str
    node: str
    device: str
    kind: str
    scope: str
    read: tuple[str, ...]
    unit: str
    tick: float = 1
    since: str = ""
    on: str = ""
    every: int = 1
    lag_s: float | None = None
    firmware: str = ""
    firmware_at: str = ""
    basis: str = ""
    most: float | None = None

    @property
    def base(self) -> Decimal:
        """How many W or J one tick is."""
        return Decimal(str(self.tick)) * ({**UNITS_J, **UNITS_W}[self.unit])

    @property
    def by(self) -> str:
        """Which protocol it is read by: `redfish` or `snmp`."""
        return "redfish" if self.read and self.read[0].startswith("/") else "snmp"


def load_site(path: Path = SITE) -> Site:
    """Read `meters.yaml`. ConfigError where it cannot be read, or with every mistake in it."""
    table = parse_table(_content(path, "write it (docs/meters.md), or name it with --config"), str(path), _SITE)
    bmcs: list[Bmc] = []
    pdus: list[Pdu] = []
    for entry in table.get("bmcs", ()):
        bmcs += _bmcs(path, entry)
    for entry in table.get("pdus", ()):
        feeds: dict[str, tuple[str, ...]] = {}
        for fed in entry.get("feeds", ()):
            feeds[fed["node"]] = (*feeds.get(fed["node"], ()), *fed["outlets"])
        objects = tuple(Object(**one) for one in entry.get("objects", ()))
        pdus.append(Pdu(entry["name"], entry["host"], entry["credential"], feeds, objects))
    for what, names in (("host", [*(b.host for b in bmcs), *(p.host for p in pdus)]), ("node", [b.node for b in bmcs])):
        if twice := next((name for name in names if names.count(name) > 1), ""):
            raise ConfigError(f"{path}: the {what} {twice} stands there twice: one entry for each")
    return Site(table.get("cluster", ""), table.get("period_ns", 60_000_000_000) / 1e9, tuple(bmcs), tuple(pdus))


def _bmcs(path: Path, entry: Mapping[str, Any]) -> Iterable[Bmc]:
    nodes = hostlist.expand(entry["nodes"])
    if len(nodes) > 1 and "fingerprint" in entry:
        raise ConfigError(
            f"{path}: {entry['nodes']}: a fingerprint is of one node: an entry for each, or a `ca` for all"
        )
    if len(nodes) > 1 and "{}" not in entry["host"]:
        raise ConfigError(f"{path}: {entry['nodes']}: several nodes need a host with {{}}, which stands for their name")
    trust = Trust(entry.get("ca", ""), entry.get("fingerprint", ""))
    power, energy = (Fixed(**entry[key]) if key in entry else None for key in ("power", "energy"))
    for node in nodes:
        host = entry["host"].replace("{}", node)
        yield Bmc(node, host, entry["credential"], trust, entry.get("system", ""), power, energy)


def load_pins(path: Path = PINNED) -> tuple[Pin, ...]:
    """Read the pinned meters. ConfigError where the file cannot be read, or with every mistake in it."""
    table = parse_table(_content(path, "perun meters discover writes it"), str(path), _PINNED)
    pins = tuple(Pin(**{key: value for key, value in one.items() if value is not None}) for one in table["meters"])
    for pin in pins:
        if pin.unit not in (UNITS_W if pin.kind == "power" else UNITS_J):
            raise ConfigError(f"{path}: {pin.name}: {pin.unit} is no unit of {pin.kind}")
    names = [pin.name for pin in pins]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise ConfigError(f"{path}: the name {twice} stands there twice")
    return pins


def pinned_text(pins: Iterable[Pin], notes: Iterable[str] = ()) -> str:
    """The file of these meters; `notes` stand above them as comments."""
    lines = [HEAD.rstrip(), *(f"# {note}" for note in notes), "meters:"]
    for pin in pins:
        mark = "- "
        for key, value in asdict(pin).items():
            if value in (None, "") and key not in ("node", "firmware", "basis"):
                continue
            shown = [_shown(one) for one in value] if isinstance(value, tuple) else _shown(value)
            lines.append(f"{mark}{key}: {'[' + ', '.join(shown) + ']' if isinstance(shown, list) else shown}")
            mark = "  "
    return "\n".join(lines if any(line.startswith("- ") for line in lines) else [*lines[:-1], "meters: []"]) + "\n"


def _shown(value: Any) -> str:
    if not isinstance(value, str):
        return f"{value:.12g}"
    return "'" + "".join(c if c.isprintable() else "?" for c in value).replace("'", "''") + "'"


def write_pins(path: Path, pins: Iterable[Pin], notes: Iterable[str] = ()) -> None:
    """Put the pinned meters into a file, in one step. OSError where it cannot be written."""
    write_new(path, pinned_text(pins, notes).encode(), 0o644, exact=True)


def _content(path: Path, remedy: str) -> bytes:
    try:
        return read_regular(path, MAX_BYTES * 8)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): {remedy}") from error


assert {field.name for field in fields(Pin)} == set(_PIN.keys)
