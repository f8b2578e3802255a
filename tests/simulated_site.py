"""A simulated site's month, as agents, collector, Slurm and meters leave it, with its own log of what it really drew.

Nodes in service all month, nodes that Slurm switches off at night, cloud nodes whose names machine after machine has,
nodes that nobody hears of any more although they run, and nodes whose evidence comes late. True powers are piecewise
constant; counters and meters are off by gains that differ from site to site, within what they state.
"""

from __future__ import annotations

import json
import random
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.archive.places import Archive
from perun_hpc.slurm.sacct import SlurmJob
from tests.accounting_data import NS, boundary, domain, put_incoming, slurm_job

MONTH = "2025-11"
BEGIN = int(datetime(2025, 11, 1, tzinfo=UTC).timestamp())
DAYS = 30
END = BEGIN + DAYS * 86_400
SEALED_S = END + 5 * 86_400.0
CLUSTER = "site"
COUNTER_U, METER_U = 0.02, 0.01
SUSPEND_S = 120
DOMAINS = ("package-0", "dram-0")
ACCOUNTS = ("physics", "chemistry", "biology", "climate", "Engineering")
BESIDE_W = {"fabric": 18_000.0, "storage": 26_000.0, "login": 1_500.0}


@dataclass
class Curve:
    """A power that changes at moments: energy between two times, exactly."""

    at_s: list[float] = field(default_factory=list)
    watts: list[float] = field(default_factory=list)
    sums_j: list[float] = field(default_factory=list)

    def add(self, at_s: float, watts: float) -> None:
        """From now on so much."""
        before_j = self.sums_j[-1] + self.watts[-1] * (at_s - self.at_s[-1]) if self.at_s else 0.0
        self.at_s.append(at_s)
        self.watts.append(watts)
        self.sums_j.append(before_j)

    def until_j(self, at_s: float) -> float:
        """All energy up to a time."""
        index = bisect_right(self.at_s, at_s) - 1
        return self.sums_j[index] + self.watts[index] * (at_s - self.at_s[index]) if index >= 0 else 0.0

    def between_j(self, begin_s: float, end_s: float) -> float:
        """The energy between two times."""
        return self.until_j(end_s) - self.until_j(begin_s)


@dataclass(frozen=True)
class Job:
    """One job of a group of nodes."""

    job_id: int
    account: str
    nodes: tuple[str, ...]
    start_s: int
    end_s: int


@dataclass
class Node:
    """A node's month: what it was when, and its true powers at the wall and at its two counters."""

    name: str
    kind: str
    on: list[tuple[int, int]] = field(default_factory=list)
    off: list[tuple[int, int]] = field(default_factory=list)
    boots: list[tuple[int, int]] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    lost_s: int = END
    wall: Curve = field(default_factory=Curve)
    counters: tuple[Curve, Curve] = field(default_factory=lambda: (Curve(), Curve()))

    @property
    def seen(self) -> list[tuple[int, int]]:
        """When an agent watched it and could say so."""
        return [(begin, min(end, self.lost_s)) for begin, end in self.on if begin < self.lost_s]


@dataclass
class Site:
    """The site: its archive and ledger, what Slurm and the policy say, and what was really drawn (J, by edge)."""

    root: Path
    archive: Archive
    nodes: list[Node]
    jobs: list[Job]
    late: tuple[str, ...]
    meters: list[dict[str, Any]]
    events: str
    truth_j: dict[tuple[str, str], float]
    collector: Collector

    @property
    def ledger(self) -> str:
        """The ledger's URL."""
        return f"sqlite:///{self.root / 'ledger.db'}"

    def deliver_late(self) -> None:
        """What was on the way arrives, and is collected."""
        for name in self.late:
            for path in (self.root / "late" / name).glob("*.jsonl"):
                target = self.archive.base / "nodes" / name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
            for path in (self.root / "late" / name).glob("*.json"):
                put_incoming(self.archive.root, json.loads(path.read_text()))
        self.collector.sweep()


