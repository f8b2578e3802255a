"""Losses of power, replayed: what a process wrote is recorded with strace, and any part of it may never have happened.

`record` runs a command and returns what it did below a directory, by absolute paths: names made, changed and removed,
data written, and what was synced. `after` lays out the files as a disk may hold them when the power goes after some of
these: what was synced is there, of the rest whatever `Lost` says. A name is on the disk once its directory was synced,
data once their file was; a rename is one step. That is harsher than file systems with a journal are.
"""

from __future__ import annotations

import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

CALLS = (
    "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,rename,renameat,renameat2,link,linkat,"
    "symlink,symlinkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync,syncfs,fallocate,copy_file_range,sendfile,lseek"
)
_LINE = re.compile(r"(\w+)\((.*)\) += (\d+)(?:<([^>]*)>)?\Z")
_BEGUN, _ENDED = re.compile(r"(.*) <unfinished \.\.\.>\Z"), re.compile(r"<\.\.\. \w+ resumed>(.*)\Z")
_ARGUMENT = re.compile(r'"((?:\\x..)*)"|([\w.-]+)<([^>]*)>|([^,\s]+)')
_UNLOGGED = ("-shm",)
"""Files that are memory: SQLite makes its index of the write-ahead log anew after a crash."""


class Lost(Enum):
    """What of the things that were not synced is not on the disk."""

    NOTHING = "nothing"
    ALL = "all"
    DATA = "data"
    NAMES = "names"
    SOME = "some"


@dataclass(frozen=True)
class Step:
    """One thing that was done: entries of directories (directory, name, what is there then), a file's data, a sync: of
    one file or directory, or of the `whole` file system."""

    entries: tuple[tuple[int, str, int | None], ...] = ()
    file: int | None = None
    offset: int = 0
    data: bytes = b""
    length: int | None = None
    synced: int | None = None
    whole: bool = False


@dataclass
class Recording:
    """What lay there at first, and the steps; directories and files are numbers, 0 is the one that was watched."""

    names: dict[int, dict[str, int]] = field(default_factory=lambda: {0: {}})
    contents: dict[int, bytes] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)


def record(command: Sequence[str], root: Path, log: Path) -> Recording:
    """Run a command and return what it did below `root`; CalledProcessError where it fails."""
    recording = Recording()
    now = _Now(recording, root)
    now.take_stock(root, 0)
    trace = ["strace", "-f", "-y", "-xx", "-s", "100000000", "-e", f"trace={CALLS}", "-o", str(log)]
    subprocess.run([*trace, *command], check=True)
    begun: dict[str, str] = {}
    for written in log.read_text(encoding="ascii", errors="replace").splitlines():
        thread, _, line = written.partition(" ")
        line = line.strip()
        if half := _BEGUN.match(line):
            begun[thread] = half[1]
            continue
        if rest := _ENDED.match(line):
            line = begun.pop(thread) + rest[1]
        match = _LINE.match(line)
        if match is not None:
            now.follow(match[1], list(_arguments(match[2])), int(match[3]), _text(match[4] or ""))
    return recording


def after(recording: Recording, count: int, lost: Lost, seed: int, target: Path) -> None:
    """Lay out below `target` what a disk may hold once the power went after the first `count` steps."""
    rng = random.Random(seed)
    names = {number: dict(entries) for number, entries in recording.names.items()}
    contents = {number: bytearray(data) for number, data in recording.contents.items()}
    last_whole = max((at for at, step in enumerate(recording.steps[:count]) if step.whole), default=-1)
    last_sync = {step.synced: at for at, step in enumerate(recording.steps[:count]) if step.synced is not None}
    for at, step in enumerate(recording.steps[:count]):
        if step.entries:
            kept = last_whole > at or any(last_sync.get(directory, -1) > at for directory, _, _ in step.entries)
            if kept or _survives(lost, Lost.NAMES, rng):
                for directory, name, number in step.entries:
                    entries = names.setdefault(directory, {})
                    entries.pop(name, None)
                    if number is not None:
                        entries[name] = number
        elif step.file is not None and (
            max(last_whole, last_sync.get(step.file, -1)) > at or _survives(lost, Lost.DATA, rng)
        ):
            content = contents.setdefault(step.file, bytearray())
            if step.length is not None:
                content[step.length :] = bytes(max(step.length - len(content), 0))
                continue
            data = step.data
            content.extend(bytes(max(step.offset - len(content), 0)))
            content[step.offset : step.offset + len(data)] = data
    _lay_out(names, contents, 0, target)


def _survives(lost: Lost, kind: Lost, rng: random.Random) -> bool:
    if lost is Lost.SOME:
        return rng.random() < 0.5
    return lost is Lost.NOTHING or (lost is not Lost.ALL and lost is not kind)


def _lay_out(names: dict[int, dict[str, int]], contents: dict[int, bytearray], number: int, target: Path) -> None:
    target.mkdir()
    for name, child in names.get(number, {}).items():
        if child in names:
            _lay_out(names, contents, child, target / name)
        else:
            (target / name).write_bytes(contents.get(child, b""))


