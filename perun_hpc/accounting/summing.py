"""From boundary records to the energy record: sums, never a second opinion about joules.

Pure functions. Whatever the order in which nodes report, the same set of boundary records makes the same record.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from perun_hpc.data_model import activity
from perun_hpc.data_model.boundary import MAX_CAUSE, MAX_NOTE, MAX_NOTES, Boundary, Domain
from perun_hpc.data_model.record import (
    SCHEMA,
    Component,
    Condition,
    Device,
    Doubt,
    EnergyRecord,
    NodeEnergy,
    Rank,
    Region,
    Share,
    Step,
    worst_provenance,
)
from perun_hpc.data_model.step_id import name_of, order_of
from perun_hpc.data_model.wording import count
from perun_hpc.energy.region_energy import worst_method
from perun_hpc.energy.uncertainty import Doubts, added, combined_uj
from perun_hpc.slurm.hostlist import expand
from perun_hpc.slurm.sacct import SlurmJob
from perun_hpc.slurm.states import WASTED_STATES
from perun_hpc.store.layout import SHORT

METER = "node"
"""The component of a node's meter: it contains the others and is shown, never added to them."""
PEAK_NS = 1_000_000_000
"""A power is a mean over at least this time, as the agent has it."""
ROUNDED_S = 2
"""Slurm's start and end are whole seconds: differences up to this are none."""


DISPUTED = "the job's nodes name different owners (user ids), so it has none until Slurm names one"


