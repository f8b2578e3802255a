"""The Ansible role on the machine that it is run from: first run, second run, a version that does not run, removal."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from guest import energy, live, perun, slurm, upheaval
from guest.shell import require, run, tried, wait
from guest.steps import Again, Step

INVENTORY = Path("/var/tmp/inventory.json")
POLICY = Path("/var/tmp/policy.yaml")
SLURM_CONF = Path("/etc/slurm/slurm.conf")
HOSTS = {"slurm_compute": slurm.NODE, "perun_collector": "collector", "slurm_controller": "controller"}
"""A name for each group: with one for all of them the role would do everything three times on this slow machine."""
UNITS = ("perun-agent", "perun-collect")
RUN_S = 900


def play(*options: str, fails: bool = False) -> tuple[int, str]:
    """Run the role; the number of changes that it counted, and what it printed."""
    where = ("env", "ANSIBLE_NOCOLOR=1", "ANSIBLE_PIPELINING=1", "ANSIBLE_LOG_PATH=/dev/console")
    book = str(Path("ansible/perun.yml").resolve())
    code, output, errors = tried(*where, "ansible-playbook", "-i", str(INVENTORY), book, *options, timeout=RUN_S)
    text = output + errors
    recap = re.findall(r"^\w+ +: ok=.* changed=(\d+)", text, re.MULTILINE)
    require(recap and (code != 0) == fails, f"ansible-playbook {' '.join(options)}: exit code {code}: {text[-1500:]}")
    return sum(map(int, recap)), text


def changed(text: str) -> list[str]:
    """The tasks and handlers that changed something."""
    names: list[str] = []
    name = ""
    for line in text.splitlines():
        if line.startswith(("TASK [", "RUNNING HANDLER [")):
            name = line.partition("[")[2].partition("]")[0]
        elif line.startswith("changed:"):
            names.append(name)
    return names


def would_install(kept: dict[str, Any], said: list[str]) -> Again | None:
    POLICY.write_text(perun.POLICY.replace("SENSORS", "powercap, hwmon"))
    variables = {
        **{"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"},
        **{"perun_hpc_package": str(perun.packages()[-1]), "perun_hpc_policy": str(POLICY)},
        "perun_hpc_manage_slurm_conf": True,
    }
    groups = {group: {"hosts": {host: {}}} for group, host in HOSTS.items()}
    INVENTORY.write_text(json.dumps({"all": {"vars": variables, "children": groups}}))
    kept["slurm_conf"] = SLURM_CONF.read_text()
    changes, _ = play("--check")
    require(SLURM_CONF.read_text() == kept["slurm_conf"], "slurm.conf is another")
    there = [path for path in ("/opt/perun-hpc", "/etc/perun", str(perun.ARCHIVE)) if Path(path).exists()]
    require(not there, f"there are {there}")
    said.append(f"{changes} changes announced, none made")
    return None


def installs(kept: dict[str, Any], said: list[str]) -> Again | None:
    changes, _ = play()
    said.append(f"{changes} changes")
    perun.walk("6.")  # which is not the role's
    slurm.await_ready()
    for word in ("is-active", "is-enabled"):
        run("systemctl", word, "perun-collect")
    run(perun.PERUN, "policy", "check")
    kept["since_s"] = time.time()
    return None


def again(kept: dict[str, Any], said: list[str]) -> Again | None:
    return _nothing(said)


def again_in_check_mode(kept: dict[str, Any], said: list[str]) -> Again | None:
    return _nothing(said, "--check")


def _nothing(said: list[str], *options: str) -> Again | None:
    """The role changes nothing, and no unit's process is another."""
    before = _pids()
    changes, text = play(*options)
    require(changes == 0, f"{changes} changes: {changed(text)}")
    require(_pids() == before, f"the units' processes were {before}, are {_pids()}")
    said.append("no change")
    return None


def goes_back(kept: dict[str, Any], said: list[str]) -> Again | None:
    version = run(perun.PERUN, "--version")
    (broken,) = Path("broken").resolve().iterdir()
    before = perun.packages()[-1]
    job = slurm.submit_until_let_go()
    _, text = play("-e", f"perun_hpc_package={broken}", "-e", f"perun_hpc_previous={before}", fails=True)
    require("the version before is back" in text, f"it says {text[-1500:]}")
    require(run(perun.PERUN, "--version") == version, "the version before is not back")
    for unit in UNITS:
        wait(f"{unit} to be active", lambda unit=unit: run("systemctl", "is-active", unit), 90)  # type: ignore[misc]
    perun.await_agent()
    time.sleep(10)  # until its child reads the meter
    slurm.let_go()
    slurm.await_state(job, "COMPLETED", "FAILED", timeout=300)
    found = perun.boundary(job)
    whole = found["state"] == "closed"
    require(whole or energy.lacks_only_the_meter(found["why"]), f"the job that ran meanwhile: {found['why']}")
    said.append(f"the version before is back, the units run; the job that ran meanwhile: {found['why'] or 'whole'}")
    return None


def removes(kept: dict[str, Any], said: list[str]) -> Again | None:
    changes, _ = play("-e", "perun_hpc_state=absent")
    require(SLURM_CONF.read_text() == kept["slurm_conf"], "slurm.conf is not as it was")
    for unit in UNITS:
        require(tried("systemctl", "cat", unit)[0] != 0, f"there is a unit {unit}")
    slurm.await_ready()
    job = slurm.submit("--exclusive", wrap="sleep 1")
    slurm.await_state(job, "COMPLETED", "FAILED")
    require(slurm.field(job, "JobState") == "COMPLETED", "a job fails after the removal")
    require((perun.ARCHIVE / slurm.CLUSTER / "jobs").is_dir(), "the archive is gone")
    said.append(f"{changes} changes; slurm.conf as it was, a job runs")
    return None


def _pids() -> dict[str, str]:
    return {unit: run("systemctl", "show", "-P", "MainPID", unit).strip() for unit in UNITS}


STEPS = [
    Step("slurm", "Slurm's units start, a database, accounts", live.slurm_starts, needed=True),
    Step("check first", "what a first run would do", would_install, needed=True),
    Step("first run", "the role installs perun from the package", installs, needed=True),
    Step("first job", "the job that finds no agent", live.first_job),
    Step("sandboxes", "what the units' processes may do, seen from their side", live.sandboxes),
    Step("plain job", "alone on its node: counters, ACPI meter, record, report, AdminComment", live.plain_job),
    Step("flagged job", "`srun --perun`, a region", live.flagged_job),
    Step("second run", "changes nothing", again),
    Step("check again", "nor would it", again_in_check_mode),
    Step("rollback", "a version that does not run, under a job", goes_back),
    Step("books", "audit, what waits, the journal", upheaval.books),  # the agent was restarted under a job
    Step("role removes", "slurm.conf first; a job afterwards", removes),
]
