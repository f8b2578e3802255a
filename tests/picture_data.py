"""A job with a trace, as real ones look: phases, a slow host, an idle one, a gap, steps, functions."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.data_model import activity
from perun_hpc.data_model.record import EnergyRecord, Footprint
from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.report.curves import Envelope, HostCurve, JobCurves
from perun_hpc.store import job_store, layout
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import ship
from tests.accounting_data import NS, START_S, boundary, domain, parsed, slurm_job

SENSORS = (
    ("package-0", "cpu", Quantity.ENERGY), ("package-1", "cpu", Quantity.ENERGY), ("dram-0", "dram", Quantity.ENERGY),
    ("gpu-0", "gpu", Quantity.ENERGY), ("gpu-1", "gpu", Quantity.ENERGY), ("node", "node", Quantity.POWER),
    ("cpu", "cpu", Quantity.UTILISATION), ("gpu-0", "gpu", Quantity.UTILISATION),
    ("gpu-1", "gpu", Quantity.UTILISATION), ("package-0", "cpu", Quantity.TEMPERATURE),
    ("memory", "dram", Quantity.DATA),
)  # fmt: skip


def sensors() -> list[Sensor]:
    """Two packages, memory, two GPUs, the node's meter, utilisations and a temperature."""
    return [
        Sensor(
            id=f"synthetic:{name}:{quantity}", host="", backend="synthetic", device="", domain=name,
            component=component, kind=Kind.COUNTER if quantity is Quantity.ENERGY else Kind.GAUGE, quantity=quantity,
            unit="1",
        )
        for name, component, quantity in SENSORS
    ]  # fmt: skip


def busy(at_s: float, seconds: float, host: int, hosts: int) -> float:
    """How busy a host is: a start, iterations that end in a quiet exchange, an end; the last host idles at times."""
    part = at_s / seconds
    if part < 0.06:
        return 0.15
    if part > 0.94:
        return 0.1
    wave = 0.25 if (at_s % (seconds / 14)) / (seconds / 14) > 0.82 else 0.92
    slow = 0.72 if host == hosts // 3 else 1.0
    idle = 0.08 if host == hosts - 1 and 0.4 < part < 0.7 else 1.0
    return wave * slow * idle * (1 + 0.04 * math.sin(host * 1.7))


def rows(seconds: int, host: int, hosts: int, gap: range) -> Iterator[tuple[int, list[int | None]]]:
    """A host's rows, one a second, without those of the gap."""
    random_ = random.Random(host)
    counters = [random_.randrange(10**9) for _ in SENSORS]
    for second in range(-1, seconds + 2):
        load = busy(second, seconds, host, hosts) * (1 + random_.gauss(0, 0.03))
        row: list[int | None] = []
        for place, (name, component, quantity) in enumerate(SENSORS):
            watts = {"cpu": 70 + 150 * load, "dram": 14 + 16 * load, "gpu": 90 + 420 * max(0.0, load - 0.1)}
            if quantity is Quantity.ENERGY:
                counters[place] += round(watts[component] * 1e6 * (1 + random_.gauss(0, 0.01)))
                row.append(counters[place])
            elif quantity is Quantity.POWER:
                row.append(round((110 + 2 * watts["cpu"] + watts["dram"] + 2 * watts["gpu"]) * 1e6))
            elif quantity is Quantity.UTILISATION:
                row.append(min(1000, max(0, round(1000 * load * (0.9 if name == "cpu" else 1.0)))))
            elif quantity is Quantity.DATA:
                row.append(round((20 + 60 * min(1.0, second / seconds / 0.6) + 30 * load + host % 3) * 2**30))
            else:
                row.append(round(45_000 + 25_000 * load + 500 * host % 7_000))
        if second not in gap:
            yield START_S + second, row


def nodes(count: int) -> list[str]:
    """The names of so many hosts."""
    width = len(str(count))
    return [f"n{number:0{width}}" for number in range(1, count + 1)]


