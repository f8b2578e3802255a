"""The report of one job: one screen of 80 columns that says what was used, how sure that is, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perun_hpc.data_model.record import CARBON, Component, EnergyRecord, Footprint, NodeEnergy, Rank, Region, Step
from perun_hpc.data_model.wording import count
from perun_hpc.report import quantities as q
from perun_hpc.report.efficiency import efficiency_lines
from perun_hpc.report.explain import legend
from perun_hpc.report.hints import STATIC, hints, static_not_known
from perun_hpc.report.screen import WIDTH, Style, both_ends, cells, printable, table, wrapped
from perun_hpc.slurm.states import ENDED_BY_SLURM

if TYPE_CHECKING:
    from perun_hpc.archive.meter_readings import NodeMetered

LABEL = 11
"""Columns of the label at the left."""
FUNCTIONS = 8
NAME = 16
"""Columns that the name of a function has at least."""
ESTIMATED = "~"
"""Before an energy that is estimated."""
NO_RANKS = (
    "no energy by rank: a step's ranks share its cgroup, and how much of its CPU time was whose is not known: "
    "Python's ranks tell theirs"
)
HOSTS_IN_FULL = 4
WAITING = {"running": "Running", "pending": "Pending", "awaited": "Awaited"}
"""Status of a run whose energies are still to come, and the heading of what there is to say."""
BAR = 10
NODES_NAMED = 3
FULLY = 0.995
COVERED = 0.98
"""A whole record with less of the job's time between readings says that the rest is not in its energy."""
_BY = {"redfish": "BMC", "snmp": "PDU"}
_NAMES = {"cpu": "CPU", "dram": "DRAM", "gpu": "GPU", "node": "node meter", "other": "other"}
_OUTSIDE = {
    False: "no node meter: power supply, fans, network and cooling are not in it",
    True: "with the node's meter; network and cooling are not in it",
}


def job_report(
    record: EnergyRecord,
    source: str,
    style: Style,
    earlier: Sequence[EnergyRecord] = (),
    beside: str = "",
    curve: Sequence[str] = (),
    metered: Sequence[NodeMetered] = (),
) -> list[str]:
    """Return the screen's lines.

    Parameters
    ----------
    record
        The run to show.
    source
        Where the record came from, in words.
    style
        How to draw.
    earlier
        Earlier runs of the same job (it was requeued), oldest first.
    beside
        The job beside its user's last ones of the same name, in a sentence.
    curve
        Its power over time, drawn (`report.over_time`).
    metered
        What the meters of its nodes showed (`accounting.job_meters`).
    """
    lines = [*_header(record, style), style.rule]
    lines += _energy(record, style)
    for sentence in meter_sentences(record, metered):
        lines += _labelled("Meter", sentence)
    lines += curve
    for section in (_split, efficiency_lines, _hosts, _steps, _functions):
        part = section(record, style)
        if part:
            lines += ["", *part]
    if earlier:
        runs = ", ".join(f"{q.energy(r.energy_uj)} ({r.state or 'ended'})" for r in earlier)
        lines += ["", *_labelled("Earlier", f"this is run {len(earlier) + 1}; before it: {runs}")]
    if beside:
        lines += ["", *_labelled("Beside", style.units(beside))]
    lines += _missing(record, style)
    advice = hints(record)
    if advice:
        lines += ["", style.bold("Hints")]
        for hint in advice:
            lines += wrapped(hint, 4, "  - ")
    lines += ["", *_legend(record), *_footer(record, source)]
    return [style.highlighted(style.units(line)) for line in lines]


def step_report(record: EnergyRecord, step_id: str, style: Style) -> list[str]:
    """Return the lines for one step of a job; empty where the record has no such step."""
    step = next((s for s in record.steps if s.step_id == step_id), None)
    if step is None:
        return []
    when = f"{q.moment(step.start_ns)} .. {q.moment(step.end_ns, step.start_ns)}"
    when += f"  {q.span(step.start_ns, step.end_ns)}"
    lines = [
        style.bold(both_ends(f"Step {record.display_id}.{step.step_id}  {record.name}", record.state, style)),
        both_ends((f"{count(step.tasks, 'task')} on " if step.tasks else "") + count(step.nodes, "node"), when, style),
        style.rule,
        *_labelled("Energy", _step_energy(step, record, style)),
    ]
    ranks = [r for r in record.ranks if r.step_id == step_id]
    if ranks:
        lines += ["", *_ranks(ranks, style)]
    regions = [r for r in record.regions if r.step_id == step_id]
    if regions:
        lines += ["", *_region_table(regions, record, style, len(regions))]
    return [style.highlighted(line) for line in lines]


