"""`python -m demo.month DIRECTORY`: a month of simulated jobs in an archive, to try docs/notebooks without a cluster.

What a node's agent and the collector write, by their own code; only the readings and Slurm's answers are made up. A
stencil ran three times on one, two, four and eight nodes each (4701 to 4712), a training on one node every other day.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.archive.places import Archive, Run
from perun_hpc.cli.collect import close_trace
from perun_hpc.data_model.sensor import Kind, Provenance, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.slurm.sacct import SlurmJob
from perun_hpc.store.layout import NS_PER_S
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import ship
from tests.accounting_data import boundary, domain, put_incoming, slurm_job

CLUSTER = "demo"
BEGIN = int(datetime(2025, 6, 1, 8, tzinfo=timezone.utc).timestamp())
DAY_S = 86_400
GAIN = 0.02
"""Relative standard uncertainty (k=1) of the made-up counters."""


@dataclass(frozen=True)
class Job:
    """One job: `work_s` is what one node would take for what can be done in parallel."""

    job_id: int
    name: str
    nodes: int
    start_s: int
    seconds: int

    @property
    def hosts(self) -> tuple[str, ...]:
        """The nodes it ran on."""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))


def jobs() -> list[Job]:
    """The month's jobs, in order of their start."""
    chance = random.Random(2025)
    found = []
    for number, nodes in enumerate((1, 2, 4, 8) * 3):
        seconds = round((20 + 220 / nodes + 2 * math.log2(nodes)) * chance.uniform(0.98, 1.02))
        found.append(Job(4701 + number, "stencil", nodes, BEGIN + number * DAY_S // 2, seconds))
    for number in range(12):
        found.append(Job(4713 + number, "train", 1, BEGIN + (2 * number + 7) * DAY_S, chance.randrange(90, 180)))
    return found


def make(root: Path) -> Archive:
    """Fill `root/archive` and `root/ledger.db`, and write `root/policy.yaml`, which names both."""
    archive = Archive(root / "archive", CLUSTER)
    made = jobs()
    for job in made:
        archive.job(Run(job.job_id, 0)).mkdir(parents=True)
        for number, host in enumerate(job.hosts):
            used_uj = _trace(root / "sessions" / str(job.job_id), archive, job, host)
            put_incoming(archive.root, _boundary(job, host, used_uj, number))
    ledger = open_ledger(str(root / "ledger.db"), create=True)

    def slurm(ids: Iterable[object]) -> list[SlurmJob]:
        wanted = {str(one) for one in ids}
        return [_slurm(job) for job in made if str(job.job_id) in wanted]

    tools = Tools(lambda: BEGIN + 40.0 * DAY_S, Slurm(slurm, lambda since_s, until_s: []), finalise=close_trace)
    Collector(archive, ledger, tools, 900).sweep()
    ledger.close()
    policy = f"store:\n  archive: {archive.root}\ncollect:\n  ledger: sqlite:///{root / 'ledger.db'}\n"
    (root / "policy.yaml").write_text(policy)
    return archive


def _sensor(name: str, component: str, quantity: Quantity, kind: Kind) -> Sensor:
    return Sensor(
        id=f"simulated:{name}:{quantity}",
        host="",
        backend="simulated",
        device="",
        domain=name,
        component=component,
        kind=kind,
        quantity=quantity,
        unit="1",
        gain_error=GAIN,
        scope=name,
        provenance=Provenance.SIMULATED,
    )


def _sensors(job: Job) -> tuple[Sensor, ...]:
    counter, gauge = Kind.COUNTER, Kind.GAUGE
    made = [_sensor("package-0", "cpu", Quantity.ENERGY, counter), _sensor("dram-0", "dram", Quantity.ENERGY, counter)]
    if job.name == "train":
        made += [
            _sensor("gpu-0", "gpu", Quantity.ENERGY, counter),
            _sensor("gpu-0", "gpu", Quantity.UTILISATION, gauge),
        ]
    return tuple(made)


def _rows(job: Job, host: str) -> Iterator[list[int | None]]:
    """What the sensors show at each second, the counters in uJ."""
    chance = random.Random(f"{job.job_id}{host}")
    energy = [chance.randrange(1 << 30) for _ in range(3)]
    for second in range(job.seconds + 1):
        busy = 5 < second < job.seconds - 5 and not (job.name == "train" and second % 45 < 8)
        watts = [90.0 + 130 * busy, 12.0 + 10 * busy, 60.0 + 240 * busy]
        energy = [at + round(w * 1e6 * chance.uniform(0.97, 1.03)) for at, w in zip(energy, watts, strict=True)]
        row: list[int | None] = [*energy[:2]]
        yield [*row, energy[2], 10 * (chance.randrange(90, 98) if busy else 0)] if job.name == "train" else row


def _trace(session: Path, archive: Archive, job: Job, host: str) -> dict[str, int]:
    """Write a node's trace; returns what each of its counters counted."""
    sensors = _sensors(job)
    store = NodeStore.open(
        session / host,
        cluster=CLUSTER,
        job_id=str(job.job_id),
        restart_count=0,
        node=host,
        sensors=sensors,
        period_ns=NS_PER_S,
        start_ns=job.start_s * NS_PER_S,
        sync_ns=None,
        simulated=True,
    )
    rows = list(_rows(job, host))
    for second, row in enumerate(rows):
        store.append(job.start_s + second, row)
    store.seal()
    ship(session / host, archive.job(Run(job.job_id, 0)), job.hosts)
    ends = zip(sensors, rows[0], rows[-1], strict=True)
    return {s.domain: (last or 0) - (first or 0) for s, first, last in ends if s.kind is Kind.COUNTER}


def _boundary(job: Job, host: str, used_uj: dict[str, int], number: int) -> dict[str, Any]:
    parts = {
        name: domain(
            {"package-0": "cpu", "dram-0": "dram"}.get(name, "gpu"),
            uj,
            provenance="simulated",
            u_uj=round(GAIN * uj),
            covered_ns=job.seconds * NS_PER_S,
        )
        for name, uj in used_uj.items()
    }
    day = datetime.fromtimestamp(job.start_s, timezone.utc).date().isoformat()
    return {
        **boundary(
            job.job_id,
            host,
            ",".join(job.hosts),
            parts,
            start_s=job.start_s,
            seconds=job.seconds,
            shares=[{"day": day, "domain": name, "energy_uj": uj} for name, uj in sorted(used_uj.items())],
            trace={"stored": True},
            simulated=True,
        ),
        "cluster": CLUSTER,
        "num_nodes": job.nodes,
        "boot_id": f"b{number}",
    }


def _slurm(job: Job) -> SlurmJob:
    nodelist = "n1" if job.nodes == 1 else f"n[1-{job.nodes}]"
    return slurm_job(
        job.job_id,
        name=job.name,
        cluster=CLUSTER,
        submit_s=job.start_s - 5,
        start_s=job.start_s,
        end_s=job.start_s + job.seconds,
        nodelist=nodelist,
        num_nodes=job.nodes,
        cpus=4 * job.nodes,
    )


if __name__ == "__main__":
    target = Path(sys.argv[1]).absolute()
    make(target)
    print(f"export SLURM_CLUSTER_NAME={CLUSTER} PERUN_POLICY={target}/policy.yaml")
