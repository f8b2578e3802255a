"""The command line around the commands: a library that is not installed, an output that takes nothing, the log."""

from __future__ import annotations

import argparse
import configparser
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import perun_hpc.extras
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.archive.places import Archive, Run
from perun_hpc.cli.main import COMMANDS
from perun_hpc.data_model.record import to_json
from tests.accounting_data import boundary, parsed, slurm_job

WITHOUT = "import sys; sys.modules[{!r}] = None; from perun_hpc.cli.main import main; sys.exit(main(sys.argv[1:]))"


def perun(*args: str, code: str = "", **options) -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "perun_hpc.cli.main"]
    command = [sys.executable, *start, *args]
    return subprocess.run(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=60, **options)


@pytest.mark.parametrize("command", [["report", "1"], ["jobs"], ["usage"], ["top"]])
def test_a_missing_library_is_one_line_with_its_remedy(command, tmp_path):
    (tmp_path / "policy.yaml").write_text("collect: {ledger: 'postgresql://alice@nowhere/perun'}")
    environ = {**os.environ, "PERUN_POLICY": str(tmp_path / "policy.yaml"), "PATH": str(tmp_path)}
    done = perun(*command, code=WITHOUT.format("psycopg"), env=environ, cwd=tmp_path)
    assert done.returncode == 69
    remedy = "pip install 'psycopg[binary]'"
    assert done.stderr.splitlines() == [f"perun: this needs psycopg, which is not installed: {remedy}"]


@pytest.mark.parametrize("code", ["", WITHOUT.format("psycopg")], ids=["installed", "without a library"])
@pytest.mark.parametrize("command", [["report", "1"], ["jobs"]])
def test_where_no_slurm_is_that_is_what_is_said(command, code, tmp_path):
    environ = {**os.environ, "PERUN_POLICY": str(tmp_path / "none.yaml"), "PATH": str(tmp_path)}
    done = perun(*command, code=code, env=environ, cwd=tmp_path)
    assert done.returncode == 69
    assert done.stderr == (
        f"perun: no Slurm here, whose jobs perun {command[0]} is about: perun runs shows what perun monitor measured\n"
    )


def test_every_hint_names_a_package_that_the_index_has():
    root = Path(__file__).parents[2] / "perun_hpc"
    setup = configparser.ConfigParser()
    setup.read(root.parent / "setup.cfg")
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    known = set(re.findall(r"^([\w-]+)(?:\[\w+\])? >=", "\n".join(lists), re.MULTILINE))
    hinted = {
        word.strip("'\"").partition("[")[0]
        for path in root.rglob("*.py")
        for words in re.findall(
            r"(?:pip install |remedy\(['\"])((?:-U |--force-reinstall )?[\w'\[\]-]+)", path.read_text()
        )
        for word in words.split()
        if not word.startswith("-")
    }
    assert hinted
    assert "perun-hpc" not in hinted
    assert hinted <= known


def test_a_python_without_pip_gets_a_remedy_that_needs_none_there(tmp_path):
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True, timeout=60)
    code = "from perun_hpc.extras import remedy; print(remedy('h5py'))"
    ours = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([bare / "bin" / "python", "-c", code], capture_output=True, text=True, env=ours, timeout=60)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert done.stdout.startswith(f"{python} -m pip install --target DIR h5py, then export PYTHONPATH=DIR")
    assert perun_hpc.extras.remedy("h5py") == "pip install h5py"


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


def test_a_disk_that_is_full_is_one_line():
    for command in (["showconf", "--default"], ["--help"], ["report", "--explain", "k=2"]):
        with Path("/dev/full").open("w") as full:
            done = perun(*command, stdout=full)
        said = "perun: the output cannot be written: No space left on device; write it to another place\n"
        assert (done.returncode, done.stderr) == (77, said)


