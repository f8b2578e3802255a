"""A job's report as one HTML file: opens from a disk without a network, tells every figure without a script.

The picture is SVG that was drawn here (`report.chart`); the script only tells values and looks closer. A content
security policy in the file lets nothing run but that script, whatever a job, a host or a function is called.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources

from perun_hpc.archive.meter_readings import NodeMetered
from perun_hpc.data_model.record import CARBON, EnergyRecord, NodeEnergy, Rank
from perun_hpc.data_model.wording import count
from perun_hpc.report import chart, drawing, inline, page_values, terms
from perun_hpc.report import quantities as q
from perun_hpc.report.curves import JobCurves
from perun_hpc.report.hints import hints
from perun_hpc.report.html import Html, bar, joined, safe, table, tag
from perun_hpc.report.job import (
    NO_RANKS,
    all_dynamic,
    meter_sentences,
    region_energy,
    region_notes,
    region_parts,
    step_energy,
    step_name,
)

SIGN = "±"
RANKED = 5
"""Hosts in each of the short lists."""
LISTED = 50
"""Functions, steps and ranks that are listed."""
_COLOURS = {
    chart.INK: "ink", chart.MUTED: "muted", chart.GRID: "line", chart.STEP: "step", chart.GAP: "gap",
    "#ffffff": "on-step", **{colour: name for name, colour in drawing.COLOURS.items()},
}  # fmt: skip


@dataclass(frozen=True)
class Beside:
    """What is known beside the record: where it is from, its trace's curves or why there are none, earlier runs, what
    its nodes' meters showed."""

    source: str
    curves: JobCurves | None
    no_curves: str = ""
    earlier: Sequence[EnergyRecord] = ()
    metered: Sequence[NodeMetered] = ()


