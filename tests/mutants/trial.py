"""Tests against a mutant: in a copy of the tree, by a forked child that has the heavy libraries loaded already."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import hypothesis
import pytest

PRELOADED = ("numpy", "zarr", "yaml", "jsonschema", "psutil", "hypothesis.strategies", "xml.dom.minidom")
QUIET = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:cov", "--no-header", "--tb=no", "--hypothesis-seed=0")
PATIENCE_S = 20.0
BUSY_S = 60
"""Processor time of a trial: a loop that does not end is noticed, however slow the machine is just now."""
TOOK = re.compile(r"^([\d.]+)s call +(.+)$", re.MULTILINE)
LINES = (
    "SELECT file.path, context.context, numbits FROM line_bits"
    " JOIN file ON file.id = file_id JOIN context ON context.id = context_id"
)


def copy(root: Path, to: Path) -> None:
    """The files of the tree, without what was built."""
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=True,
    )
    for name in os.fsdecode(listed.stdout).split("\0")[:-1]:
        if (root / name).exists():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name, follow_symlinks=False)


Lines = dict[tuple[str, int], list[str]]
"""Which tests run a line of a module, the quickest first."""


def covering(tree: Path, tests: Sequence[str], paths: Sequence[str]) -> tuple[Lines, list[str]]:
    """Which tests run which lines of the paths, of those that pass on the tree as it is; and which do not pass."""
    data = tree / "coverage.sqlite"
    environment = {**os.environ, "COVERAGE_FILE": str(data)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--no-header",
        "--tb=no",
        "-rfE",
        "--durations=0",
    ]
    command += [
        "--hypothesis-seed=0",
        f"--cov-config={os.devnull}",
        "--cov-context=test",
        "--cov-report=",
        *(f"--cov={path}" for path in folders(paths)),
        *tests,
    ]
    done = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    failed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))}
    print(done.stdout.splitlines()[-1], *sorted(failed), sep="\n  left out: ", flush=True)
    for path in paths:
        for compiled in (tree / path).parent.glob(f"__pycache__/{Path(path).stem}.*.pyc"):
            compiled.unlink()
    lines: dict[tuple[str, int], set[str]] = defaultdict(set)
    with contextlib.closing(sqlite3.connect(data)) as rows:
        for path, context, bits in rows.execute(LINES):
            test = context.partition("|")[0]
            if test and test not in failed:
                for number in numbers(bits):
                    lines[os.path.relpath(path, tree), number].add(test)
    took_s = {test: float(seconds) for seconds, test in TOOK.findall(done.stdout)}
    sort = partial(sorted, key=lambda test: (took_s.get(test, 0.0), test))
    return {place: sort(found) for place, found in lines.items()}, sorted(failed)


def folders(paths: Sequence[str]) -> list[str]:
    """The packages that the modules lie in."""
    return sorted({str(Path(path).parent) for path in paths})


def numbers(bits: bytes) -> list[int]:
    """The lines that coverage keeps as a set of bits."""
    return [8 * at + bit for at, byte in enumerate(bits) for bit in range(8) if byte & 1 << bit]


def preload() -> None:
    """What each child would have to import; nothing that is changed, and no test."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            __import__(name)
    hypothesis.settings.register_profile("mutants", database=None, derandomize=True, deadline=None)
    hypothesis.settings.load_profile("mutants")
    sys.dont_write_bytecode = True  # of a mutant; what the first run has compiled of all else is read


def survives(tree: Path, left_out: Sequence[str], limit_s: float, tests: Sequence[str]) -> bool:
    """Whether the tests, but for those left out, pass on the tree; one that takes longer than the limit has noticed."""
    child = os.fork()
    if child == 0:
        run(tree, [*(f"--deselect={one}" for one in left_out), *tests])
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _kill(child)
            return status == 0
        time.sleep(0.02)
    _kill(child)
    os.waitpid(child, 0)
    return False


def run(tree: Path, arguments: Sequence[str]) -> NoReturn:
    """In the child, and in a session of its own: run pytest and end as it did."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CPU, (BUSY_S, BUSY_S))
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.chdir(tree)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "perun_hpc")]:
            del sys.modules[name]
        sys.path[:] = [
            str(tree),
            *(entry for entry in sys.path if entry not in ("", os.fspath(Path(__file__).parents[2]))),
        ]
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        code = int(pytest.main([*QUIET, *arguments]))
    finally:
        os._exit(code)


def _kill(child: int) -> None:
    """The session that the child led."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
