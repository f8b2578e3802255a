"""A service follows its policy, whatever becomes of the file: the last valid one rules, and the reason is known."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from perun_hpc.config.compile import compile_policy
from perun_hpc.config.keeper import PATIENCE_NS, PolicyKeeper
from perun_hpc.config.policy import MAX_BYTES, load
from perun_hpc.process.clock import MACHINE, Clock

S = 10**9


def settled(keeper: PolicyKeeper) -> PolicyKeeper:
    """The keeper once it has looked, and has taken over what the compiler made."""
    keeper.check()
    keeper.wait(60)
    assert keeper.settled
    return keeper


def children() -> set[int]:
    """The processes that this one has started, among them what other tests left."""
    return {int(one) for one in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text("sampling: {period: 2 s}\n")
    return path


def holds(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def away(path: Path) -> Path:
    path.unlink()
    return path


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "garbage": (holds(b"\xff\x00\xfe" * 999), "not UTF-8"),
    "no yaml": (holds(b"a: [b: {"), "not YAML"),
    "a mistake": (holds(b"sampling: {period: 2}"), "sampling.period"),
    "too deep": (holds(b"[" * 200_000), "deep"),
    "aliases": (holds(b"a: &a [x]\nb: *a"), "aliases"),
    "too large": (holds(b"#" * (MAX_BYTES + 1)), "larger than"),
    "many mistakes": (holds(b"".join(b"no_such_%04d: 1\n" % one for one in range(2_000))), "no_such_0000"),
    "a directory": (lambda path: away(path).mkdir(), "not a regular file"),
    "a pipe": (lambda path: os.mkfifo(away(path)), "not a regular file"),
    "a device": (lambda path: away(path).symlink_to("/dev/zero"), "not a regular file"),
    "a link to nothing": (lambda path: away(path).symlink_to("nowhere"), "cannot read policy"),
    "gone": (away, "cannot read policy"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_of_a_file_that_is_no_policy_the_last_valid_one_stays(policy: Path, name: str) -> None:
    keeper = settled(PolicyKeeper(policy, MACHINE))
    assert (keeper.refused, keeper.site().sampling.period_ns) == (None, 2 * S)
    damage, why = HOSTILE[name]
    damage(policy)
    assert why in (settled(keeper).refused or "")
    assert "\n" not in (keeper.refused or "")
    assert keeper.site().sampling.period_ns == 2 * S
    mended = policy.with_name("mended")
    mended.write_text("sampling: {period: 3 s}\n")
    if policy.is_dir():
        policy.rmdir()
    mended.replace(policy)
    assert (settled(keeper).refused, keeper.site().sampling.period_ns) == (None, 3 * S)


def test_what_ruled_last_rules_the_next_process_from_its_start(policy: Path, tmp_path: Path) -> None:
    kept = tmp_path / "no" / "such" / "directory" / "policy.json", tmp_path / "policy.json"
    settled(PolicyKeeper(policy, MACHINE, kept=kept))
    policy.unlink()
    assert PolicyKeeper(policy, MACHINE, kept=kept).site().sampling.period_ns == 2 * S
    for damage in ("", "[]", "{", '{"site": []}', '{"nodes": {"n1": 1}}'):
        kept[1].write_text(damage)
        assert PolicyKeeper(policy, MACHINE, kept=kept).site().sampling.period_ns == S  # the default


def test_what_is_handed_in_rules_until_the_file_has_changed(policy: Path) -> None:
    keeper = PolicyKeeper(policy, MACHINE, policy=compile_policy(load(policy)))
    assert keeper.site().sampling.period_ns == 2 * S
    assert settled(keeper).policy == json.loads(json.dumps(compile_policy(load(policy))))


def test_a_compiler_that_hangs_is_given_up(policy: Path) -> None:
    """It is stopped before it can do anything, as on a file system that hangs."""
    now = [0]
    keeper = settled(PolicyKeeper(policy, Clock(lambda: now[0], lambda: 0)))
    policy.write_text("sampling: {period: 3 s}\n")
    before = children()
    keeper.check()
    (pid,) = children() - before
    os.kill(pid, signal.SIGSTOP)
    assert (keeper.poll(), keeper.settled) == (False, False)
    now[0] = PATIENCE_NS
    assert (keeper.poll(), keeper.settled) == (True, True)
    assert keeper.refused == f"cannot compile {policy}: the compiler did not end within 60 s"
    assert keeper.site().sampling.period_ns == 2 * S


def test_a_compiler_leaves_no_descriptor_and_serves_a_process_with_threads(policy: Path) -> None:
    going = threading.Event()
    other = threading.Thread(target=going.wait)
    other.start()
    try:
        keeper = settled(PolicyKeeper(policy, MACHINE))
        gc.collect()  # what tests before left open
        before = sorted(Path("/proc/self/fd").iterdir())
        for period in range(2, 5):
            policy.write_text(f"sampling: {{period: {period} s}}\n")
            assert settled(keeper).site().sampling.period_ns == period * S
        assert sorted(Path("/proc/self/fd").iterdir()) == before
    finally:
        going.set()
        other.join()


FOLLOW = """
import sys
from pathlib import Path
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.process.clock import MACHINE
keeper = PolicyKeeper(Path(sys.argv[1]), MACHINE)
keeper.check()
keeper.wait(60)
print(keeper.refused, keeper.site().sampling.period_ns)
"""


def test_an_odd_environment_keeps_no_policy_from_being_compiled(policy: Path) -> None:
    command = [sys.executable, "-c", FOLLOW, str(policy)]
    odd = {**os.environ, "": "no name", "BYTES": "\udcff", "LANG": "xx_YY", "PYTHONSTARTUP": "/dev/zero"}
    done = subprocess.run(command, env=odd, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == (f"None {2 * S}\n", "")
