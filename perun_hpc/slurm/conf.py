"""Slurm's configuration as text: what `scontrol show config` says is in force, slurm.conf, plugstack.conf."""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ENERGY_PLUGIN = "acct_gather_energy/perun"
"""AcctGatherEnergyType where perun's plugin makes Slurm's own figures."""
PLACE = "/etc/slurm/slurm.conf"
"""Where slurm.conf is, unless $SLURM_CONF says another place."""
MOST_B = 8 << 20
"""How much of a file is read."""
MOST_FILES = 100
"""Files that one configuration may include."""
_SHOWN = re.compile(r"([A-Za-z_]\w*)(?:\[\d+\])?\s*=\s?(.*)")
_SET = re.compile(r"(\w+)\s*\+?=\s*(\"[^\"]*\"|\S+)")
_NOTHING = frozenset({"", "(null)", "n/a", "none", "(null type)"})
_IMPLIED = {"x11": ("contain", "alloc"), "runinjob": ("contain", "alloc"), "contain": ("alloc",)}


def place(environ: Mapping[str, str]) -> Path:
    """Where slurm.conf is by the environment."""
    return Path(environ.get("SLURM_CONF") or PLACE).absolute()


Reader = Callable[[str], Iterable[tuple[str, str]]]
"""Returns the (path, text) of every file that a pattern names, in order; files that are not there are left out."""


def texts(pattern: str) -> list[tuple[str, str]]:
    """The `Reader` of this host's files; OSError where one cannot be read."""
    found = []
    for path in sorted(glob.glob(pattern)) or [pattern]:  # noqa: PTH207 - as Slurm itself expands it
        with contextlib.suppress(FileNotFoundError, IsADirectoryError), Path(path).open(errors="replace") as file:
            found.append((path, file.read(MOST_B)))
    return found


@dataclass(frozen=True)
class Config:
    """Settings by their lower-case names; what Slurm numbers (`SlurmctldHost[0]`) has several values."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def all(self, key: str) -> tuple[str, ...]:
        """Every value of a setting; none where it is not set."""
        return tuple(value for value in self.values.get(key.lower(), ()) if value.lower() not in _NOTHING)

    def one(self, key: str) -> str:
        """The last value; empty where it is not set."""
        return next(reversed(self.all(key)), "")

    def words(self, key: str) -> frozenset[str]:
        """The words of a list, in lower case."""
        return frozenset(word.strip().lower() for value in self.all(key) for word in value.split(",") if word.strip())

    @property
    def version(self) -> tuple[int, int]:
        """Slurm's major release, as (22, 5); (0, 0) where it is not known."""
        return release(self.one("SLURM_VERSION"))


def release(text: str) -> tuple[int, int]:
    """The major release that a version belongs to: `22.05.8` is of (22, 5); (0, 0) where it is no version."""
    match = re.match(r"(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def prolog_flags(config: Config) -> frozenset[str]:
    """PrologFlags in lower case, with those that others imply; of several lines in a file the last counts."""
    flags = {word.strip().lower() for word in config.one("PrologFlags").split(",") if word.strip()}
    return frozenset(flags | {implied for flag in flags for implied in _IMPLIED.get(flag, ())})


def shown(text: str) -> Config:
    """What `scontrol show config` prints, cgroup.conf's settings included."""
    values: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        if match := _SHOWN.fullmatch(line.strip()):
            key = match[1].lower()
            values[key] = (*values.get(key, ()), match[2].strip())
    return Config(values)


def written(path: str, read: Reader) -> Config:
    """What a slurm.conf and the files that it includes set; lines of nodes and partitions are left out."""
    values: dict[str, tuple[str, ...]] = {}
    for _, _, line in _lines(path, read):
        pairs = _SET.findall(line)
        if pairs and pairs[0][0].lower() in ("nodename", "partitionname", "nodeset", "downnodes", "frontendname"):
            continue
        for key, value in pairs:
            values[key.lower()] = (*values.get(key.lower(), ()), value.strip('"'))
    return Config(values)


@dataclass(frozen=True)
class PlugLine:
    """A line of plugstack.conf: where it stands, `required` or `optional`, the plugin and its arguments."""

    file: str
    number: int
    how: str
    plugin: str
    arguments: tuple[str, ...] = ()

    def argument(self, name: str) -> str:
        """The value of an argument `name=value`; empty where there is none."""
        return next((a.partition("=")[2] for a in self.arguments if a.startswith(f"{name}=")), "")


def plugstack(path: str, read: Reader) -> tuple[PlugLine, ...]:
    """The plugins of a plugstack.conf and the files that it includes, in their order."""
    found = []
    for file, number, line in _lines(path, read):
        words = line.split()
        if len(words) > 1 and words[0].lower() in ("required", "optional"):
            found.append(PlugLine(file, number, words[0].lower(), words[1], tuple(words[2:])))
    return tuple(found)


def _lines(path: str, read: Reader) -> list[tuple[str, int, str]]:
    """Every line without comments, as (file, number, text), what is included in its place."""
    found: list[tuple[str, int, str]] = []
    left = MOST_FILES

    def take(pattern: str, base: Path) -> None:
        nonlocal left
        for file, text in read(str(base / pattern)):
            if left <= 0:
                return
            left -= 1
            for number, line in enumerate(text.replace("\\\n", "").splitlines(), 1):
                bare = re.sub(r"(?<!\\)#.*", "", line).strip()
                words = bare.split()
                if len(words) == 2 and words[0].lower() == "include":
                    take(words[1], Path(file).parent)
                elif bare:
                    found.append((file, number, bare))

    take(path, Path("/"))
    return found