def sum_boundaries(boundaries: Iterable[Boundary], problems: Sequence[str] = ()) -> EnergyRecord:
    """Sum the boundary records of one job run into a record (revision 1, no Slurm metadata).

    Parameters
    ----------
    boundaries
        At least one; two of the same node: the higher rank counts.
    problems
        Sentences about evidence that could not be read; they go into `missing`.
    """
    parts = _one_per_node(boundaries)
    # One that began without its job's start may know its own node alone; of those alike it is the first node's.
    first = max(parts, key=lambda b: (b.num_nodes, len(b.expected)))
    raw = first.raw
    absent = _absent_nodes(parts)
    used = [(b, d) for b in parts for d in _leaves(b)]
    known = [(b, d) for b, d in used if d.energy_uj is not None]
    energy_uj = sum(d.energy_uj or 0 for _, d in known) if known else None
    components = _components(parts)
    start_ns, end_ns = min(b.start_ns for b in parts), max(b.end_ns for b in parts)
    steps = _steps(parts)
    missing = [*problems, *_holes(parts, absent, first.num_nodes)]
    expected = max(first.num_nodes, len(parts))
    gpus = [(b, d) for b in parts for d in b.domains if d.component == "gpu" and _is_held(d)]
    idle_known = [d.idle_ns for _, d in gpus if d.idle_ns is not None]
    held_ns = sum(b.end_ns - b.start_ns for b, _ in gpus)
    wall_ns = max(end_ns - start_ns, 1)
    suspended_ns = max((_usage(b, "suspended_ns") or 0 for b in parts), default=0)
    owners = {uid for b in parts if (uid := _integer(b.raw.get("uid"))) is not None}
    agreed = len(owners) <= 1  # whose it is decides who may read it: one node of many is not trusted
    return EnergyRecord(
        schema=SCHEMA,
        revision=1,
        cluster=first.cluster,
        job_id=first.job_id,
        restart_count=first.restart_count,
        submit_s=None,
        status="partial" if missing or energy_uj is None else "complete",
        provenance=worst_provenance([_provenance(b, d) for b, d in known]) if known else "missing",
        energy_uj=energy_uj,
        u_uj=combined_uj(added(d.doubts for _, d in known)),
        start_ns=start_ns,
        end_ns=end_ns,
        inputs=inputs_digest(parts, problems),
        sluid=raw.get("sluid"),
        het_job_id=_integer(raw.get("het_job_id")) or None,
        het_offset=_integer(raw.get("het_offset")) if _integer(raw.get("het_job_id")) else None,
        uid=_integer(raw.get("uid")) if agreed else None,
        gid=_integer(raw.get("gid")) if agreed else None,
        user=str(raw.get("user") or "") if agreed else "",
        account=str(raw.get("account") or ""),
        partition=str(raw.get("partition") or ""),
        nodelist=first.nodelist,
        num_nodes=expected,
        cpus=sum(_integer(b.raw.get("cpus_on_node")) or 0 for b in parts),
        gpus=len(gpus),
        cpu_ns=_sum_known(_usage(b, "cpu_ns") for b in parts) or None,  # 0: nobody looked while it ran
        suspended_s=suspended_ns // 1_000_000_000,  # until Slurm says it
        mem_peak_b=max((m for b in parts if (m := _usage(b, "mem_peak_b"))), default=None),
        coverage=_coverage(used) * len(parts) / expected,
        static_uj=sum(d.static_uj for _, d in known),
        dynamic_uj=sum(d.dynamic_uj for _, d in known),
        idle_uj=sum(d.idle_uj for _, d in known),
        suspended_uj=sum(d.suspended_uj for _, d in known),
        modelled_uj=sum(d.modelled_uj for _, d in known),
        estimated_uj=sum(d.energy_uj or 0 for b, d in known if _provenance(b, d) == "estimated"),
        power_mean_mw=None if energy_uj is None else energy_uj * 1_000_000 // wall_ns,
        power_peak_mw=highest_of_all(_peak_mw(b) for b in parts if _energy_uj(b) is not None),
        gpu_held_s=held_ns // 1_000_000_000,
        gpu_idle_s=sum(idle_known) // 1_000_000_000 if gpus and len(idle_known) == len(gpus) else None,
        missing=(*missing, *_trace_holes(parts)),
        missing_nodes=tuple(absent),
        components=components,
        nodes=tuple(_node(b) for b in parts),
        devices=tuple(
            Device(
                b.node,
                d.name,
                d.energy_uj,
                b.end_ns - b.start_ns,
                d.idle_ns,
                d.busy_ns,
                d.watched_ns,
                d.mem_peak_b,
                d.clock_khz,
                d.limit_mw,
                d.braked_ns,
                d.capped_ns,
                d.slowed_ns,
            )
            for b, d in gpus
        ),
        steps=steps,
        ranks=_ranks(parts),
        regions=_regions(parts),
        shares=tuple(share for b in parts for share in counted_shares(b)),
        policy_hash=str(raw.get("policy_hash") or ""),
        perun_version=str(raw.get("perun_version") or ""),
        trace_bytes=sum(_integer((b.raw.get("trace") or {}).get("bytes")) or 0 for b in parts),
        simulated=any(b.simulated for b in parts),
        notes=_notes(parts) if agreed else (*_notes(parts), f"{DISPUTED}: {', '.join(map(str, sorted(owners)))}"),
        agent_cpu_ns=_sum_known(_agent(b, "cpu_ns") for b in parts),
        agent_rss_b=max((held for b in parts if (held := _agent(b, "rss_b"))), default=None),
        conditions=joined_conditions(
            (str(name)[:MAX_CAUSE], str(value)[:MAX_NOTE])
            for b in parts
            for name, value in list((b.raw.get("conditions") or {}).items())[:MAX_NOTES]
        ),
    )


def counted_shares(b: Boundary) -> list[Share]:
    """Return a boundary record's shares of the domains that are added up, in order."""
    counted = {d.name for d in _leaves(b)}
    return [Share(b.node, domain, day, uj) for domain, day, uj in sorted(b.shares) if domain in counted]


def missing_record(job: SlurmJob, cluster: str, reason: str) -> EnergyRecord:
    """Return the record of a run that Slurm knows and no node reported: an energy of None, never 0."""
    start_ns = (job.start_s or 0) * 1_000_000_000
    record = EnergyRecord(
        schema=SCHEMA,
        revision=1,
        cluster=cluster,
        job_id=job.job_id,
        restart_count=job.run,
        submit_s=job.submit_s,
        status="missing",
        provenance="missing",
        energy_uj=None,
        u_uj=0,
        start_ns=start_ns,
        end_ns=(job.end_s or job.start_s or 0) * 1_000_000_000,
        inputs="",
        nodelist=job.nodelist,
        num_nodes=job.num_nodes,
        cpus=job.cpus,
        gpus=job.gpus,
        missing=(reason,),
        missing_nodes=_named(job.nodelist),
    )
    return add_slurm(record, job)


