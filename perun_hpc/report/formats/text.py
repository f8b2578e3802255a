"""A run as text: rounds and hosts, regions, and one sentence that says what the figures are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from perun_hpc.config.user import UserSettings
from perun_hpc.data_model.data import DataNode, Metric, MetricType, NodeType, Stats
from perun_hpc.data_model.sensor import worst
from perun_hpc.report.formats import rows
from perun_hpc.report.formats.figures import at_most, bounded, quantity
from perun_hpc.report.formats.history import doubts

REGIONS = "Indented: regions, with the host's figures while one of their calls ran."
MARKS = {
    rows.ESTIMATED: "~: estimated, since its calls are shorter than the time between readings.",
    rows.AT_MOST: "<: at most; the readings tell no more.",
}


def render(tree: DataNode, settings: UserSettings) -> str:
    """The whole text."""
    runs = list(tree.walk(NodeType.RUN))
    parts = [f"perun: {tree.metadata.get('app', '')}, run {tree.id}"]
    parts += [rows.table(tree, settings), rows.traffic(tree, settings)]
    legend = [REGIONS] if any(host.regions for host in tree.walk(NodeType.NODE)) else []
    parts.append(" ".join([*legend, *(words for mark, words in MARKS.items() if f" {mark}" in parts[1])]))
    parts.append(summary(tree, runs, settings))
    parts.append(_own(runs, settings))
    parts += _failure(tree, list(tree.walk(NodeType.NODE)))
    parts += _notes(runs)
    return "\n\n".join(filter(None, parts))


def summary(tree: DataNode, runs: Sequence[DataNode], settings: UserSettings) -> str:
    """One sentence: energy, money, CO2, and what kind of figures they are."""
    energy = tree.metrics.get(MetricType.ENERGY)
    runtime = tree.value(MetricType.RUNTIME) or 0.0
    job_id = next((run.metadata["job_id"] for run in runs if "job_id" in run.metadata), None)
    if job_id is not None:
        return f"The application ran for {runtime:.3f} s; the node's agent measures it: perun report {job_id}."
    if not isinstance(energy, Stats):
        return f"The application ran for {runtime:.3f} s; no sensor measured its energy."
    names = {host.id for run in runs for host in run.walk(NodeType.NODE)}
    who = f"The {len(names)} hosts" if len(names) > 1 else "The host"
    span = f"{len(runs)} rounds of the application" if len(runs) > 1 else "the application"
    whole = _metrics(MetricType.ENERGY, runs)
    singles = _metrics(MetricType.ENERGY, [host for run in runs for host in run.walk(NodeType.NODE)])
    kind = worst(metric.provenance for metric in whole)
    outside = [
        said
        for kind, unit in ((MetricType.MONEY, settings.price_unit), (MetricType.CO2, "g CO2"))
        if (said := _amount(_metrics(kind, runs), unit))
    ]
    scope = sorted(
        {scope for run in runs for host in run.walk(NodeType.NODE) for scope in host.metadata.get("scope", ())}
    )
    joules = math.fsum(one.value for one in singles)
    used, said = bounded(joules, doubts(singles), settings)
    cooled = ""
    if not math.isclose(joules, energy.sum):
        cooled = f"; with PUE {energy.sum / joules:.3g} {bounded(energy.sum, doubts(whole), settings)[0]}"
    return (
        f"{who} used {used} ({said}, {kind}; {', '.join(scope)}) while {span} ran,"
        f" {sum(run.value(MetricType.RUNTIME) or 0.0 for run in runs):.3f} s"
        f"{cooled}{': ' if outside else ''}{', '.join(outside)}."
    )


def _metrics(kind: MetricType, nodes: Sequence[DataNode]) -> list[Metric]:
    """One metric of those nodes that have it."""
    return [found for node in nodes if isinstance(found := node.metrics.get(kind), Metric)]


def _amount(known: Sequence[Metric], unit: str) -> str:
    """What follows from an energy by a factor, known no better than that; empty where there is none."""
    amount = math.fsum(one.value for one in known)
    most = at_most(amount, doubts(known))
    return ("" if most is None else "at most ") + f"{amount if most is None else most:.3g} {unit}" if known else ""


def _own(runs: Sequence[DataNode], settings: UserSettings) -> str:
    """The part of the application's own processes, beside whatever else ran on its hosts."""
    hosts = [host for run in runs for host in run.walk(NodeType.NODE)]
    known = [own for host in hosts if (own := host.metadata.get("own"))]
    if not known or len(known) < len(hosts):
        return ""
    cpu_s = sum(own["cpu_ns"] for own in known) / 1e9
    busy_s = sum(own["busy_ns"] for own in known) / 1e9
    energies = [own["energy_j"] for own in known if own.get("energy_j") is not None]
    share = f"{100 * min(1.0, cpu_s / busy_s):.3g} %" if busy_s else "none"
    said = f"Its own processes had {cpu_s:.3g} s of CPU time, {share} of what the CPUs worked in that time"
    if len(energies) < len(known):
        return f"{said}."
    kind = worst(own["provenance"] for own in known)
    doubt = math.fsum(own.get("uncertainty_j") or 0.0 for own in known)  # of the CPUs' energy, not of the model
    most = at_most(sum(energies), doubt)
    joules = quantity(MetricType.ENERGY, sum(energies) if most is None else most, settings)
    part = joules if most is None else f"at most {joules}"
    return f"{said}; of the CPUs' energy that part is {part} ({kind}: by CPU time, idle power shared alike)."


