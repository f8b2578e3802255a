"""What a user could do better next time, said only where the figures bear it."""

from __future__ import annotations

from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.data_model.wording import count
from perun_hpc.report import quantities as q

IDLE_DEVICE = 0.5
LOW_CPU = 0.25
UNEVEN = 1.5
MIN_S = 60
"""A job shorter than this gets no advice: start and end dominate it."""


def hints(record: EnergyRecord) -> list[str]:
    """Return sentences, the most useful first; none for very short jobs or where nothing stands out."""
    if record.elapsed_s < MIN_S or record.energy_uj is None:
        return []
    found = [_idle_gpus(record), _idle_cpus(record), _uneven_hosts(record), _wasted(record), _time_limit(record)]
    return [text for text in found if text]


def _idle_gpus(r: EnergyRecord) -> str:
    watched = [(d.idle_ns or 0, d.held_ns) for d in r.devices if d.idle_ns is not None and d.held_ns > 0]
    idle = [(idle_ns / held_ns) for idle_ns, held_ns in watched if idle_ns / held_ns >= IDLE_DEVICE]
    if not idle:
        return ""
    least = q.percent(min(idle))
    held = count(len(r.devices), "GPU")
    return f"{len(idle)} of {held} idle for {least} of the job or more: ask for fewer, or use them"


def _idle_cpus(r: EnergyRecord) -> str:
    if r.cpu_ns is None or r.cpus < 2 or r.gpus:
        return ""
    used = r.cpu_ns / 1e9 / (r.cpus * r.elapsed_s)
    if used >= LOW_CPU:
        return ""
    return f"the {r.cpus} CPUs were {q.percent(used)} busy: fewer CPUs would cost less static energy"


def _uneven_hosts(r: EnergyRecord) -> str:
    known = sorted((n.energy_uj, n.node, n.u_uj) for n in r.nodes if n.energy_uj)
    if len(known) < 2:
        return ""
    (least_uj, least, least_u_uj), (most_uj, most, most_u_uj) = known[0], known[-1]
    # Within their bounds (k=2) they may be alike, as where a node's static power is not known.
    if most_uj < UNEVEN * least_uj or most_uj - 2 * most_u_uj < least_uj + 2 * least_u_uj:
        return ""
    return f"{most} used {most_uj / least_uj:.1f} times as much as {least}: is the work spread evenly?"


def _wasted(r: EnergyRecord) -> str:
    if not r.wasted_uj:
        return ""
    return f"{q.energy(r.wasted_uj)} went into a run that ended as {r.state}: checkpoints save what was done"


def _time_limit(r: EnergyRecord) -> str:
    if not r.time_limit_s or r.state != "COMPLETED" or r.elapsed_s > 0.1 * r.time_limit_s:
        return ""
    limit, used = q.duration(r.time_limit_s), q.duration(r.elapsed_s)
    return f"asked for {limit}, used {used}: a shorter limit starts sooner"
