"""The ledger on a real cluster: mixed jobs under kills close; what users see is what sacct shows them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from devcluster import Cluster
from tests.slurm.breaks import until
from tests.slurm.mixed import (
    PERUN,
    audit_of,
    perun,
    records,
    reported,
    settle,
    submit,
    submit_mixed,
    without_line,
    wrong_counts,
)
from tests.slurm.test_store import policy

pytestmark = pytest.mark.cluster

ROUNDS = 6
"""Each round submits ten jobs of all kinds; `python -m tests.soak ledger` runs twenty."""


@pytest.fixture(scope="module")
def mixed(cluster: Cluster) -> list[int]:
    """Jobs of two users, side by side, while collector and slurmdbd are killed; their leaders' ids."""
    return submit_mixed(cluster, ROUNDS, seed=6).leaders


def test_mixed_jobs_under_kills_close(cluster: Cluster, mixed: list[int]) -> None:
    rows = settle(cluster, mixed)
    assert wrong_counts(cluster, mixed, rows) == {}
    assert {row["State"].split()[0] for row in rows} >= {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "REQUEUED"}
    have = records(cluster)
    jobs = {int(row["JobIDRaw"]) for row in rows}
    unreported = [record for job in jobs for record in have[job] if record["status"] not in ("complete", "partial")]
    # slurmd 22.05 now and then starts a requeued job on its old node without Prolog (docs/ledger.md).
    assert all(record["status"] == "missing" and record["restart_count"] > 0 for record in unreported), unreported
    # A partial record says itself what is not in it; of the others everything must close.
    whole = [job for job in jobs if all(record["status"] == "complete" for record in have[job])]
    assert len(whole) > len(jobs) // 2
    audit, about = audit_of(cluster, whole)
    assert about == []
    for account in audit["accounts"]:
        assert account["total_uj"] == account["jobs_uj"] + sum(account["others_uj"].values())


def test_slurmdbd_holds_the_records_line(cluster: Cluster, mixed: list[int]) -> None:
    rows = settle(cluster, mixed)
    jobs = reported({int(row["JobIDRaw"]) for row in rows}, records(cluster))
    assert without_line(cluster, jobs) == []


def test_arrays_and_het_jobs_by_the_ids_that_users_write(cluster: Cluster, mixed: list[int]) -> None:
    rows = settle(cluster, mixed)
    names = [row["JobID"] for row in rows if "_" in row["JobID"] or "+" in row["JobID"]]
    assert any("_" in name for name in names) and any("+" in name for name in names)
    for name in (next(n for n in names if "_" in n), next(n for n in names if "+" in n)):
        report = perun(cluster, "report", name)
        assert report.returncode == 0 and f"Job {name}" in report.stdout and "simulated" in report.stdout


