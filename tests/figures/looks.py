"""What each of Slurm's commands says of a job's energy, and what the ledger and the simulator say, in J and W."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from devcluster import Cluster
from devcluster.simulator import COUNTS, UNIT_NJ, ZONES
from perun_hpc.accounting.consumed import Tail
from perun_hpc.data_model.record import EnergyRecord, from_dict
from tests.figures.ground import POLL_S
from tests.slurm.test_line import READ_NS, archive, boundary, energy_record

SHARED_S = 10.0
"""The policy's `privacy.shared_resolution`, as it is by default."""
TAIL = Tail(POLL_S, SHARED_S)
LOOK_S = 2.0
"""Between two looks at a job that runs."""


@dataclass(frozen=True)
class Seen:
    """What sstat (J, of the external step) and scontrol (W, the sum of the nodes) said, and when (monotonic)."""

    at_ns: int
    sstat_j: int | None
    watts: int | None


@dataclass
class Run:
    """One run of a job: by its own id what sacct has of it and of its steps, blanks as None."""

    job: int
    restart: int
    shown: str
    state: str
    sacct_j: int | None
    steps: dict[str, int | None] = field(default_factory=dict)


def number(text: str) -> int | None:
    """A figure of Slurm's; None where it shows a blank."""
    return int(text) if text.strip().isdigit() else None


def sacct(cluster: Cluster, job: str) -> list[Run]:
    """All runs of a job, of its array tasks and components, oldest first."""
    words = ["sacct", "-D", "-n", "-P", "-j", job, "-o", "JobIDRaw,JobID,State,ConsumedEnergyRaw"]
    runs: list[Run] = []
    counts: dict[int, int] = {}
    for line in cluster.run(words, user="root", check=True).stdout.splitlines():
        raw, shown, state, energy = line.split("|")
        leader, _, step = raw.partition(".")
        if step:
            runs[-1].steps[step] = number(energy)
            continue
        restart = counts.get(int(leader), -1) + 1
        counts[int(leader)] = restart
        runs.append(Run(int(leader), restart, shown, state.split()[0], number(energy)))
    return runs


def sstat(cluster: Cluster, job: str) -> int | None:
    """What sstat shows of a job that runs; None for a blank."""
    words = ["sstat", "-n", "-P", "-j", f"{job}.extern", "-o", "ConsumedEnergyRaw"]
    found = cluster.run(words, user="root").stdout.split()
    return number(found[0]) if found and found[0] != "0" else None


def watts(cluster: Cluster, nodes: Sequence[str]) -> int | None:
    """The sum of what scontrol shows of nodes; None where one has none."""
    text = cluster.run(["scontrol", "show", "node", ",".join(nodes), "-o"], user="bob", check=True).stdout
    found = [number(word.partition("=")[2]) for word in text.split() if word.startswith("CurrentWatts=")]
    return None if None in found or len(found) != len(nodes) else sum(one or 0 for one in found)