def _named(nodelist: str) -> tuple[str, ...]:
    try:
        return expand(nodelist)
    except ValueError:
        return ()  # Slurm's list stands in the record as it is


def add_slurm(record: EnergyRecord, job: SlurmJob) -> EnergyRecord:
    """Return the record with what Slurm's accounting knows: submit time, names, QOS, state, array and het ids."""
    array_job_id, array_task_id = job.array
    het_job_id, het_offset = job.het
    if het_job_id is None:
        het_job_id, het_offset = record.het_job_id, record.het_offset
    held_s = record.gpu_held_s or job.gpus * round(record.elapsed_s)
    return replace(
        record,
        submit_s=job.submit_s if job.submit_s is not None else record.submit_s,
        sluid=record.sluid or next(iter(job.sluids), None),
        array_job_id=array_job_id,
        array_task_id=array_task_id,
        het_job_id=het_job_id,
        het_offset=het_offset,
        name=job.name,
        uid=job.uid if job.uid is not None else record.uid,
        gid=job.gid if job.gid is not None else record.gid,
        user=job.user or record.user,
        account=job.account or record.account,
        partition=job.partition or record.partition,
        qos=job.qos,
        nodelist=job.nodelist or record.nodelist,
        num_nodes=max(record.num_nodes, job.num_nodes),
        cpus=job.cpus or record.cpus,
        gpus=job.gpus or record.gpus,
        gpu_held_s=held_s,
        state=job.state,
        coverage=_coverage_by_slurm(record, job),
        exit_code=job.exit_code,
        exit_signal=job.exit_signal,
        suspended_s=job.suspended_s,
        time_limit_s=job.time_limit_s,
        mem_asked_b=job.mem_b,
        cpu_ns=record.cpu_ns if record.cpu_ns is not None else job.cpu_ns,
        wasted_uj=(record.energy_uj or 0) if job.state in WASTED_STATES else 0,
    )


def carry_slurm(source: EnergyRecord, record: EnergyRecord) -> EnergyRecord:
    """Return `record` with the Slurm metadata of `source`."""
    names = (
        "submit_s", "array_job_id", "array_task_id", "het_job_id", "het_offset", "name", "uid", "gid", "user",
        "account", "partition", "qos", "nodelist", "num_nodes", "cpus", "gpus", "gpu_held_s", "state", "exit_code",
        "exit_signal", "suspended_s", "time_limit_s", "mem_asked_b",
    )  # fmt: skip
    wasted_uj = (record.energy_uj or 0) if source.state in WASTED_STATES else 0
    return replace(record, wasted_uj=wasted_uj, **{name: getattr(source, name) for name in names})


def inputs_digest(boundaries: Iterable[Boundary], problems: Sequence[str] = ()) -> str:
    """Return what identifies a set of boundary records, whatever their order."""
    parts = sorted(f"{b.node}:{b.digest}" for b in _one_per_node(boundaries)) + sorted(problems)
    return sha256("\n".join(parts).encode()).hexdigest()[:32]


def highest_of_all(values: Iterable[int | None]) -> int | None:
    """Return the sum of the nodes' highest powers; None where one of them is not known, or of no node."""
    known = list(values)
    return sum(v for v in known if v is not None) if known and None not in known else None


def _one_per_node(boundaries: Iterable[Boundary]) -> list[Boundary]:
    newest: dict[str, Boundary] = {}
    for b in boundaries:
        known = newest.get(b.node)
        if known is None or b.rank > known.rank:
            newest[b.node] = b
    return [newest[node] for node in sorted(newest)]


def _absent_nodes(parts: Sequence[Boundary]) -> list[str]:
    """Nodes that any of the records names as the job's, and that left none: not every record names all."""
    here = {b.node for b in parts}
    lists = {b.nodelist: b.expected for b in parts}  # nearly always one, which may be long
    return list(dict.fromkeys(node for expected in lists.values() for node in expected if node not in here))