def write_trace(directory: Path, scratch: Path, count: int, seconds: int, bare: int = 0) -> Path:
    """Write the trace of a job of so many hosts into its directory; host 2 has a gap of a tenth, and the last `bare`
    ones have two packages and nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    names = nodes(count)
    for host, name in enumerate(names):
        held = 2 if host >= count - bare else len(SENSORS)
        store = NodeStore.open(
            scratch / name, cluster="c", job_id="4711", restart_count=0, node=name, sensors=sensors()[:held],
            period_ns=NS, start_ns=START_S * NS, sync_ns=None,
        )  # fmt: skip
        gap = range(seconds // 2, seconds // 2 + seconds // 10) if host == 1 else range(0)
        for tick, row in rows(seconds, host, count, gap):
            store.append(tick, row[:held])
        store.seal()
        ship(scratch / name, directory, names)
    job_store.finalise(directory, names, (START_S + seconds + 100) * NS)
    return directory / layout.STORE


def ran(seconds: int, busy_part: bool, part: float) -> list[int]:
    """When a function ran: in the busy or in the quiet parts of iterations."""
    width = activity.width_ns(seconds * NS)
    first, last = (int((START_S + at * seconds) * NS) // width for at in (0.1, 0.78))
    found = []
    for place in range(first, last + 1):
        quiet = ((place + 0.5) * width / NS - START_S) % (seconds / 14) / (seconds / 14) > 0.82
        found.append(round((900 if busy_part else 60) if not quiet else (40 if busy_part else min(900, 4000 * part))))
    return [width, first, *found]


def record(count: int, seconds: int, name: str = "stencil.sh", function: str = "halo_exchange") -> EnergyRecord:
    """The record of such a job: three steps, two functions, every rank."""
    parts, step_at = [], [(0.02, 0.08), (0.1, 0.82), (0.84, 0.98)]
    names = nodes(count)
    nodelist = names[0] if count == 1 else f"{names[0][0]}[{names[0][1:]}-{names[-1][1:]}]"
    for host, node in enumerate(names):
        ranks = [
            {"rank": 2 * host + r, "pid": 100 + r, "start_ns": round((START_S + 0.1 * seconds) * NS),
             "end_ns": round((START_S + (0.82 - 0.001 * (host % 7) - 0.03 * (host != count // 3)) * seconds) * NS)}
            for r in range(2)
        ]  # fmt: skip
        steps: list[dict[str, Any]] = [
            {"step_id": str(number), "tasks": 2 * count, "nodes": count, "command": "python",
             "start_ns": round((START_S + a * seconds) * NS), "end_ns": round((START_S + b * seconds) * NS),
             "energy_uj": round((b - a) * seconds * (1150e6 if number == 1 else 380e6)),
             "u_uj": round((b - a) * seconds * 12e6), "ranks": ranks if number == 1 else []}
            for number, (a, b) in enumerate(step_at)
        ]  # fmt: skip
        regions = [
            {"step_id": "1", "rank": rank["rank"], "name": called, "calls": 1400, "time_ns": round(part * seconds * NS),
             "energy_uj": round(part * seconds * 480e6), "u_uj": round(part * seconds * 480e6 * doubt),
             "ran": ran(seconds, called == "update", part)}
            for rank in ranks
            for called, part, doubt in ((function, 0.11, 0.6), ("update", 0.52, 0.02), ("reduce_residual", 0.06, 0.09))
        ]  # fmt: skip
        load = sum(busy(second * seconds / 200, seconds, host, count) for second in range(200)) / 200
        watts = {"package-0": 70 + 150 * load, "package-1": 70 + 150 * load, "dram-0": 14 + 16 * load}
        watts.update({f"gpu-{n}": 90 + 420 * max(0.0, load - 0.1) for n in (0, 1)})
        kinds = {"package-0": "cpu", "package-1": "cpu", "dram-0": "dram", "gpu-0": "gpu", "gpu-1": "gpu"}
        gap_ns = seconds * NS // 10 if host == 1 else 0
        domains = {
            key: domain(kinds[key], round(value * seconds * 1e6), covered_ns=seconds * NS - gap_ns, gap_ns=gap_ns)
            for key, value in watts.items()
        }
        data = boundary(
            node=node, nodelist=nodelist, num_nodes=count, domains=domains, seconds=seconds, cpus_on_node=64,
            node_cpus=64,
        )  # fmt: skip
        data["usage"] = {"cpu_ns": round(64 * seconds * NS * load), "mem_peak_b": 131 << 30,
                         "peak_mw": round(sum(watts.values()) * 1200)}  # fmt: skip
        parts.append(parsed({**data, "steps": steps, "regions": regions}))
    job = slurm_job(
        name=name, partition="gpu", nodelist=nodelist, num_nodes=count, cpus=64 * count, gpus=2 * count,
        end_s=START_S + seconds, time_limit_s=86400,
    )  # fmt: skip
    made = add_slurm(sum_boundaries(parts), job)
    kwh = (made.energy_uj or 0) / 3.6e12
    foot = Footprint(
        round((made.energy_uj or 0) * 1.2), 310.0 * kwh, 20.0 * kwh, 0.23 * kwh, "EUR", True,
        ("CO2 location-based: grid operator, 2026",),
    )  # fmt: skip
    return replace(made, footprint=foot)


def curves(count: int, columns: int = 960) -> JobCurves:
    """Curves of very many hosts, made without a trace: their picture is as large as with one."""
    random_ = np.random.default_rng(1)
    edges = np.linspace(0.0, 7200.0, columns + 1)
    load = np.array([[busy(at, 7200.0, host, count) for at in edges[:-1]] for host in range(min(count, 61))])
    load = load[np.arange(count) % len(load)] * (1 + random_.normal(0, 0.05, (count, columns)))
    watts = 334 + 1156 * load
    watts[7 % count, 400:500] = np.nan
    total = np.nansum(watts, axis=0)
    reporting = count - np.isnan(watts).sum(axis=0)
    parts = {"cpu": 0.45 * total, "dram": 0.08 * total, "gpu": 0.47 * total}
    percent = 100 * load.clip(0, 1)
    use = Envelope(percent.mean(axis=0), percent.min(axis=0), percent.max(axis=0))
    return JobCurves(
        edges_s=edges, fine_s=1.0, components=parts, total=Envelope(total, 0.97 * total, 1.03 * total), meter=None,
        reporting=reporting, nodes=count, cpu=use, gpu=None, provenance="measured",
        memory=Envelope(*(part * 2**29 for part in (use.mean, use.low, use.high))),
        hosts=tuple(HostCurve(name, row, 71.0) for name, row in zip(nodes(count), watts, strict=True)),
    )  # fmt: skip
