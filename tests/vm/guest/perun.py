"""perun in the guest: installed as docs/install.md says, asked for what it recorded."""

from __future__ import annotations

import json
import shutil
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


def packages(version: str = "") -> list[Path]:
    """The packages that the run brought along, oldest version first."""
    found = sorted(Path("packages").resolve().glob(f"perun-hpc*{version}*.deb"))
    if not found:
        raise Failed("no perun-hpc package on the second disk")
    return found


def offer(package: Path, directory: str) -> None:
    """Put a package where docs/install.md says that every host can read it."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    shutil.copy(package, directory)


def walk(first: str, last: str = "") -> None:
    """Run the blocks of docs/install.md from one section to another, by the beginnings of their names."""
    page: list[tuple[str, str]] = json.loads(Path("page.json").read_text())
    names = list(dict.fromkeys(section for section, _ in page))
    at = [next(number for number, name in enumerate(names) if name.startswith(one)) for one in (first, last or first)]
    chosen = names[at[0] : at[1] + 1]
    for section, text in page:
        if section in chosen:
            code, output, errors = tried("sh", "-euc", text, timeout=500)
            require(code == 0, f"{section}: exit code {code}: {text}: {(output + errors)[-600:]}")


def policy(sensors: str) -> None:
    """Write the policy; the agent follows it as it changes."""
    Path("/etc/perun").mkdir(exist_ok=True)
    fresh = Path("/etc/perun/policy.yaml.new")
    fresh.write_text(POLICY.replace("SENSORS", sensors))
    fresh.rename("/etc/perun/policy.yaml")


def install(package: Path, sensors: str) -> None:
    """From a bare machine to the first job by the words of docs/install.md; only the policy is another."""
    offer(package, "/shared")
    walk("2.", "4.")
    policy(sensors)
    walk("5.", "9.")
    await_ready()


def boundary(job: int, restart: int = 0, timeout: float = 120) -> dict[str, Any]:
    """The node's boundary record of a job's run, waited for."""
    name = f"{job}.{restart}"
    base = ARCHIVE / CLUSTER
    places = (
        base / "jobs" / f"{job // 1000}" / name / "boundary" / f"{NODE}.json",
        base / "incoming" / name / f"{NODE}.json",
    )
    return wait(f"the boundary record of {name}", lambda: _first(places), timeout)


def record(job: int, restart: int = 0, timeout: float = 120) -> dict[str, Any]:
    """The energy record of a job's run, waited for."""
    place = ARCHIVE / CLUSTER / "jobs" / f"{job // 1000}" / f"{job}.{restart}" / "record.json"
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