class _Now:
    """What every path means while the steps are followed."""

    def __init__(self, recording: Recording, root: Path) -> None:
        self.recording = recording
        self.root = root
        self.names = {0: dict[str, int]()}
        self.lengths: dict[int, int] = {}
        self.positions: dict[int, int] = {}
        self.count = 0

    def take_stock(self, directory: Path, number: int) -> None:
        """Note what lies there before anything is done: it is on the disk."""
        for path in sorted(directory.iterdir()):
            if path.name.endswith(_UNLOGGED):
                continue
            child = self._new(path.is_dir())
            self.names[number][path.name] = child
            self.recording.names[number][path.name] = child
            if path.is_dir():
                self.recording.names[child] = {}
                self.take_stock(path, child)
            else:
                self.recording.contents[child] = path.read_bytes()
                self.lengths[child] = path.stat().st_size

    def follow(self, call: str, arguments: list[str | tuple[str, str]], result: int, opened: str) -> None:
        """Note what a call did; AssertionError for one that this does not know."""
        paths = list(self._paths(call, arguments))
        if not paths or any(path.name.endswith(_UNLOGGED) for path in paths):
            return
        if call in ("openat", "open", "creat"):
            self._opened(paths[0], str(arguments[2] if call == "openat" else arguments[1]))
        elif call.startswith("mkdir"):
            self._enter((paths[0], self._new(True)))
        elif call.startswith("rename"):
            self._enter((paths[0], None), (paths[1], self._find(paths[0])))
        elif call.startswith("link"):
            self._enter((paths[1], self._find(paths[0])))
        elif call.startswith(("unlink", "rmdir")):
            self._enter((paths[0], None))
        elif call in ("fsync", "fdatasync"):
            self._add(Step(synced=self._find(paths[0])))
        elif call == "syncfs":
            self._add(Step(whole=True))
        elif call == "lseek":
            self.positions[self._find(paths[0])] = result
        elif call in ("write", "pwrite64"):
            number = self._find(paths[0])
            data = _bytes(str(arguments[1]))[:result]
            if call == "pwrite64":
                offset = int(str(arguments[3]))
            else:
                offset = self.positions.get(number, self.lengths[number])
                self.positions[number] = offset + len(data)
            self.lengths[number] = max(self.lengths[number], offset + len(data))
            self._add(Step(file=number, offset=offset, data=data))
        elif call == "ftruncate":
            self._cut(self._find(paths[0]), int(str(arguments[1])))
        else:
            raise AssertionError(f"{call} of {paths[0]}: not known here")

    def _paths(self, call: str, arguments: list[str | tuple[str, str]]) -> Iterator[Path]:
        """The paths below the root that a call names, or that its descriptors are."""
        base: str | None = None
        at_calls = call.endswith(("at", "at2"))
        for argument in arguments:
            if isinstance(argument, tuple):
                base = argument[1]
                if not at_calls:
                    yield from self._below(base)
            elif argument.startswith('"') and call not in ("write", "pwrite64"):
                text = _text(argument.strip('"'))
                yield from self._below(text if text.startswith("/") or base is None else f"{base}/{text}")

    def _below(self, text: str) -> Iterator[Path]:
        path = Path(text)
        if path == self.root or self.root in path.parents:
            yield path

    def _opened(self, path: Path, flags: str) -> None:
        parent = self._find(path.parent)
        number = self.names[parent].get(path.name) if path != self.root else 0
        if number is None and "O_CREAT" in flags:
            number = self._new(False)
            self._enter((path, number))
        elif number is not None and "O_TRUNC" in flags:
            self._cut(number, 0)
        if number is not None:
            self.positions[number] = self.lengths.get(number, 0) if "O_APPEND" in flags else 0

    def _cut(self, number: int, length: int) -> None:
        self.lengths[number] = length
        self._add(Step(file=number, length=length))

    def _enter(self, *changes: tuple[Path, int | None]) -> None:
        entries = []
        for path, number in changes:
            parent = self._find(path.parent)
            entries.append((parent, path.name, number))
            self.names[parent].pop(path.name, None)
            if number is not None:
                self.names[parent][path.name] = number
        self._add(Step(entries=tuple(entries)))

    def _find(self, path: Path) -> int:
        number = 0
        if path != self.root:
            for name in path.relative_to(self.root).parts if self.root in path.parents else ():
                number = self.names[number][name]
        return number

    def _new(self, directory: bool) -> int:
        self.count += 1
        if directory:
            self.names[self.count] = {}
            self.recording.names.setdefault(self.count, {})
        else:
            self.lengths[self.count] = 0
        return self.count

    def _add(self, step: Step) -> None:
        self.recording.steps.append(step)


def _arguments(text: str) -> Iterator[str | tuple[str, str]]:
    for match in _ARGUMENT.finditer(text):
        if match[4] is not None:
            yield match[4]
        elif match[2] is not None:
            yield (match[2], _text(match[3]))
        else:
            yield f'"{match[1]}"'


def _bytes(quoted: str) -> bytes:
    return bytes.fromhex(quoted.strip('"').replace("\\x", ""))


def _text(quoted: str) -> str:
    return bytes.fromhex(quoted.replace("\\x", "")).decode(errors="surrogateescape")
