"""How far each fuzzer has come, kept outside the repository's files: a further run, or a second one at the same time,
goes on with the next inputs; they are counted for the product code that they were fed to."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import grimp

from tests.attack.fuzz import Run, Target, run
from tests.stamp import stamp

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".fuzz"
BLOCK_S = 20.0
"""Inputs are claimed in blocks of about this time."""
LEAST, MOST = 200, 100_000
"""Inputs of a block."""
HEAD = ("fuzzer", "fed", "code", "inputs:", "refused:", "memory:", "a second:", "earlier code:", "findings", "of")


@dataclass
class Tally:
    """Inputs fed to one state of the code; `memory_b` is the most that one block took, `of` when the last one ended."""

    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    memory_b: int = 0
    of: str = ""


@dataclass
class Progress:
    """What is known of a target: the next input that nobody has claimed, and a tally by version of the code.

    findings : [what, number of the input, version].
    """

    next: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: list[list[str | int]] = field(default_factory=list)

    def of(self, version: str) -> Tally:
        """The tally of a version, a new one where it has none."""
        return self.tallies.setdefault(version, Tally())


@cache
def _imports() -> grimp.ImportGraph:
    return grimp.build_graph("perun_hpc", cache_dir=None)


@cache
def version(code: tuple[str, ...]) -> str:
    """Twelve digits that change when modules of perun_hpc, or what they import of it, do."""
    modules: set[str] = set()
    for name in code:
        modules |= {f"perun_hpc.{name}", *_imports().find_upstream_modules(f"perun_hpc.{name}")}
    digest = hashlib.sha256()
    for module in sorted(modules):
        base = ROOT / module.replace(".", "/")
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def read(target: Target, seed: int, folder: Path = FOLDER) -> Progress:
    """What has been done so far; nothing, where there is no file."""
    with contextlib.suppress(FileNotFoundError):
        value = json.loads((folder / f"{target.name}-{seed}.json").read_text())
        tallies = {version: Tally(**tally) for version, tally in value["tallies"].items()}
        return Progress(value["next"], tallies, value["findings"])
    return Progress()


@contextlib.contextmanager
def _changing(target: Target, seed: int, folder: Path) -> Iterator[Progress]:
    """Read, change and write a target's progress while nobody else does."""
    folder.mkdir(exist_ok=True)
    with (folder / f"{target.name}-{seed}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        progress = read(target, seed, folder)
        yield progress
        path = folder / f"{target.name}-{seed}.json"
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(progress), indent=1))
        beside.replace(path)


def claim(target: Target, seed: int, until: int, folder: Path = FOLDER) -> tuple[int, int]:
    """(first, count) of a block of inputs that nobody has had; few where so many (`until`) are all but done.

    A run that is killed leaves its block uncounted, and the next one begins behind it.
    """
    with _changing(target, seed, folder) as progress:
        tally = progress.of(version(target.code))
        speed = tally.inputs / tally.seconds if tally.seconds else 0.0
        left = max(1, min(target.n, until) - tally.inputs)
        many = min(left, max(LEAST, min(MOST, int(speed * BLOCK_S))))
        first = progress.next
        progress.next += many
    return first, many


def count(target: Target, seed: int, done: Run, folder: Path = FOLDER) -> None:
    """Add what a block gave."""
    with _changing(target, seed, folder) as progress:
        tally = progress.of(version(target.code))
        tally.of = stamp()
        tally.inputs += done.inputs
        tally.refused += done.refused
        tally.seconds += done.seconds
        tally.memory_b = max(tally.memory_b, done.memory_b)
        progress.findings += [[one.what, one.index, version(target.code)] for one in done.findings]


def go_on(targets: Sequence[Target], seed: int, inputs: int, most_s: float, jobs: int, folder: Path = FOLDER) -> None:
    """Feed each target its next inputs, the one that is furthest behind first, until all have had enough.

    Parameters
    ----------
    inputs : at most about so many for each target now; blocks that began are completed.
    most_s : no block begins after this time, and none goes on for long.
    jobs : processes that feed; a killed one costs the block that it had.
    """
    until_s = time.monotonic() + most_s
    until = {target.name: _done(target, seed, folder) + inputs for target in targets}
    children = []
    for _ in range(jobs if targets else 0):
        child = os.fork()
        if child == 0:
            try:
                _work(targets, seed, until, until_s, folder)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)


def _work(targets: Sequence[Target], seed: int, until: Mapping[str, int], until_s: float, folder: Path) -> None:
    while time.monotonic() < until_s:
        behind = [one for one in targets if _done(one, seed, folder) < min(one.n, until[one.name])]
        if not behind:
            return
        target = min(behind, key=lambda one: _done(one, seed, folder) / one.n)
        first, many = claim(target, seed, until[target.name], folder)
        left_s = max(1.0, until_s - time.monotonic())
        count(target, seed, run(target, many, seed, min(left_s, 4 * BLOCK_S), first), folder)


def _done(target: Target, seed: int, folder: Path) -> int:
    """Inputs that the code as it is has had."""
    return read(target, seed, folder).of(version(target.code)).inputs


def begun(target: Target, seed: int, folder: Path = FOLDER) -> bool:
    """Whether the target has had any input."""
    return any(tally.inputs for tally in read(target, seed, folder).tallies.values())


def broken(target: Target, seed: int, folder: Path = FOLDER) -> list[str]:
    """What the code as it is did that it must not do, each with the number of the input."""
    found = read(target, seed, folder).findings
    return [f"{what} (input {index})" for what, index, at in found if at == version(target.code)]


def row(target: Target, seed: int, folder: Path = FOLDER) -> tuple[str, ...]:
    """The cells of `HEAD` for a target, without its name."""
    progress = read(target, seed, folder)
    now = version(target.code)
    tally = progress.of(now)
    earlier = sum(one.inputs for key, one in progress.tallies.items() if key != now)
    return (
        target.tried,
        now,
        f"{tally.inputs:,}",
        f"{tally.refused:,}",
        f"{tally.memory_b >> 20} MiB",
        f"{tally.inputs / tally.seconds:,.0f}" if tally.seconds else "",
        f"{earlier:,}",
        f"**{'; '.join(broken(target, seed, folder))}**" if broken(target, seed, folder) else "none",
        tally.of,
    )
