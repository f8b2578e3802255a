"""All nodes at once: the doctor runs on each as a job of its own, and what they say is held against each other."""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from perun_hpc.data_model import codec
from perun_hpc.doctor.facts import Node
from perun_hpc.doctor.findings import Finding, Report, Role, Severity
from perun_hpc.errors import UnavailableError
from perun_hpc.slurm.command import attempt

AT_ONCE = 16
FREE_S = 10
"""How long a node may take to have a core free."""
PATIENCE_S = 180.0
SAME: Mapping[str, tuple[str, str]] = {
    "perun-versions": ("perun", "install the same version on all nodes (docs/install.md, To upgrade)"),
    "policy-differs": ("the policy", "copy one file to all nodes, then perun agent reload there"),
    "uid-differs": ("the service user's number", "usermod -u NUMBER there, then chown what belongs to it"),
}
"""What must be the same on all nodes: by the key of the finding, in words, and what mends it."""


def line_for(node: Node, via: str) -> list[str]:
    """The command that runs the doctor on a node: a short job there, or what `via` says, as `ssh {node}`."""
    ours = [f"{sys.prefix}/bin/perun", "doctor", "--json", "--role", Role.COMPUTE]
    if via:
        return [*(word.replace("{node}", node.name) for word in shlex.split(via)), *ours]
    options = [f"--nodelist={node.name}", f"--partition={node.partition.rstrip('*')}", f"--immediate={FREE_S}"]
    return ["srun", "-Q", "-N1", "-n1", "--mem=200M", "--time=5", "--chdir=/", "-J", "perun-doctor", *options, *ours]


def ask(nodes: Sequence[Node], via: str = "") -> list[Report | Finding]:
    """What the doctor says on each node; a finding for one that could not be asked."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda node: _ask(node, via), nodes))


def _ask(node: Node, via: str) -> Report | Finding:
    remedy = f"run perun doctor there, or reach it another way: perun doctor --nodes {node.name} --via 'ssh {{node}}'"
    lost = Finding("node-asked", Severity.UNKNOWN, (node.name,), via or "srun", "", remedy)
    try:
        done = attempt(line_for(node, via), None, PATIENCE_S)
    except UnavailableError as error:
        return replace(lost, what=f"could not be asked: {str(error).partition(': is slurmdbd')[0]}")
    try:
        return codec.decode(Report, json.loads(done.stdout)["reports"][0])
    except (ValueError, KeyError, IndexError, TypeError):
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        return replace(lost, what=f"could not be asked: {lines[-1]}")


def compare(reports: Sequence[Report]) -> Iterator[Finding]:
    """What should be the same on all hosts and is not: those that differ from most."""
    of: Mapping[str, Callable[[Report], str]] = {
        "perun-versions": lambda one: one.version,
        "policy-differs": lambda one: one.policy and one.policy[:19],
        "uid-differs": lambda one: "" if one.service_uid is None else str(one.service_uid),
    }
    for key, value_of in of.items():
        values = {one.host: value for one in reports if (value := value_of(one))}
        usual = Counter(values.values()).most_common(1)
        odd: dict[str, list[str]] = {}
        for host, value in values.items():
            if value != usual[0][0]:
                odd.setdefault(value, []).append(host)
        what, remedy = SAME[key]
        for value, hosts in odd.items():
            said = f"is {value}, on most hosts {usual[0][0]}"
            yield Finding(key, Severity.WARNING, tuple(hosts), what, said, remedy)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """The same finding of several hosts as one, the most serious first."""
    hosts: dict[Finding, list[str]] = {}
    for one in findings:
        known = hosts.setdefault(replace(one, hosts=()), [])
        known += [host for host in one.hosts if host not in known]
    order = (Severity.CRITICAL, Severity.WARNING, Severity.UNKNOWN, Severity.OK)
    found = [replace(one, hosts=tuple(names)) for one, names in hosts.items()]
    return sorted(found, key=lambda one: order.index(one.severity))
