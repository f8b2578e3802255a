"""perun in the guest: installed as docs/install.md says, asked for what it recorded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from guest.shell import Failed, require, run, tried, wait
from guest.slurm import CLUSTER, NODE, await_ready

PREFIX = Path("/opt/perun-hpc")
PERUN = str(PREFIX / "bin/perun")
ARCHIVE = Path("/shared/perun")
SPOOL = Path("/var/spool/perun")
POLICY = """\
monitor: {jobs: all, user_options: [notrace, period]}
sampling: {period: 1 s}
sensors: {backends: [SENSORS]}
agent: {linger: 10 min}
store: {archive: /shared/perun, trace_min_duration: 0 s, flush: 5 s}
collect: {deadline: 30 s, sweep: 2 s, ledger: "sqlite:////var/lib/perun/ledger.db", slurmdbd: fill}
"""
SLURM_CONF = f"""\
PrologFlags=Alloc,Contain,DeferBatch
Prolog={PREFIX}/libexec/perun/prolog
Epilog={PREFIX}/libexec/perun/epilog
"""
PLUGSTACK = f"optional {PREFIX}/lib/perun/perun_spank.so prefix={PREFIX}\n"


def packages(version: str = "") -> list[Path]:
    """The packages that the run brought along, oldest version first."""
    found = sorted(Path("packages").resolve().glob(f"perun-hpc*{version}*.deb"))
    if not found:
        raise Failed("no perun-hpc package on the second disk")
    return found


def install(package: Path) -> None:
    """Install a package, or another version over it."""
    run("dpkg", "-i", str(package), timeout=400)


def policy(sensors: str) -> None:
    """Write the policy; the agent follows it as it changes."""
    Path("/etc/perun").mkdir(exist_ok=True)
    fresh = Path("/etc/perun/policy.yaml.new")
    fresh.write_text(POLICY.replace("SENSORS", sensors))
    fresh.rename("/etc/perun/policy.yaml")


def set_up(sensors: str) -> None:
    """What docs/install.md has an administrator do after the package is there."""
    run("sacctmgr", "-i", "add", "user", "perun", "account=root", "adminlevel=operator")
    run("install", "-d", "-o", "perun", "-g", "perun", "-m", "0711", str(ARCHIVE))
    policy(sensors)
    run(PERUN, "policy", "check")
    Path("/etc/slurm/site.conf").write_text(SLURM_CONF)
    Path("/etc/slurm/plugstack.conf").write_text(PLUGSTACK)
    for unit in ("perun-agent", "perun-collect"):
        drop_in = Path(f"/etc/systemd/system/{unit}.service.d/archive.conf")
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text(f"[Service]\nReadWritePaths={ARCHIVE}\n")
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", "perun-collect")
    run("scontrol", "reconfigure")
    await_ready()


def boundary(job: int, restart: int = 0, timeout: float = 120) -> dict[str, Any]:
    """The node's boundary record of a job's run, waited for."""
    name = f"{job}.{restart}"
    base = ARCHIVE / CLUSTER
    places = (base / "jobs" / name / "boundary" / f"{NODE}.json", base / "incoming" / name / f"{NODE}.json")
    return wait(f"the boundary record of {name}", lambda: _first(places), timeout)


def record(job: int, restart: int = 0, timeout: float = 120) -> dict[str, Any]:
    """The energy record of a job's run, waited for."""
    place = ARCHIVE / CLUSTER / "jobs" / f"{job}.{restart}" / "record.json"
    return wait(f"the record of {job}.{restart}", lambda: _first((place,)), timeout)


def _first(places: tuple[Path, ...]) -> dict[str, Any] | None:
    for place in places:
        if place.exists():
            found: dict[str, Any] = json.loads(place.read_text())
            return found
    return None


def agent_pid() -> int:
    """Pid of the agent's first process; 0 if the unit does not run."""
    return int(run("systemctl", "show", "-P", "MainPID", "perun-agent"))


def await_agent(timeout: float = 60) -> int:
    """Wait until the agent's unit runs and answers."""
    wait("the agent", lambda: tried(PERUN, "agent", "status")[0] == 0, timeout)
    return agent_pid()


def quiet_journal(since_s: float, *units: str) -> list[str]:
    """What units said of level warning and above, and that nothing of it is a traceback."""
    lines: list[str] = []
    for unit in units:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since_s))
        text = run("journalctl", "-u", unit, "--since", moment, "-o", "cat", "--no-pager")
        require("Traceback" not in text, f"{unit} said: {text[-1500:]}")
        lines += [line for line in text.splitlines() if "WARNING" in line or "ERROR" in line]
    return lines
