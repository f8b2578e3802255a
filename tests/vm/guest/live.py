"""Jobs of every kind on a cluster that systemd runs: two scenarios, the second the first in short."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from guest import energy, perun, slurm, units
from guest.shell import require, run, tried, wait
from guest.steps import Again, Step

REGION = """\
import time
from perun_hpc import monitor
@monitor("spin")
def spin():
    end = time.time() + 3
    while time.time() < end:
        pass
spin()
"""
MPI = """\
from array import array
from mpi4py import MPI
total = array("i", [0])
MPI.COMM_WORLD.Allreduce(array("i", [MPI.COMM_WORLD.rank + 1]), total)
print(f"sum {total[0]}", flush=True)
"""
SCIENCE = "/opt/science/bin/python"
SPIN = "timeout 10 sh -c 'while :; do :; done'"


def slurm_starts(kept: dict[str, Any], said: list[str]) -> Again | None:
    slurm.first_start()
    slurm.await_ready()
    energy.simulate_rapl()
    said.append(f"Slurm {slurm.version()}, {units.systemd()}, {units.cgroup_mount()}")
    return None


def installs(kept: dict[str, Any], said: list[str]) -> Again | None:
    return installed(kept, said, perun.packages()[-1])


def installed(kept: dict[str, Any], said: list[str], package: Path) -> Again | None:
    """Install a package and set everything up."""
    began = time.monotonic()
    perun.install(package, "powercap, hwmon")
    said.append(f"{package.name} in {time.monotonic() - began:.0f} s")
    kept["since_s"] = time.time()
    return None


def first_job(kept: dict[str, Any], said: list[str]) -> Again | None:
    job = slurm.submit("--exclusive", wrap="sleep 12")
    slurm.await_state(job, "COMPLETED")
    found = perun.boundary(job)
    late_s = found["start"]["late_ns"] / 1e9
    said.append(f"the agent heard of it {late_s:.1f} s late")
    if found["state"] == "partial":  # a machine so slow that the job is over before the agent or its child has begun
        why = found["why"]
        require("no reading during the job" in why or energy.lacks_only_the_meter(why), f"partial: {why}")
    elif late_s > 1:
        require(any("not in its energy" in note for note in found["notes"]), f"late and silent: {found['notes']}")
    perun.record(job)
    return None


def sandboxes(kept: dict[str, Any], said: list[str]) -> Again | None:
    said += units.check("perun-agent", "perun", 4) + units.check("perun-collect", "perun", 1)
    return None


def plain_job(kept: dict[str, Any], said: list[str]) -> Again | None:
    job = slurm.submit("--exclusive", wrap="sleep 10")
    slurm.await_state(job, "COMPLETED")
    found = closed(job)
    said.append(f"{energy.check_counters(found):.0f} J of RAPL, to the tick")
    said.append(f"{energy.check_power(found, energy.METER_W):.1f} W by the ACPI meter")
    record = perun.record(job)
    require(record["status"] == "complete", f"the record is {record['status']}")
    shown = run(perun.PERUN, "report", str(job), user="alice")
    require(re.search(r"[1-9][\d.,]* k?J", shown), f"alice's report: {shown[:600]}")
    comment = wait("the line in AdminComment", lambda: slurm.admin_comment(job))
    said.append(f"AdminComment: {comment[:60]}")
    return None


def closed(job: int, restart: int = 0) -> dict[str, Any]:
    """The boundary record of a run, which must be whole."""
    found = perun.boundary(job, restart)
    require(found["state"] == "closed", f"job {job}.{restart} is {found['state']}: {found['why']}")
    return found


def shared_jobs(kept: dict[str, Any], said: list[str]) -> Again | None:
    busy = slurm.submit("-n1", wrap=SPIN)
    idle = slurm.submit("-n1", wrap="sleep 11", user="bob")
    for job in (busy, idle):
        slurm.await_state(job, "COMPLETED", "FAILED")
    records = [closed(job) for job in (busy, idle)]
    watts = [energy.mean_w(record, "dynamic_uj") for record in records]
    require(
        watts[0] > 2 * watts[1], f"dynamic power of the busy one {watts[0]:.2f} W, of the idle one {watts[1]:.2f} W"
    )
    said.append(f"dynamic power {watts[0]:.1f} and {watts[1]:.1f} W")
    return None


def flagged_job(kept: dict[str, Any], said: list[str]) -> Again | None:
    Path("/home/alice/region.py").write_text(REGION)
    job = slurm.submit("-n1", wrap="srun --perun python3 region.py")
    slurm.await_state(job, "COMPLETED", "FAILED")
    require(slurm.field(job, "JobState") == "COMPLETED", slurm.output(job))
    record = perun.record(job)
    require(record["status"] == "complete", f"the record is {record['status']}: {closed(job)['why']}")
    regions = {region["name"]: region for region in record["regions"]}
    require("spin" in regions, f"regions {sorted(regions)}; {slurm.output(job)}")
    require(len(record["ranks"]) == 1, f"{len(record['ranks'])} ranks")
    said.append(f"region of {regions['spin']['time_ns'] / 1e9:.1f} s")
    return None


def flagged_mpi_job(kept: dict[str, Any], said: list[str]) -> Again | None:
    Path("/home/alice/mpi.py").write_text(MPI)
    job = slurm.submit("-n2", wrap=f"srun --perun --mpi=pmi2 {SCIENCE} mpi.py")
    slurm.await_state(job, "COMPLETED", "FAILED")
    require(slurm.output(job).count("sum 3") == 2, slurm.output(job))
    record = perun.record(job)
    require(len(record["ranks"]) == 2, f"{len(record['ranks'])} ranks; {slurm.output(job)}")
    said.append("2 ranks, sum 3")
    return None


def suspended_job(kept: dict[str, Any], said: list[str]) -> Again | None:
    job = slurm.submit("-n1", wrap=SPIN)
    slurm.await_running(job)
    run("scontrol", "suspend", str(job))
    time.sleep(8)
    run("scontrol", "resume", str(job))
    slurm.await_state(job, "COMPLETED", "FAILED")
    suspended_s = closed(job)["usage"]["suspended_ns"] / 1e9
    require(5 < suspended_s < 13, f"suspended for {suspended_s:.1f} s by the record, for 8 s in truth")
    said.append(f"suspended {suspended_s:.1f} s")
    return None


def requeued_job(kept: dict[str, Any], said: list[str]) -> Again | None:
    job = slurm.submit("-n1", "--requeue", wrap="sleep 15")
    slurm.await_running(job)
    run("scontrol", "requeue", str(job))
    wait("its second run", lambda: slurm.field(job, "Restarts") == "1")
    run("scontrol", "update", f"JobId={job}", "StartTime=now")
    slurm.await_state(job, "COMPLETED", timeout=300)
    for restart in (0, 1):
        closed(job, restart)
        require(perun.record(job, restart)["status"] == "complete", f"run {restart} is not complete")
    said.append("two records")
    return None


def cancelled_job(kept: dict[str, Any], said: list[str]) -> Again | None:
    job = slurm.submit("-n1", wrap="sleep 300")
    slurm.await_running(job)
    run("scancel", str(job))
    slurm.await_state(job, "CANCELLED")
    closed(job)
    wait("its state in the record", lambda: perun.record(job)["state"].startswith("CANCELLED"))
    return None


def controller_power(kept: dict[str, Any], said: list[str]) -> Again | None:
    require(Path("/dev/ipmi0").exists(), "no /dev/ipmi0: the kernel's driver found no controller")
    perun.policy("powercap, ipmi")
    run("systemctl", "restart", "perun-agent")
    perun.await_agent()
    time.sleep(10)  # its child for the controller says what there is
    job = slurm.submit("--exclusive", wrap="sleep 20")
    slurm.await_state(job, "COMPLETED")
    said.append(f"{energy.check_power(closed(job), energy.BMC_W):.1f} W by DCMI")
    perun.policy("powercap, hwmon")
    return None


def unconstrained(kept: dict[str, Any], said: list[str]) -> Again | None:
    Path("/etc/slurm/cgroup.conf").write_text("CgroupPlugin=cgroup/v2\nConstrainCores=no\n")
    run("systemctl", "restart", "slurmctld", "slurmd")
    slurm.await_ready()
    return shared_jobs(kept, said)


def removed(kept: dict[str, Any], said: list[str]) -> Again | None:
    code, _, errors = tried("dpkg", "-r", "perun-hpc", timeout=300)
    require(
        code != 0 and "Slurm still runs its hooks" in errors, f"removed under a Slurm that uses it: {errors[-300:]}"
    )
    perun.walk("To remove it")
    slurm.await_ready()
    job = slurm.submit("--exclusive", wrap="sleep 1")
    slurm.await_state(job, "COMPLETED", "FAILED")
    require(slurm.field(job, "JobState") == "COMPLETED", "a job fails after the removal")
    # The page has whoever needed drop-in files make them; the archive is never touched; dpkg keeps a list of its own.
    expected = {f"/etc/systemd/system/perun-{unit}.service.d" for unit in ("agent", "collect")}
    other = _left() - expected
    require(all(path.startswith("/var/lib/dpkg/info/perun-hpc.") for path in other), f"left behind: {sorted(other)}")
    run("dpkg", "--purge", "perun-hpc")
    require(not _left() - expected, f"left behind after the purge: {sorted(_left() - expected)}")
    require((perun.ARCHIVE / slurm.CLUSTER / "jobs").is_dir(), "the archive is gone")
    said.append("nothing left but the archive and drop-in files")
    return None


def _left() -> set[str]:
    """What there is by perun's name, but for what the virtual machine brought."""
    found = run("find", "/opt", "/etc", "/usr", "/var", "/run", "-xdev", "-path", "*perun*", "-prune", "-print").split()
    return {path for path in found if not any(word in path for word in ("perun-vm", "perun-simulator", "journal"))}