def _header(r: EnergyRecord, style: Style) -> list[str]:
    state = printable(r.state or r.status)
    ended = r.status not in ("running", "pending")
    if ended and r.exit_signal:
        state += f"  signal {r.exit_signal}"
    elif ended and r.exit_code is not None and (r.exit_code or r.state not in ENDED_BY_SLURM):
        state += f"  exit {r.exit_code}"
    who = [
        r.user or f"uid {r.uid}",
        *(f"{k} {v}" for k, v in (("account", r.account), ("partition", r.partition), ("qos", r.qos)) if v),
    ]
    raw = f"job id {r.job_id}" if r.display_id != str(r.job_id) else ""
    size = [f"{count(r.num_nodes, 'node') if r.num_nodes or not r.nodelist else ''} {r.nodelist}".strip()]
    if r.cpus:
        size.append(count(r.cpus, "CPU"))
    if r.gpus:
        size.append(count(r.gpus, "GPU"))
    lines = [
        style.bold(both_ends(f"Job {r.display_id}  {r.name}", state, style)),
        both_ends("  ".join(who), raw, style),
    ]
    when = (
        f"{q.moment(r.start_ns)} .. {q.moment(r.end_ns, r.start_ns)}  {q.duration(r.elapsed_s)}" if r.start_ns else ""
    )
    if not ended and r.start_ns:
        when = f"since {q.moment(r.start_ns)}"
    return [*lines, *_pair("  ".join(size), when, style)]


def _pair(left: str, right: str, style: Style) -> list[str]:
    """One line where both fit, else two."""
    if cells(printable(left)) + cells(right) + 2 <= WIDTH:
        return [both_ends(left, right, style)]
    return [style.fit(left, WIDTH).rstrip(), right.rjust(WIDTH)]


def _energy(r: EnergyRecord, style: Style) -> list[str]:
    if r.energy_uj is None:
        what = "not known yet" if r.status in WAITING else "not known: nothing was measured"
        return _labelled("Energy", what)
    if q.unresolved(r.energy_uj, r.u_uj):
        seen = f"{q.percent(r.coverage)} of the job's time was counted" if r.coverage else "nothing was counted"
        return _labelled("Energy", f"not known: less than the sensors resolve ({seen})")
    known = q.bounded(r.energy_uj, r.u_uj, style.plus_minus) + (" (k=2)" if r.u_uj > 0 else " (bounds not known)")
    if q.within_bound(r.energy_uj, r.u_uj):
        known += ", of what was measured" if r.status == "partial" else ""
    elif r.status == "partial":
        known = f"at least {known}"
    known += " so far" if r.status in WAITING else ""
    right = q.with_watt_hours(r.energy_uj, r.u_uj, r.provenance)
    lines = [both_ends(f"{'Energy':<{LABEL}}{known}", right, style)]
    powers = f"{q.power(r.power_mean_mw)} on average"
    if r.power_peak_mw is not None:
        powers += f", {q.power(r.power_peak_mw)} at its highest"
        powers += " (the nodes' highest, summed)" if len(r.nodes) > 1 else ""
    lines += _labelled("Power", powers)
    # Slurm's comment has no nodes in it, but says that none is missing.
    reported = len(r.nodes) or (r.num_nodes if r.status == "complete" else 0)
    seen = f", {reported} of {r.num_nodes} nodes" if r.num_nodes > 1 and reported else ""
    open_ended = r.status == "complete" and r.coverage < COVERED  # a partial one says what is missing
    rest = "; what was drawn in the rest of it is not in the energy" if open_ended else ""
    lines += _labelled("Coverage", f"{q.percent(r.coverage)} of the job's time{seen}{rest}")
    lines += _labelled("Scope", _scope(r))
    return [*lines, *_footprint(r, style)]


def _scope(r: EnergyRecord) -> str:
    parts = [c for c in r.components if c.component != "node"]
    metered = any(c.component in ("other", "node") for c in r.components)
    named = " + ".join(_NAMES.get(c.component, c.component) for c in parts) or "node meter"
    return f"{named}; {_OUTSIDE[metered]}"


def meter_sentences(r: EnergyRecord, metered: Sequence[NodeMetered]) -> list[str]:
    """What meters outside its nodes showed, by protocol: the sum of all its nodes, or why there is none."""
    kinds = sorted({one.by for one in metered})
    return [f"{_BY.get(by, by)}: {_metered(r, [one for one in metered if one.by == by])}" for by in kinds]