def _leaves(b: Boundary) -> list[Domain]:
    """Return the domains that are added up: without the meter, unless the meter is all that the node has."""
    leaves = [d for d in b.domains if d.component != METER]
    return leaves if any(d.energy_uj is not None for d in leaves) else list(b.domains)


def _is_held(d: Domain) -> bool:
    """Whether a job held a GPU of its node: one of others' or nobody's gave it nothing, and nobody watched its use."""
    return d.energy_uj != 0 or d.idle_ns is not None or d.watched_ns > 0


def _provenance(b: Boundary, d: Domain) -> str:
    return "simulated" if b.simulated else d.provenance


def _components(parts: Sequence[Boundary]) -> tuple[Component, ...]:
    found: dict[str, list[tuple[Boundary, Domain]]] = {}
    for b in parts:
        for d in b.domains:
            if d.energy_uj is not None and (d.component != "gpu" or _is_held(d)):
                found.setdefault(d.component, []).append((b, d))
    order = ("cpu", "dram", "gpu", "other", METER)
    names = sorted(found, key=lambda c: (order.index(c) if c in order else len(order), c))
    doubts = {name: added(d.doubts for _, d in found[name]) for name in names}
    return tuple(
        Component(
            component=name,
            energy_uj=sum(d.energy_uj or 0 for _, d in found[name]),
            u_uj=combined_uj(doubts[name]),
            doubts=named(doubts[name]),
            static_uj=sum(d.static_uj for _, d in found[name]),
            dynamic_uj=sum(d.dynamic_uj for _, d in found[name]),
            idle_uj=sum(d.idle_uj for _, d in found[name]),
            suspended_uj=sum(d.suspended_uj for _, d in found[name]),
            modelled_uj=sum(d.modelled_uj for _, d in found[name]),
            covered_ns=sum(d.covered_ns for _, d in found[name]),
            gap_ns=sum(d.gap_ns for _, d in found[name]),
            domains=len(found[name]),
            provenance=worst_provenance([_provenance(b, d) for b, d in found[name]]),
            methods=tuple(sorted({d.method for _, d in found[name]})),
        )
        for name in names
    )


def named(doubts: Doubts) -> tuple[Doubt, ...]:
    """Return doubts as a record holds them, causes in order."""
    return tuple(Doubt(cause, uj) for cause, uj in sorted(doubts.items()) if uj)


def doubts_of(component: Component) -> Doubts:
    """Return what a component may be wrong by; of a record of before its errors are taken for one cause."""
    return {one.cause: one.uj for one in component.doubts} or {component.component: component.u_uj}


def u_of(components: Sequence[Component]) -> int:
    """Return the standard uncertainty (k=1) of a record's energy: of the components that are added up."""
    return combined_uj(added(doubts_of(c) for c in components if c.component != METER or len(components) == 1))


def _coverage(used: Sequence[tuple[Boundary, Domain]]) -> float:
    """Return the part of the time between the hooks that was counted: a late first reading leaves a hole before it,
    and what lies between the job's end and a late last one is not the job's time."""
    covered_ns = total_ns = 0
    for b, d in used:
        inside_ns = max(d.covered_ns - b.end_late_ns, 0)
        total_ns += inside_ns + d.gap_ns + max(b.late_ns, 0)
        covered_ns += inside_ns if d.energy_uj is not None else 0
    return covered_ns / total_ns if total_ns else 0.0


def _coverage_by_slurm(record: EnergyRecord, job: SlurmJob) -> float:
    """Return the coverage where Slurm knows that the job was longer than the nodes reported (an agent was lost)."""
    wall_s = 0 if job.start_s is None or job.end_s is None else job.end_s - job.start_s
    if not record.nodes or wall_s - record.elapsed_s <= ROUNDED_S:
        return record.coverage
    told_s = sum(n.coverage * (n.end_ns - n.start_ns) / 1e9 for n in record.nodes)
    return min(record.coverage, told_s / (wall_s * max(record.num_nodes, job.num_nodes)))