def test_every_record_is_what_the_schema_says(cluster: Cluster, mixed: list[int]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    settle(cluster, mixed)
    validator = jsonschema.Draft202012Validator(json.loads(perun(cluster, "ledger", "schema").stdout))
    everything = [record for runs in records(cluster).values() for record in runs]
    assert len(everything) >= len(mixed)
    assert [error.message for record in everything for error in validator.iter_errors(record)] == []


def test_a_backup_makes_the_same_ledger_and_a_pseudonym_leaves_its_sums(cluster: Cluster, mixed: list[int]) -> None:
    settle(cluster, mixed)
    place = "/var/lib/perun/copy"
    cluster.run(["rm", "-rf", place], user="perun")
    cluster.run(["mkdir", "-m", "700", "-p", place, f"{place}/archive/{cluster.name}"], user="perun", check=True)
    copy = ["--ledger", f"{place}/ledger.db", "--archive", f"{place}/archive"]
    assert "records written" in perun(cluster, "ledger", "backup", f"{place}/backup.gz").stdout
    assert perun(cluster, "ledger", *copy, "restore", f"{place}/backup.gz").returncode == 0

    def usage(*options: str) -> str:
        return str(perun(cluster, "usage", "--by", "account,month", "--format", "csv", *options).stdout)

    assert usage(*copy) == usage()
    hidden = perun(cluster, "ledger", *copy, "pseudonymise", "--user", "alice")
    assert "sums unchanged" in hidden.stdout
    assert usage(*copy) == usage()
    users = perun(cluster, "usage", "--by", "user", "--format", "csv", *copy).stdout
    assert "alice" not in users and "bob" in users and "user-" in users
    assert "sums unchanged" in perun(cluster, "ledger", *copy, "delete", "--user", "bob").stdout
    assert usage(*copy) == usage()
    assert "bob" not in perun(cluster, "jobs", "--format", "csv", *copy).stdout


def test_another_tools_comment_stays(cluster: Cluster) -> None:
    job = submit(cluster, "-n1", "--wrap", "sleep 2")
    cluster.run(["scontrol", "update", f"jobid={job}", "admincomment=billing: project 7"], user="root", check=True)
    cluster.wait_job(job)
    settle(cluster, [job])
    plain = submit(cluster, "-n1", "--wrap", "sleep 1")
    cluster.wait_job(plain)
    settle(cluster, [plain])
    assert without_line(cluster, [plain]) == []
    done = cluster.run(["sacct", "-X", "-n", "-P", "-j", str(job), "-o", "AdminComment"], user="root")
    assert done.stdout.strip() == "billing: project 7"
    assert "simulated" in perun(cluster, "report", str(job), user="alice").stdout


def test_an_array_has_one_line_where_the_policy_says_so(cluster: Cluster) -> None:
    """Its tasks run one after the other, so that the one that has the array's id, which starts last, ends last."""
    with policy(cluster, lambda text: text.replace("slurmdbd: fill\n", "slurmdbd: fill\n  slurmdbd_arrays: sum\n")):
        array = submit(cluster, "-n1", "--array=1-3%1", "--wrap", "sleep 2")
        asked = ["sacct", "-X", "-n", "-P", "-j", str(array), "-o", "JobIDRaw,AdminComment"]

        def lines() -> dict[str, str]:
            rows = cluster.run(asked, user="root").stdout.splitlines()
            return dict(row.partition("|")[::2] for row in rows if "[" not in row)

        until("the array's line", lambda: lines().get(str(array), "").startswith("perun2:tasks=3/3:"), 120)
        others = [text for job, text in lines().items() if job != str(array)]
    assert others == ["", ""]


def test_a_terminal_is_safe_from_job_names(cluster: Cluster, mixed: list[int]) -> None:
    for form in ("table", "csv"):
        assert "\x1b" not in perun(cluster, "jobs", "--format", form).stdout
    assert "\\x1b[31m $(reboot)" in perun(cluster, "jobs", "--format", "csv").stdout


@pytest.fixture
def private(cluster: Cluster) -> Iterator[None]:
    """`PrivateData` in slurmdbd.conf."""
    path = cluster.etc_slurm / "slurmdbd.conf"
    before = path.read_text()
    path.write_text(before + "PrivateData=jobs,usage,users,accounts\n")
    cluster.restart("slurmdbd")
    yield
    path.write_text(before)
    cluster.restart("slurmdbd")


def test_another_users_job_is_what_sacct_says(cluster: Cluster, private: None) -> None:
    job = submit(cluster, "-n1", "--wrap", "sleep 1", user="alice")
    cluster.wait_job(job)
    settle(cluster, [job])
    mine = perun(cluster, "report", str(job), user="alice")
    assert mine.returncode == 0 and "the job's directory" in mine.stdout
    theirs = perun(cluster, "report", str(job), user="bob")
    nobody = perun(cluster, "report", "99999999", user="bob")
    assert theirs.returncode == nobody.returncode == 66
    assert theirs.stdout == nobody.stdout == ""
    assert theirs.stderr.replace(str(job), "N") == nobody.stderr.replace("99999999", "N")
    listing = perun(cluster, "jobs", "--allusers", user="bob").stdout
    assert "alice" not in listing
    assert "alice" not in perun(cluster, "usage", "--by", "user", user="bob").stdout


@pytest.fixture
def optics(cluster: Cluster) -> Iterator[None]:
    """An account below physics, in which alice has a job, and physics' coordinator bob."""
    for words in (
        "add account optics parent=physics Description=optics Organization=science",
        "add user alice account=optics",
        "add coordinator account=physics names=bob",
    ):
        cluster.run(["sacctmgr", "-i", *words.split()], user="root", check=True)
    job = submit(cluster, "-n1", "-A", "optics", "--wrap", "sleep 1", user="alice")
    cluster.wait_job(job)
    settle(cluster, [job])
    yield
    cluster.run(["sacctmgr", "-i", "remove", "coordinator", "account=physics", "names=bob"], user="root")


def collect(cluster: Cluster) -> None:
    """Collect once, when nobody else does: the cluster's own collector has the lease while it works."""
    deadline = time.monotonic() + 120
    while (done := perun(cluster, "collect", "--once")).returncode == 69 and "another collector works" in done.stderr:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.2)
    assert done.returncode == 0, done.stderr


