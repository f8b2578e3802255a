"""The command line around the commands: a module that is not installed, a reader that goes away."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WITHOUT = "import sys; sys.modules[{!r}] = None; from perun_hpc.cli.main import main; sys.exit(main(sys.argv[1:]))"


def perun(*args: str, code: str = "", **options) -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "perun_hpc.cli.main"]
    command = [sys.executable, *start, *args]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60, **options)


@pytest.mark.parametrize("command", [["report", "1"], ["jobs"], ["usage"], ["top"]])
def test_a_missing_library_is_one_line_with_its_remedy(command, tmp_path):
    environ = {**os.environ, "PERUN_LEDGER": f"sqlite:///{tmp_path / 'ledger.db'}"}
    done = perun(*command, code=WITHOUT.format("sqlalchemy"), env=environ, cwd=tmp_path)
    assert done.returncode == 69
    assert done.stderr.splitlines() == [
        "perun: this needs sqlalchemy, which is not installed: pip install 'perun-hpc[site]'"
    ]


def test_a_missing_module_of_our_own_or_of_python_is_a_defect_and_shown_as_one():
    for name in ("perun_hpc.cli.showconf", "configparser"):
        done = perun("showconf", code=WITHOUT.format(name))
        assert (done.returncode, "Traceback" in done.stderr) == (1, True)


@pytest.mark.parametrize("command", [["showconf", "--default"], ["policy", "show"], ["--help"], ["export", "--help"]])
def test_a_reader_that_went_away_is_no_error(command):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = perun(*command, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
