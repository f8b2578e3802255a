"""What `perun doctor` reads of the poller of meters outside the nodes: its files, credentials, unit and readings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perun_hpc.archive.meter_readings import States, read_states
from perun_hpc.archive.places import Archive, only_cluster
from perun_hpc.data_model import codec
from perun_hpc.data_model.wording import count
from perun_hpc.doctor.facts import Meters
from perun_hpc.errors import AccessError, PerunError
from perun_hpc.meters.inventory import PINNED, SITE, Pin, Site, load_pins, load_site
from perun_hpc.meters.polling import NOTE_S
from perun_hpc.meters.secret import DIRECTORY, read_secret

STALE_PERIODS = 5
"""A meter that was not read for so many of its periods is named."""
SILENT_S = 12 * NOTE_S
"""The poller says how things go every ten seconds."""


def are_here(root: Path = Path("/")) -> bool:
    """Whether this host is to read meters: its files are here."""
    return any((root / str(path).lstrip("/")).exists() for path in (SITE, PINNED))


def files(site_path: Path = SITE, pinned_path: Path = PINNED, directory: Path = DIRECTORY) -> Any:
    """What is wrong with `meters.yaml`, the pinned meters and the credentials, as `Meters` in JSON; asked as root."""
    mistakes: list[str] = []
    site, pins = Site("", 60.0, (), ()), tuple[Pin, ...]()
    try:
        site = load_site(site_path)
        pins = load_pins(pinned_path)
    except PerunError as error:
        mistakes.append(str(error))
    else:
        mistakes += _differences(site, pins)
    credentials: list[str] = []
    held: list[str] = []
    for name in sorted({one.credential for one in site.bmcs} | {one.credential for one in site.pdus}):
        try:
            read_secret(name, {}, directory)
        except PerunError as error:
            credentials.append(str(error))
        if (directory / name).exists():
            held.append(str(directory / name))
    if held and directory.stat().st_mode & 0o022:
        credentials.append(f"{directory}: others than root can put files there: chmod 700 {directory}")
    return codec.encode(Meters(tuple(mistakes), tuple(credentials), tuple(held), cluster=site.cluster))


def _differences(site: Site, pins: tuple[Pin, ...]) -> list[str]:
    declared = {one.host for one in site.bmcs} | {one.host for one in site.pdus}
    pinned = {one.device for one in pins}
    found = [f"{host} is in meters.yaml, but nothing of it is pinned" for host in sorted(declared - pinned)]
    return found + [f"{host} is pinned, but not in meters.yaml" for host in sorted(pinned - declared)]


def readings(archive: str, cluster: str, now_s: float) -> Any:
    """Whether the poller says anything, and what it says of each device: two lists of sentences."""
    root = Path(archive)
    name = cluster or only_cluster(root)
    directory = Archive(root, name).facility("x").parent
    if not name or not directory.is_dir():
        return [[f"{directory if name else root}: nothing was ever read into it"], []]
    if not os.access(directory, os.R_OK | os.X_OK):
        raise AccessError(f"{directory} cannot be read")
    states = read_states(directory)
    if states is None:
        return [[f"{directory}: no meter was ever read"], []]
    if now_s - states.time_s > SILENT_S:
        return [[f"the poller has said nothing since {_ago(now_s - states.time_s)}"], []]
    return [[], list(silent_devices(states, now_s))]


def silent_devices(states: States, now_s: float) -> list[str]:
    """A sentence for each device of which a meter was not read for long."""
    found: dict[str, list[tuple[float, str, str]]] = {}
    for name, one in states.meters.items():
        since_s = one.read_s if one.read_s is not None else one.since_s or states.time_s
        if now_s - since_s > STALE_PERIODS * one.period_s:
            found.setdefault(one.device or one.node or name, []).append(
                (since_s, name, one.problem or "no reading came")
            )
    sentences = []
    for device, lines in sorted(found.items()):
        since_s, name, why = min(lines)
        more = f" (and {count(len(lines) - 1, 'meter')} more of it)" if len(lines) > 1 else ""
        why = why.removeprefix(f"{device}: ")
        sentences.append(f"{device}: {name}{more} was not read for {_ago(now_s - since_s)}: {why}")
    return sentences


def unit(shown: Mapping[str, str]) -> str:
    """What is wrong with the service's unit, by what systemd shows of it; empty where it runs."""
    if shown.get("LoadState") == "not-found":
        return "the unit is not installed"
    if shown.get("LoadState") not in ("loaded", None):
        return f"the unit cannot be loaded ({shown.get('LoadState')})"
    if shown.get("ActiveState") != "active":
        return f"it does not run ({shown.get('ActiveState', 'unknown')}, {shown.get('SubState', '')})"
    return ""


def _ago(seconds: float) -> str:
    if seconds < 7200:
        return count(max(1, round(seconds / 60)), "minute")
    return count(round(seconds / 3600), "hour") if seconds < 172_800 else count(round(seconds / 86_400), "day")
