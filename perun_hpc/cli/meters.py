"""`perun meters`: find, pin and read meters outside the nodes."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path

from perun_hpc.accounting.site import load_site as load_policy
from perun_hpc.archive.meter_readings import NodeMetered, between, by_node, files_of, of_node, read_series, tick_j
from perun_hpc.archive.places import Archive, only_cluster
from perun_hpc.cli import logs
from perun_hpc.errors import AccessError, ConfigError, DataError, NotFoundError, PerunError, UsageError
from perun_hpc.meters import inventory
from perun_hpc.meters.finding import Found, find
from perun_hpc.meters.inventory import Bmc, Pdu, Pin, Site
from perun_hpc.meters.outlets import Outlets, find_outlets
from perun_hpc.meters.polling import Controller, Device, Poller, meter_of
from perun_hpc.meters.redfish import LIMIT_S, FaultyDeviceError, Redfish, shown_fingerprint
from perun_hpc.meters.secret import DIRECTORY, read_secret
from perun_hpc.meters.snmp import Loop, Snmp
from perun_hpc.slurm.times import in_order, parse_time

log = logging.getLogger(__name__)

AT_ONCE = 32
"""So many devices are looked at beside each other."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "action",
        choices=("discover", "poll", "show"),
        help="find and pin what to read; read what is pinned; show what was read",
    )
    parser.add_argument("device", nargs="*", metavar="DEVICE", help="discover: only these hosts or nodes")
    parser.add_argument("--config", type=Path, default=inventory.SITE, metavar="FILE", help=f"default {inventory.SITE}")
    parser.add_argument(
        "--pinned", type=Path, default=inventory.PINNED, metavar="FILE", help=f"default {inventory.PINNED}"
    )
    parser.add_argument("--write", action="store_true", help="discover: write --pinned instead of stdout")
    parser.add_argument("--node", metavar="NODE", help="show: only this node's meters")
    parser.add_argument("-S", "--since", metavar="TIME", default="midnight", help="show: from then on (midnight)")
    parser.add_argument("-E", "--until", metavar="TIME", default="now", help="show: until then (now)")
    parser.add_argument("--json", action="store_true", help="show: as JSON")
    parser.add_argument("--once", action="store_true", help="poll: one round, then exit")
    parser.add_argument(
        "--credentials", type=Path, default=DIRECTORY, metavar="DIR", help="where no credential store of systemd's is"
    )
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="of one request; default 10")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.add_argument("--cluster", metavar="NAME", help="the cluster (default: as --config says)")


def run(args: argparse.Namespace) -> int:
    """Do it."""
    logs.begin(args.log_lvl or "INFO", args.log_file)
    site = inventory.load_site(args.config)
    return {"discover": _discover, "poll": _poll, "show": _show}[args.action](args, site)


def _discover(args: argparse.Namespace, site: Site) -> int:
    """Look at every device; 1 where one could not be pinned."""
    wanted = set(args.device)
    known = {name for bmc in site.bmcs for name in (bmc.node, bmc.host)}
    known |= {name for pdu in site.pdus for name in (pdu.name, pdu.host)}
    if unknown := sorted(wanted - known):
        raise UsageError(f"perun meters discover: {args.config} has no {', '.join(unknown)}")
    pins: list[Pin] = []
    notes: list[str] = []
    failed = 0
    loop = Loop() if site.pdus else None
    devices: list[Bmc | Pdu] = [*site.bmcs, *site.pdus]
    chosen = [one for one in devices if not wanted or wanted & {_name(one), one.host}]
    with ThreadPoolExecutor(AT_ONCE) as pool:  # a dead device costs many seconds
        for device, found in zip(chosen, pool.map(partial(_looked_at, args, loop), chosen), strict=True):
            if isinstance(found, PerunError):
                failed += 1
                notes.append(f"NOT PINNED {_name(device)}: {found}")
                print(f"perun: {found}", file=sys.stderr)
            else:
                pins += found.pins
                notes += found.notes
    if not args.write:
        print(inventory.pinned_text(pins, notes), end="")
        return 1 if failed else 0
    if wanted and args.pinned.exists():
        looked = {pin.device for pin in pins}
        pins = [pin for pin in inventory.load_pins(args.pinned) if pin.device not in looked] + pins
    try:
        inventory.write_pins(args.pinned, pins, notes)
    except OSError as error:
        raise AccessError(f"{args.pinned} cannot be written ({error.strerror}): run it as root") from error
    print(f"{args.pinned}: {len(pins)} meters; review it, then: systemctl restart perun-meters", file=sys.stderr)
    return 1 if failed else 0


def _name(device: Bmc | Pdu) -> str:
    return device.node if isinstance(device, Bmc) else device.name


def _looked_at(args: argparse.Namespace, loop: Loop | None, device: Bmc | Pdu) -> Found | PerunError:
    """What one device has, or why nothing was chosen."""
    try:
        return _look(args, device) if isinstance(device, Bmc) else _look_at_outlets(args, device, loop)
    except PerunError as error:
        return error


def _look(args: argparse.Namespace, bmc: Bmc) -> Found:
    if not (bmc.trust.ca or bmc.trust.fingerprint):
        seen = shown_fingerprint(bmc.host)
        raise ConfigError(
            f"{bmc.host}: nothing says how it is known, so nothing was sent: `ca` in meters.yaml, or, once you have "
            f"compared it at the device, `fingerprint: '{seen}'`"
        )
    redfish = _redfish(args, bmc)
    unread: list[str] = []

    def get(uri: str) -> dict[str, object] | None:
        try:
            return redfish.get(uri).document
        except NotFoundError:
            return None
        except (DataError, FaultyDeviceError) as error:
            unread.append(str(error))
            return None

    try:
        found = find(bmc, get)
    finally:
        redfish.close()
    return replace(found, notes=(*found.notes, *unread))


