"""The launcher in other interpreters than perun's: the pyenv ones from 3.9 on, and older ones that must not notice."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import perun_hpc
from perun_hpc.energy.regions import by_region
from perun_hpc.monitoring.application import INJECT, injected
from perun_hpc.monitoring.ranks import RankServer, read_ranks

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
OLD = ("2.7", "3.6", "3.7", "3.8")


def interpreter(version: str) -> str:
    """A CPython of this version that is not perun's own; skips where there is none."""
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    if not found:
        pytest.skip(f"no CPython {version} under pyenv")
    return str(found[-1])


class Host:
    def energy_uj(self) -> tuple[int | None, int]:
        return 7_000_000, time.monotonic_ns()

    def write_summary(self) -> str:
        return ""


PROGRAM = """
import asyncio, os, sys
from perun_hpc import monitor, window
@monitor
def f(x): return x
@monitor("coroutine")
async def g(): await asyncio.sleep(0)
@monitor("generator")
def h(): yield 1
f(1); asyncio.run(g()); list(h())
try:
    with monitor("raises"): 1 / 0
except ZeroDivisionError: pass
with window("w") as w: pass
import perun_hpc
print(w.energy_uj, perun_hpc.__file__.startswith(%r), "PYTHONPATH" in os.environ, any("inject" in p for p in sys.path))
"""


BUSY = """
import os, signal, sys, threading
from perun_hpc import monitor
from perun_hpc.inject import regions
@monitor
def f(*a, b=1, **c): return a, b, c
@monitor
def raises(): raise KeyError
class Late(Exception): pass
@monitor
def handler(*_): raise Late
class C:
    @monitor
    def method(self): return self
    @classmethod
    @monitor
    def of_class(cls): return cls
def work():
    for _ in range(40_000): f()
@monitor
def down(depth): return depth and down(depth - 1)
c, some, none = C(), object(), sys.getrefcount(None)
assert (c.method(), C.of_class(), f(3, b=4, d=5)) == (c, C, ((3,), 4, {"d": 5}))
before = sys.getrefcount(some)
for _ in range(100_000):
    f(some)
assert sys.getrefcount(some) == before and sys.getrefcount(None) - none < 1000
for _ in range(100):
    try: raises()
    except KeyError: pass
signal.signal(signal.SIGALRM, handler)
for _ in range(20):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        while True: pass
    except Late: pass
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for _ in range(3):
    child = os.fork()
    if not child:
        f()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
for thread in threads: thread.join()
assert down(200) == 0
print(regions._mark is not None, regions.recorder.count()[1], flush=True)
os.kill(os.getpid(), 9)
"""


#: A handler that raises whenever its signal comes, as programs have it that give each step so much time.
RAISING = """
import random, signal
from perun_hpc import monitor
class Late(Exception): pass
def handler(*_): raise Late
@monitor
def f():
    global done
    done += 1
@monitor
def g(): yield
signal.signal(signal.SIGALRM, handler)
def work():
    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.001))
    while done < 150_000: f(), list(g())
raised = done = 0
while done < 150_000:  # two calls each: more than there are rows before short calls are packed
    try:
        work()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Late: raised += 1
print(raised)
"""