def _holes(parts: Sequence[Boundary], absent: Sequence[str], num_nodes: int) -> list[str]:
    """Return one sentence per thing that is not in the sum."""
    holes = [f"{node}: no boundary record" for node in absent]
    unnamed = num_nodes - len(parts) - len(absent)
    if unnamed > 0:
        holes.append(f"{unnamed} of {count(num_nodes, 'node')}: no boundary record")
    for b in parts:
        if b.state != "closed":
            holes.append(f"{b.node}: {b.why or 'closed without an end reading'}")
        dead = [d.name for d in b.domains if d.energy_uj is None]
        if dead:
            holes.append(f"{b.node}: not measured: {', '.join(dead)}")
        if not b.domains:
            holes.append(f"{b.node}: no energy sensor")
    return holes


def _trace_holes(parts: Sequence[Boundary]) -> Iterator[str]:
    """Yield a sentence per trace that lost something; it is no evidence: the record is not partial for it."""
    for b in parts:
        trace = b.raw.get("trace") or {}
        if trace.get("stored") and trace.get("state") == "partial":
            yield f"{b.node}: its trace is partial: {trace.get('why')}"
        elif not trace.get("stored") and trace.get("why") not in (None, SHORT):
            yield f"{b.node}: no trace: {trace['why']}"


def _node(b: Boundary) -> NodeEnergy:
    leaves = _leaves(b)
    known = [d for d in leaves if d.energy_uj is not None]
    counted = [d.node_uj for d in known if d.node_uj is not None]
    return NodeEnergy(
        node=b.node,
        state=b.state,
        why=b.why,
        energy_uj=_energy_uj(b),
        u_uj=combined_uj(added(d.doubts for d in known)),
        node_uj=sum(counted) if counted else None,
        start_ns=b.start_ns,
        end_ns=b.end_ns,
        late_ns=b.late_ns,
        coverage=_coverage([(b, d) for d in leaves]),
        cpu_ns=_usage(b, "cpu_ns") or None,  # as of the job
        cpus=_integer(b.raw.get("cpus_on_node")) or 0,
        mem_peak_b=_usage(b, "mem_peak_b") or None,  # 0: the cgroup gave nothing
        peak_mw=_peak_mw(b),
        revision=b.rank[0],
        digest=b.rank[1],
        node_cpus=_integer(b.raw.get("node_cpus")) or 0,
    )


def _energy_uj(b: Boundary) -> int | None:
    return _sum_known(d.energy_uj for d in _leaves(b))