def test_a_coordinator_sees_his_account_and_those_below_it_until_slurm_ends_it(
    cluster: Cluster, private: None, optics: None
) -> None:
    def seen() -> set[tuple[str, str]]:
        rows = json.loads(
            perun(cluster, "usage", "--by", "user,account", "--format", "json", user="bob").stdout or "[]"
        )
        return {(row["user"], row["account"]) for row in rows}

    collect(cluster)
    of_others = {(user, account) for user, account in seen() if user != "bob"}
    assert ("alice", "optics") in of_others
    assert {account for _, account in of_others} <= {"optics", "physics"}
    top = json.loads(perun(cluster, "top", "-n", "1000", "--format", "json", user="bob").stdout)
    shown = [job for job in top["jobs"] if job["account"] == "optics"]
    assert [(job["user"], job["energy_uj"] is not None) for job in shown] == [("alice", True)]
    cluster.run(["sacctmgr", "-i", "remove", "coordinator", "account=physics", "names=bob"], user="root", check=True)
    collect(cluster)
    assert {user for user, _ in seen()} <= {"bob"}
    assert "alice" not in perun(cluster, "top", "-n", "1000", user="bob").stdout


def wait_until_it_runs(cluster: Cluster, job: int) -> None:
    deadline = time.monotonic() + 60
    while "RUNNING" not in cluster.run(["squeue", "-h", "-j", str(job), "-o", "%T"], user="root").stdout:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_resized_job_is_one_run_with_all_its_nodes(cluster: Cluster) -> None:
    job = submit(cluster, "-N2", "-n2", "--wrap", "sleep 12")
    wait_until_it_runs(cluster, job)
    time.sleep(4)
    cluster.run(["scontrol", "update", f"jobid={job}", "NumNodes=1"], user="root", check=True)
    cluster.wait_job(job)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        (record, *more) = records(cluster).get(job, [{"state": ""}])
        if record["state"] == "COMPLETED":
            break
        time.sleep(1)
    assert more == [] and (record["state"], record["num_nodes"]) == ("COMPLETED", 2)
    assert len(json.loads(perun(cluster, "jobs", "--format", "json", user="alice").stdout)) >= 1
    lines = [line for line in perun(cluster, "jobs", user="alice").stdout.splitlines() if line.startswith(f"{job} ")]
    assert len(lines) == 1
    assert re.search(r"2 nodes n\[?\d", perun(cluster, "report", str(job), user="alice").stdout)


def test_no_time_format_and_no_hour_that_comes_twice_costs_a_job_its_times(cluster: Cluster) -> None:
    """A zone whose clocks went back half an hour ago: the job began in the hour that comes twice, the second time."""
    job = submit(cluster, "-n1", "--wrap", "sleep 1")
    cluster.wait_job(job)
    settle(cluster, [job])
    back = time.gmtime(time.time() - 1800 + 3600)
    zone = f"STD0DST,0/0,{back.tm_yday - 1}/{back.tm_hour}:{back.tm_min:02d}:{back.tm_sec:02d}"
    plain = perun(cluster, "jobs", "--format", "json", "-S", "now-30minutes", user="alice").stdout
    begin = {r["job_id"]: (r["start_ns"], r["state"]) for r in json.loads(plain)}[job]
    for form in ("%s", "relative", "%d.%m.%Y %H:%M", "standard"):
        words = ["env", f"TZ={zone}", f"SLURM_TIME_FORMAT={form}", PERUN, "jobs", "--format", "json"]
        done = cluster.run([*words, "-S", "now-30minutes"], user="alice", timeout=120, check=True)
        assert {r["job_id"]: (r["start_ns"], r["state"]) for r in json.loads(done.stdout)}[job] == begin


def test_a_cluster_without_accounting_says_so(cluster: Cluster) -> None:
    """What sacct itself answers there, with a slurm.conf of its own."""
    conf = cluster.etc_slurm / "none.conf"
    text = (cluster.etc_slurm / "slurm.conf").read_text()
    conf.write_text(text.replace("accounting_storage/slurmdbd", "accounting_storage/none"))
    try:
        words = ["env", "SLURM_CONF=/etc/slurm/none.conf", PERUN]
        jobs = cluster.run([*words, "jobs"], user="alice", timeout=120)
        assert (jobs.returncode, jobs.stderr) == (0, "")
        report = cluster.run([*words, "report", "99999999"], user="alice", timeout=120)
        assert report.returncode == 66 and "unknown to Slurm" in report.stderr
    finally:
        conf.unlink()


def test_a_running_job_says_that_it_runs(cluster: Cluster) -> None:
    job = submit(cluster, "-n1", "--wrap", "sleep 200")
    wait_until_it_runs(cluster, job)
    deadline = time.monotonic() + 60
    while True:
        report = perun(cluster, "report", str(job), user="alice")
        if "still runs" in report.stdout or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    cluster.run(["scancel", str(job)], user="root")
    assert "RUNNING" in report.stdout and "no figure of it is here yet" in report.stdout