def _look_at_outlets(args: argparse.Namespace, pdu: Pdu, loop: Loop | None) -> Found:
    secret = partial(read_secret, pdu.credential, directory=args.credentials)
    snmp = Snmp(pdu.host, secret, loop or Loop(), args.limit)
    try:
        return find_outlets(pdu, snmp)
    finally:
        snmp.close()


def _redfish(args: argparse.Namespace, bmc: Bmc, tidy: bool = False) -> Redfish:
    secret = partial(read_secret, bmc.credential, directory=args.credentials)
    return Redfish(bmc.host, bmc.trust, secret, args.limit, tidy)


def _poll(args: argparse.Namespace, site: Site) -> int:
    """Read for ever, or once; 1 where `--once` left a meter without a reading."""
    logs.seldom()
    pins = inventory.load_pins(args.pinned)
    devices: list[Bmc | Pdu] = [*site.bmcs, *site.pdus]
    by_host = {device.host: device for device in devices}
    if strange := sorted({pin.device for pin in pins} - set(by_host)):
        raise ConfigError(f"{args.pinned}: {strange[0]} is not in {args.config}: perun meters discover --write")
    for credential in {by_host[pin.device].credential for pin in pins}:
        read_secret(credential, directory=args.credentials)  # before the first round: one line, not one a device
    poller = Poller(pins, _opener(args, by_host), _directory(args, site), site.period_s)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: poller.stop.set())
    poller.run(rounds=1 if args.once else None)
    failed = [state for state in poller.states.values() if state.problem]
    return 1 if args.once and failed else 0


def _opener(args: argparse.Namespace, by_host: dict[str, Bmc | Pdu]) -> Callable[[str], Device]:
    loop = Loop() if any(isinstance(device, Pdu) for device in by_host.values()) else None

    def open_device(host: str) -> Device:
        device = by_host[host]
        if isinstance(device, Bmc):
            return Controller(_redfish(args, device, tidy=not args.once))
        secret = partial(read_secret, device.credential, directory=args.credentials)
        return Outlets(Snmp(host, secret, loop or Loop(), args.limit))

    return open_device


def _directory(args: argparse.Namespace, site: Site) -> Path:
    """Where series go: the archive's `facility/`."""
    root = args.archive or load_policy().archive
    cluster = args.cluster or site.cluster or only_cluster(root)
    if not cluster:
        raise UsageError(f"perun meters poll: {root} has not one cluster: say `cluster: NAME` in {args.config}")
    directory = Archive(root, cluster).facility("x").parent
    try:
        directory.mkdir(mode=0o750, exist_ok=True)
    except OSError as error:
        raise AccessError(f"{directory} cannot be made ({error.strerror}): see docs/meters.md") from error
    return directory


def _show(args: argparse.Namespace, site: Site) -> int:
    """What each meter says of a time; 1 where none has a reading in it."""
    now = datetime.now()
    since, until = (parse_time(text, now) for text in (args.since, args.until))
    in_order(since, until, now)
    since_s, until_s = since.timestamp(), until.timestamp()
    directory = _directory(args, site)
    rows: list[list[str]] = []
    found: dict[str, dict[str, object]] = {}
    pins = inventory.load_pins(args.pinned)
    for pin in pins:
        path = directory / f"{pin.name}.csv"
        if (args.node and pin.node != args.node) or not any(one.exists() for one in files_of(path)):
            continue
        series = read_series(path, since_s, until_s)
        seen = between(series, since_s, until_s, tick_j(pin.kind, float(pin.base), series))
        verdict = "too coarse" if seen.coarse else ""
        found[pin.name] = {**asdict(seen), "node": pin.node, "scope": pin.scope, "lag_s": pin.lag_s, "verdict": verdict}
        lag = "not said" if pin.lag_s is None else f"{pin.lag_s:.0f} s"
        energy = f"{seen.energy_j / 3.6e6:.6g} kWh"
        rows.append([pin.name, pin.scope, lag, energy, f"{seen.covered:.1%}", str(seen.readings), verdict])
    sums = _sums(directory, site, pins, args.node, since_s, until_s)
    for name, one in sums.items():
        found[name] = asdict(one)
        energy = "none" if one.energy_uj is None else f"{one.energy_uj / 3.6e12:.6g} kWh"
        lag = "not said" if one.lag_s is None else f"{one.lag_s:.0f} s"
        rows.append([name, one.scope, lag, energy, f"{one.covered:.1%}", str(one.readings), one.why])
    if args.json:
        print(json.dumps(found, indent=1))
    elif rows:
        lines = [["METER", "SCOPE", "LAG", "ENERGY", "COVERED", "READINGS", ""], *rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        for line in lines:
            print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
    if not any(one["readings"] for one in found.values()):
        print("perun: no readings of that time", file=sys.stderr)
        return 1
    return 0


def _sums(
    directory: Path, site: Site, pins: Sequence[Pin], node: str | None, since_s: float, until_s: float
) -> dict[str, NodeMetered]:
    """What the nodes drew that several outlets feed, of the time: the sum of all, or why there is none."""
    meters = {pin.name: meter_of(pin, site.period_s) for pin in pins}
    wanted = [node] if node else [one.node for one in meters.values()]
    return {
        f"{name} (sum)": of_node(directory, name, by, some, since_s, until_s)
        for (name, by), some in by_node(meters, wanted).items()
        if max(Counter(one.kind for one in some.values()).values()) > 1
    }
