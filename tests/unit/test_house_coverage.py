"""The published coverage of the bounds: every kind of case in the table, and the bounds hold in small samples, too."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.coverage.__main__ import TRIALS, run
from bench.coverage.physics import FAMILIES
from bench.coverage.verdict import Sample, Verdict, judge, table

METHOD = Path(__file__).parents[2] / "docs/method.md"


def published() -> dict[str, list[str]]:
    """Kind of case -> the cells of its row in docs/method.md."""
    text = METHOD.read_text()
    rows = text[text.index("| kind of case |") :].split("\n\n")[0].splitlines()[2:]
    return {cells[0]: cells[1:] for row in rows if (cells := [cell.strip() for cell in row.strip("|").split("|")])}


def test_every_kind_of_case_is_published_and_none_beside() -> None:
    samples = list(run(list(TRIALS), "withheld", 1, 7, 1))
    assert all(one.true_j > 0 and one.u_j > 0 for one in samples)
    assert list(dict.fromkeys(one.kind for one in samples)) == list(published())


def test_a_kind_that_is_not_covered_says_so() -> None:
    """Whatever is below 95 % in the table is named in the text below it."""
    text = METHOD.read_text()
    below = " ".join(text[text.index("| kind of case |") :].split("\n\n", 2)[1].split())
    for kind, (_, covered, *_) in published().items():
        if int(re.findall(r"\d+", covered)[0]) < 95:
            assert kind.split(",")[0] in below


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "name",
    [
        "shared-unknown", "threads", "oversubscribed", "sleeper-unknown", "gpu-average-short", "meter-exclusive-short",
        "steps", "ranks-uneven", "pair-same", "pair-shared", "pair-other",
    ],
)  # fmt: skip
def test_bounds_hold(name: str, family: str) -> None:
    kinds: dict[str, list[Sample]] = {}
    for one in run([name], family, 15, 99, 1):
        kinds.setdefault(one.kind, []).append(one)
    for kind, samples in kinds.items():
        assert judge(kind, samples).covered >= 80


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["shared-policy", "shared-learnt", "spinning"])
def test_what_is_learnt_of_watts_is_nearer_and_its_bounds_hold(name: str, family: str) -> None:
    plain, fitted = (
        {one.kind: one for one in _verdicts(run([name], family, 30, 99, 1, learnt))} for learnt in (False, True)
    )
    for kind, verdict in fitted.items():
        if kind.startswith("memory"):  # nothing is learnt of it
            assert verdict == plain[kind]
            continue
        assert verdict.covered >= 85
        assert verdict.rmse < 0.95 * plain[kind].rmse
        assert verdict.width < plain[kind].width


def _verdicts(samples: Iterable[Sample]) -> list[Verdict]:
    kinds: dict[str, list[Sample]] = {}
    for one in samples:
        kinds.setdefault(one.kind, []).append(one)
    return [judge(kind, found) for kind, found in kinds.items()]


def test_a_verdict_is_what_it_says() -> None:
    verdict = judge("x", [Sample("x", 100.0, 110.0, 10.0)] * 19 + [Sample("x", 100.0, 140.0, 10.0)])
    assert (verdict.n, verdict.covered) == (20, 95)
    assert verdict.bias == pytest.approx(11.5)
    assert verdict.width == pytest.approx(20)
    assert "| x | 20 | 95 | +12 |" in table([verdict])


def test_the_same_seed_makes_the_same_trials() -> None:
    first, again = (list(run(["steps"], "tuning", 2, 5, 1)) for _ in range(2))
    assert first and first == again