def _metered(r: EnergyRecord, metered: Sequence[NodeMetered]) -> str:
    names = {one.node for one in metered}
    whys = [f"{one.node}: {_why(one)}" for one in metered if one.energy_uj is None]
    whys += [f"{node.node}: no meter" for node in r.nodes if node.node not in names]
    whys += [f"{node}: it did not report" for node in r.missing_nodes if node not in names]
    if whys:
        more = f" and {len(whys) - NODES_NAMED} more" if len(whys) > NODES_NAMED else ""
        return f"no sum of its nodes: {'; '.join(whys[:NODES_NAMED])}{more}"
    from perun_hpc.archive.meter_readings import SCOPE_WORDS

    total_uj = sum(one.energy_uj or 0 for one in metered)
    scopes = {one.scope for one in metered}
    where = SCOPE_WORDS[scopes.pop()] if len(scopes) == 1 else "at different places of the supply"
    counted = [node.node_uj for node in r.nodes if node.node in names]
    of = "its node" if len(names) == 1 else f"its {len(names)} nodes"
    text = f"{q.energy(total_uj)} of {of}, whoever ran there, {where}"
    if (covered := min(one.covered for one in metered)) < FULLY:
        text += f", in {q.percent(covered)} of the time"
    if None not in counted and (own_uj := sum(filter(None, counted))) > 0:
        text += f"; {total_uj / own_uj:.2f} times what their own sensors counted"
    lags = [one.lag_s for one in metered]
    known = [lag for lag in lags if lag is not None]
    ends_s = max(one.period_s for one in metered) / 2
    age = f"up to {max(known):.0f} s old" if len(known) == len(lags) else "of unknown age"
    return f"{text}; readings {age}, either end uncertain by {ends_s:.0f} s"


def _why(one: NodeMetered) -> str:
    from perun_hpc.archive.meter_readings import TOO_COARSE

    if one.why == TOO_COARSE:
        return f"too coarse ({count(one.readings, 'reading')}, one each {one.period_s:.0f} s)"
    return one.why


def _footprint(r: EnergyRecord, style: Style) -> list[str]:
    f = r.footprint
    if f is None:
        return []
    if not f.known:
        return [*(_labelled("Footprint", "not known: " + "; ".join(f.sources)) if f.sources else ()), *_embodied(f)]
    bounds = {one.of: 2 * one.u for one in f.bounds}
    before, behind = "at least " if f.lower_bound else "", ""
    if (times := q.upper_part(r.energy_uj or 0, r.u_uj)) is not None:
        before, behind = "at most ", ", of what was measured" if f.lower_bound else ""
        f, bounds = f.times(times), {}

    def within(name: str) -> str:
        return f" {style.plus_minus} {q.percent(bounds[name])}" if name in bounds else ""

    parts = [
        f"{q.mass(grams)}{within(name)} CO2e ({meaning})"
        for name, meaning in CARBON.items()
        if (grams := getattr(f, name)) is not None
    ]
    if f.cost is not None:
        parts.append(q.money(f.cost, f.currency))
    if f.facility_uj is not None:
        parts.append(f"{q.watt_hours(f.facility_uj)}{within('facility_uj')} with cooling (PUE)")
    return [*_labelled("Footprint", before + ", ".join(parts) + behind), *_embodied(f)]


def _embodied(f: Footprint) -> list[str]:
    """What making the nodes emitted, which no line beside it contains."""
    one = f.embodied
    if one is None:
        return []
    of = f", of {one.nodes} of {one.nodes + one.without} nodes" if one.without else ""
    text = f"{q.mass(one.grams)} CO2e ({q.mass(one.low_g)} to {q.mass(one.high_g)}) of making its nodes{of}"
    return _labelled("Embodied", f"{text}: estimated, by the CPUs and the time that it had; in no figure above")


