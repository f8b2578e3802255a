"""Several jobs on one screen: an array or a heterogeneous job as one object, or a list of jobs with its sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median_low

from perun_hpc.accounting.together import Member, Together, members, together
from perun_hpc.data_model.record import CARBON, EnergyRecord
from perun_hpc.data_model.wording import count
from perun_hpc.report import quantities as q
from perun_hpc.report.listing import jobs_listing
from perun_hpc.report.screen import Style, both_ends, printable, table, wrapped

LABEL = 11
WORST = 5
"""So many members are named in the table."""
OUTLIER = 1.5
NONE_YET = ("running", "pending", "awaited")


def whole_report(runs: Sequence[EnergyRecord], style: Style) -> list[str]:
    """Return the screen of one array or heterogeneous job: sum, spread, the members that stand out.

    Parameters
    ----------
    runs
        All runs of all its members that the caller may see.
    style
        How to draw.
    """
    parts = members(runs)
    word = "task" if parts[0].newest.array_job_id is not None else "component"
    sums = [(part, part.sum) for part in parts]
    known = [(part, total) for part, total in sums if total.energy_uj is not None and part.newest.start_ns]
    lines = [*_header(parts, word, style), style.rule, *sum_lines(together(runs), style)]
    lines += _unknown(parts, word)
    lines += _spread(known, word)
    wasted = [r.wasted_uj for r in runs if r.wasted_uj]
    if wasted:
        text = f"{q.energy(sum(wasted))} in {count(len(wasted), 'run')} that did not complete"
        lines += wrapped(text, LABEL, "Wasted")
    lines += _footprint(runs, together(runs))
    lines += _worst(known, word, style)
    lines += _hints(known, word, style)
    return [style.highlighted(style.units(line)) for line in lines]


def listing_report(objects: Sequence[Sequence[EnergyRecord]], style: Style, now_s: float) -> list[str]:
    """Return a line for each job, all members of arrays included, and the sum of all with its bounds."""
    records = [record for runs in objects for record in runs]
    total = together(records)
    lines = [*jobs_listing(records, style, now_s), style.rule, *sum_lines(total, style)]
    if total.known < total.runs:
        lines += wrapped(f"of {count(total.runs - total.known, 'run')} of {total.runs}", LABEL, "Not known")
    return [style.highlighted(style.units(line)) for line in lines]


def sum_lines(total: Together, style: Style) -> list[str]:
    """Return the line of a sum."""
    if total.energy_uj is None:
        return wrapped("not known yet, or nothing was measured", LABEL, "Energy")
    known = q.bounded(total.energy_uj, total.u_uj, style.plus_minus)
    known += " (k=2)" if total.u_uj > 0 else " (bounds not known)"
    if total.lower_bound and not q.within_bound(total.energy_uj, total.u_uj):
        known = f"at least {known}"
    right = q.with_watt_hours(total.energy_uj, total.u_uj, total.provenance)
    return [both_ends(f"{'Energy':<{LABEL}}{known}", right, style)]


def _header(parts: Sequence[Member], word: str, style: Style) -> list[str]:
    first = parts[0].newest
    array = word == "task"
    states = Counter(part.newest.state or part.newest.status for part in parts)
    state = ", ".join(f"{number} {name}" for name, number in states.most_common())
    who = [
        first.user or f"uid {first.uid}",
        *(f"{k} {v}" for k, v in (("account", first.account), ("partition", first.partition), ("qos", first.qos)) if v),
    ]
    kind = "Job array" if array else "Heterogeneous job"
    title = f"{kind} {first.array_job_id if array else first.het_job_id}  {first.name}"
    starts = [part.newest.start_ns for part in parts if part.newest.start_ns]
    ends = [part.newest.end_ns for part in parts if part.newest.start_ns]
    when = f"{q.moment(min(starts))} .. {q.moment(max(ends), min(starts))}" if starts else "none has started"
    return [
        style.bold(both_ends(title, state, style)),
        both_ends("  ".join(who), "", style),
        both_ends(f"{count(len(parts), word)}", when, style),
    ]


def _unknown(parts: Sequence[Member], word: str) -> list[str]:
    """Say of how many members nothing is known, and why."""
    why = Counter(
        "ended, with its record on the way" if part.newest.status == "awaited"
        else "waiting or running" if part.newest.status in NONE_YET
        else "never ran" if not part.newest.start_ns
        else "below what the sensors resolve" if any(r.energy_uj is not None for r in part.runs)
        else "without a record"
        for part in parts
        if part.sum.energy_uj is None
    )  # fmt: skip
    if not why:
        return []
    said = ", ".join(f"{count(number, word)} {name}" for name, number in why.most_common())
    return wrapped(said, LABEL, "Not known")


def _spread(known: Sequence[tuple[Member, Together]], word: str) -> list[str]:
    if len(known) < 2:
        return []
    ordered = sorted(known, key=_energy)
    (least, low), (most, high) = ordered[0], ordered[-1]
    _, middle = ordered[(len(ordered) - 1) // 2]
    text = (
        f"{_figure(middle)} in the median, from {_figure(low)} ({least.newest.display_id}) "
        f"to {_figure(high)} ({most.newest.display_id})"
    )
    times = sorted(part.newest.elapsed_s for part, _ in known)
    took = f"{q.duration(median_low(times))} in the median, from {q.duration(times[0])} to {q.duration(times[-1])}"
    return [*wrapped(text, LABEL, word.capitalize()), *wrapped(took, LABEL, "Time")]


def _worst(known: Sequence[tuple[Member, Together]], word: str, style: Style) -> list[str]:
    """The members with most energy, and of those that did not complete the ones with most."""
    if len(known) < 2:
        return []
    ordered = sorted(known, key=_energy, reverse=True)
    failed = [one for one in ordered if one[1].wasted_uj][: WORST // 2]
    chosen = [*ordered[: WORST - len([one for one in failed if one not in ordered[:WORST]])]]
    chosen += [one for one in failed if one not in chosen]
    middle = median_low([_energy(one) for one in known])
    rows = []
    for part, total in chosen:
        r = part.newest
        rows.append(
            [
                r.display_id,
                q.bounded(total.energy_uj, total.u_uj, style.plus_minus),
                f"{_energy((part, total)) / middle:.2f}" if middle > 0 else "-",
                q.duration(r.elapsed_s),
                q.percent(r.cpu_ns / 1e9, r.cpus * r.elapsed_s) if r.cpu_ns is not None and r.cpus else "-",
                r.state or r.status,
            ]
        )
    title = f"Most of {len(known)}" if len(known) > len(chosen) else f"{word.capitalize()}s ({len(known)})"
    head = (title, "energy (k=2)", "of median", "time", "CPU", "state")
    lines = table(rows, head, (False, True, True, True, True, False), style)
    return ["", style.bold(lines[0]), *lines[1:]]


def _hints(known: Sequence[tuple[Member, Together]], word: str, style: Style) -> list[str]:
    if len(known) < 3:
        return []
    ordered = sorted(known, key=_energy)
    (_, middle), (most, high) = ordered[(len(ordered) - 1) // 2], ordered[-1]
    usual_uj, most_uj = middle.energy_uj or 0, high.energy_uj or 0
    # Within their bounds (k=2) they may be alike.
    if most_uj < OUTLIER * usual_uj or most_uj - 2 * high.u_uj < usual_uj + 2 * middle.u_uj or usual_uj <= 0:
        return []
    text = f"{most.newest.display_id} used {most_uj / usual_uj:.1f} times as much as the median {word}"
    return ["", style.bold("Hints"), *wrapped(text, 4, "  - ")]


def _footprint(runs: Sequence[EnergyRecord], total: Together) -> list[str]:
    times = q.upper_part(total.energy_uj or 0, total.u_uj)
    known = [r.footprint.times(times or 1) for r in runs if r.footprint is not None and r.footprint.known]
    parts = []
    for name, meaning in CARBON.items():
        carbon = [grams for f in known if (grams := getattr(f, name)) is not None]
        if carbon:
            parts.append(f"{q.mass(sum(carbon))} CO2e ({meaning})")
    for currency in sorted({f.currency for f in known if f.cost is not None}):
        cost = sum(f.cost for f in known if f.cost is not None and f.currency == currency)
        parts.append(q.money(cost, printable(currency)))
    if not parts:
        return []
    whole = len(known) == len([r for r in runs if r.energy_uj is not None]) and not any(f.lower_bound for f in known)
    if times is not None:
        return wrapped(f"at most {', '.join(parts)}{'' if whole else ', of what was measured'}", LABEL, "Footprint")
    return wrapped(("" if whole else "at least ") + ", ".join(parts), LABEL, "Footprint")


def _figure(total: Together) -> str:
    return q.figure(total.energy_uj or 0, total.u_uj)


def _energy(one: tuple[Member, Together]) -> int:
    return one[1].energy_uj or 0
