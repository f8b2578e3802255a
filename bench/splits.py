"""How rules share out what jobs made a node use, on the same cases: `python -m bench.splits` prints its tables.

Three ways of game theory beside those of tools: *marginal* is what the node uses less without the job, *Shapley* the
mean of that over all orders in which jobs could have come. Both need the node run again with every set of jobs, which
the simulator of `bench.attribution` can do and no site can. What is shared out is the dynamic energy, what the node
uses with all jobs less what it uses with none; static power goes by allocation under every rule, a convention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations

from bench.attribution import CORES, SECONDS, STATIC_W, Case, HiddenJob, cases, cpus, simulate, steady
from perun_hpc.energy.attribute import IntervalInput, NodeInput, attribute

RULES = ("this rule", "equal parts", "CPU time", "marginal", "Shapley")
MORE = 1.2
SLEEPER = Case(
    "a sleeper beside a busy job",
    (
        HiddenJob("4 cores busy", cpus(0, 4, False), 6.0, 0.25, steady(1.0)),
        HiddenJob("4 cores asleep", cpus(4, 4, False), 6.0, 0.25, steady(0.0)),
    ),
)


@dataclass(frozen=True)
class Split:
    """A case's dynamic energy in J, each job's of the simulator's log, and what each rule gives each job."""

    whole_j: float
    log_j: Sequence[float]
    given_j: Mapping[str, Sequence[float]]


@cache
def _used_j(jobs: tuple[HiddenJob, ...]) -> float:
    """What the node uses while such jobs run."""
    _, intervals = simulate(Case("", jobs))
    return sum(domain.total_uj or 0 for interval in intervals for domain in interval.domains) / 1e6


@cache
def split(case: Case) -> Split:
    """Share out a case by every rule."""
    count = len(case.jobs)
    truth, intervals = simulate(case)
    idle_j, all_j = _used_j(()), _used_j(case.jobs)

    def with_j(numbers: Sequence[int]) -> float:
        return _used_j(tuple(case.jobs[number] for number in sorted(numbers))) - idle_j

    marginal = [all_j - idle_j - with_j([other for other in range(count) if other != job]) for job in range(count)]
    shapley = []
    for job in range(count):
        others = [other for other in range(count) if other != job]
        value = 0.0
        for size in range(count):
            part = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
            value += part * sum(with_j([*some, job]) - with_j(some) for some in combinations(others, size))
        shapley.append(value)
    used = [sum(interval.jobs[job].cpu_ns or 0 for interval in intervals) for job in range(count)]
    whole_j = all_j - idle_j
    # Cores that nobody holds are not in the log of jobs: static power goes by cores held.
    static_j = [len({cpu % CORES for cpu in job.cpus}) * STATIC_W / 8 * SECONDS for job in case.jobs]
    return Split(
        whole_j,
        [truth.total(f"job:{job}") - static_j[job] for job in range(count)],
        {
            "this rule": _ours(intervals, count),
            "equal parts": [whole_j / count] * count,
            "CPU time": [whole_j * one / (sum(used) or 1) for one in used],
            "marginal": marginal,
            "Shapley": shapley,
        },
    )


def _ours(intervals: Sequence[IntervalInput], count: int) -> list[float]:
    given = [0.0] * count
    for interval in intervals:
        for domain in attribute(interval):
            for share in domain.shares:
                if share.owner.startswith("job:"):
                    given[int(share.owner[4:])] += share.dynamic_uj / 1e6
    return given


# Axioms and sensitivity.


def _gap(rule: str) -> float:
    """The largest part of the dynamic energy, in percent, that a rule leaves over or gives twice."""
    gaps = []
    for case in (*cases(), SLEEPER):
        found = split(case)
        left_j = found.whole_j - sum(found.given_j[rule])
        gaps.append(100 * left_j / found.whole_j)
    return max(gaps, key=abs)


def _unlike(rule: str) -> float:
    first, second = split(cases()[0]).given_j[rule]
    return 100 * (first - second) / second


def _asleep(rule: str) -> float:
    found = split(SLEEPER)
    return 100 * found.given_j[rule][1] / found.whole_j


def _changed(rule: str, which: int) -> float:
    """How much more the second job of the case is given, in percent, where a job takes 20 % more watts."""
    case = cases()[1]
    jobs = list(case.jobs)
    jobs[which] = replace(jobs[which], watts=MORE * jobs[which].watts)
    before, after = (split(one).given_j[rule][0] for one in (case, replace(case, jobs=tuple(jobs))))
    return 100 * (after - before) / before


def _log_changed(which: int) -> float:
    case = cases()[1]
    jobs = list(case.jobs)
    jobs[which] = replace(jobs[which], watts=MORE * jobs[which].watts)
    before, after = (split(one).log_j[0] for one in (case, replace(case, jobs=tuple(jobs))))
    return 100 * (after - before) / before


QUESTIONS: Sequence[tuple[str, Callable[[str], float], Callable[[], float] | None]] = (
    ("sums to the whole: what is left over or given twice, at most", _gap, None),
    ("like jobs get alike: difference of the two equal jobs", _unlike, None),
    ("who does nothing gets nothing: the sleeper's part", _asleep, None),
    ("its own watts 20 % higher: the busy job gets", lambda rule: _changed(rule, 0), lambda: _log_changed(0)),
    ("its neighbour's watts 20 % higher: the busy job gets", lambda rule: _changed(rule, 1), lambda: _log_changed(1)),
)


def kappas(values: Sequence[tuple[int, int]] = ((0, 1), (1, 4), (1, 2), (1, 1))) -> list[tuple[str, list[float]]]:
    """The first job's part, in percent of both, by this rule with other weights of a second thread."""
    found = []
    for case in cases()[3:5]:
        _, intervals = simulate(case)
        parts = []
        for kappa in values:
            node: NodeInput = replace(intervals[0].node, kappa=kappa)
            ours = _ours([replace(one, node=node) for one in intervals], len(case.jobs))
            parts.append(100 * ours[0] / sum(ours))
        log = split(case).log_j
        found.append((case.name, [100 * log[0] / sum(log), *parts]))
    return found


def table() -> str:
    """The tables as Markdown."""
    lines = [f"| node shared by | job | in the log, J | {' | '.join(RULES)} |", "|---" * (3 + len(RULES)) + "|"]
    for case in cases():
        found = split(case)
        for number, job in enumerate(case.jobs):
            given = " | ".join(f"{found.given_j[rule][number]:.0f}" for rule in RULES)
            lines.append(f"| {case.name} | {job.name} | {found.log_j[number]:.0f} | {given} |")
    lines += ["", f"| in percent | in the log | {' | '.join(RULES)} |", "|---" * (2 + len(RULES)) + "|"]
    for text, ask, logged in QUESTIONS:
        answers = " | ".join(_percent(ask(rule)) for rule in RULES)
        lines.append(f"| {text} | {_percent(logged()) if logged else ''} | {answers} |")
    lines += ["", "| part of the job with two threads a core, in percent | in the log | kappa 0 | 1/4 | 1/2 | 1 |"]
    lines.append("|---" * 6 + "|")
    for name, parts in kappas():
        lines.append(f"| {name} | {' | '.join(f'{one:.0f}' for one in parts)} |")
    return "\n".join(lines)


def _percent(value: float) -> str:
    return f"{value + 0.0:+.1f}" if abs(value) >= 0.05 else "0.0"


if __name__ == "__main__":
    print(table())
