"""What `perun monitor noop.py` adds to `python noop.py`, beside perun 1.0.0; each with its own interpreter as base."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from bench import peers
from bench.result import Result, added, interleaved

ROUNDS = 9


def run() -> Iterator[Result]:
    """Yield `launch.added_wall_s`: the median over rounds of (monitored) - (plain)."""
    peer, own = peers.python("perun"), _installed()
    with tempfile.TemporaryDirectory(prefix="perun-bench-") as name:
        directory = Path(name)
        (directory / "noop.py").write_text("")
        ours = [str(own.with_name("perun")), "monitor", "noop.py"]
        theirs = [str(peer.with_name("perun")), "monitor", "noop.py"]
        arms = {
            "ours": partial(_wall_s, ours, directory),
            "our python": partial(_wall_s, [str(own), "noop.py"], directory),
            "theirs": partial(_wall_s, theirs, directory),
            "their python": partial(_wall_s, [str(peer), "noop.py"], directory),
        }
        for arm in arms.values():  # byte code and file caches
            arm()
        taken = interleaved(arms, ROUNDS)
    ours_s, theirs_s = added(taken, "ours", "our python"), added(taken, "theirs", "their python")
    yield Result("launch.added_wall_s", ours_s, "s", "perun 1.0.0", theirs_s, n=ROUNDS)


def _installed() -> Path:
    """An environment with this tree installed in it as a user would; an editable one starts 20 ms later per process."""
    home = peers.ENVIRONMENTS / "ours"
    interpreter = home / "bin" / "python"
    if not interpreter.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    source = Path(__file__).parents[1]
    pip = [str(interpreter), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, str(source)], check=True)
    subprocess.run([*pip, "--no-deps", "--force-reinstall", str(source)], check=True)
    return interpreter


def _wall_s(command: Sequence[str], directory: Path) -> float:
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    begin_s = time.perf_counter()
    subprocess.run(
        command, cwd=directory, env=environ, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - begin_s