def make_site(root: Path, count: int, seed: int) -> Site:
    """Simulate a month of `count` nodes."""
    dice = random.Random(seed)
    nodes, jobs = _plan(count, dice)
    counter_gain = 1 + dice.uniform(-1.5, 1.5) * COUNTER_U
    late = tuple(one.name for one in nodes if one.kind == "late")
    archive = Archive(root / "archive", CLUSTER)
    archive.base.mkdir(parents=True)
    for node in nodes:
        target = root / "late" / node.name if node.name in late else archive.base / "nodes" / node.name
        target.mkdir(parents=True)
        for data in _written(node, target, counter_gain, dice):
            if node.name in late:
                (target / f"{data['job_id']}.json").write_text(json.dumps(data))
            else:
                put_incoming(archive.root, data)
    truth, meters = _metered(archive, nodes, dice)
    ledger = open_ledger(f"sqlite:///{root / 'ledger.db'}", create=True)
    known = {str(job.job_id): job for job in jobs}

    def asked(ids: Iterable[object]) -> list[SlurmJob]:
        return [_slurm(known[str(one)]) for one in ids if str(one) in known]

    tools = Tools(lambda: SEALED_S, Slurm(asked, lambda since_s, until_s: []))
    collector = Collector(archive, ledger, tools, 900)
    collector.sweep()
    return Site(root, archive, nodes, jobs, late, meters, _events(nodes), truth, collector)