@pytest.mark.parametrize("command", [["report", "--explain", "k=2"], ["--help"]])
def test_a_closed_stdout_is_no_error(command):
    words = " ".join(shlex.quote(word) for word in [sys.executable, "-m", "perun_hpc.cli.main", *command])
    done = subprocess.run(["sh", "-c", f"exec {words} >&-"], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_names_that_the_locale_cannot_show_are_escaped(tmp_path):
    record = add_slurm(sum_boundaries([parsed(boundary())]), slurm_job(name="漢"))
    home = Archive(tmp_path, "c").job(Run(4711, 0))
    home.mkdir(parents=True)
    (home / "record.json").write_text(to_json(record))
    options = {"env": {**os.environ, "PYTHONIOENCODING": "latin-1"}, "cwd": tmp_path, "stdout": subprocess.PIPE}
    done = perun("report", "4711", "--cluster", "c", "--archive", str(tmp_path), **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Job 4711  \\u6f22 ")


TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} "


def test_the_log_level_counts_in_every_command(tmp_path):
    environ = {**os.environ, "PERUN_LEDGER": str(tmp_path / "none.db"), "PERUN_POLICY": str(tmp_path / "none.yaml")}
    for command in (["showconf"], ["metadata"], ["jobs"], ["audit"], ["policy", "show"], ["agent", "status"]):
        quiet = perun(*command, env=environ, cwd=tmp_path, stdout=subprocess.PIPE)
        told = perun("-l", "DEBUG", *command, env=environ, cwd=tmp_path, stdout=subprocess.PIPE)
        first, *_ = told.stderr.splitlines()
        assert re.fullmatch(rf"{TIME}DEBUG perun .*: -l DEBUG {' '.join(command)}", first)
        assert "DEBUG perun" not in quiet.stderr + told.stdout
        assert told.returncode == quiet.returncode


def test_the_log_file_takes_the_lines_and_leaves_the_results_and_errors_where_they_are(tmp_path):
    log = tmp_path / "perun.log"
    environ = {**os.environ, "PERUN_LEDGER": str(tmp_path / "none.db")}
    options = {"env": environ, "cwd": tmp_path, "stdout": subprocess.PIPE}
    plain = perun("jobs", **options)
    done = perun("-l", "INFO", "--log-file", str(log), "jobs", **options)
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, "", plain.stderr)
    (line,) = log.read_text().splitlines()
    assert re.fullmatch(f"{TIME}ERROR {re.escape(plain.stderr.removeprefix('perun: ').rstrip())}", line)
    perun("--log-file", str(log), "-l", "DEBUG", "showconf", **options)
    assert len(log.read_text().splitlines()) == 2


def test_the_monitor_takes_level_and_file_from_its_configuration_too(tmp_path):
    log = tmp_path / "perun.log"
    environ = {**os.environ, "PERUN_LOG_LVL": "INFO", "PERUN_LOG_FILE": str(log)}
    done = perun("monitor", "-b", "true", env=environ, cwd=tmp_path, stdout=subprocess.PIPE)
    assert done.returncode == 0 and "INFO" not in done.stderr
    assert re.search(f"^{TIME}INFO PROCESSING: 1 run kept in ", log.read_text())


def test_a_log_that_cannot_be_is_one_line(tmp_path):
    done = perun("-l", "LOUD", "showconf")
    expected = "perun: --log-lvl LOUD: must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL\n"
    assert (done.returncode, done.stderr) == (64, expected)
    done = perun("--log-file", str(tmp_path / "no" / "where"), "showconf")
    expected = f"perun: --log-file {tmp_path}/no/where: No such file or directory: name a file that can be written\n"
    assert (done.returncode, done.stderr) == (64, expected)


def test_lines_that_the_journal_takes_carry_no_time_of_their_own(tmp_path):
    with (tmp_path / "stderr").open("w+") as stderr:
        at = os.fstat(stderr.fileno())
        environ = {**os.environ, "JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino}"}
        command = [sys.executable, "-m", "perun_hpc.cli.main", "-l", "DEBUG", "showconf"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environ, check=True, timeout=60)
        stderr.seek(0)
        assert stderr.read().startswith("DEBUG perun ")


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_every_option_of_every_command_has_help(name):
    command = argparse.ArgumentParser(prog=f"perun {name}")
    importlib.import_module(f"perun_hpc.cli.{name}").configure(command)
    silent = [
        f"{parser.prog} {action.option_strings or action.dest}"
        for parser in parsers(command)
        for action in parser._actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    for parser in parsers(command):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                helped = {choice.dest for choice in action._choices_actions if choice.help}
                silent += [f"{parser.prog} {inner}" for inner in action.choices if inner not in helped]
                silent += [f"{inner.prog} --help" for inner in action.choices.values() if not inner.description]
    assert not silent


def test_a_log_level_has_perun_1_0s_name_too(tmp_path):
    done = perun("-l", "WARN", "showconf", cwd=tmp_path, stdout=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, "")
    assert "log_lvl = WARNING" in done.stdout
