"""What a monitoring system hears of a node: names, units and labels of its figures (docs/monitoring.md)."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

from perun_hpc._version import __version__
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Session
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.totals import Totals
from perun_hpc.agent.outbox.losses import Losses
from perun_hpc.agent.sources.node import Snapshot, resident_b
from perun_hpc.data_model.metrics import Family, Sample, gauge, joules
from perun_hpc.energy.attribute import OTHER
from perun_hpc.energy.containment import EnergyDomain

MOST_JOBS = 1000
"""Jobs that are named, those that began first."""


def figures(
    meter: Meter, register: Register, losses: Losses, snapshot: Snapshot, labels: Collection[str]
) -> Iterator[Family]:
    """The figures as of a reading; `labels` says who may be named: `job`, and with it `account` and `user`."""
    yield from _of_domains(meter.totals, meter.domains)
    yield gauge("perun_node_jobs", "Jobs on the node.", len(register.live))
    yield gauge("perun_node_timestamp_seconds", "When the energies were read.", snapshot.real_ns / 1e9)
    yield gauge("perun_agent_info", "The agent that runs, by its version.", 1, version=__version__)
    cpu = Sample(time.process_time(), {})
    yield Family("perun_agent_cpu_seconds", "CPU time of the agent's own process.", (cpu,), counter=True)
    yield gauge("perun_agent_resident_memory_bytes", "Memory of the agent's own process.", resident_b())
    standing = tuple(Sample(number, {"kind": kind}) for kind, number in losses.counts().items())
    yield Family("perun_agent_troubles", "What fails now, by kind: perun agent status says more.", standing)
    if "job" in labels:
        yield from _of_jobs(list(register.live.values())[:MOST_JOBS], labels)


def _of_domains(totals: Totals, domains: dict[str, EnergyDomain]) -> Iterator[Family]:
    energy = []
    for domain, sums in sorted(totals.shares_uj.items()):
        named = {"domain": domain, "component": OTHER, "provenance": ""}
        if domain in domains:
            sensor = domains[domain].sensor
            named |= {"component": sensor.component, "provenance": str(sensor.provenance.value)}
        energy += [Sample(joules(energy_uj), {**named, "party": party}) for party, energy_uj in sorted(sums.items())]
    rest = tuple(Sample(joules(uj), {"domain": domain}) for domain, uj in sorted(totals.rest_uj.items()))
    gaps = tuple(Sample(ns / 1e9, {"domain": domain}) for domain, ns in sorted(totals.gap_ns.items()))
    yield Family("perun_node_energy_joules", "Energy of a domain, by who was given it.", tuple(energy), counter=True)
    yield Family("perun_node_rest_joules", "A meter minus its known parts since the agent began; may fall.", rest)
    yield Family("perun_node_unmeasured_seconds", "Time of which a counter said nothing.", gaps, counter=True)


def _of_jobs(sessions: Collection[Session], labels: Collection[str]) -> Iterator[Family]:
    energy, rest = [], []
    for session in sessions:
        named, sums, rest_uj = _names(session, labels), dict[str, int](), None
        for domain, account in session.domains.items():
            if domain.startswith(OTHER):
                rest_uj = (rest_uj or 0) + account.energy_uj
            else:
                sums[account.component] = sums.get(account.component, 0) + account.energy_uj
        energy += [Sample(joules(max(0, uj)), {**named, "component": name}) for name, uj in sorted(sums.items())]
        rest += [Sample(joules(rest_uj), named)] if rest_uj is not None else []
    yield Family("perun_job_energy_joules", "Energy of a job on this node.", tuple(energy), counter=True)
    yield Family("perun_job_rest_joules", "A job's part of a meter minus its known parts; may fall.", tuple(rest))


def _names(session: Session, labels: Collection[str]) -> dict[str, str]:
    """`job` is how Prometheus names its own targets: a job is `jobid`, as in other exporters of Slurm's."""
    names = {"jobid": str(session.key.job_id), "restart": str(session.key.restart_count)}
    names["partition"] = session.job.get("partition", "")
    return names | {name: session.job.get(name, "") for name in ("account", "user") if name in labels}