def _peak_mw(b: Boundary) -> int | None:
    """Return the highest mean power between two readings at least a second apart; the job's first and last are two.

    The agent reports that of its intervals: of energy that came in shorter ones, or across a gap, only the whole knows.
    """
    peak_mw, energy_uj, span_ns = _usage(b, "peak_mw"), _energy_uj(b), b.end_ns - b.start_ns
    if peak_mw is None or energy_uj is None or span_ns < PEAK_NS:
        return peak_mw
    return max(peak_mw, -(-energy_uj * 1_000_000 // span_ns))


def _steps(parts: Sequence[Boundary]) -> tuple[Step, ...]:
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {}
    for b in parts:
        for step in b.raw.get("steps") or ():
            found.setdefault(_step_name(step), []).append((b.node, step))
    return tuple(_step(name, found[name]) for name in sorted(found, key=order_of))


def _step(name: str, parts: Sequence[tuple[str, dict[str, Any]]]) -> Step:
    steps = [step for _, step in parts]
    nodes = max(len(steps), *(_integer(s.get("nodes")) or 0 for s in steps))
    reasons: dict[str, list[str]] = {}
    for node, s in parts:
        if s.get("energy_uj") in (None, ""):
            reasons.setdefault(s.get("why") or "", []).append(node)
    lacking = [
        why if len(at) == len(parts) else f"{', '.join(at)}: {why or 'not known'}"
        for why, at in reasons.items()
        if why or len(at) < len(parts)
    ]
    if len(steps) < nodes:
        lacking.append(f"{count(nodes - len(steps), 'node')} did not report it")
    return Step(
        step_id=name,
        tasks=max(_integer(s.get("tasks")) or 0 for s in steps),
        nodes=nodes,
        start_ns=min((t for s in steps if (t := _integer(s.get("start_ns")))), default=0),
        end_ns=max((t for s in steps if (t := _integer(s.get("end_ns")))), default=0),
        energy_uj=_sum_known(_integer(s.get("energy_uj")) for s in steps),
        u_uj=sum(_integer(s.get("u_uj")) or 0 for s in steps),
        cpu_ns=_sum_known(_integer(s.get("cpu_ns")) for s in steps) or None,  # as of the job
        steps=max(_integer(s.get("steps")) or 1 for s in steps),
        why="; ".join(lacking)[:MAX_NOTE],
    )


def _step_name(row: Mapping[str, Any]) -> str:
    return name_of(_integer(row["step_id"]) or 0)


def _ranks(parts: Sequence[Boundary]) -> tuple[Rank, ...]:
    ranks = [
        Rank(
            step_id=_step_name(step),
            rank=_integer(r.get("rank")) or 0,
            node=b.node,
            start_ns=_integer(r.get("start_ns")) or 0,
            end_ns=_integer(r.get("end_ns")) or 0,
            energy_uj=_integer(r.get("energy_uj")),
            u_uj=_integer(r.get("u_uj")) or 0,
        )
        for b in parts
        for step in b.raw.get("steps") or ()
        for r in step.get("ranks") or ()
    ]
    return tuple(sorted(ranks, key=lambda r: (order_of(r.step_id), r.rank)))


def _regions(parts: Sequence[Boundary]) -> tuple[Region, ...]:
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for b in parts:
        for region in b.raw.get("regions") or ():
            found.setdefault((_step_name(region), str(region["name"])), []).append(region)
    regions = [
        Region(
            step_id=step_id,
            name=name,
            calls=sum(_integer(r.get("calls")) or 0 for r in rows),
            ranks=len({r.get("rank") for r in rows}),
            time_ns=sum(_integer(r.get("time_ns")) or 0 for r in rows),
            time_min_ns=min(_integer(r.get("time_ns")) or 0 for r in rows),
            time_max_ns=max(_integer(r.get("time_ns")) or 0 for r in rows),
            energy_uj=_sum_known(_integer(r.get("energy_uj")) for r in rows),
            u_uj=sum(_integer(r.get("u_uj")) or 0 for r in rows),
            method=worst_method(str(r.get("method", "")) for r in rows),
            ran=_ran([activity.parsed(r.get("ran")) for r in rows]),
        )
        for (step_id, name), rows in found.items()
    ]
    return tuple(sorted(regions, key=lambda r: (order_of(r.step_id), -r.time_ns, r.name)))


def _ran(parts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """When a region ran; not known where a rank does not say it, as where it is not among the longest there."""
    return activity.together(parts) if all(parts) else ()


def _notes(parts: Sequence[Boundary]) -> tuple[str, ...]:
    """Return what the nodes noted beside the energies: once where all say the same, else with their names."""
    nodes: dict[str, list[str]] = {}
    for b in parts:
        for text in (*(b.raw.get("notes") or ()), *((b.raw.get("settings") or {}).get("notes") or ())):
            nodes.setdefault(str(text)[:MAX_NOTE], []).append(b.node)
    said = [text if len(at) == len(parts) else f"{', '.join(at)}: {text}" for text, at in nodes.items()]
    return tuple(said[:MAX_NOTES])


def joined_conditions(values: Iterable[tuple[str, str]]) -> tuple[Condition, ...]:
    """Return conditions as a record holds them: of each name the values that there are."""
    found: dict[str, dict[str, None]] = {}
    for name, value in values:
        found.setdefault(name, {})[value] = None
    return tuple(Condition(name, tuple(sorted(some))) for name, some in sorted(found.items()))


def _agent(b: Boundary, key: str) -> int | None:
    return _integer((b.raw.get("agent") or {}).get(key))


def _usage(b: Boundary, key: str) -> int | None:
    return _integer((b.raw.get("usage") or {}).get(key))


def _integer(value: Any) -> int | None:
    if isinstance(value, bool) or value is None or value == "":
        return None
    return int(value)


def _sum_known(values: Iterable[int | None]) -> int | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None
