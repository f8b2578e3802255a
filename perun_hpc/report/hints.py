"""What a user could do better next time, said only where the figures bear it: one sentence for each thing held."""

from __future__ import annotations

from perun_hpc.data_model.record import Device, EnergyRecord
from perun_hpc.data_model.wording import count
from perun_hpc.report import quantities as q
from perun_hpc.report.efficiency import cpu_share, gpu_share, memory_share, time_share
from perun_hpc.report.gpu_pace import slowed
from perun_hpc.report.over_time import ALONE

IDLE_DEVICE = 0.5
LOW_GPU = 0.25
SLOWED_GPU = 0.05
LOW_CPU = 0.25
LOW_MEMORY = 0.5
SPARE_B = 4 << 30
"""Less memory than this on a node is in nobody's way."""
SHORT = 0.1
UNEVEN = 1.5
STATIC = ("cpu", "dram")
"""Components that have static power of their own, as far as it is known."""
MIN_S = 60
"""A job shorter than this gets no advice: start and end dominate it."""


def hints(record: EnergyRecord) -> list[str]:
    """Return sentences, the most useful first; none for very short jobs or where nothing stands out."""
    if record.elapsed_s < MIN_S or record.energy_uj is None:
        return []
    found = [
        _idle_gpus(record),
        _little_used_gpus(record),
        _slowed_gpus(record),
        _idle_cpus(record),
        _spare_memory(record),
        _uneven_hosts(record),
        _wasted(record),
        _time_limit(record),
    ]
    return [text for text in found if text]


def static_not_known(r: EnergyRecord) -> tuple[str, ...]:
    """Return the components of which the whole energy counts as dynamic, since no static power was known."""
    return tuple(c.component for c in r.components if c.component in STATIC and c.dynamic_uj and not c.static_uj)


def _held_alone(r: EnergyRecord) -> bool:
    """Whether nobody else ran on its nodes: by `--exclusive`, by the partition, or since it has all of their CPUs."""
    methods = {method for c in r.components if c.component in STATIC for method in c.methods}
    return bool(methods) and methods <= ALONE


def _idle_part(d: Device) -> float | None:
    return d.idle_ns / d.held_ns if d.idle_ns is not None and d.held_ns > 0 else None


def _idle_gpus(r: EnergyRecord) -> str:
    idle = [part for d in r.devices if (part := _idle_part(d)) is not None and part >= IDLE_DEVICE]
    if not idle:
        return ""
    held = count(len(r.devices), "GPU")
    return f"{len(idle)} of {held} idle for {q.percent(min(idle))} of the job or more: ask for fewer, or use them"


def _little_used_gpus(r: EnergyRecord) -> str:
    """Of GPUs that were not idle: something ran on them, most of the time nothing."""
    busy = [share for d in r.devices if (_idle_part(d) or 0) < IDLE_DEVICE and (share := gpu_share(d)) is not None]
    low = [share for share in busy if share < LOW_GPU]
    if not low:
        return ""
    held = count(len(r.devices), "GPU")
    return f"{len(low)} of {held} at most {q.percent(max(low))} busy: larger batches, or more work at once, fill a GPU"


def _slowed_gpus(r: EnergyRecord) -> str:
    """Of the GPUs that heat or the hardware's own brake slowed: no user can mend that."""
    found = sorted((d for d in r.devices if slowed(d) >= SLOWED_GPU), key=lambda d: (-slowed(d), d.node, d.domain))
    if not found:
        return ""
    where = ", ".join(dict.fromkeys(d.node for d in found))
    held, most = count(len(r.devices), "GPU"), q.percent(slowed(found[0]))
    return (
        f"{len(found)} of {held} slowed by heat or the hardware, for up to {most} of the job: tell whoever runs {where}"
    )


def _idle_cpus(r: EnergyRecord) -> str:
    share = cpu_share(r)
    # One CPU on each node is the least that can be asked for; what GPUs need of CPUs their use does not show.
    if share is None or share >= LOW_CPU or r.gpus or r.cpus <= max(r.num_nodes, 1):
        return ""
    if _held_alone(r):
        # With `--exclusive`, or in a partition that gives whole nodes, fewer CPUs are the same node.
        saved = "its nodes were its alone, so fewer CPUs save only where others may use the rest (no --exclusive)"
    elif static_not_known(r):
        saved = "fewer would do"
    else:
        saved = "fewer CPUs would cost less static energy"
    return f"the {r.cpus} CPUs were {q.percent(share)} busy: {saved}"


def _spare_memory(r: EnergyRecord) -> str:
    share = memory_share(r)
    if share is None or share >= LOW_MEMORY or not r.mem_asked_b:
        return ""
    asked_b = r.mem_asked_b // r.num_nodes
    if asked_b - (r.mem_peak_b or 0) < SPARE_B or any(n.mem_peak_b is None for n in r.nodes) or r.missing_nodes:
        return ""
    on = " on a node" if r.num_nodes > 1 else ""
    used = q.size(r.mem_peak_b)
    return f"asked for {q.size(asked_b)} of memory{on}, used {used} at most: asking for less lets others run beside"


def _uneven_hosts(r: EnergyRecord) -> str:
    known = sorted((n.energy_uj, n.node, n.u_uj) for n in r.nodes if n.energy_uj)
    # Where a node's static power is not known its idle neighbours' may be in it.
    if len(known) < 2 or static_not_known(r):
        return ""
    (least_uj, least, least_u_uj), (most_uj, most, most_u_uj) = known[0], known[-1]
    # Within their bounds (k=2) they may be alike.
    if most_uj < UNEVEN * least_uj or most_uj - 2 * most_u_uj < least_uj + 2 * least_u_uj:
        return ""
    return f"{most} used {most_uj / least_uj:.1f} times as much as {least}: is the work spread evenly?"


def _wasted(r: EnergyRecord) -> str:
    if not r.wasted_uj:
        return ""
    return f"{q.energy(r.wasted_uj)} went into a run that ended as {r.state}: checkpoints save what was done"


def _time_limit(r: EnergyRecord) -> str:
    share = time_share(r)
    if share is None or r.state != "COMPLETED" or share > SHORT:
        return ""
    limit, used = q.duration(r.time_limit_s or 0), q.duration(r.elapsed_s)
    return f"asked for {limit}, used {used}: a shorter limit starts sooner"
