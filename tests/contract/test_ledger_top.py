"""`perun top` in its three forms, from a real ledger."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.cli.main import main
from tests.accounting_data import DAY, boundary, domain, parsed, slurm_job

pytestmark = pytest.mark.usefixtures("utc")


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    path = tmp_path / "ledger.db"
    ledger = open_ledger(str(path), create=True)
    for job_id, user, uj in ((1, "alice", 9_000_000), (2, "bob", 5_000_000)):
        data = boundary(job_id=job_id, user=user, domains={"package-0": domain("cpu", uj)})
        ledger.put([add_slurm(sum_boundaries([parsed(data)]), slurm_job(job_id, user=user))])
    ledger.close()
    return ["top", "--ledger", str(path), "--since", DAY, "--until", DAY]


def test_csv_has_a_table_of_users_one_of_jobs_and_one_of_idle_gpus(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options, "--format", "csv"]) == 0
    users, jobs, idle = (list(csv.DictReader(part.splitlines())) for part in capsys.readouterr().out.split("\n\n"))
    assert [row["user"] for row in users] == ["alice", "bob"]
    assert [(row["job_id"], row["energy_uj"]) for row in jobs] == [("1", "9000000"), ("2", "5000000")]
    assert idle == []


def test_without_jobs_it_says_so_and_heads_no_empty_table(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*options, "--user", "carol"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{DAY} to {DAY}", "", "no jobs in this time"]


def test_json_and_the_table_name_the_same_order(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options, "--format", "json"]) == 0
    lists = json.loads(capsys.readouterr().out)
    assert [record["job_id"] for record in lists["jobs"]] == [1, 2] and lists["idle_gpus"] == []
    assert main(options) == 0
    shown = capsys.readouterr().out
    assert shown.index("alice") < shown.index("bob")
