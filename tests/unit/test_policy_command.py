"""`perun policy`: what an administrator sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.summing import sum_boundaries
from tests.accounting_data import boundary, parsed


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(
        "sampling:\n  period: 2 s\npartitions:\n  gpu:\n    sampling: {period: 500 ms}\n"
        f"store: {{archive: {tmp_path}}}\n"
    )
    return path


def perun(*words: str, policy: Path, path: str = "/usr/bin:/bin") -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PERUN_POLICY": str(policy), "PATH": path}
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


def test_check_doubts_an_archive_and_partitions_that_are_not_there(policy, tmp_path):
    policy.write_text(f"{policy.read_text()}".replace(f"{tmp_path}}}", f"{tmp_path}/absent}}"))
    sinfo = tmp_path / "sinfo"
    sinfo.write_text("#!/bin/sh\necho main\necho short\n")
    sinfo.chmod(0o755)
    done = perun("check", policy=policy, path=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 0
    assert f"{policy}: valid, 2 warnings, sha256:" in done.stdout
    archive, partition = done.stderr.splitlines()
    assert archive.startswith(f"warning: {policy}:6: store.archive: {tmp_path}/absent is not there on this host")
    assert partition == f"warning: {policy}:5: partitions: Slurm has no partition 'gpu' here: it has main, short"
    assert perun("check", "--policy-only", policy=policy).stderr == ""
    policy.write_text(policy.read_text().replace("absent}", "absent, collector: 'head:6820'}"))
    assert "store.archive" not in perun("check", policy=policy).stderr


def test_check_doubts_certificates_that_nothing_asks_for(policy, tmp_path):
    text = f"store:\n  archive: {tmp_path}\n  tls: {{cert: /c, key: /k, ca: /a}}\n"
    policy.write_text(text)
    done = perun("check", policy=policy)
    assert done.returncode == 0
    assert done.stderr == (
        f"warning: {policy}:3: store.tls: nothing is handed over: name store.collector, or leave it out\n"
    )
    policy.write_text(f"{text}  collector: head:6871\n")
    assert perun("check", policy=policy).stderr == ""
    policy.write_text(text.replace(", ca: /a", ""))
    assert "'ca' is missing: " in perun("check", policy=policy).stdout


def test_an_archive_that_cannot_be_looked_at_is_a_doubt_in_one_line(policy, tmp_path):
    policy.write_text(f"store: {{archive: {tmp_path}/{'x' * 300}}}\n")
    done = perun("check", policy=policy)
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"warning: {policy}:1: store.archive: ")
    assert line.endswith(" cannot be looked at: File name too long")


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


def used_today(tmp_path: Path, account: str) -> str:
    """The URL of a ledger whose one job has used 4 kJ of an account today, and 4 kJ tomorrow, should it be midnight."""
    url = str(tmp_path / "ledger.db")
    ledger = open_ledger(url, create=True)
    days = (date.today(), date.today() + timedelta(days=1))
    shares = [{"day": day.isoformat(), "domain": "package-0", "energy_uj": 4_000_000_000} for day in days]
    ledger.put([sum_boundaries([parsed(boundary(1, account=account, shares=shares))])])
    ledger.close()
    return url


def test_budgets_warn_and_propose_and_change_nothing(tmp_path):
    url = used_today(tmp_path, "physics")
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


@pytest.mark.parametrize("written", ["ChemLab", "chemlab", "CHEMLAB"])
def test_an_account_is_the_same_in_any_case_as_slurm_keeps_it_in_lower_case(tmp_path, written):
    path = tmp_path / "policy.yaml"
    budget = "{budget: {energy: 1 J, period: year}}"
    path.write_text(f"monitor: {{accounts: [{written}]}}\naccounts: {{{written}: {budget}}}\n")
    for account in ("chemlab", "ChemLab"):
        explained = perun("explain", "--account", account, policy=path).stdout
        assert "a record, and a trace if" in explained
        assert ["budget.energy", "1", "J", f"{path}:2"] in [line.split() for line in explained.splitlines()]
    assert "nothing" in perun("explain", "--account", "physics", policy=path).stdout
    budgets = perun("budgets", "--ledger", used_today(tmp_path, "chemlab"), policy=path)
    assert budgets.stderr.startswith("over: account chemlab used ")
    assert len(budgets.stdout.splitlines()) == 2


def test_one_account_written_twice_is_a_mistake(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("accounts:\n  ChemLab: {}\n  chemlab: {}\nmonitor: {accounts: [a, A]}\n")
    found = perun("check", policy=path).stdout.splitlines()
    twice = "accounts.chemlab: 'chemlab' stands here twice: Slurm keeps account names in lower case"
    assert found == [f"{path}:3:3: {twice}", f"{path}:4:25: monitor.accounts: stands in the list twice"]


def test_check_doubts_a_group_that_the_host_does_not_have(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(f"store: {{archive: {tmp_path}}}\nprivacy: {{readers: [root, no-such-group]}}\n")
    done = perun("check", policy=path)
    assert done.returncode == 0
    said = f"warning: {path}:2: privacy.readers: this host has no group 'no-such-group': nobody reads by it"
    assert done.stderr.splitlines() == [said]


def test_partitions_are_told_apart_by_case_as_slurm_does(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text("partitions:\n  GPU: {store: {trace: none}}\n  gpu: {store: {trace: all}}\n")
    assert "a record and no trace" in perun("explain", "--partition", "GPU", policy=path).stdout
    assert "a record, and a trace if" in perun("explain", "--partition", "gpu", policy=path).stdout


RULE = "expected text like 'chemistry' (letters, digits and any of _ . @ -, first a letter, a digit or _)"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("accounts: {12:30: {}}", f"1:12: accounts.12:30: '12:30' is not a name: {RULE}"),
        ("accounts: {~: {}}", f"1:12: accounts.~: '~' is not a name: {RULE}"),
        ('accounts: {"~": {}}', f"1:12: accounts.~: '~' is not a name: {RULE}"),
        ("monitor: {accounts: [12:30]}", f"1:22: monitor.accounts[0]: '12:30' is not allowed: {RULE}"),
        ("monitor: {partitions: [a, ~]}", f"1:27: monitor.partitions[1]: '~' is not allowed: {RULE}"),
        ("partitions: {a b: {}}", f"1:14: partitions.a b: 'a b' is not a name: {RULE}"),
        ("nodes: {'n[1': {}}", "1:9: nodes.n[1: 'n[1' is not nodes as Slurm writes them: "),
        (
            "footprint: {pue: {value: 1.2, source: a, date: 2026-02-30}}",
            "1:48: footprint.pue.date: '2026-02-30' is not allowed: expected a day of the calendar, as in '2026-01-31'",
        ),
        (
            "footprint: {price: {per_kwh: 1, currency: EUR, source: a, date: 2026-1-5}}",
            "1:65: footprint.price.date: '2026-1-5' is not allowed: expected a day of the calendar, as in '2026-01-31'",
        ),
    ],
)
def test_what_is_no_name_or_no_day_is_one_line_that_says_what_is(tmp_path, text, says):
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    done = perun("check", policy=path)
    (line,) = done.stdout.splitlines()
    assert done.returncode == 78 and line.startswith(f"{path}:{says}")


@pytest.mark.parametrize("name", ["on", "no", "null", "2026-01-01", "0x10", "1_000", "1e3", "true", "123"])
def test_a_name_is_what_is_written_whatever_else_yaml_reads_in_it(tmp_path, name):
    path = tmp_path / "policy.yaml"
    path.write_text(f"accounts: {{{name}: {{store: {{trace: none}}}}}}\nmonitor: {{accounts: [{name}]}}\n")
    assert "a record and no trace" in perun("explain", "--account", name, policy=path).stdout


def test_29_february_is_a_day_in_leap_years_alone(tmp_path):
    path = tmp_path / "policy.yaml"
    for year, code in ((2028, 0), (2027, 78), (2100, 78)):
        path.write_text(f"footprint: {{pue: {{value: 1.2, source: a, date: {year}-02-29}}}}")
        assert perun("check", policy=path).returncode == code
