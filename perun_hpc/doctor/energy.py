"""The plugin that shows perun's joules in Slurm's own commands: the file that this host's daemons load, and the one
that it reads."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

from perun_hpc.agent.figure import SECOND_NS, node_of
from perun_hpc.data_model import codec
from perun_hpc.doctor.facts import EnergyPlugin
from perun_hpc.errors import DataError
from perun_hpc.report.quantities import duration
from perun_hpc.slurm.conf import ENERGY_PLUGIN, PLACE, Config, texts

FILE = "acct_gather_energy_perun.so"
MARK = re.compile(rb"perun-energy-for-slurm:(0x[0-9a-fA-F]{6})")
LEFTOVER = re.compile(r"^\s*(Energy\w+)\s*=", re.MULTILINE | re.IGNORECASE)
MOST_B = 8 << 20
TRIES = 3
"""So often the plugin reads, too, where the agent may be writing."""


def in_use(config: Config) -> bool:
    """Whether slurm.conf names the plugin."""
    return ENERGY_PLUGIN in config.words("AcctGatherEnergyType")


def plugin(config: Config) -> Any:
    """Look at the first such file in PluginDir, as Slurm does; an `EnergyPlugin` as JSON types."""
    return codec.encode(replace(_plugin(config), leftovers=_leftovers(config)))


def _leftovers(config: Config) -> tuple[str, ...]:
    """Keys of other energy plugins in the acct_gather.conf beside slurm.conf."""
    path = Path(config.one("SLURM_CONF") or PLACE).with_name("acct_gather.conf")
    return tuple(sorted({key for _, text in texts(str(path)) for key in LEFTOVER.findall(text)}))


def _plugin(config: Config) -> EnergyPlugin:
    directories = [Path(one) for one in config.one("PluginDir").split(":") if one]
    for directory in directories:
        path = directory / FILE
        try:
            with path.open("rb") as file:
                found = MARK.search(file.read(MOST_B))
        except FileNotFoundError:
            continue
        except OSError as error:
            return EnergyPlugin(str(path), f"cannot be read: {error.strerror}")
        own = config.one("SLURM_VERSION")
        version = version_of(int(found[1], 16)) if found else "another one than perun's"
        problem = "" if version == own else f"is of Slurm {version}, and Slurm {own} runs" if found else f"is {version}"
        return EnergyPlugin(str(path), problem)
    where = directories[0] if directories else Path()
    return EnergyPlugin(str(where / FILE), "is not there")


def version_of(number: int) -> str:
    """A version of Slurm's as it writes it, `22.05.8`, by the number in its headers."""
    return f"{number >> 16}.{number >> 8 & 0xFF:02}.{number & 0xFF}"


def figures(path: Path, now_ns: int, owner: int = 0) -> str:
    """Why the plugin shows blanks by the agent's file of figures; empty where the node's own counts.

    `now_ns` is of the monotonic clock; `owner` the one whose file the plugin takes.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return "is not there" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            return "is no file"
        if status.st_uid != owner or status.st_mode & 0o022:
            mode = stat.S_IMODE(status.st_mode)
            return f"belongs to uid {status.st_uid}, mode {mode:04o}: the plugin takes root's alone"
        return _stale(file, now_ns)
    finally:
        os.close(file)


def _stale(file: int, now_ns: int) -> str:
    why = ""
    for _ in range(TRIES):
        try:
            figure = node_of(os.pread(file, MOST_B, 0))
        except DataError as error:
            why = f"is damaged: {error}"
            continue
        if figure is None:
            return "has no figure of the node"
        late_s = (now_ns - figure.until_ns) / SECOND_NS
        return f"is stale: its figures counted until {duration(late_s)} ago" if late_s > 0 else ""
    return why