def _failure(tree: DataNode, hosts: Sequence[DataNode]) -> list[str]:
    """How the application ended, unless it ended well."""
    ends = [process for host in hosts for process in host.metadata.get("processes", ()) if process["code"]]
    ways: dict[str, list[int]] = {}
    for end in sorted(ends, key=lambda end: int(end.get("rank", 0))):
        way = f"signal {end['signal']}" if end["signal"] else f"exit code {end['code']}"
        ways.setdefault(way, []).append(end.get("rank", 0))
    several = int(tree.metadata.get("ranks") or 1) > 1
    if ways:
        said = [way + (f" ({_ranks(ranks)})" if several else "") for way, ranks in sorted(ways.items())]
        return [f"FAILED: the application ended with {', '.join(said)}."]
    raised = sorted(
        rank["rank"] for host in hosts for rank in host.metadata.get("ranks", ()) if rank["end"] == "raised"
    )
    if raised and several:
        return [f"FAILED: the application raised ({_ranks(raised)})."]
    return ["FAILED: the application raised."] if tree.metadata.get("status") == "SCRIPT_ERROR" else []


def _ranks(ranks: Sequence[int]) -> str:
    """Which ranks, a few of them by number."""
    some = ", ".join(str(rank) for rank in ranks[:5])
    return f"rank {some}" if len(ranks) == 1 else f"ranks {some}{' ...' if len(ranks) > 5 else ''}"


def _notes(runs: Sequence[DataNode]) -> list[str]:
    notes = []
    hosts = [host for run in runs for host in run.walk(NodeType.NODE)]
    if any(
        m.provenance == "estimated"
        for run in runs
        for m in run.metrics.values()
        if isinstance(m, Metric) and m.type is MetricType.ENERGY
    ):
        notes.append(
            "ESTIMATE: no power sensor can be read here; "
            "the energy is estimated from CPU utilisation (perun sensors says why)."
        )
    partial = [
        f"{host.id}: {host.metadata.get('why') or 'a rank ended without handing in everything'}{_covered(host)}"
        for host in hosts
        if host.metadata.get("state") != "complete"
    ]
    if partial:
        notes.append("PARTIAL: " + "; ".join(partial))
    if factors := dict.fromkeys(one for run in runs for one in run.metadata.get("factors", ())):
        notes.append("Factors: " + "; ".join(factors))
    return notes


def _covered(host: DataNode) -> str:
    """How much of the time the counters' readings cover, where that is not all of it."""
    coverage = host.metadata.get("coverage", 1.0)
    return f" (readings cover {100 * coverage:.0f} % of the energy sensors' time)" if coverage < 0.995 else ""