def books(kept: dict[str, Any], said: list[str]) -> Again | None:
    code, output, errors = tried(perun.PERUN, "audit", timeout=300)
    require(code == 0, f"audit: exit code {code}: {(output + errors)[-1500:]}")
    code, output, errors = tried(perun.PERUN, "collect", "--status")
    require(code == 0, f"collect --status: exit code {code}: {(output + errors)[-1500:]}")
    warnings = perun.quiet_journal(kept["since_s"], "perun-agent", "perun-collect")
    require(not warnings, f"{len(warnings)} warnings: {warnings[:8]}")
    said.append("audit closes, nothing waits, no warnings")
    return None


START = [
    Step("slurm", "Slurm's units start, a database, accounts", slurm_starts, needed=True),
    Step("install", "steps 2 to 9 of docs/install.md, block by block", installs, needed=True),
    Step("first job", "the job that finds no agent", first_job),
]
JOBS = [
    Step("plain job", "alone on its node: counters, ACPI meter, record, report, AdminComment", plain_job),
    Step("shared jobs", "a busy and an idle job of two users, ConstrainCores=yes", shared_jobs),
    Step("flagged job", "`srun --perun`, a region", flagged_job),
    Step("flagged MPI job", "two ranks of MPICH", flagged_mpi_job),
    Step("suspended job", "for 8 s", suspended_job),
    Step("requeued job", "a record of each run", requeued_job),
    Step("cancelled job", "its record says so", cancelled_job),
]
END = Step("books", "audit, what waits, the journal", books)
STEPS = [
    *START,
    Step("sandboxes", "what the units' processes may do, seen from their side", sandboxes),
    *JOBS,
    Step("ConstrainCores=no", "the shared jobs once more", unconstrained),
    END,
    # Last: an agent that is begun anew with another meter has a gap, which the audit names.
    Step("controller", "the node's power by ipmi-dcmi and the kernel's driver", controller_power),
    Step("removal", "refused while Slurm runs the hooks; then nothing is left but data", removed),
]
