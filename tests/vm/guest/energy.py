"""Sensors of the guest, and what records must agree with.

RAPL is simulated below /sys/class/powercap and keeps a log of what it served; the node's power comes from two kernel
drivers, `acpi_power_meter` and `ipmi_si`, whose far ends the host has made.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from guest.shell import require, run, wait
from guest.simulator import ServedLog

HOME = Path("/run/perun-simulator")
CLASS = Path("/sys/class/powercap")
LOG = Path("/var/log/perun-simulator")
NODE = "n1"
METER_W = (150, 159)
"""What the host's ACPI table has the power meter show, see meter.asl."""
BMC_W = (170, 189)
"""What the host's management controller answers, see tests/stubs/dcmi.c."""
READ_NS = 5_000_000_000
"""An agent under emulation may be preempted so long between its read and its clock."""
UNIT = f"""\
[Unit]
Description=Simulated RAPL counters
Before=slurmd.service

[Service]
Type=forking
PIDFile=/run/perun-simulator.pid
ExecStartPre=/usr/bin/python3 -I -S /usr/local/lib/perun-simulator/tree.py
ExecStart=/usr/bin/python3 -I -S /usr/local/lib/perun-simulator/simulator.py /usr/local/lib/perun-simulator/config.json
ExecStartPost=/bin/sh -c 'until [ -e {HOME}/ready ]; do sleep 0.2; done; mount --bind {HOME}/{NODE}/powercap {CLASS}'

[Install]
WantedBy=multi-user.target
"""
TREE = f"""\
import os, pathlib
tree = pathlib.Path("{HOME}/{NODE}/powercap")
tree.mkdir(parents=True, exist_ok=True)
pathlib.Path("{LOG}").mkdir(exist_ok=True)
for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1", "intel-rapl:1:0"):
    package = name[:12]
    target = "intel-rapl/" + package + ("" if name == package else "/" + name)
    os.symlink(target, tree / name)
(tree / "perun_simulated").write_text("simulated by perun-hpc tests\\n")
"""


def simulate_rapl() -> None:
    """Start the simulator as a unit that comes before slurmd, also after a reboot."""
    where = Path("/usr/local/lib/perun-simulator")
    where.mkdir(parents=True, exist_ok=True)
    (where / "simulator.py").write_bytes(Path("guest/simulator.py").read_bytes())
    (where / "tree.py").write_text(TREE)
    config = {
        **{"seed": "vm", "nodes": {NODE: "/sys/fs/cgroup"}, "live_dir": str(HOME), "log_dir": str(LOG)},
        **{"control": f"{HOME}/control", "ready": f"{HOME}/ready", "pid_file": "/run/perun-simulator.pid"},
        "period_s": 0.5,
    }
    (where / "config.json").write_text(json.dumps(config))
    Path("/etc/systemd/system/perun-simulator.service").write_text(UNIT)
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", "perun-simulator")
    wait("simulated counters", lambda: (CLASS / "intel-rapl:1:0/energy_uj").exists())


def check_counters(record: dict[str, Any]) -> float:
    """Every edge of a record was served at its moment, and its energies are their differences; returns joules."""
    served = ServedLog(LOG)
    total = 0
    counters = [one for one in record["sensors"] if one["backend"] == "powercap"]
    require(len(counters) == 4, f"{len(counters)} counters in the record instead of 4")
    for sensor in counters:
        edges = record["edges"][sensor["id"]]
        for name, edge in edges.items():
            at_ns = edge["mono_ns"]
            known = served.was_served(NODE, sensor["device"], edge["ticks"], at_ns - READ_NS, at_ns)
            require(known, f"{sensor['id']}: {name} {edge} was not served then")
        counted = (edges["end"]["ticks"] - edges["start"]["ticks"]) % sensor["wrap_range"]
        domain = record["domains"][sensor["domain"]]
        slack = 1 if edges["end"]["ticks"] < edges["start"]["ticks"] else 0
        require(abs(domain["node_uj"] - counted) <= slack, f"{sensor['id']}: {domain['node_uj']} uJ of {counted}")
        require(0 < domain["energy_uj"] <= domain["node_uj"], f"{sensor['id']}: the job has {domain['energy_uj']} uJ")
        total += domain["energy_uj"]
    return total / 1e6


def check_power(record: dict[str, Any], between: tuple[int, int]) -> float:
    """That the node's meter gave a mean power that its driver's far end can have had; returns it in W.

    A meter's own domain is what it shows beyond its parts: with them it is the meter again.
    """
    require(record["domains"].get("other"), f"no meter: domains {sorted(record['domains'])}")
    watts = mean_w(record, "node_uj")
    low, high = between
    require(low <= watts <= high, f"the node drew {watts:.1f} W on the average, its meter shows {low} to {high} W")
    return watts


def lacks_only_the_meter(why: str | None) -> bool:
    """Whether a record lacks readings of the node's meter at most: the agent's child for it may not have begun yet."""
    return all(re.match(r"(no (start|end) reading of )?node\b", one) for one in (why or "").split("; ") if one)


def mean_w(record: dict[str, Any], what: str, *domains: str) -> float:
    """Mean power in W of one of the energies of a record between its edges, of all domains unless some are named."""
    begin_ns, end_ns = record["start"]["mono_ns"], record["end"]["mono_ns"]
    chosen = domains or record["domains"]
    return sum(record["domains"][name][what] or 0 for name in chosen) * 1e3 / (end_ns - begin_ns)
