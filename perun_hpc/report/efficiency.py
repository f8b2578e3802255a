"""How much of what a job held it used: CPUs, memory, time and GPUs, each with a share of what was asked for.

What nobody knows is said in words: a share of 0 would be advice.
"""

from __future__ import annotations

from perun_hpc.data_model.record import Device, EnergyRecord
from perun_hpc.data_model.wording import count
from perun_hpc.report import gpu_pace
from perun_hpc.report import quantities as q
from perun_hpc.report.screen import Style, wrapped

LABEL = 11
SEEN = 0.5
"""Of less than so much of a GPU's time its utilisation says nothing of the whole."""
GPUS = 8
"""So many GPUs have a line each; of more the least busy ones."""


def cpu_share(r: EnergyRecord) -> float | None:
    """Return CPU time as a share of the CPUs' time; None where one of them is not known.

    Both are of the nodes that reported: a missing node's are neither known.
    """
    held = sum(n.cpus for n in r.nodes) or r.cpus
    if r.cpu_ns is None or not held or not r.elapsed_s:
        return None
    return r.cpu_ns / 1e9 / (held * r.elapsed_s)


def memory_share(r: EnergyRecord) -> float | None:
    """Return the fullest node's highest memory as a share of what was asked for on a node; None: not known."""
    if not r.mem_peak_b or not r.mem_asked_b or not r.num_nodes:
        return None
    return r.mem_peak_b / (r.mem_asked_b / r.num_nodes)


def gpu_share(d: Device) -> float | None:
    """Return a GPU's mean utilisation; None where it was not seen for half of the time for which the job held it."""
    if d.watched_ns <= 0 or d.watched_ns < SEEN * d.held_ns:
        return None
    return min(1.0, d.busy_ns / d.watched_ns)


def time_share(r: EnergyRecord) -> float | None:
    """Return the job's time as a share of its limit; None: not known, or without a limit."""
    return r.elapsed_s / r.time_limit_s if r.time_limit_s and r.elapsed_s else None


def efficiency_lines(r: EnergyRecord, style: Style) -> list[str]:
    """Return the block; nothing for a job that has not run."""
    if not r.start_ns or not r.elapsed_s:
        return []
    rows = [_cpu(r), _memory(r), _time(r), *_gpus(r)]
    lines = [style.bold("Use")]
    for name, share, text in rows:
        percent = "" if share is None else q.percent(share)
        lines += wrapped(text, 22, f"  {style.fit(name, LABEL - 2)}{percent:>9}  ")
    return lines


def _cpu(r: EnergyRecord) -> tuple[str, float | None, str]:
    held = sum(n.cpus for n in r.nodes) or r.cpus
    share = cpu_share(r)
    text = f"of {count(held, 'CPU')}" if share is not None else "not known: nobody counted the job's CPU time"
    if r.suspended_s:
        text += f"; suspended for {q.duration(r.suspended_s)}"
    return "CPU", share, text


def _memory(r: EnergyRecord) -> tuple[str, float | None, str]:
    share = memory_share(r)
    if not r.mem_peak_b:
        return "Memory", None, "not known: nobody saw the job's memory"
    where = " on one node" if r.num_nodes > 1 else ""
    used = f"{q.size(r.mem_peak_b)} at most{where}, page cache in it"
    if share is None or not r.mem_asked_b:
        return "Memory", None, f"{used}; not known what was asked for"
    asked = f"of {q.size(r.mem_asked_b // r.num_nodes)} asked for" + (" on a node" if r.num_nodes > 1 else "")
    return "Memory", share, f"{asked}: {used}"


def _time(r: EnergyRecord) -> tuple[str, float | None, str]:
    share = time_share(r)
    if share is None:
        return "Time", None, f"{q.duration(r.elapsed_s)}; no limit is known"
    return "Time", share, f"of {q.duration(r.time_limit_s or 0)} asked for: {q.duration(r.elapsed_s)}"


def _gpus(r: EnergyRecord) -> list[tuple[str, float | None, str]]:
    if not r.devices:
        if not r.gpus:
            return []
        held = f"{r.gpu_held_s / 3600:.3g} h held; " if r.gpu_held_s else ""
        return [("GPU", None, f"{held}use not known: no node reported its GPUs")]
    shown = sorted(r.devices, key=_rank)[:GPUS] if len(r.devices) > GPUS else list(r.devices)
    rows = [_gpu(d, r.num_nodes > 1) for d in shown]
    if len(r.devices) > 1:
        idle = "idle time not known" if r.gpu_idle_s is None else f"{q.percent(r.gpu_idle_s, r.gpu_held_s)} idle"
        rows.insert(0, ("GPU", None, f"{r.gpu_held_s / 3600:.3g} h held, {idle}"))
    if len(shown) < len(r.devices):
        rows.append(("", None, f"these are the least used of {len(r.devices)} GPUs"))
    return rows


def _rank(d: Device) -> tuple[float, str, str]:
    share = gpu_share(d)
    if share is None:
        share = 1.0 - (d.idle_ns or 0) / d.held_ns if d.held_ns > 0 else 1.0
    return (share, d.node, d.domain)


def _gpu(d: Device, many: bool) -> tuple[str, float | None, str]:
    share = gpu_share(d)
    words = [f"on {d.node}"] if many else []
    words.append("use not known" if share is None else "busy on average")
    if d.idle_ns is None or d.held_ns <= 0:
        words.append("idle time not known")
    else:
        words.append(f"idle for {q.percent(d.idle_ns, d.held_ns)} of it")
    words.append("memory not known" if d.mem_peak_b is None else f"{q.size(d.mem_peak_b)} of its memory")
    words += gpu_pace.words(d)
    # Of a UUID, as `nvidia-smi -L` shows it, its first digits.
    name = d.domain.removeprefix("gpu-").removeprefix("GPU-")[: LABEL - 6]
    return f"GPU {name}", share, ", ".join(words)
