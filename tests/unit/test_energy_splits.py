"""What docs/method.md says of other ways to share out, and of hardware events, is what the simulators say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from bench import events, splits
from bench.coverage.physics import FAMILIES

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
        assert [row.split("|")[1].strip() for row in rows] == [*events.RULES, "fit: covered, width"]
    assert set(re.findall(r"\| (\w+): the job is there for", text)) == set(FAMILIES)


def test_a_trial_closes_on_what_the_jobs_used():
    trial = events.simulate(np.random.default_rng(1), FAMILIES["tuning"])
    assert all(row.events.keys() == true.keys() for row, true in zip(trial.rows, trial.true_j))
    assert {one.rule for one in events.judged(trial)} == set(events.RULES)


def test_docs_method_says_what_becomes_of_programs_that_never_wait():
    text = METHOD.read_text()
    head, _, *rows = events.unseen_table(1, 1).splitlines()
    published = text[text.index(head) :].split("\n\n")[0].splitlines()[2:]
    assert [row.split("|")[1:3] for row in published] == [row.split("|")[1:3] for row in rows]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_fit_is_nearer_to_the_truth_than_cpu_time_and_its_bounds_hold(family):
    rng = np.random.default_rng(5)
    found = [one for _ in range(25) for one in events.judged(events.simulate(rng, FAMILIES[family]))]
    off = {
        rule: np.sqrt(np.mean([(one.given / one.true - 1) ** 2 for one in found if one.rule == rule]))
        for rule in ("CPU time", "fit")
    }
    assert off["fit"] < 0.85 * off["CPU time"]
    held = [abs(one.given - one.true) <= 2 * one.u for one in found if one.rule == "fit"]
    assert np.mean(held) > 0.9


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