@contextlib.contextmanager
def watched(cluster: Cluster, job: str, nodes: Sequence[str]) -> Iterator[list[Seen]]:
    """Look at a job every two seconds meanwhile."""
    seen: list[Seen] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            said = sstat(cluster, job)
            seen.append(Seen(time.monotonic_ns(), said, watts(cluster, nodes)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def served_uj(cluster: Cluster, node: str, from_ns: int, to_ns: int) -> int:
    """What the simulator's counters of a node counted between two moments (monotonic)."""
    return sum(_served_uj(cluster, node, zone, from_ns, to_ns) for zone in ZONES)


def _served_uj(cluster: Cluster, node: str, zone: str, from_ns: int, to_ns: int) -> int:
    before, after = (cluster.served.value_at(node, zone, one) for one in (from_ns, to_ns))
    assert before is not None and after is not None
    return _counted_uj(zone, before, after)


def _counted_uj(zone: str, before: int, after: int) -> int:
    return (after - before) % (COUNTS * UNIT_NJ[zone] // 1000)


def edges(cluster: Cluster, run: Run, node: str) -> dict[str, tuple[int, int]]:
    """Zone -> what its counter showed at a run's edges; the simulator served it just before the time that it has."""
    one = boundary(cluster, run.job, node, run.restart)
    found = {}
    for sensor in one["sensors"]:
        zone = sensor["device"]
        if zone in ZONES:
            read = [one["edges"][sensor["id"]][edge] for edge in ("start", "end")]
            for edge in read:
                until_ns = edge["mono_ns"]
                assert cluster.served.was_served(node, zone, edge["ticks"], until_ns - READ_NS, until_ns), (zone, edge)
            found[zone] = (read[0]["ticks"], read[1]["ticks"])
    return found


def counted_uj(first: Mapping[str, tuple[int, int]], last: Mapping[str, tuple[int, int]]) -> int:
    """What a node's counters counted from the first's beginning to the last's end, as `edges` has them."""
    return sum(_counted_uj(zone, first[zone][0], last[zone][1]) for zone in ZONES)


def spans(cluster: Cluster, run: Run, record: EnergyRecord) -> dict[str, tuple[int, int]]:
    """Node -> the run's edges there (monotonic)."""
    found = {}
    for node in record.nodes:
        one = boundary(cluster, run.job, node.node, run.restart)
        found[node.node] = (one["start"]["mono_ns"], one["end"]["mono_ns"])
    return found


def ledger(cluster: Cluster, run: Run) -> EnergyRecord:
    """A run's energy record."""
    return from_dict(energy_record(cluster, run.job, run.restart))


def node_ledger(cluster: Cluster, node: str, from_ns: int, to_ns: int) -> list[dict[str, Any]]:
    """The node ledger's lines between two moments (monotonic); none while it does not reach the second."""
    lines: list[dict[str, Any]] = []
    for path in sorted((archive(cluster) / "nodes" / node).glob("*.jsonl")):
        lines += map(json.loads, path.read_text().splitlines())
    inside = [one for one in lines if from_ns <= one["t0_ns"] and one["t1_ns"] <= to_ns]
    return inside if inside and max(one["t1_ns"] for one in inside) == to_ns else []


def profile(cluster: Cluster, job: int) -> Mapping[str, int]:
    """Step -> the last energy of its series, summed over its nodes, as sh5util puts it together."""
    import h5py

    name = f"{job}.h5"
    cluster.run(["sh5util", "-j", str(job), "-o", f"/home/alice/{name}"], user="alice", check=True)
    found: dict[str, int] = {}
    with h5py.File(cluster.home / "alice" / name) as file:
        for step, group in file["Steps"].items():
            rows = [node["Energy"]["Energy"][-1] for node in group["Nodes"].values() if "Energy" in node]
            if rows:
                found[step] = int(sum(rows))
    return found


def sreport(cluster: Cluster, since_s: int, until_s: int) -> dict[str, int]:
    """Account -> J, as sreport has it of the whole hours from `since_s` to `until_s`, which are added up for it now.

    It is asked for each hour: of the one that goes on it shows something only if that is all that it is asked for.
    """
    form = "%Y-%m-%dT%H:%M:%S"
    first, last = (time.strftime(form, time.localtime(one)) for one in (since_s, until_s))
    cluster.run(["sacctmgr", "-i", "rollup", first, last], user="root", check=True)
    words = ["sreport", "-n", "-P", "-t", "Seconds", "-T", "energy", "cluster", "AccountUtilizationByUser"]
    found: dict[str, int] = {}
    for hour_s in range(since_s, until_s, 3600):
        start, end = (time.strftime(form, time.localtime(one)) for one in (hour_s, hour_s + 3600))
        said = cluster.run([*words, f"start={start}", f"end={end}"], user="root", check=True).stdout
        for line in said.splitlines():
            cells = line.split("|")
            if cells[2] == "":
                found[cells[1]] = found.get(cells[1], 0) + int(cells[-1])
    return found
