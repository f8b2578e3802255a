"""What happens to daemons, to the package and to the machine while jobs run: no job is harmed, each has its record."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from guest import energy, perun, slurm
from guest.live import closed, first_job, installed, slurm_starts
from guest.shell import require, run, tried, wait
from guest.steps import Again, Step

READINGS_S = 4.0
"""A job runs so long before and after what disturbs it: some readings."""


def under_a_job(said: list[str], disturb: Callable[[], None], whole: bool = True) -> None:
    """Disturb something while a job runs; the job ends well, and its record is exact, and whole."""
    job = slurm.submit_until_let_go()
    time.sleep(READINGS_S)
    disturb()
    time.sleep(READINGS_S)
    slurm.let_go()
    slurm.await_state(job, "COMPLETED", "FAILED", "NODE_FAIL", timeout=300)
    state = slurm.field(job, "JobState")
    require(state == "COMPLETED" and slurm.field(job, "Restarts") == "0", f"job {job} is {state}")
    found = closed(job) if whole else perun.boundary(job)
    require(energy.lacks_only_the_meter(found["why"]), f"job {job}: {found['why']}")
    energy.check_counters(found)
    record = perun.record(job)
    require(record["status"] == "complete" or not whole, f"the record of job {job} is {record['status']}")
    said.append(f"job whole; record: {found['why'] or 'whole'}")


def installs_older(kept: dict[str, Any], said: list[str]) -> Again | None:
    return installed(kept, said, perun.packages()[0])


def slurmd_restarts(kept: dict[str, Any], said: list[str]) -> Again | None:
    agent = perun.await_agent()
    under_a_job(said, lambda: _do("systemctl", "restart", "slurmd"))
    require(perun.agent_pid() == agent, "the agent is another one")
    return None


def slurmd_is_killed(kept: dict[str, Any], said: list[str]) -> Again | None:
    agent = perun.await_agent()

    def disturb() -> None:
        _do("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "slurmd")
        time.sleep(2)
        _do("systemctl", "restart", "slurmd")

    under_a_job(said, disturb)
    require(perun.agent_pid() == agent, "the agent is another one")
    return None


def slurmctld_restarts(kept: dict[str, Any], said: list[str]) -> Again | None:
    under_a_job(said, lambda: _do("systemctl", "restart", "slurmctld"))
    slurm.await_ready()
    return None


def agent_restarts(kept: dict[str, Any], said: list[str]) -> Again | None:
    def disturb() -> None:
        _do("systemctl", "restart", "perun-agent")
        perun.await_agent()
        time.sleep(10)  # until its child reads the meter: a job that ends before lacks that, and says so

    under_a_job(said, disturb)
    return None


def agent_is_killed(kept: dict[str, Any], said: list[str]) -> Again | None:
    agent = perun.await_agent()
    # The next hook starts another: half a minute later nobody knows what the meter showed meanwhile; counters went on.
    under_a_job(said, lambda: _do("systemctl", "kill", "--signal=KILL", "perun-agent"), whole=False)
    require(perun.await_agent() not in (0, agent), "no other agent was started")
    return None


def collector_restarts(kept: dict[str, Any], said: list[str]) -> Again | None:
    under_a_job(said, lambda: _do("systemctl", "restart", "perun-collect"))
    return None


def collector_is_killed(kept: dict[str, Any], said: list[str]) -> Again | None:
    under_a_job(said, lambda: _do("systemctl", "kill", "--signal=KILL", "perun-collect"))
    return None


def slurmdbd_is_away(kept: dict[str, Any], said: list[str]) -> Again | None:
    began_s = time.time()
    _do("systemctl", "stop", "slurmdbd")
    job = slurm.submit("--exclusive", wrap="sleep 5")
    slurm.await_state(job, "COMPLETED")
    closed(job)
    require(perun.record(job)["status"] == "complete", "no whole record without slurmdbd")
    time.sleep(12)  # six sweeps
    warnings = perun.quiet_journal(began_s, "perun-collect")
    _do("systemctl", "start", "slurmdbd")
    # Two questions fail, each in two ways where slurmdbd left in the middle of one; each is said once.
    once = len(set(warnings)) == len(warnings) <= 4
    require(once, f"{len(warnings)} warnings in six sweeps: {warnings[-6:]}")
    wait("the line in AdminComment", lambda: slurm.admin_comment(job), timeout=180)
    said.append(f"{len(warnings)} warnings meanwhile, AdminComment afterwards")
    return None


def upgrades(kept: dict[str, Any], said: list[str]) -> Again | None:
    before = run(perun.PERUN, "--version").strip()
    _do("systemctl", "stop", "perun-collect")
    first = slurm.submit("--exclusive", wrap="sleep 5")
    slurm.await_state(first, "COMPLETED")
    closed(first)  # by the older agent; it waits for the newer collector
    across = slurm.submit_until_let_go()
    perun.offer(perun.packages()[-1], "/shared/new")
    perun.walk("To upgrade")
    _do("systemctl", "start", "perun-collect")
    require(perun.await_agent() != 0, "no agent after the upgrade")
    require(perun.record(first)["status"] == "complete", "the older agent's record is not whole")
    slurm.let_go()
    slurm.await_state(across, "COMPLETED", "FAILED", timeout=300)
    energy.check_counters(closed(across))
    require(perun.record(across)["status"] == "complete", "the record across the upgrade is not whole")
    after = run(perun.PERUN, "--version").strip()
    require(before != after, f"both are {after}")
    require(after.split()[-1] in run(perun.PERUN, "agent", "status"), "the agent is still the older one")
    said.append(f"{before} to {after}")
    return None


def reboots(kept: dict[str, Any], said: list[str]) -> Again | None:
    job = slurm.submit_until_let_go("--requeue")
    time.sleep(12)  # more than an interval
    kept["rebooted"] = job
    return Again.REBOOT


def comes_back(kept: dict[str, Any], said: list[str]) -> Again | None:
    job = kept["rebooted"]
    # Here the controller boots with its node. It counts a job's silence from its own start, and believes that the job
    # is lost when a slurmd registers BatchStartTimeout and 10 s after that (slurmctld's _purge_missing_jobs).
    slurm.await_ready(state="allocated")
    time.sleep(max(0.0, slurm.LOST_S - slurm.controller_age_s()))
    _do("systemctl", "restart", "slurmd")
    wait("its second run", lambda: int(slurm.field(job, "Restarts")) >= 1)
    _do("scontrol", "update", f"JobId={job}", "StartTime=now")
    slurm.await_running(job)
    time.sleep(12)  # its Prolog starts the agent
    slurm.let_go()
    slurm.await_state(job, "COMPLETED", timeout=300)
    restarts = int(slurm.field(job, "Restarts"))
    lost = perun.boundary(job)
    require(lost["state"] == "partial" and lost["why"], f"the run that was cut off is {lost['state']}")
    # Its Prolog starts the agent, whose child on a slow machine has not read the meter yet: then the record lacks that.
    found = perun.boundary(job, restarts)
    require(energy.lacks_only_the_meter(found["why"]), f"the run after the reboot: {found['why']}")
    energy.check_counters(found)
    status = perun.record(job, restarts)["status"]
    require(found["why"] or status == "complete", f"the record of the run after the reboot is {status}")
    said.append(f"the run that was cut off: {lost['why']}; the next: {found['why'] or 'whole'}")
    return None


def books(kept: dict[str, Any], said: list[str]) -> Again | None:
    """What was disturbed is named; nothing waits, and nothing failed by itself."""
    code, output, errors = tried(perun.PERUN, "audit", timeout=300)
    require("Traceback" not in output + errors and code in (0, 1), f"audit: {code}: {(output + errors)[-800:]}")
    wrong = [line for line in output.splitlines() if "counted" in line and "shares" in line]
    require(not wrong, f"audit: {wrong}")
    status, output, errors = tried(perun.PERUN, "collect", "--status")
    require(status == 0, f"collect --status: {(output + errors)[-800:]}")
    perun.quiet_journal(kept["since_s"], "perun-agent", "perun-collect")
    said.append(f"audit exit code {code}, nothing waits, no traceback")
    return None


def _do(*words: str) -> None:
    run(*words)


STEPS = [
    Step("slurm", "Slurm's units start, a database, accounts", slurm_starts, needed=True),
    Step("install", "an older package", installs_older, needed=True),
    Step("first job", "the job that finds no agent", first_job),
    Step("slurmd restarts", "under a job", slurmd_restarts),
    Step("slurmd is killed", "under a job, and started again", slurmd_is_killed),
    Step("slurmctld restarts", "under a job", slurmctld_restarts),
    Step("agent restarts", "under a job", agent_restarts),
    Step("agent is killed", "under a job; the Epilog starts another", agent_is_killed),
    Step("collector restarts", "under a job", collector_restarts),
    Step("collector is killed", "under a job; systemd starts it again", collector_is_killed),
    Step("slurmdbd is away", "for a job and six sweeps", slurmdbd_is_away),
    Step("upgrade", "a record of the older agent for the newer collector, a job across the upgrade", upgrades),
    Step("reboot", "the machine boots while a job runs", reboots),
    Step("after the reboot", "the job runs again: a record of each run", comes_back),
    Step("books", "audit, what waits, the journal", books),
]
