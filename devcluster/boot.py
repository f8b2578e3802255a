"""Start hosts and connect them: one bridge in the controller's network namespace, a cable to every node.

Nothing here touches the machine's own network: links are made inside the controller's namespace, and the far end of
each is born in the node's. A node's end takes its cable away.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import conf
from .cgroups import CgroupTree
from .layout import Layout

HERE = Path(__file__).resolve().parent


def start_hosts(layout: Layout, cgroups: CgroupTree, hosts: Sequence[str]) -> dict[str, int]:
    """Start hosts at once; returns the machine's pids of their first processes.

    Raises
    ------
    OSError
        If one does not start; the others may run then.
    """
    starters: dict[str, subprocess.Popen[str]] = {}
    for host in hosts:
        if host != conf.CONTROLLER:
            cgroups.create_slurm(host)
        spec = layout.state / "hosts" / host / "spec.json"
        spec.write_text(json.dumps(layout.host_spec(host, cgroups)))
        line = [sys.executable, "-I", "-S", str(HERE / "host.py"), str(spec)]
        starters[host] = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
    pids: dict[str, int] = {}
    errors: list[str] = []
    for host, starter in starters.items():
        output, error = starter.communicate(timeout=30)
        if starter.returncode == 0:
            pids[host] = int(output)
        else:
            errors.append(f"{host}: {error.strip()}")
    if errors:
        raise OSError("cannot start hosts: " + "; ".join(errors))
    return pids


def make_bridge(controller_pid: int) -> None:
    """Make the bridge in the controller's network namespace."""
    commands = [
        "link set lo up",
        "link add br0 type bridge forward_delay 0",
        f"addr add {conf.NETWORK}.254/24 dev br0",
        "link set br0 up",
    ]
    _ip(controller_pid, commands)


def connect(layout: Layout, controller_pid: int, node_pids: Mapping[str, int]) -> None:
    """Connect nodes, given by their first processes, to the bridge."""
    commands: list[str] = []
    for pid in node_pids.values():
        commands += [f"link add v{pid} type veth peer name eth0 netns {pid}", f"link set v{pid} master br0 up"]
    _ip(controller_pid, commands)
    for node, pid in node_pids.items():
        _ip(pid, ["link set lo up", f"addr add {layout.address(node)} dev eth0", "link set eth0 up"])


def _ip(pid: int, commands: Sequence[str]) -> None:
    line = ["nsenter", "-t", str(pid), "-n", "ip", "-batch", "-"]
    done = subprocess.run(line, input="\n".join(commands) + "\n", text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip in the namespace of {pid}: {done.stderr.strip()}")
