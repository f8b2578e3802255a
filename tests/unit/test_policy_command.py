"""`perun policy`: what an administrator sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.summing import sum_boundaries
from tests.accounting_data import boundary, parsed


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("sampling:\n  period: 2 s\npartitions:\n  gpu:\n    sampling: {period: 500 ms}\n")
    return path


def perun(*words: str, policy: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PERUN_POLICY": str(policy)}
    command = [sys.executable, "-m", "perun_hpc.cli.main", "policy", *words]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)


def test_check_praises_or_lists_every_mistake(policy, tmp_path):
    good = perun("check", policy=policy)
    assert (good.returncode, good.stderr) == (0, "")
    assert "sha256:" in good.stdout
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: 1\nb: 2\n")
    both = perun("check", str(policy), str(bad), policy=policy)
    assert both.returncode == 78
    assert [line.split(": ")[0] for line in both.stdout.splitlines()[1:]] == [f"{bad}:1:1", f"{bad}:2:1"]
    assert both.stderr == f"{bad}: 2 mistakes\n"


def test_explain_names_the_line_that_decided(policy):
    done = perun("explain", "--partition", "gpu", "--user", "alice", policy=policy)
    line = next(line for line in done.stdout.splitlines() if line.startswith("sampling.period "))
    assert line.split() == ["sampling.period", "500", "ms", f"{policy}:5"]


def test_show_prints_the_site_or_the_compiled_policy(policy):
    rows = [line.split() for line in perun("show", policy=policy).stdout.splitlines()]
    assert ["sampling.period", "2", "s", f"{policy}:2"] in rows
    compiled = json.loads(perun("show", "--json", policy=policy).stdout)
    assert compiled["partitions"]["gpu"]["values"] == {"sampling.period_ns": 500_000_000}


def test_without_a_file_the_defaults_rule(tmp_path):
    done = perun("show", policy=tmp_path / "absent.yaml")
    assert done.returncode == 0
    assert all(line.split()[-1] == "default" for line in done.stdout.splitlines())


def test_a_broken_policy_is_exit_code_78_everywhere(policy):
    policy.write_text("sampling: {period: 2}")
    for words in (["check"], ["show"], ["explain"]):
        assert perun(*words, policy=policy).returncode == 78
    assert json.loads(perun("schema", policy=policy).stdout)["title"] == "perun-hpc site policy"


def test_an_unknown_action_is_a_usage_error(policy):
    assert perun("chek", policy=policy).returncode == 64
    assert perun(policy=policy).returncode == 64


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("", [], "a record, and a trace if it runs for 1 min or one of its steps has --perun"),
        ("store: {trace: flagged}", [], "a record, and a trace if one of its steps has --perun"),
        ("store: {trace: none}", [], "a record and no trace (store.trace: none, {policy}:1)"),
        ("monitor: {jobs: opt-in}", [], "nothing, unless it, or one of its steps, has --perun (monitor.jobs: opt-in, "),
        ("monitor: {jobs: opt-in}", ["--options="], "a record, and a trace if it runs"),
        ("monitor: {canaries: n1}", ["--node=n2"], "nothing (monitor.jobs: none, {policy}:1)"),
        (
            "monitor: {jobs: opt-out, user_options: ['off']}",
            ["--options=off"],
            "nothing (monitor.jobs: none, --perun=off)",
        ),
    ],
)
def test_explain_says_what_remains_of_such_a_job(tmp_path, text, options, says):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    last = perun("explain", *options, policy=path).stdout.splitlines()[-1]
    assert last.startswith("such a job leaves " + says.format(policy=path))


def test_budgets_warn_and_propose_and_change_nothing(tmp_path):
    url = str(tmp_path / "ledger.db")
    ledger = open_ledger(url, create=True)
    today = [{**share, "day": date.today().isoformat()} for share in boundary(1)["shares"]]
    ledger.put([sum_boundaries([parsed(boundary(1, account="physics", shares=today))])])
    ledger.close()
    path = tmp_path / "policy.yaml"
    path.write_text("accounts: {physics: {budget: {energy: 1 J, period: year}}}\n")
    shown = perun("budgets", "--ledger", url, policy=path)
    assert shown.returncode == 0
    assert shown.stderr.startswith("over: account physics used ")
    proposed = perun("budgets", "--ledger", url, "--proposals", "--cluster", "c", policy=path)
    assert proposed.stdout.splitlines()[-1] == (
        "sacctmgr -i modify account where name=physics cluster=c set GrpSubmitJobs=0"
    )
    assert perun("budgets", "--ledger", url, "--proposals", "--json", policy=path).returncode == 64
