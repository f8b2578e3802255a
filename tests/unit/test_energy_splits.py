"""What docs/method.md says of other ways to share out, and of hardware events, is what the simulators say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bench import events, splits
from bench.coverage.physics import FAMILIES
from bench.event_model import NS_PER_S, Row, fit

METHOD = Path(__file__).parents[2] / "docs/method.md"


def test_docs_method_publishes_the_present_splits():
    assert splits.table() in METHOD.read_text(), "run python -m bench.splits and put its output into docs/method.md"


def test_shapley_parts_sum_to_the_whole_and_marginal_ones_do_not():
    found = splits.split(splits.cases()[2])
    assert sum(found.given_j["Shapley"]) == pytest.approx(found.whole_j)
    assert sum(found.given_j["marginal"]) < 0.9 * found.whole_j


def test_docs_method_has_the_rules_of_the_events_table():
    text = METHOD.read_text()
    for family in FAMILIES:
        rows = text[text.index(f"| {family}: the job is there for |") :].split("\n\n")[0].splitlines()[2:]
        assert [row.split("|")[1].strip() for row in rows] == [*events.RULES, "events: covered, width"]
    assert set(re.findall(r"\| (\w+): the job is there for", text)) == set(FAMILIES)


def _rows(watts: dict[str, float], times: dict[str, tuple[int, int]], rest_w: float = 0.0) -> list[Row]:
    """Jobs of so many watts that come and go, alike in their events; intervals of 10 s."""
    found = []
    for at_s in range(0, 200, 10):
        live = [job for job, (start_s, end_s) in times.items() if start_s <= at_s < end_s]
        energy_uj = round((sum(watts[job] for job in live) + rest_w) * 10 * 1e6)
        if live:
            found.append(Row(10 * NS_PER_S, energy_uj, {job: (25 * 10**9, 30 * 10**9, 10**7) for job in live}))
    return found


def test_the_fit_tells_jobs_apart_that_come_and_go():
    rows = _rows({"a": 40.0, "b": 20.0}, {"a": (0, 200), "b": (100, 200)})
    found = fit(rows)
    assert found is not None
    energies = found.energies(rows[-1].events)
    assert energies["a"] / energies["b"] == pytest.approx(2, rel=0.15)  # what was known beforehand holds it back
    assert abs(energies["a"] / sum(energies.values()) - 2 / 3) < found.part_errors(rows[-1].events)["a"] < 0.1


def test_the_fit_cannot_tell_jobs_apart_that_are_always_together_and_says_so():
    rows = _rows({"a": 40.0, "b": 20.0}, {"a": (0, 200), "b": (0, 200)})
    found = fit(rows)
    assert found is not None
    energies = found.energies(rows[-1].events)
    assert energies["a"] == pytest.approx(energies["b"])
    assert abs(energies["a"] / sum(energies.values()) - 2 / 3) < 2 * found.part_errors(rows[-1].events)["a"]


def test_the_fit_says_less_of_jobs_where_static_power_is_doubtful():
    rows = _rows({"a": 30.0, "b": 30.0}, {"a": (0, 200), "b": (60, 120)}, rest_w=15.0)
    sure, unsure = (fit(rows, static_u_uw) for static_u_uw in (0.0, 15e6))
    assert sure is not None
    assert unsure is not None
    events_of = rows[8].events
    assert unsure.part_errors(events_of)["a"] > 1.1 * sure.part_errors(events_of)["a"]
    off = [abs(one.energies(events_of)["a"] / one.energies(events_of)["b"] - 1) for one in (sure, unsure)]
    assert off[1] < off[0]


def test_there_is_nothing_to_fit_without_events_or_energy():
    assert fit([]) is None
    assert fit([Row(10 * NS_PER_S, 0, {"a": (1, 1, 1)}), Row(10 * NS_PER_S, 5, {"a": (0, 0, 0)})]) is None


def test_a_trial_closes_on_what_the_jobs_used():
    trial = events.simulate(np.random.default_rng(1), FAMILIES["tuning"])
    assert all(row.events.keys() == true.keys() for row, true in zip(trial.rows, trial.true_j))
    assert {one.rule for one in events.judged(trial)} == set(events.RULES)


def test_docs_method_says_how_far_misses_may_be_from_traffic():
    text = METHOD.read_text()
    head = events.memory_table(1, 1).splitlines()[0]
    rows = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == list(FAMILIES)


def test_misses_share_memory_out_better_than_cpu_time():
    trial = events.simulate(np.random.default_rng(2), FAMILIES["withheld"])
    found = list(events.memory_judged(trial, np.random.default_rng(3), 0.0))
    off = {
        rule: np.mean([(one.given / one.true - 1) ** 2 for one in found if one.rule == rule])
        for rule in ("CPU time", "misses")
    }
    assert off["misses"] < off["CPU time"] / 4
