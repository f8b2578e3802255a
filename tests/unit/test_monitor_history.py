"""A run beside the earlier ones of its application, and a run as a file that is read back."""

from __future__ import annotations

import pytest

from perun_hpc.config.user import flat, load, settings, unflat
from perun_hpc.data_model.data import Metric, MetricType, NodeType, Region, Stats
from perun_hpc.errors import ConfigError
from perun_hpc.monitoring.results import multi_run_node, run_node
from perun_hpc.report.formats import hdf5, history
from tests.unit.test_monitor_formats import host

CHOSEN = settings(load(environ={"HOME": "/nonexistent"}))


def run(joules: float | None, u: float = 0.0):
    one = host("a", joules or 0.0)
    one.metrics[MetricType.ENERGY] = Metric(MetricType.ENERGY, joules or 0.0, uncertainty=u)
    if joules is None:
        del one.metrics[MetricType.ENERGY]
    return multi_run_node("r", [run_node("0", [one], CHOSEN)], {"app": "app"})


def test_all_runs_are_summed_and_those_without_energy_named():
    assert history.total([run(3.6e6), run(7.2e6)], CHOSEN) == "app was run 2 times here, in total 10.8 MJ (3.00 kWh)."
    assert history.total([run(2.0), run(None)], CHOSEN) == (
        "app was run 2 times here, in total 2.00 J, 1 of them not counted: their energy is not known."
    )
    assert history.total([run(None)], CHOSEN) == "app was run 1 time here; no sensor measured its energy."


@pytest.mark.parametrize(
    ("now", "before", "says"),
    [
        (run(110.0), [run(100.0)], "Beside the run before: +10.0 % energy, more than they explain."),
        (run(110.0, 6.0), [run(100.0)], "within the uncertainties"),
        (run(110.0), [run(100.0, 6.0)], "within the uncertainties"),
        (run(110.0), [run(90.0), run(110.0)], "Beside the 2 runs before: +10.0 % energy, within the uncertainties"),
        (run(90.0), [run(100.0)] * 5 + [run(1.0)], "Beside the 5 runs before: -10.0 % energy, more than"),
    ],
)
def test_a_run_is_compared_with_the_last_ones_within_their_bounds(now, before, says):
    assert says in history.against(now, before)


@pytest.mark.parametrize(("now", "before"), [(run(None), [run(1.0)]), (run(1.0), [run(None)]), (run(1.0), [])])
def test_nothing_is_compared_with_what_is_not_known(now, before):
    assert history.against(now, before) == ""


def test_statistics_have_a_value_as_metrics_have():
    assert Stats(MetricType.ENERGY, 6.0, 2.0, 1.0, 3.0, 1.0).value == 2.0


def test_the_configuration_is_kept_as_it_was_in_force():
    given = {"pue": 1.5, "price_factor": 0.3, "metrics": "energy,co2", "include_sensors": "a b", "price_unit": "CHF"}
    chosen = settings(load(environ={"HOME": "/nonexistent"}, overrides=given))
    assert unflat(flat(chosen)) == chosen
    assert unflat({"output.gone": "1"}) == CHOSEN
    with pytest.raises(ConfigError, match=r"post-processing\.pue"):
        unflat({"post-processing.pue": "much"})


def test_an_hdf5_file_holds_any_number_of_regions(tmp_path):
    tree = run(1.0)
    (node,) = tree.walk(NodeType.NODE)
    node.regions = [Region(f"region {number}", "a", rank, 1, 1.0, 1.0) for number in range(100) for rank in range(20)]
    hdf5.write(tree, tmp_path, tmp_path / "x.hdf5")
    assert hdf5.read(tmp_path / "x.hdf5") == tree