def page(record: EnergyRecord, beside: Beside) -> str:
    """The file's text.

    Raises
    ------
    UnavailableError
        Without matplotlib.
    """
    drawing.check()
    own = resources.files("perun_hpc.report")
    style, script = (own.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    title = f"Job {record.display_id} {record.name}".strip()
    sections = [
        _head(record), _tiles(record, beside.curves), _meters(record, beside), _notices(record, beside),
        _over_time(record, beside), _where_it_went(record), _hosts(record, beside.curves), _steps(record),
        _functions(record), _words(), _foot(record, beside.source),
    ]  # fmt: skip
    # The two are this package's own: what stands in them must not be escaped, and holds no end of its element.
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{safe(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n<link rel="icon" href="data:,">\n'
        f"<title>{safe(title)} - perun</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"{joined(sections, chr(10))}\n<script>{script}</script>\n</body>\n</html>\n"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _head(r: EnergyRecord) -> Html:
    state = r.state or r.status
    good = "good" if state == "COMPLETED" else "bad" if r.status not in ("running", "pending", "awaited") else ""
    badges = [tag("span", state, class_=f"badge {good}"), tag("span", r.provenance, class_="badge")]
    if r.status not in ("complete", *_NOT_FINAL):
        badges.append(tag("span", r.status, class_="badge bad"))
    button = Html('<button id="theme" class="scripted" type="button">light / dark</button>')
    who = [r.user or f"uid {r.uid}"]
    who += [
        f"{name} {value}"
        for name, value in (("account", r.account), ("partition", r.partition), ("qos", r.qos))
        if value
    ]
    size = [count(r.num_nodes, "node") + (f" {r.nodelist}" if r.nodelist else "")] if r.num_nodes else []
    size += [count(number, word) for number, word in ((r.cpus, "CPU"), (r.gpus, "GPU")) if number]
    top = tag(
        "div",
        joined([tag("h1", f"Job {r.display_id}  {r.name}"), tag("div", joined([*badges, button]), class_="badges")]),
        class_="top",
    )
    about = [tag("p", " · ".join([*who, *size]), class_="about")]
    if r.start_ns:
        until = f" to {_time(r.end_ns)}, {q.duration(r.elapsed_s)}" if r.status not in _NOT_FINAL else ""
        about.append(tag("p", f"{_time(r.start_ns)}{until}", class_="about"))
    return tag("header", joined([top, *about]))


_NOT_FINAL = ("running", "pending", "awaited")


def _tiles(r: EnergyRecord, curves: JobCurves | None) -> Html:
    known = r.energy_uj is not None and not q.unresolved(r.energy_uj, r.u_uj)
    energy: str | Html = q.bounded(r.energy_uj, r.u_uj, SIGN) if known else "not known"
    if known and not q.within_bound(r.energy_uj or 0, r.u_uj):
        value, bound = q.energy_with_bounds(r.energy_uj, r.u_uj)
        least = tag("small", "at least ") if r.status == "partial" else ""
        energy = joined([least, tag("span", value), tag("small", f" {SIGN} {bound}") if bound else ""])
    bounds = ("k = 2" if r.u_uj > 0 else "bounds not known") if known else ""
    hours = "" if q.within_bound(r.energy_uj or 0, r.u_uj) else f"{q.watt_hours(r.energy_uj or 0)}, "
    made = [_tile("Energy", energy, f"{hours}{bounds}" if known else "nothing was resolved")]
    if r.power_mean_mw is not None:
        highest = f"{q.power(r.power_peak_mw)} at its highest" if r.power_peak_mw is not None else ""
        highest += " (the nodes' highest, summed)" if highest and len(r.nodes) > 1 else ""
        made.append(_tile("Power on average", q.power(r.power_mean_mw), highest))
    reported = f"{len(r.nodes)} of {r.num_nodes} nodes" if r.num_nodes > 1 and r.nodes else ""
    made.append(_tile("Coverage", q.percent(r.coverage), reported or "of the job's time"))
    cpus = sum(node.cpus for node in r.nodes) or r.cpus
    if r.cpu_ns is not None and cpus and r.elapsed_s:
        memory = f"memory {q.size(r.mem_peak_b)} at most" + (" on one node" if r.num_nodes > 1 else "")
        made.append(_tile("CPUs busy", q.percent(r.cpu_ns / 1e9, cpus * r.elapsed_s), memory if r.mem_peak_b else ""))
    if r.gpu_held_s:
        idle = "not known" if r.gpu_idle_s is None else q.percent(r.gpu_idle_s, r.gpu_held_s)
        made.append(_tile("GPUs idle", idle, f"{r.gpu_held_s / 3600:.3g} GPU hours held"))
    if r.footprint is not None and r.footprint.known:
        made += _footprint(r)
    if r.footprint is not None and (one := r.footprint.embodied) is not None:
        of = f", of {one.nodes} of {one.nodes + one.without} nodes" if one.without else ""
        within = f"{q.mass(one.low_g)} to {q.mass(one.high_g)} of making its nodes{of}: estimated, in no figure beside"
        made.append(_tile("Embodied CO2e", q.mass(one.grams), within))
    return tag("section", joined(made), class_="tiles", aria_label="Summary")


def _tile(what: str, value: str | Html, more: str = "") -> Html:
    whole = value if isinstance(value, Html) else tag("span", value)
    parts = [tag("div", what, class_="what"), tag("div", whole, class_="value")]
    return tag("div", joined([*parts, *([tag("div", more, class_="more")] if more else [])]), class_="tile")


def _footprint(r: EnergyRecord) -> list[Html]:
    f = r.footprint
    assert f is not None
    least = tag("small", "at least ") if f.lower_bound else ""
    if (times := q.upper_part(r.energy_uj or 0, r.u_uj)) is not None:
        least, f = tag("small", "at most "), f.times(times)
    made = []
    carbon = [(grams, what) for name, what in CARBON.items() if (grams := getattr(f, name)) is not None]
    if carbon:
        besides = "".join(f", {q.mass(grams)} {what}" for grams, what in carbon[1:])
        made.append(_tile("CO2e", joined([least, tag("span", q.mass(carbon[0][0]))]), f"{carbon[0][1]}{besides}"))
    if f.cost is not None:
        made.append(_tile("Cost", joined([least, tag("span", q.money(f.cost, f.currency))]), "of the electricity"))
    if f.facility_uj is not None:
        made.append(
            _tile("With cooling", joined([least, tag("span", q.watt_hours(f.facility_uj))]), "by the site's PUE")
        )
    return made


def _meters(r: EnergyRecord, beside: Beside) -> Html:
    sentences = meter_sentences(r, beside.metered)
    return joined([tag("p", f"Meter, {sentence}.", class_="about") for sentence in sentences])


def _notices(r: EnergyRecord, beside: Beside) -> Html:
    made = []
    if r.simulated:
        made.append(_notice("Simulated sensors: no figure here is of real hardware.", []))
    if r.missing:
        made.append(_notice("Not final:" if r.status in _NOT_FINAL else "Missing:", r.missing))
    if r.notes:
        made.append(_notice("Notes:", r.notes, "notice quiet"))
    advice = hints(r)
    if advice:
        made.append(_notice("Hints:", advice, "notice quiet"))
    if beside.earlier:
        runs = [f"{q.energy(one.energy_uj)} ({one.state or 'ended'})" for one in beside.earlier]
        made.append(_notice(f"This is run {len(runs) + 1}; before it:", runs, "notice quiet"))
    return joined(made)


def _notice(head: str, items: Sequence[str], kind: str = "notice") -> Html:
    shown = [*items[:20], *([f"and {len(items) - 20} more: perun report --json"] if len(items) > 20 else [])]
    listed = tag("ul", joined([tag("li", item) for item in shown])) if shown else Html("")
    return tag("div", joined([tag("b", head), listed]), class_=kind, role="note")


_TOOLS = Html(
    '<div class="bar-of-tools scripted"><button id="in" type="button" aria-label="closer">+</button>'
    '<button id="out" type="button" aria-label="further away">&minus;</button>'
    '<button id="left" type="button" aria-label="earlier">&larr;</button>'
    '<button id="right" type="button" aria-label="later">&rarr;</button>'
    '<button id="all" type="button">all</button><span class="hint">Drag to look closer, double-click for all. Keys: '
    "arrows, +, &minus;, 0.</span></div>"
)  # fmt: skip


def _over_time(r: EnergyRecord, beside: Beside) -> Html:
    head = tag("h2", "Power over time")
    curves = beside.curves
    if curves is None:
        return tag("section", joined([head, tag("p", f"No curve: {beside.no_curves}", class_="caption")]))
    picture = chart.draw(r, curves, title=False)
    label = (
        f"Power of job {r.display_id} over {q.duration(float(curves.edges_s[-1]))}, by component, with its steps and "
        "functions, how busy the hosts were, their memory and each host's power; the figures stand in the tables below."
    )
    drawn = Html(inline.svg(picture.figure, _COLOURS, safe(label)))
    stage = tag(
        "div", joined([drawn, Html('<div id="tip" class="tip" hidden></div>')]), id="stage", class_="stage",
        tabindex=0, role="group", aria_label="chart: arrow keys tell values, plus and minus look closer, 0 shows all",
    )  # fmt: skip
    data = Html(f'<script type="application/json" id="curves">{page_values.values(r, curves, picture)}</script>')
    live = Html('<p id="said" class="caption scripted" aria-live="polite"></p>')
    return tag("section", joined([head, _TOOLS, stage, tag("p", _caption(r, curves), class_="caption"), live, data]))


def _caption(r: EnergyRecord, curves: JobCurves) -> str:
    width_s = float(curves.edges_s[1])
    said = [f"Each column is the mean over {_seconds(width_s)}."]
    if curves.fine_s < 0.99 * width_s:
        said.append(
            f"The dark band goes from the least to the greatest of its parts of {_seconds(curves.fine_s)} each."
        )
    if chart.bound_of(r) is not None:
        said.append("Dotted: what the sensors may be wrong by (k = 2), alike at all times.")
    if len(curves.hosts) > 1 and not curves.cpu is curves.gpu is curves.memory is None:
        said.append("Around what is busy, and around memory: the hosts with least and most.")
    if (curves.reporting < curves.nodes).any():
        said.append("Hatched or marked at the top: something was not read there; the sum is of the hosts that were.")
    held = curves.energy_uj
    if r.energy_uj and held and abs(held - r.energy_uj) > max(2 * r.u_uj, 0.05 * held) and r.status not in _NOT_FINAL:
        said.append(
            f"The curves are of the whole nodes ({q.energy(held)} where they were read); the job's energy is "
            f"{q.energy(r.energy_uj)}: others used them too, or a part was not read."
        )
    return " ".join(text for text in said if text)


def _seconds(value: float) -> str:
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s" if value < 120 else q.duration(value)


def _where_it_went(r: EnergyRecord) -> Html:
    parts = [c for c in r.components if not (c.component == "node" and len(r.components) > 1)]
    meters = [c for c in r.components if c not in parts]
    if not parts or q.unresolved(r.energy_uj or 0, r.u_uj):
        return Html("")
    whole = r.energy_uj or 0
    most = max(c.energy_uj + 2 * c.u_uj for c in r.components)
    rows: list[list[str | Html]] = []
    for c in [*parts, *meters]:
        share = "contains the above" if c in meters else q.percent(c.energy_uj, whole) if whole else "-"
        drawn = bar(c.energy_uj, most, 2 * c.u_uj, c.component if c.component in drawing.COLOURS else "other")
        how = ", ".join(word for word in (c.provenance, *c.methods) if word)
        name = drawing.LABELS.get(c.component, c.component)
        rows.append([name, drawn, _bounded(c.energy_uj, c.u_uj), share, how])
    made = table(("component", "", "energy (k = 2)", "share", "how"), rows, "tbnnt")
    named = [
        ("static", r.static_uj), ("dynamic", r.dynamic_uj), ("held idle", r.idle_uj), ("suspended", r.suspended_uj),
        ("modelled", r.modelled_uj), ("estimated", r.estimated_uj), ("wasted", r.wasted_uj),
    ]  # fmt: skip
    unsplit = all_dynamic(r)
    if unsplit and not r.static_uj:
        named = [(name, uj) for name, uj in named if name != "dynamic"]
    of_it = "; ".join(x for x in (", ".join(f"{name} {q.energy(uj)}" for name, uj in named if uj), unsplit) if x)
    below = tag("p", f"Of it: {of_it}.", class_="caption") if of_it else Html("")
    return tag("section", joined([tag("h2", "Where it went"), made, below]))


def _bounded(uj: int | None, u_uj: int) -> str:
    return q.bounded(uj, u_uj, SIGN)


@dataclass(frozen=True)
class _Host:
    node: NodeEnergy
    watts: float | None
    busy: float | None
    hottest_c: float | None
    slowest: Rank | None


def _hosts(r: EnergyRecord, curves: JobCurves | None) -> Html:
    known = _host_figures(r, curves)
    if not known:
        return Html("")
    lists = []
    if len(known) > 1:
        lists = [
            _ranked("Most power", [(h, h.watts) for h in known], lambda value: q.power(value * 1e3)),
            _ranked("Hottest", [(h, h.hottest_c) for h in known], lambda value: f"{value:.0f} °C"),
            _ranked(
                "Idlest (CPUs busy)", [(h, None if h.busy is None else -h.busy) for h in known], lambda v: q.percent(-v)
            ),
            _ranked("Slowest (its slowest rank)", [(h, _slowness(h)) for h in known], q.duration),
        ]
    most = max((h.node.energy_uj or 0) + 2 * h.node.u_uj for h in known)
    rows: list[list[str | Html]] = []
    for h in known:
        n = h.node
        state = "" if n.state == "closed" and not n.why else n.why or n.state
        rows.append([
            n.node, bar(n.energy_uj or 0, most, 2 * n.u_uj) if len(known) <= LISTED else Html(""),
            _bounded(n.energy_uj, n.u_uj), "-" if h.watts is None else q.power(h.watts * 1e3), q.power(n.peak_mw),
            "-" if h.busy is None else q.percent(h.busy), "-" if h.hottest_c is None else f"{h.hottest_c:.0f} °C",
            q.size(n.mem_peak_b), q.percent(n.coverage), state,
        ])  # fmt: skip
    head: tuple[str, ...] = (
        "host",
        "",
        "energy (k = 2)",
        "power",
        "highest",
        "CPUs busy",
        "hottest",
        "memory",
        "coverage",
        "",
    )
    kinds = "tbnnnnnnnt"
    if len(known) > LISTED:
        rows, head, kinds = [[*row[:1], *row[2:]] for row in rows], (head[0], *head[2:]), kinds[0] + kinds[2:]
    full = table(head, rows, kinds)
    if len(known) > 8:
        full = tag("details", joined([tag("summary", f"all {len(known)} hosts"), full]))
    lost = f"No figures of: {', '.join(r.missing_nodes[:40])}" if r.missing_nodes else ""
    lost += f" and {len(r.missing_nodes) - 40} more" if len(r.missing_nodes) > 40 else ""
    parts = [
        tag("h2", "Hosts"),
        tag("div", joined([one for one in lists if one]), class_="three") if lists else "",
        full,
    ]
    return tag("section", joined([*parts, tag("p", lost, class_="caption") if lost else ""]))


def _host_figures(r: EnergyRecord, curves: JobCurves | None) -> list[_Host]:
    heat = {host.node: host.hottest_c for host in curves.hosts} if curves is not None else {}
    slowest: dict[str, Rank] = {}
    for rank in r.ranks:
        held = slowest.get(rank.node)
        if held is None or rank.end_ns - rank.start_ns > held.end_ns - held.start_ns:
            slowest[rank.node] = rank
    found = []
    for n in r.nodes:
        wall_ns = n.end_ns - n.start_ns
        watts = n.energy_uj * 1e3 / wall_ns if n.energy_uj is not None and wall_ns > 0 else None
        busy = n.cpu_ns / (n.cpus * wall_ns) if n.cpu_ns is not None and n.cpus and wall_ns > 0 else None
        found.append(_Host(n, watts, busy, heat.get(n.node), slowest.get(n.node)))
    return found


def _slowness(h: _Host) -> float | None:
    took_ns = 0 if h.slowest is None else h.slowest.end_ns - h.slowest.start_ns
    return took_ns / 1e9 if took_ns > 0 else None


def _ranked(head: str, hosts: Sequence[tuple[_Host, float | None]], word: Callable[[float], str]) -> Html:
    """The hosts with the highest values; empty where none is known."""
    known = sorted(((h, value) for h, value in hosts if value is not None), key=lambda one: (-one[1], one[0].node.node))
    if not known:
        return Html("")
    rows = [[h.node.node, word(value)] for h, value in known[:RANKED]]
    median = known[len(known) // 2][1]
    below = tag("tr", joined([tag("td", "median", class_="t"), tag("td", word(median), class_="n")]), class_="sum")
    made = joined([tag("tr", joined([tag("td", row[0], class_="t"), tag("td", row[1], class_="n")])) for row in rows])
    return tag("div", joined([tag("h3", head), Html(f"<table><tbody>{made}{below}</tbody></table>")]))


def _steps(r: EnergyRecord) -> Html:
    if not r.steps:
        return Html("")
    most = max((s.energy_uj or 0) + 2 * s.u_uj for s in r.steps)
    rows: list[list[str | Html]] = [
        [step_name(s), bar(s.energy_uj or 0, most, 2 * s.u_uj, "step"), step_energy(s, SIGN), f"{s.tasks or '-'}",
         str(s.nodes), _after(s.start_ns, r), q.span(s.start_ns, s.end_ns),
         q.duration(s.cpu_ns / 1e9) if s.cpu_ns else "-"]
        for s in r.steps[:LISTED]
    ]  # fmt: skip
    made = [
        tag("h2", "Steps"),
        table(("step", "", "energy (k = 2)", "tasks", "nodes", "begins after", "time", "CPU time"), rows, "tbnnnnnn"),
    ]
    if len(r.steps) > LISTED:
        made.append(tag("p", f"and {len(r.steps) - LISTED} more: perun report --json", class_="caption"))
    made += [tag("p", f"Step {s.step_id}: {s.why}", class_="caption") for s in r.steps[:LISTED] if s.why]
    if r.ranks:
        ordered = sorted(r.ranks, key=lambda k: (k.start_ns - k.end_ns, k.step_id, k.rank))
        longest = max(1, ordered[0].end_ns - ordered[0].start_ns)
        lines: list[list[str | Html]] = [
            [k.step_id, str(k.rank), k.node, bar(k.end_ns - k.start_ns, longest, 0, "step"),
             q.span(k.start_ns, k.end_ns), _bounded(k.energy_uj, k.u_uj)]
            for k in ordered[:LISTED]
        ]  # fmt: skip
        bare = all(k.energy_uj is None for k in r.ranks)
        shown = 5 if bare else 6
        head = ("step", "rank", "host", "", "time", "energy (k = 2)")[:shown]
        full = table(head, [line[:shown] for line in lines], "tntbnn"[:shown], f"{NO_RANKS}." if bare else "")
        some = f"the {LISTED} slowest of {len(ordered)} ranks" if len(ordered) > LISTED else count(len(ordered), "rank")
        made.append(tag("details", joined([tag("summary", some), full])))
    return tag("section", joined(made))


def _after(ns: int, r: EnergyRecord) -> str:
    return q.duration((ns - r.start_ns) / 1e9) if ns >= r.start_ns > 0 else "-"


def _functions(r: EnergyRecord) -> Html:
    if not r.regions:
        return Html("")
    ordered = sorted(r.regions, key=lambda g: -(g.energy_uj or g.time_ns))
    most = max((g.energy_uj or 0) + 2 * g.u_uj for g in ordered)
    rows: list[list[str | Html]] = [
        [g.name, g.step_id, bar(g.energy_uj or 0, most, 2 * g.u_uj), region_energy(g, r, SIGN),
         *region_parts(g, r.energy_uj), str(g.calls), str(g.ranks),
         f"{q.duration(g.time_min_ns / 1e9)} .. {q.duration(g.time_max_ns / 1e9)}"]
        for g in ordered[:LISTED]
    ]  # fmt: skip
    head = ("function", "step", "", "energy (k = 2)", "a call", "share", "calls", "ranks", "time per rank")
    made = [tag("h2", "Functions"), table(head, rows, "ttbnnnnnn")]
    if len(ordered) > LISTED:
        made.append(tag("p", f"and {len(ordered) - LISTED} more: perun report --json", class_="caption"))
    made += [tag("p", f"{note}.", class_="caption") for note in region_notes(ordered[:LISTED])]
    shown = chart.functions_with_times(r)
    when = "When each call was is not kept: only how many there were, how long and what they used."
    if shown:
        width_s = max(one.width_s for one in shown)
        when = f"The chart shows how much of its ranks' time each had, in stretches of {_seconds(width_s)}."
    made.append(tag("p", when, class_="caption"))
    return tag("section", joined(made))


def _words() -> Html:
    shown = [one for one in terms.terms() if one.section == terms.WORDS or one.name == "coverage"]
    listed = joined([joined([tag("dt", one.name), tag("dd", one.text)]) for one in shown])
    return tag("details", joined([tag("summary", "what the words mean"), tag("dl", listed)]))


def _foot(r: EnergyRecord, source: str) -> Html:
    parts = [f"Record from {source}"]
    if r.revision > 1:
        parts.append(f"revision {r.revision}: amended by a late node")
    if r.footprint is not None:
        stated = r.footprint.embodied.sources if r.footprint.embodied is not None else ()
        parts += [text for text in (*r.footprint.sources, *stated) if text]
    if r.perun_version:
        cost = f", which took {q.duration(r.agent_cpu_ns / 1e9)} of CPU time itself" if r.agent_cpu_ns else ""
        parts.append(f"perun {r.perun_version}{cost}")
    return tag("footer", joined([tag("p", "; ".join(parts) + ".")]))


def _time(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9).strftime("%Y-%m-%d %H:%M:%S") if 0 < ns < 1 << 62 else "-"