def _plan(count: int, dice: random.Random) -> tuple[list[Node], list[Job]]:
    """Return the nodes with their times and powers; two of three run alone, the others in pairs."""
    nodes: list[Node] = []
    jobs: list[Job] = []
    while len(nodes) < count:
        part = len(nodes) / count
        kind = "steady" if part < 0.4 else "nightly" if part < 0.7 else "cloud"
        together = 2 if dice.random() < 0.3 and len(nodes) + 2 <= count else 1
        group = [Node(f"n{len(nodes) + number + 1:03d}", kind) for number in range(together)]
        _live(group, jobs, dice)
        nodes += group
    steady = [one for one in nodes if one.kind == "steady"]
    for number, node in enumerate(dice.sample(steady, max(2, count // 25))):
        if number % 2:
            node.kind = "late"
        else:
            node.lost_s = BEGIN + dice.randrange(DAYS * 86_400 // 2, DAYS * 86_400 - 86_400)
            node.jobs = [job for job in node.jobs if job.end_s < node.lost_s]
    for node in nodes:
        _draw(node, dice)
    held = {job.job_id for node in nodes for job in node.jobs}
    return nodes, [job for job in jobs if job.job_id in held]


def _live(group: list[Node], jobs: list[Job], dice: random.Random) -> None:
    first, at_s = group[0], BEGIN
    while at_s < END:
        if first.kind == "steady":
            until_s = END
        elif first.kind == "nightly":
            until_s = min(END, at_s + dice.randrange(12, 20) * 3600)
        else:
            until_s = min(END, at_s + dice.randrange(2, 30) * 3600)
        if first.kind != "cloud" or at_s > BEGIN:
            for node in group:
                node.on.append((at_s, until_s))
            _work(group, at_s, until_s, jobs, dice)
        else:
            until_s = at_s  # a cloud node does not exist at first
        if until_s >= END:
            break
        off_s = until_s + (SUSPEND_S if until_s > BEGIN else 0)
        wake_s = off_s + dice.randrange(4, 72 if first.kind == "cloud" else 12) * 3600
        up_s = wake_s + dice.randrange(60, 400)
        for node in group:
            node.off.append((off_s, min(END, wake_s)))
            if up_s < END:
                node.boots.append((wake_s, up_s))
        at_s = up_s


def _work(group: list[Node], begin_s: int, end_s: int, jobs: list[Job], dice: random.Random) -> None:
    at_s = begin_s + dice.randrange(10, 7200)
    while (until_s := at_s + dice.randrange(600, 43_200)) < end_s - 60:
        job = Job(1000 + len(jobs), dice.choice(ACCOUNTS), tuple(one.name for one in group), at_s, until_s)
        jobs.append(job)
        for node in group:
            node.jobs.append(job)
        at_s = until_s + dice.randrange(1, 14_400)


def _draw(node: Node, dice: random.Random) -> None:
    """Lay out the true powers: at the wall 40 W, and 1.1 and 1.2 times what the two counters see, while it is on."""
    moments: list[tuple[int, float, float, float]] = []
    idle = dice.uniform(50, 70), dice.uniform(10, 16)
    for begin, end in node.on:
        moments.append((begin, *idle, 0.0))
        moments.append((end, *idle, 0.0))  # it goes down, and nobody watches
        for job in node.jobs:
            if begin <= job.start_s < end:
                moments.append((job.start_s, dice.uniform(120, 300), dice.uniform(15, 40), 0.0))
                moments.append((job.end_s, *idle, 0.0))
    moments += [(begin, 0.0, 0.0, dice.uniform(2, 9)) for begin, _ in node.off]
    moments += [(begin, 0.0, 0.0, dice.uniform(120, 200)) for begin, _ in node.boots]
    for at_s, cpu_w, dram_w, alone_w in sorted(moments):
        node.counters[0].add(at_s, cpu_w)
        node.counters[1].add(at_s, dram_w)
        node.wall.add(at_s, alone_w or 40 + 1.1 * cpu_w + 1.2 * dram_w)


def _written(node: Node, target: Path, gain: float, dice: random.Random) -> Iterator[dict[str, Any]]:
    """Write the node's ledgers, and yield its jobs' boundary records."""
    lines: dict[str, list[str]] = {}
    for begin, end in node.seen:
        boot_s = begin - dice.randrange(10, 5_000_000) - dice.random()  # each machine has a clock of its own
        mine = [job for job in node.jobs if begin <= job.start_s and job.end_s <= end]
        cuts = sorted({begin, end, *range(begin - begin % 3600 + 3600, end, 3600),
                       *(at for job in mine for at in (job.start_s, job.end_s))})  # fmt: skip
        ticks = {name: {begin: dice.randrange(1 << 30)} for name in DOMAINS}
        parts: dict[tuple[int, str, str], int] = {}
        for at, until in zip(cuts, cuts[1:], strict=False):
            job = next((one for one in mine if one.start_s <= at < one.end_s), None)
            day = datetime.fromtimestamp(at, UTC).date().isoformat()
            for name, curve in zip(DOMAINS, node.counters, strict=True):
                total = round(curve.between_j(at, until) * 1e6 * gain)
                ticks[name][until] = ticks[name][at] + total
                system = min(total, 1_000_000 * (until - at)) if name == "package-0" else 0
                owner = f"job:{job.job_id}.0" if job else "idle"
                shares = {owner: total - system, "system": system}
                if job:
                    key = job.job_id, day, name
                    parts[key] = parts.get(key, 0) + total - system
                line = {"t0_ns": _mono(at, boot_s), "t1_ns": _mono(until, boot_s), "domain": name}
                made = {**line, "total_uj": total, "shares": shares, "method": "cores"}
                lines.setdefault(day, []).append(json.dumps(made, separators=(",", ":")) + "\n")
        for job in mine:
            yield _record(node, job, {key[1:]: uj for key, uj in parts.items() if key[0] == job.job_id}, ticks, boot_s)
    for day, written in lines.items():
        (target / f"{day}.jsonl").write_text("".join(written))


def _mono(at_s: float, boot_s: float) -> int:
    return round((at_s - boot_s) * NS)


def _record(
    node: Node, job: Job, parts: dict[tuple[str, str], int], ticks: dict[str, dict[int, int]], boot_s: float
) -> dict[str, Any]:
    sums = {name: sum(uj for (_, at), uj in parts.items() if at == name) for name in DOMAINS}
    sensors = [
        {"id": name, "domain": name, "kind": "counter", "quantity": "energy", "scale_num": 1, "scale_den": 1,
         "wrap_range": None, "gain_error": COUNTER_U} for name in DOMAINS
    ]  # fmt: skip
    whole = {name: ticks[name][job.end_s] - ticks[name][job.start_s] for name in DOMAINS}
    made = boundary(
        job.job_id,
        node.name,
        ",".join(job.nodes),
        domains={
            name: domain(
                name.partition("-")[0].replace("package", "cpu"), uj, node_uj=whole[name],
                u_uj=round(COUNTER_U * uj) + 1, doubts={"gain simulated": round(COUNTER_U * uj) + 1},
                covered_ns=(job.end_s - job.start_s) * NS, provenance="simulated",
            ) for name, uj in sums.items()
        },
        shares=[{"day": day, "domain": name, "energy_uj": uj} for (day, name), uj in sorted(parts.items())],
        start_s=job.start_s,
        seconds=job.end_s - job.start_s,
        account=job.account,
        sensors=sensors,
        edges={name: {"start": {"ticks": ticks[name][job.start_s], "mono_ns": 0},
                      "end": {"ticks": ticks[name][job.end_s], "mono_ns": 0}} for name in DOMAINS},
        cluster=CLUSTER,
        num_nodes=len(job.nodes),
        boot_id=str(boot_s),
        machine_id=f"{round(boot_s) if node.kind == 'cloud' else node.name}",
        simulated=True,
    )  # fmt: skip
    made["start"]["mono_ns"], made["end"]["mono_ns"] = _mono(job.start_s, boot_s), _mono(job.end_s, boot_s)
    return made


def _events(nodes: Iterable[Node]) -> str:
    """What `sacctmgr show event` says: a line for each time that a node was powered down, or did not answer."""
    lines = []
    for node in nodes:
        lines += [f"{node.name}|{begin}|{end if end < END else 'Unknown'}|IDLE~" for begin, end in node.off]
        lines += [f"{node.name}|{node.lost_s}|Unknown|DOWN*"] if node.lost_s < END else []
    return "\n".join(lines) + "\n"


def _metered(
    archive: Archive, nodes: list[Node], dice: random.Random
) -> tuple[dict[tuple[str, str], float], list[dict[str, Any]]]:
    """Write the meters' readings; returns what was really drawn, by edge, and the policy's lines.

    Two of five nodes have a meter of their own, one of five is behind one with others, the rest has none.
    """
    own, shared = nodes[::5] + nodes[1::5], nodes[2::5]
    meters: list[dict[str, Any]] = []

    def meter(name: str, feeds: str, curves: list[Curve], watts: float = 0.0, **more: Any) -> None:
        gain = 1 + dice.uniform(-1.5, 1.5) * METER_U
        path = archive.facility(name)
        path.parent.mkdir(exist_ok=True)
        rows = ["time,kwh"]
        for at_s in range(BEGIN - 600, END + 1200, 600):
            joules = sum(one.until_j(at_s) for one in curves) + watts * (at_s - BEGIN + 600)
            rows.append(f"{at_s},{5 + gain * joules / 3.6e6:.9f}")
        path.write_text("\n".join(rows) + "\n")
        meters.append({"meter": name, "feeds": feeds, "u": METER_U, **more})

    for node in own:
        meter(f"{node.name}-power", "nodes", [node.wall], nodes=node.name)
    meter("rack", "nodes", [one.wall for one in shared], nodes=",".join(one.name for one in shared))
    for name, watts in BESIDE_W.items():
        meter(name, name, [], watts)
    cooling_w = 9_000.0
    meter("hall", "facility", [one.wall for one in nodes], sum(BESIDE_W.values()) + cooling_w)
    return _truth(nodes, own, shared, cooling_w), meters


def _truth(nodes: list[Node], own: list[Node], shared: list[Node], cooling_w: float) -> dict[tuple[str, str], float]:
    """What was really drawn, by edge: what nobody could see is where the balance says that it is."""
    found: dict[tuple[str, str], float] = {}

    def note(source: str, target: str, joules: float) -> None:
        found[source, target] = found.get((source, target), 0.0) + joules

    span = BEGIN, END
    own_names, fed = {one.name for one in own}, {one.name for one in (*own, *shared)}
    for node in nodes:
        wall_j = node.wall.between_j(*span)
        heard = [] if node.kind == "late" else node.seen
        counted_j = sum(curve.between_j(*one) for curve in node.counters for one in heard)
        jobs_j = sum(
            curve.between_j(job.start_s, job.end_s) for curve in node.counters for job in node.jobs if heard
        )  # fmt: skip
        busy_s = sum(job.end_s - job.start_s for job in node.jobs if heard)
        seen_s = sum(end - begin for begin, end in heard)
        note("nodes", "system", float(seen_s))
        note("nodes", "jobs", jobs_j - busy_s)
        note("nodes", "idle", counted_j - jobs_j - (seen_s - busy_s))
        off_j, boot_j = (sum(node.wall.between_j(*one) for one in spans) for spans in (node.off, node.boots))
        hole_j = wall_j - off_j - boot_j - sum(node.wall.between_j(*one) for one in heard)
        if node.name in own_names:
            note("nodes", "off", off_j)
            note("nodes", "boot", boot_j)
            note("nodes", "unobserved", hole_j)
            counted_j += off_j + boot_j + hole_j
        if node.name in fed:
            note("nodes", "unseen", wall_j - counted_j)
        note("facility", "nodes", wall_j if node.name in fed else counted_j)
        note("", "facility", wall_j)
    seconds = float(END - BEGIN)
    for name, watts in BESIDE_W.items():
        note("facility", name, watts * seconds)
        note("", "facility", watts * seconds)
    note("", "facility", cooling_w * seconds)
    note("facility", "losses", found["", "facility"] - sum(j for (at, _), j in found.items() if at == "facility"))
    return found


def _slurm(job: Job) -> SlurmJob:
    return slurm_job(
        job.job_id, cluster=CLUSTER, account=job.account.lower(), submit_s=job.start_s - 5, start_s=job.start_s,
        end_s=job.end_s, nodelist=",".join(job.nodes), num_nodes=len(job.nodes), cpus=4 * len(job.nodes),
    )  # fmt: skip