def start(python: str, text: str, rank_server: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a program as the rank, as the launcher does: same process id, environment as documented."""
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("PERUN", "PYTHON", "VIRTUAL_ENV"))}
    plain["PYTHONDONTWRITEBYTECODE"] = "1"  # Python 2 puts it beside the source

    def become() -> None:
        os.execve(
            python,
            [python, *flags, "-c", text],
            injected(plain, {"PERUN_SOCKET": rank_server, "PERUN_RANK": "2"}, os.getpid()),
        )

    return subprocess.run(
        [python],
        executable=python,
        preexec_fn=become,
        capture_output=True,
        text=True,
        timeout=60,
        env=plain,
    )


def served(tmp_path, python, program):
    """The program, ended, whose rank handed over to a server of its own: into `ranks`."""
    place = tmp_path / "s" / "rank server"
    place.parent.mkdir()
    rank_server = RankServer(str(place), tmp_path / "ranks", Host())
    done = start(python, program, str(place))
    rank_server.close()
    return done


@pytest.mark.parametrize("version", VERSIONS)
def test_a_foreign_interpreter_records_regions_with_the_standard_library_alone(tmp_path, version):
    python = interpreter(version)
    done = served(tmp_path, python, PROGRAM % str(INJECT.parent.parent))
    assert done.stdout == "0 True False False\n", done.stderr
    (data,), problems = read_ranks(tmp_path / "ranks")
    assert problems == []
    assert (data.whole, data.rank, data.header["python"].startswith(version)) == (True, 2, True)
    assert data.names == ("f", "coroutine", "generator", "raises", "w")
    assert len(data.calls) == 5 * 3


@pytest.mark.parametrize("version", VERSIONS)
def test_c_marks_in_every_cpython_and_a_kill_loses_nothing(tmp_path, version):
    """Keywords, methods, exceptions, signals, threads, forks, recursion, more calls than there are rows, `kill -9`."""
    done = served(tmp_path, interpreter(version), BUSY)
    assert (done.returncode, done.stdout) == (-9, "True 0\n"), done.stderr
    (data,), problems = read_ranks(tmp_path / "ranks")
    assert (problems, data.whole) == ([], False)
    found = {data.names[region]: one for region, one in by_region(data.calls, len(data.names), 0, 1 << 62).items()}
    calls = {"f": 8 * 40_000 + 100_001, "raises": 100, "handler": 20, "C.method": 1, "C.of_class": 1, "down": 201}
    assert {name: one.calls for name, one in found.items()} == calls
    assert {name: one.raised for name, one in found.items() if one.raised} == {"raises": 100, "handler": 20}
    assert len(data.calls) <= 3 * 262_144


@pytest.mark.parametrize("version", VERSIONS)
def test_a_signals_handler_that_raises_leaves_no_call_open_and_the_program_gets_on(tmp_path, version):
    done = served(tmp_path, interpreter(version), RAISING)
    assert int(done.stdout) > 50, done.stderr
    (data,), problems = read_ranks(tmp_path / "ranks")
    rows = [tuple(data.calls[at : at + 3]) for at in range(0, len(data.calls), 3)]
    assert problems == [] and [row for row in rows if row[0] >= 0 and row[1] > 0 and row[2] == 0] == []
    found = by_region(data.calls, len(data.names), 0, 1 << 62)
    assert 150_000 <= found[data.names.index("f")].calls <= 150_000 + int(done.stdout)


@pytest.mark.parametrize("version", VERSIONS)
def test_nobody_listening_changes_nothing(version):
    done = start(interpreter(version), PROGRAM % str(INJECT.parent.parent), "/nonexistent/socket")
    assert (done.returncode, done.stdout, done.stderr) == (0, "None True False False\n", "")


@pytest.mark.parametrize("version", OLD)
def test_an_old_interpreter_runs_as_without_us(version):
    python = interpreter(version)
    text = (
        "import os, sys; print('PYTHONPATH' in os.environ, len(sys.meta_path), [p for p in sys.path if 'inject' in p])"
    )
    done = start(python, text, "/nonexistent/socket")
    plain = subprocess.run([python, "-c", text], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, plain.stdout, plain.stderr)


@pytest.mark.parametrize("version", VERSIONS)
def test_only_what_is_needed_is_imported(version):
    """A program without regions gets two of our modules and none of the heavy ones."""
    heavy = "('socket', 'json', 'dataclasses', 'ctypes')"
    text = f"import sys; print(sorted(m for m in sys.modules if 'perun' in m or m in {heavy}))"
    done = start(interpreter(version), text, "/nonexistent/socket")
    ours = [
        "perun_hpc",
        "perun_hpc._version",
        "perun_hpc.inject",
        "perun_hpc.inject.closed",
        "perun_hpc.inject.mpi_watch",
        "perun_hpc.inject.rank",
    ]
    assert done.stdout == f"{ours}\n", done.stderr


def test_a_rank_is_not_late_because_the_one_is_that_started_it() -> None:
    assert injected({"PERUN_LATE": "1", "A": "b"}, {"PERUN_RANK": "2"}, 7) == {
        "A": "b", "PERUN_RANK": "2", "PERUN_PID": "7", "PYTHONPATH": str(INJECT),
    }  # fmt: skip


def test_this_interpreter_too(tmp_path):
    done = start(sys.executable, "print('fine')", "/nonexistent/socket")
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_package_is_imported_and_listed_without_any_other_package(version: str) -> None:
    code = "import perun_hpc, sys; print('open_many' in dir(perun_hpc), 'xarray' in sys.modules)"
    root = str(Path(perun_hpc.__file__).parents[1])
    done = subprocess.run(
        [interpreter(version), "-S", "-c", code], env={"PYTHONPATH": root}, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("True False\n", "")