def _split(r: EnergyRecord, style: Style) -> list[str]:
    whole = r.energy_uj or 0
    if q.unresolved(whole, r.u_uj):
        return []
    rows = []
    for c in r.components:
        value, sign, bound = _columns(c.energy_uj, c.u_uj, style)
        share = c.energy_uj / whole if whole else 0.0
        meter = c.component == "node" and len(r.components) > 1
        part = "-" if q.unresolved(c.energy_uj, c.u_uj) else q.percent(share)
        shown = "" if meter else f"{part:>6}  {style.fit(style.bar(share, BAR), BAR)}"
        how = "contains the above" if meter else _how(c)
        name = _NAMES.get(c.component, printable(c.component))
        left = f"{name:<{LABEL}}{value:>10} {sign:>2} {bound:>9}"
        lines = f"{left}  {shown}"
        rows.append(style.fit(f"{lines}  {how}" if shown else f"{left}  {how}", WIDTH).rstrip())
    if not rows:
        return []
    parts = [("static", r.static_uj), ("dynamic", r.dynamic_uj), ("held idle", r.idle_uj),
             ("suspended", r.suspended_uj), ("modelled", r.modelled_uj), ("wasted", r.wasted_uj)]  # fmt: skip
    unsplit = all_dynamic(r)
    if unsplit and not r.static_uj:
        parts = [(name, uj) for name, uj in parts if name != "dynamic"]
    named = "; ".join(x for x in (", ".join(f"{name} {q.energy(uj)}" for name, uj in parts if uj), unsplit) if x)
    head = style.bold(f"{'Split':<{LABEL}}{'energy':>10}{'bounds (k=2)':>13}{'share':>8}")
    return [head, *rows, *(_labelled("of it", named) if named else [])]


def _columns(uj: int, u_uj: int, style: Style) -> tuple[str, str, str]:
    """Value, sign and bound as the table's columns."""
    if q.unresolved(uj, u_uj):
        return "not known", "", ""
    if q.within_bound(uj, u_uj):
        return "at most", "", q.energy(max(uj, 0) + 2 * u_uj)
    value, bound = q.energy_with_bounds(uj, u_uj)
    return value, style.plus_minus if bound else "", bound


def all_dynamic(r: EnergyRecord) -> str:
    """Say of which components the whole energy counts as dynamic, since no static power was known."""
    held = [c for c in r.components if c.component in STATIC and c.dynamic_uj]
    unknown = [_NAMES[name] for name in static_not_known(r)]
    if not unknown:
        return ""
    of = "" if len(unknown) == len(held) else f" of {' and '.join(unknown)}"
    return f"static power{of} not known: all of it counted as dynamic"


def _how(c: Component) -> str:
    return ", ".join(x for x in (c.provenance, *c.methods) if x)


