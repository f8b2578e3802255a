"""Fitting what nodes draw at the wall: simulated meters with ticks, noise that stays a while, a gain of their own."""

from __future__ import annotations

import random

import pytest

from perun_hpc.energy.calibration import DAY_ERROR, LEAST_ERROR, LEAST_ROWS, Row, fit, relative_error
from perun_hpc.errors import DataError

TRUTH = {"static": 85.0, "cpu": 1.12, "dram": 1.35, "gpu": 1.07}
GAIN_U = 0.005
TICK_J = 3600.0
PERIOD_S = 900.0


def simulated(seed: int, count: int = 96, nodes: int = 2) -> list[Row]:
    """Rows of a meter in ticks of 1 Wh beside loads that come and go; fans add watts that stay for some rows."""
    dice = random.Random(seed)
    gain, fans_w, energy_j, shown_j = dice.gauss(1, GAIN_U), 0.0, 0.0, 0.0
    rows = []
    for _ in range(count):
        fans_w = 0.7 * fans_w + dice.gauss(0, 2)
        loads = {"cpu": dice.uniform(60, 400), "dram": dice.uniform(8, 60), "gpu": dice.choice((70.0, 300.0, 700.0))}
        powers = {name: nodes * watts for name, watts in loads.items()}
        wall_w = nodes * TRUTH["static"] + sum(TRUTH[name] * watts for name, watts in powers.items()) + fans_w
        energy_j += gain * wall_w * PERIOD_S
        before_j, shown_j = shown_j, energy_j // TICK_J * TICK_J
        rows.append(Row(nodes, (shown_j - before_j) / PERIOD_S, powers))
    return rows


def test_coefficients_lie_within_their_bounds() -> None:
    inside = dict.fromkeys(TRUTH, 0)
    for seed in range(60):
        model = fit(simulated(seed), GAIN_U)
        found = {"static": model.static_w, **model.slopes}
        assert found.keys() == TRUTH.keys()
        for name, truth in TRUTH.items():
            off = abs(found[name].value - truth)
            inside[name] += off <= 2 * found[name].u
            assert off <= 5 * found[name].u, (seed, name)
        assert found["cpu"].u < 0.05 * TRUTH["cpu"], "bounds that say nothing hold always"
        assert model.rmse_w < 6 and model.unseen_rmse_w < 7
    assert min(inside.values()) >= 0.9 * 60, inside


def test_bounds_are_as_wide_as_the_meter_s_own_error() -> None:
    fine, coarse = (fit(simulated(1), gain_u).slopes["gpu"].u for gain_u in (0.0, 0.03))
    assert coarse == pytest.approx((fine**2 + (0.03 * fit(simulated(1), 0).slopes["gpu"].value) ** 2) ** 0.5)


def test_a_component_that_stands_still_is_in_the_static_part() -> None:
    rows = [Row(row.nodes, row.wall_w, {**row.components_w, "dram": 20.0}) for row in simulated(2)]
    model = fit(rows, GAIN_U)
    assert (model.left_out, sorted(model.slopes)) == (("dram",), ["cpu", "gpu"])


def test_what_cannot_be_fitted_is_one_line() -> None:
    with pytest.raises(DataError, match="let it run longer"):
        fit(simulated(3)[: LEAST_ROWS - 1], GAIN_U)
    twins = [
        Row(1, row.wall_w, {"cpu": row.components_w["cpu"], "dram": row.components_w["cpu"] / 9})
        for row in simulated(4)
    ]
    with pytest.raises(DataError, match="cpu and dram moved together"):
        fit(twins, GAIN_U)
    with pytest.raises(DataError, match="no component's power changed"):
        fit([Row(1, 100, {"cpu": 50})] * LEAST_ROWS, GAIN_U)


def test_a_model_of_one_day_is_less_sure_than_its_scatter_says():
    rows = [Row(1, 100.0 + at % 7, {"cpu": 50.0 + at % 7}) for at in range(48)]
    model = fit(rows, 0.0)
    assert relative_error(model, rows, 0.0, 3600.0) == pytest.approx(DAY_ERROR, rel=0.01)
    assert relative_error(model, rows, 0.0, 5 * 86400.0) == pytest.approx(LEAST_ERROR)
    assert relative_error(model, rows, 0.01, 5 * 86400.0) == pytest.approx(0.01, rel=0.01)
