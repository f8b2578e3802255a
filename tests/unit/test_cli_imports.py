"""What each of the everyday commands imports: a command pays for nothing that it does not use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from tests.accounting_data import boundary, parsed, slurm_job

ASKED = """
import contextlib, io, sys
from perun_hpc.cli.main import main
with contextlib.redirect_stdout(io.StringIO()):
    code = main(sys.argv[1:])
print(code, *sorted(sys.modules))
"""
BELOW = {
    "_version", "config", "config.compile", "config.kinds", "config.option", "config.policy", "config.resolve",
    "config.schema", "data_model", "data_model.codec", "data_model.record", "data_model.sensor", "data_model.units",
    "data_model.wording", "errors", "extras", "files", "inputs", "process", "process.child", "process.stamp", "slurm",
    "slurm.cluster", "slurm.command", "slurm.conf", "slurm.hostlist",
}  # fmt: skip
"""The policy, Slurm's configuration, and the record."""
LEDGER = {
    "accounting", "accounting.daily", "accounting.database", "accounting.deleted", "accounting.found",
    "accounting.ledger", "accounting.marks", "accounting.packed", "accounting.site", "accounting.tables",
    "accounting.whereabouts", "archive", "archive.kept", "archive.places", "cli", "cli.logs", "cli.main", "cli.where",
    "report", "report.quantities", "report.screen", "slurm.states",
}  # fmt: skip
"""The ledger for those who read it, and a screen."""
LIST = {"accounting.questions", "cli.jobs", "report.listing", "slurm.times"}
OF_A_JOB = {
    "accounting.lookup", "accounting.owned", "accounting.selection", "archive.job_meters", "cli.picture", "cli.report",
    "report.earlier", "report.efficiency", "report.explain", "report.gpu_pace", "report.hints", "report.job",
    "report.over_time", "report.selected", "report.sparkline", "report.terms", "slurm.job_ids", "slurm.sacct",
}  # fmt: skip
USED = {
    "jobs": BELOW | LEDGER | LIST,
    "usage": BELOW | LEDGER | LIST | {"cli.sums", "cli.usage", "report.usage"},
    "report": BELOW | LEDGER | OF_A_JOB,
}
OTHERS = {"jobs": {"yaml"}, "usage": {"yaml"}, "report": {"yaml"}}
"""What is not the standard library's."""
HEAVY = {"asyncio", "concurrent", "email", "hashlib", "http", "importlib.resources", "shutil", "socket", "ssl",
         "subprocess", "tempfile", "unittest", "urllib.request", "zipfile"}  # fmt: skip
"""Of the standard library's: milliseconds each."""
CALLS = {"report": {"subprocess"}}
"""A report asks Slurm for the jobs before of this name."""


@pytest.mark.parametrize("command", [["jobs", "-S", "2026-01-01"], ["usage"], ["report", "4711"]], ids=lambda c: c[0])
def test_a_command_imports_what_it_uses(command: list[str], tmp_path: Path) -> None:
    url = str(tmp_path / "ledger.db")
    ledger = open_ledger(url, create=True)
    ledger.put([add_slurm(sum_boundaries([parsed(boundary())]), slurm_job())])
    ledger.close()
    where = ["--ledger", url, "--archive", str(tmp_path), "--cluster", "c"]
    environ = {**os.environ, "PERUN_POLICY": str(tmp_path / "none.yaml"), "PATH": str(tmp_path)}
    asked = [sys.executable, "-c", ASKED, *command, *where]
    code, *loaded = subprocess.run(
        asked, capture_output=True, text=True, env=environ, check=True, timeout=120
    ).stdout.split()
    bare = [sys.executable, "-c", "import sys; print(*sys.modules)"]
    before = {name.partition(".")[0] for name in subprocess.check_output(bare, text=True, timeout=120).split()}
    assert code == "0"
    assert {name.removeprefix("perun_hpc.") for name in loaded if name.startswith("perun_hpc.")} <= USED[command[0]]
    names = {name.partition(".")[0] for name in loaded} - before - set(sys.stdlib_module_names)
    assert (
        names - {"perun_hpc", "__mp_main__"} - {n for n in names if n.startswith(("_cython", "cython"))}
        == OTHERS[command[0]]
    )
    assert HEAVY & (set(loaded) - CALLS.get(command[0], set())) == set()
