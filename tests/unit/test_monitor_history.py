"""A run beside the earlier ones of its application, and a run as a file that is read back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from perun_hpc.config.user import flat, load, settings, unflat
from perun_hpc.data_model.data import (
    AggregateType,
    DeviceType,
    Metric,
    MetricType,
    NodeType,
    RawData,
    Region,
    Stats,
)
from perun_hpc.data_model.sensor import Kind, Provenance, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.errors import ConfigError
from perun_hpc.monitoring.results import host_node, multi_run_node, run_node
from perun_hpc.report.formats import hdf5, history
from tests.unit.test_monitor_formats import host

CHOSEN = settings(load(environ={"HOME": "/nonexistent"}))


def run(joules: float | None, u: float = 0.0, by: Provenance = Provenance.MEASURED):
    one = host("a", joules or 0.0)
    one.metrics[MetricType.ENERGY] = Metric(MetricType.ENERGY, joules or 0.0, uncertainty=u, provenance=by)
    if joules is None:
        del one.metrics[MetricType.ENERGY]
    return multi_run_node("r", [run_node("0", [one], CHOSEN)], {"app": "app"})


def test_all_runs_are_summed_and_those_without_energy_named():
    assert history.total([run(3.6e6), run(7.2e6)], CHOSEN) == (
        "app was run 2 times here, in total 10.8 MJ (3.00 kWh, bounds not known)."
    )
    assert history.total([run(2.0), run(None)], CHOSEN) == (
        "app was run 2 times here, in total 2.00 J (bounds not known), "
        "1 of them not counted: their energy is not known."
    )
    assert history.total([run(None)], CHOSEN) == "app was run 1 time here; no sensor measured its energy."


def test_a_sum_says_of_how_many_runs_no_sensor_measured_the_energy():
    estimated = run(1.0, by=Provenance.ESTIMATED)
    assert history.total([run(2.0), estimated, run(None)], CHOSEN) == (
        "app was run 3 times here, in total 3.00 J (bounds not known), 1 of them estimated, "
        "1 of them not counted: their energy is not known."
    )
    assert [history.provenance(one) for one in (run(2.0), estimated, run(None))] == ["measured", "estimated", None]


def test_a_sum_has_bounds_and_the_same_sensors_err_in_all_runs():
    assert history.total([run(1e6, 2e4), run(2e6, 3e4), run(None)], CHOSEN) == (
        "app was run 3 times here, in total 3000 kJ ± 100 kJ (0.833 kWh, k=2), "
        "1 of them not counted: their energy is not known."
    )
    assert "in total at most 3.00 J (k=2)." in history.total([run(0.5, 0.6), run(0.5, 0.4)], CHOSEN)
    # 3.6 kJ, and as much again that it may be wrong by.
    assert "at most 7.20 kJ (0.002 kWh, k=2)" in history.total([run(3600.0, 1800.1)], CHOSEN)


@pytest.mark.parametrize(
    ("now", "before", "says"),
    [
        (run(110.0), [run(100.0)], "Beside the run before: +10.0 % energy, more than they explain."),
        (run(110.0, 6.0), [run(100.0)], "within the uncertainties"),
        (run(110.0), [run(100.0, 6.0)], "within the uncertainties"),
        (run(110.0), [run(90.0), run(110.0)], "Beside the 2 runs before: +10.6 % energy, within the uncertainties"),
        (run(90.0), [run(100.0)] * 5 + [run(1.0)], "Beside the 5 runs before: -10.0 % energy, more than"),
    ],
)
def test_a_run_is_compared_with_the_last_ones_within_their_bounds(now, before, says):
    assert says in history.against(now, before)


def test_another_pue_is_no_change_of_a_program():
    cooled = multi_run_node("r", [run_node("0", [host("a", 110.0)], replace(CHOSEN, pue=1.5))], {"app": "app"})
    assert cooled.value(MetricType.ENERGY) == pytest.approx(165)
    assert "Beside the run before: +10.0 % energy" in history.against(cooled, [run(100.0)])


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


def test_a_tree_has_what_perun_s_has():
    tree = run(2.0)
    (node,) = tree.walk(NodeType.NODE)
    node.device_type = DeviceType.NODE
    assert (node.deviceType, node.processed, node.regions[0].id) == (DeviceType.NODE, True, "solve")
    energy = node.metrics[MetricType.ENERGY]
    assert (energy.metric_md.unit, energy.metric_md.mag, energy.agg is AggregateType.SUM) == ("J", 1.0, True)
    assert tree.metrics[MetricType.RUNTIME].metric_md.unit == "s"
    assert {kind.value for kind in DeviceType} >= {"rack", "socket", "sysio", "fan"}


def test_a_tree_becomes_a_dictionary_with_perun_s_keys():
    tree = run(2.0)
    next(tree.walk(NodeType.NODE)).raw_data = RawData((0,), (7,), "uJ")
    found = tree.toDict()
    assert set(found) == {"id", "type", "metadata", "metrics", "regions", "deviceType", "processed", "nodes"}
    assert (found["metrics"]["energy"]["mean"], found["metrics"]["energy"]["metric_md"]["unit"]) == (2.0, "J")
    host_there = found["nodes"]["0"]["nodes"]["a"]
    assert (host_there["metrics"]["energy"]["value"], host_there["raw_data"]["values"]) == (2.0, [7])
    assert list(host_there["regions"]) == ["a/0/solve"]
    assert "raw_data" not in tree.toDict(include_raw_data=False)["nodes"]["0"]["nodes"]["a"]
    assert json.loads(json.dumps(found)) == found


def test_devices_and_sensors_have_the_metrics_that_are_theirs(tmp_path):
    def sensor(name: str, component: str, quantity: Quantity, kind: Kind = Kind.GAUGE) -> dict:
        return Sensor(
            id=name, host="h", backend="psutil", device="d", domain=name.split(":")[1], component=component, kind=kind,
            quantity=quantity, unit="1",
        ).to_json()  # fmt: skip

    gauge = {"min": 0, "max": 0, "covered_ns": 10**9, "gap_ns": 0, "whys": {}}
    counter = {"covered_ns": 10**9, "gap_ns": 0, "peak_per_s": 0, "whys": {}, "breaks": [], "lacks": []}
    sensors = {
        "psutil:cpu:utilisation": ("cpu", Quantity.UTILISATION, {**gauge, "mean": 500}),
        "psutil:cpu-0:utilisation": ("cpu", Quantity.UTILISATION, {**gauge, "mean": 900}),
        "psutil:memory:data": ("dram", Quantity.DATA, {**gauge, "mean": 4096}),
        "powercap:package-0:energy": ("cpu", Quantity.ENERGY, {**counter, "base": 6_000_000}),
        "psutil:net-eth0:read": ("net", Quantity.DATA, {**counter, "base": 100}),
        "nvml:gpu-1:clock-sm": ("gpu", Quantity.FREQUENCY, {**gauge, "mean": 1_410_000}),
    }
    summary = {
        "host": "h", "sensors": [], "results": [], "edges": [{"mono_ns": 0}, {"mono_ns": 2 * 10**9}], "cpus": 2,
        "state": "complete", "why": "", "period_ns": 10**9, "rows": 0, "missing": [], "start_real_ns": 0,
    }  # fmt: skip
    for name, (component, quantity, result) in sensors.items():
        kind = Kind.COUNTER if "base" in result else Kind.GAUGE
        summary["sensors"].append(sensor(name, component, quantity, kind))
        summary["results"].append(result)
    node = host_node(tmp_path, summary, ())

    def values(of) -> dict[str, float]:
        return {str(kind): metric.value for kind, metric in of.metrics.items()}

    assert values(node.nodes["cpu"]) == {
        "cpu_util": 50.0, "cpu_energy": 6.0, "energy": 6.0, "cpu_power": 3.0, "power": 3.0
    }  # fmt: skip
    assert values(node.nodes["ram"]) == {"dram_mem": 4096.0}
    assert values(node.nodes["net"]) == {"net_read": 50.0}
    found = {one.id: values(one) for one in node.walk(NodeType.SENSOR)}
    assert found["psutil:cpu-0:utilisation"] == {"cpu_util": 90.0}
    assert found["psutil:net-eth0:read"] == {"net_read": 50.0}
    assert found["nvml:gpu-1:clock-sm"] == {"gpu_clock": 1.41e9}
    assert values(node)["cpu_util"] == 50.0
