"""What the collector says when the same thing fails at every sweep."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.accounting_data import boundary, put_incoming

GONE = "#!/bin/sh\necho 'sacct: error: Problem talking to the database: Connection refused' >&2\nexit 1\n"


def sweeps(archive: Path) -> Iterator[float]:
    """When the sweeps began, as they come; at most half a minute."""
    last, until_s = 0.0, time.monotonic() + 30
    while time.monotonic() < until_s:
        try:
            began_s = json.loads((archive / "c" / "sweep.json").read_text())["began_s"]
        except (FileNotFoundError, KeyError):
            began_s = last
        if began_s != last:
            last = began_s
            yield began_s
        time.sleep(0.05)


def test_an_accounting_that_is_away_is_said_once_and_not_at_every_sweep(tmp_path: Path) -> None:
    archive, tools = tmp_path / "archive", tmp_path / "bin"
    put_incoming(archive, boundary(job_id=1, cluster="c"))
    tools.mkdir()
    for name in ("sacct", "sacctmgr", "scontrol"):
        (tools / name).write_text(GONE)
        (tools / name).chmod(0o755)
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f"store: {{archive: {archive}}}\n"
        f"collect: {{ledger: 'sqlite:///{tmp_path}/ledger.db', sweep: 1 s, slurmdbd: fill}}\n"
    )
    environ = {**os.environ, "PERUN_POLICY": str(policy), "PATH": f"{tools}:{os.environ['PATH']}"}
    command = [sys.executable, "-m", "perun_hpc.cli.main", "collect", "--daemon"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environ) as daemon:
        try:
            seen = [began_s for began_s, _ in zip(sweeps(archive), range(4), strict=False)]
        finally:
            daemon.terminate()
            said = daemon.communicate(timeout=60)[1].decode()
    assert len(seen) == 4, said
    assert 1 <= said.count("Problem talking to the database") <= 2, said