def _hosts(r: EnergyRecord, style: Style) -> list[str]:
    ordered = sorted((n for n in r.nodes if n.energy_uj is not None), key=lambda n: (-(n.energy_uj or 0), n.node))
    if len(ordered) < 2:
        return []
    if len(ordered) <= HOSTS_IN_FULL:
        chosen = [("", n) for n in ordered]
    else:
        chosen = [("most", ordered[0]), ("median", ordered[len(ordered) // 2]), ("least", ordered[-1])]
    rows = [
        [
            f"{n.node}  {label}".rstrip(),
            q.bounded(n.energy_uj, n.u_uj, style.plus_minus),
            _node_power(n),
            _node_cpu(n),
            q.percent(n.coverage),
        ]
        for label, n in chosen
    ]
    head = (f"Hosts ({len(ordered)})", "energy (k=2)", "power", "CPU", "coverage")
    return _bold_head(table(rows, head, (False, True, True, True, True), style), style)


def _node_power(n: NodeEnergy) -> str:
    wall_ns = n.end_ns - n.start_ns
    return q.power((n.energy_uj or 0) * 1e6 / wall_ns) if wall_ns > 0 else "-"


def _node_cpu(n: NodeEnergy) -> str:
    wall_ns = n.end_ns - n.start_ns
    return q.percent(n.cpu_ns, n.cpus * wall_ns) if n.cpu_ns is not None and n.cpus and wall_ns > 0 else "-"


def _steps(r: EnergyRecord, style: Style) -> list[str]:
    chosen = _largest(r.steps)
    rows = [
        [
            step_name(s),
            f"{s.tasks or '-'}",
            f"{s.nodes}",
            q.span(s.start_ns, s.end_ns),
            q.duration(s.cpu_ns / 1e9) if s.cpu_ns else "-",
            step_energy(s, style.plus_minus),
        ]
        for s in chosen
    ]
    if not rows:
        return []
    number = sum(s.steps for s in r.steps)
    head = (f"Steps ({number})", "tasks", "nodes", "time", "CPU time", "energy (k=2)")
    left = len(r.steps) - len(chosen)
    more = [f"  and {left} more, each less than these: perun report --json"] if left else []
    whys = [f"step {s.step_id}: {s.why}" for s in chosen if s.why]
    return [
        *_bold_head(table(rows, head, (False, True, True, True, True, True), style), style),
        *more,
        *(line for why in whys for line in wrapped(why, 4, "  ")),
    ]


def step_name(s: Step) -> str:
    """Its id; of several that a record holds as one how many they are."""
    return s.step_id if s.steps == 1 else f"{s.steps} {s.step_id}"


def step_energy(s: Step, sign: str) -> str:
    """Its energy with bounds, a lower one where not all of it was seen."""
    known = q.bounded(s.energy_uj, s.u_uj, sign)
    if not s.why or s.energy_uj is None or q.within_bound(s.energy_uj, s.u_uj) or q.unresolved(s.energy_uj, s.u_uj):
        return known
    return f"at least {known}"


def _largest(steps: Sequence[Step]) -> list[Step]:
    """As many steps as are shown, in their order: those that used most."""
    kept = sorted(range(len(steps)), key=lambda at: -(steps[at].energy_uj or 0))[:FUNCTIONS]
    return [steps[at] for at in sorted(kept)]


def _functions(r: EnergyRecord, style: Style) -> list[str]:
    return _region_table(r.regions, r, style, FUNCTIONS) if r.regions else []


def _region_table(regions: Sequence[Region], record: EnergyRecord, style: Style, limit: int) -> list[str]:
    shown = sorted(regions, key=lambda g: -(g.energy_uj or g.time_ns))[:limit]
    several = len({g.step_id for g in regions}) > 1
    columns = (f"Functions ({len(regions)})", "calls", "ranks", "time per rank", "energy", "a call", "share")
    head = list(columns)
    rows = [_region_row(g, record, style) for g in shown]
    if several:
        head.insert(1, "step")
        rows = [[row[0], g.step_id, *row[1:]] for row, g in zip(rows, shown, strict=True)]
    # What there is no space for: the shortest time, then the ranks, then the ends of names.
    at = head.index("time per rank")
    if _room(head, rows) < NAME:
        head[at] = "longest"
        rows = [
            [*row[:at], q.duration(g.time_max_ns / 1e9), *row[at + 1 :]] for row, g in zip(rows, shown, strict=True)
        ]
    if _room(head, rows) < NAME:
        del head[at - 1]
        rows = [[*row[: at - 1], *row[at:]] for row in rows]
    widest = max(len(head[0]), _room(head, rows))
    rows = [[style.fit(row[0], min(widest, cells(printable(row[0])))), *row[1:]] for row in rows]
    right = (False, *(True for _ in head[1:]))
    more = [f"  and {len(regions) - limit} more: perun report --json"] if len(regions) > limit else []
    lines = [*_bold_head(table(rows, head, right, style), style), *more]
    return [*lines, *(line for note in region_notes(shown) for line in wrapped(note, 2, "  "))]


def region_notes(shown: Sequence[Region]) -> list[str]:
    """What the marks before functions' energies say, of those that are there."""
    notes = []
    if any(g.method == "estimated" and not _bound_alone(g) for g in shown):
        notes.append(f"{ESTIMATED}: estimated, its calls are shorter than the sampling period")
    if any(_bound_alone(g) for g in shown):
        notes.append("at most: the readings tell too little of its calls for more than an upper bound")
    return notes


def region_energy(g: Region, r: EnergyRecord, sign: str) -> str:
    """Its energy with bounds, marked where it is estimated; an upper end is never above that of the whole job."""
    whole = r.status == "complete" and r.energy_uj is not None and r.u_uj > 0
    known = q.bounded(g.energy_uj, g.u_uj, sign, (r.energy_uj or 0) + 2 * r.u_uj if whole else None)
    return f"{ESTIMATED}{known}" if g.method == "estimated" and _is_resolved(g) else known


def _room(head: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """What the other columns leave the first one of the screen."""
    return WIDTH - sum(2 + max(map(cells, column)) for column in list(zip(head, *rows, strict=True))[1:])


def _region_row(g: Region, r: EnergyRecord, style: Style) -> list[str]:
    low, high = q.duration(g.time_min_ns / 1e9), q.duration(g.time_max_ns / 1e9)
    energy = region_energy(g, r, style.plus_minus)
    time = low if low == high else f"{low} .. {high}"
    return [g.name, str(g.calls), str(g.ranks), time, energy, *region_parts(g, r.energy_uj)]


def region_parts(g: Region, whole_uj: int | None) -> tuple[str, str]:
    """The energy of a call in the mean, and its share of the job's; `-` where only an upper end is known."""
    if g.energy_uj is None or not _is_resolved(g):
        return "-", "-"
    a_call = q.energy(round(g.energy_uj / g.calls)) if g.calls else "-"
    return a_call, q.percent(g.energy_uj, whole_uj) if whole_uj and whole_uj > 0 else "-"


def _is_resolved(g: Region) -> bool:
    """Whether more than an upper end of its energy is known."""
    return g.energy_uj is not None and not _bound_alone(g) and not q.unresolved(g.energy_uj, g.u_uj)


def _bound_alone(g: Region) -> bool:
    """Whether nothing but the upper end of a region's energy is known."""
    return g.energy_uj is not None and q.within_bound(g.energy_uj, g.u_uj)


def _ranks(ranks: Sequence[Rank], style: Style) -> list[str]:
    ordered = sorted(ranks, key=lambda k: k.end_ns - k.start_ns, reverse=True)
    if len(ordered) > FUNCTIONS:
        chosen = [("longest", ordered[0]), ("median", ordered[len(ordered) // 2]), ("shortest", ordered[-1])]
    else:
        chosen = [("", k) for k in sorted(ranks, key=lambda k: k.rank)]
    rows = [
        [
            f"{k.rank}  {label}".rstrip(),
            k.node,
            q.span(k.start_ns, k.end_ns),
            q.bounded(k.energy_uj, k.u_uj, style.plus_minus),
        ]
        for label, k in chosen
    ]
    lines = _bold_head(
        table(rows, (f"Ranks ({len(ranks)})", "host", "time", "energy (k=2)"), (False, False, True, True), style), style
    )
    if all(k.energy_uj is None for k in ranks):
        lines += wrapped(NO_RANKS, 2, "  ")
    return lines


def _step_energy(step: Step, r: EnergyRecord, style: Style) -> str:
    if step.energy_uj is not None:
        own, why = step_energy(step, style.plus_minus), f"; {step.why}" if step.why else ""
        return f"{own} (k=2) of the job's {q.energy(r.energy_uj)}   {r.provenance}{why}"
    return f"not known ({step.why or 'its job was measured as a whole'}); the job: {q.energy(r.energy_uj)}"


def _missing(r: EnergyRecord, style: Style) -> list[str]:
    late = [
        f"{n.node}: first reading {n.late_ns / 1e9:.1f} s after the job's start"
        for n in r.nodes
        if n.late_ns > 1_000_000_000
    ]
    heading = _heading(r)
    first = r.missing[:1] if heading != "Missing" else ()
    return [
        *_list(heading, first, style),
        *_list("Missing", [*r.missing[len(first) :], *late], style),
        *_list("Notes", r.notes, style),
    ]


def _heading(r: EnergyRecord) -> str:
    """What the first sentence of `missing` is about: not a hole where a run is still to come or never was."""
    if r.status == "missing" and not r.start_ns:
        return "Not run"
    return WAITING.get(r.status, "Missing")


def _list(heading: str, sentences: Sequence[str], style: Style) -> list[str]:
    if not sentences:
        return []
    shown = (
        sentences if len(sentences) <= 5 else [*sentences[:4], f"and {len(sentences) - 4} more: perun report --json"]
    )
    lines = ["", style.warn(heading)]
    for text in shown:
        lines += wrapped(text, 4, "  - ")
    return lines


def _legend(r: EnergyRecord) -> list[str]:
    words = "; ".join(f"{word}: {meaning}" for word, meaning in legend(r))
    return _labelled("Legend", words) if words else []


def _footer(r: EnergyRecord, source: str) -> list[str]:
    parts = [f"Record from {source}"]
    if r.revision > 1:
        parts.append(f"revision {r.revision}: amended by a late node")
    if r.energy_uj is not None and not r.nodes:
        parts.append("hosts, steps, methods and more are in the job's own record, for its owner and the site")
    if r.perun_version:
        cost = f", which took {q.duration(r.agent_cpu_ns / 1e9)} of CPU time itself" if r.agent_cpu_ns else ""
        parts.append(f"perun {printable(r.perun_version)}{cost}")
    if r.energy_uj is not None:
        parts.append(f"what each line means: perun report {r.display_id} --explain")
    return wrapped("; ".join(parts), 0)


def _labelled(label: str, text: str) -> list[str]:
    return wrapped(text, LABEL, label)


def _bold_head(lines: list[str], style: Style) -> list[str]:
    return [style.bold(lines[0]), *lines[1:]]
