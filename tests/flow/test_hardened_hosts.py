"""Hosts that are hardened: /tmp mounted noexec, and no digests but approved ones."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.approved_digests import CONFIGURATION

from .agent_node import FakeNode

CHECKOUT = Path(__file__).parents[2]
NOEXEC = (str(CHECKOUT / "tests" / "cover.sh"), "noexec,nosuid,nodev", "/tmp /var/tmp /dev/shm")
MOUNTS = os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0
needs_mounts = pytest.mark.skipif(not MOUNTS, reason="mounts file systems in a namespace of its own")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that is none of those from which nothing can be executed."""
    (CHECKOUT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CHECKOUT / "build") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def noexec(*command: str | Path, cwd: Path = CHECKOUT, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Exit code and output of a command where /tmp and its like are mounted noexec."""
    line = [*NOEXEC, *map(str, command)]
    environ = {**os.environ, "TMPDIR": "/tmp", **(env or {})}
    done = subprocess.run(line, cwd=cwd, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


@needs_mounts
def test_hooks_plugin_and_launcher_are_built_and_run_where_tmp_is_noexec(place: Path) -> None:
    control = "printf '#!/bin/sh\\n' > /tmp/x; chmod 755 /tmp/x; /tmp/x"
    assert noexec("sh", "-c", control)[0] == 126
    built = place / "built"
    code, said = noexec("make", "-s", "-C", CHECKOUT / "slurm", f"BUILD={built}", "all")
    assert code == 0, said
    for hook in ("prolog", "epilog"):
        code, said = noexec(built / hook)
        assert code == 0, said
    code, said = noexec(built / "perun-launch", "/bin/echo", "as without us", env={"SLURM_LOCALID": "1"})
    assert (code, said) == (0, "as without us\n")


@needs_mounts
def test_a_hook_on_a_file_system_mounted_noexec_is_seen_to_be_none() -> None:
    look = (
        "import shutil, sys; from perun_hpc.doctor import look; shutil.copy('/bin/true', '/tmp/prolog'); "
        "print([look.places({'it': path}, None)['it'].runs for path in ('/tmp/prolog', '/bin/true')])"
    )
    assert noexec(sys.executable, "-c", look) == (0, "[False, True]\n")


@needs_mounts
def test_a_program_is_monitored_where_tmp_is_noexec(place: Path) -> None:
    (place / "program.py").write_text(
        "import perun_hpc, time\n@perun_hpc.monitor()\ndef work():\n    time.sleep(0.3)\nwork()\n"
    )
    command = [sys.executable, "-m", "perun_hpc.cli.main", "monitor", "--format", "json", "program.py"]
    code, said = noexec(*command, cwd=place)
    assert code == 0, said
    assert list((place / "perun_results").rglob("*.json")), said


@needs_mounts
def test_an_agent_measures_a_job_where_tmp_is_noexec(place: Path) -> None:
    node = FakeNode(place)
    node.start(within=NOEXEC)
    try:
        node.begin(1, exclusive="1")
        node.serve(3_000_000)
        node.end(1)
        assert node.record(1)["domains"]["package-0"]["energy_uj"] == 3_000_000
    finally:
        node.stop()


@pytest.fixture
def approved(tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """What runs a Python program as a host in FIPS mode does: words before it, and its environment."""
    (tmp_path / "openssl.cnf").write_text(CONFIGURATION)
    script = CHECKOUT / "tests" / "approved_digests.py"
    return [sys.executable, "-I", str(script)], {"OPENSSL_CONF": str(tmp_path / "openssl.cnf")}


def test_agent_collector_and_reports_ask_for_approved_digests_alone(
    tmp_path: Path, approved: tuple[list[str], dict[str, str]]
) -> None:
    within, env = approved
    environ = {**os.environ, **env, "PERUN_POLICY": str(tmp_path / "node" / "policy.yaml")}

    def run(module: str, *words: str) -> subprocess.CompletedProcess[str]:
        line = [*within, sys.executable, "-I", "-m", module, *words]
        return subprocess.run(line, env=environ, capture_output=True, text=True, cwd=tmp_path)

    # An approved one works, the others do not.
    (tmp_path / "node").mkdir()
    control = [*within[:-1], "-c", "import sys; sys.path.insert(0, sys.argv[1]); import approved_digests as a; "
               "a.refuse('md5'); import hashlib; hashlib.sha256(b'x').hexdigest(); hashlib.md5(b'x')",
               str(CHECKOUT / "tests")]  # fmt: skip
    done = subprocess.run(control, env=environ, capture_output=True, text=True)
    assert done.returncode != 0 and "unsupported: md5" in done.stderr, done.stderr

    node = FakeNode(tmp_path / "node", f"collect: {{ledger: 'sqlite:///{tmp_path}/ledger.db'}}\n")
    node.start(within=within, env=env)
    try:
        node.begin(1, exclusive="1")
        node.serve(3_000_000)
        node.end(1)
        node.record(1)
    finally:
        node.stop()
    for words, expected in (
        (["policy", "check"], ""),
        (["collect", "--no-slurm"], "1 record stored"),
        (["collect", "--status"], "last sweep"),
        (["report", "1", "--cluster", "test"], "3.00 J"),
        (["audit", "--no-slurm", "--cluster", "test"], "closes"),
        (["usage", "--by", "account"], "physics"),
        (["jobs", "--cluster", "test"], ""),
    ):
        done = run("perun_hpc.cli.main", *words)
        assert "Traceback" not in done.stderr and "unsupported" not in done.stderr, (words, done.stderr)
        assert expected in done.stdout, (words, done.stdout, done.stderr)
    (tmp_path / "program.py").write_text("sum(range(10**6))\n")
    done = run("perun_hpc.cli.main", "monitor", "--format", "json", "program.py")
    assert done.returncode == 0 and "unsupported" not in done.stderr, done.stderr
