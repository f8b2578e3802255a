"""The tree of results: JSON and back, sums and statistics, the text and the benchmark format."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.comm import Place
from perun_hpc.config.user import load, settings
from perun_hpc.data_model.data import Aggregate, DataNode, Metric, MetricType, NodeType, RawData, Region
from perun_hpc.data_model.sensor import worst
from perun_hpc.errors import DataError
from perun_hpc.monitoring import runs
from perun_hpc.monitoring.results import combine, multi_run_node, own_share, run_node
from perun_hpc.monitoring.rundir import RunDirectory, claim, safe
from perun_hpc.report.formats import bench, figures, history, text, write


def chosen(tmp_path, **overrides):
    return settings(load(environ={}, home=tmp_path, directory=tmp_path, overrides=overrides))


def host(name: str, joules: float, seconds: float = 2.0, provenance: str = "measured") -> DataNode:
    node = DataNode(name, NodeType.NODE, metadata={"state": "complete", "scope": ["CPU package"]})
    node.metrics = {
        MetricType.RUNTIME: Metric(MetricType.RUNTIME, seconds, Aggregate.MAX),
        MetricType.ENERGY: Metric(MetricType.ENERGY, joules, uncertainty=1.0, provenance=provenance),
        MetricType.POWER: Metric(MetricType.POWER, joules / seconds, provenance=provenance),
    }
    energy = Metric(MetricType.ENERGY, joules / 2, low=0.0, high=joules, provenance=provenance)
    node.regions = [Region("solve", name, 0, 3, 1.0, 1.5, raised=1, metrics={MetricType.ENERGY: energy})]
    return node


def tree_of(*joules: float, tmp_path, **overrides) -> DataNode:
    runs = [
        run_node(str(i), [host("a", j), host("b", 2 * j)], chosen(tmp_path, **overrides)) for i, j in enumerate(joules)
    ]
    return multi_run_node("r", runs, {"app": "app"})


def test_a_run_sums_energy_takes_the_longest_time_and_the_worst_provenance(tmp_path):
    run = run_node("0", [host("a", 10, 2.0), host("b", 20, 3.0, "estimated")], chosen(tmp_path))
    assert run.value(MetricType.ENERGY) == 30
    assert run.value(MetricType.RUNTIME) == 3
    assert run.metrics[MetricType.ENERGY].provenance == "estimated"
    assert run.metrics[MetricType.ENERGY].uncertainty == 2
    unknown = Metric(MetricType.ENERGY, 5.0)
    assert combine([run.metrics[MetricType.ENERGY], unknown]).uncertainty is None
    assert worst(["modelled", "simulated", "measured"]) == "simulated"


def test_a_partial_host_makes_the_run_partial(tmp_path):
    one = host("a", 1)
    one.metadata["state"] = "partial"
    assert run_node("0", [one, host("b", 1)], chosen(tmp_path)).metadata["state"] == "partial"
    assert run_node("0", [], chosen(tmp_path)).metadata["state"] == "partial"


def test_statistics_over_rounds(tmp_path):
    stats = tree_of(10, 20, 30, tmp_path=tmp_path).metrics[MetricType.ENERGY]
    assert (stats.sum, stats.mean, stats.min, stats.max) == (180, 60, 30, 90)
    assert stats.std == pytest.approx(30)


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=8))
def test_combining_keeps_to_the_rule(values):
    for rule, expected in ((Aggregate.SUM, sum(values)), (Aggregate.MAX, max(values)), (Aggregate.MIN, min(values))):
        parts = [Metric(MetricType.ENERGY, value, rule) for value in values]
        assert combine(parts).value == pytest.approx(expected)


def test_json_and_back_is_the_same_tree(tmp_path):
    tree = tree_of(10, 20, tmp_path=tmp_path)
    next(tree.walk(NodeType.NODE)).raw_data = RawData((0, 5), (None, 7), "uJ", 1e-6)
    again = DataNode.from_json(json.loads(json.dumps(tree.to_json())))
    assert again == tree


@pytest.mark.parametrize(
    "damaged", [{}, {"id": "x", "type": "no type"}, {"id": "x", "type": "run", "metrics": {"energy": {}}}]
)
def test_a_damaged_tree_is_refused(damaged):
    with pytest.raises(DataError):
        DataNode.from_json(damaged)


def test_files_that_are_no_run_are_refused(tmp_path):
    (tmp_path / "x.json").write_text('{"schema": "other"}')
    with pytest.raises(DataError, match="schema"):
        runs.read(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        runs.read(tmp_path / "x.json")


def test_the_text_says_hosts_regions_and_what_the_figures_are(tmp_path):
    shown = text.render(
        tree_of(1000, tmp_path=tmp_path), chosen(tmp_path, region_metrics="energy", metrics="runtime,energy")
    )
    lines = shown.splitlines()
    assert any(line.split() == ["a", "app", "2.00", "1.00"] for line in lines)
    assert any(line.split() == ["all", "app", "2.00", "3.00"] for line in lines)
    assert any(line.split()[:2] == ["a", "solve"] and "3 (1 raised)" in line for line in lines)
    (head,) = [line.split() for line in lines if line.startswith("host ")]
    assert head == ["host", "calls", "runtime", "energy", "a", "call", "±", "max"]
    assert "k=2, measured; CPU package" in shown
    assert "ESTIMATE" not in shown


def test_units_follow_the_configuration(tmp_path):
    tree = tree_of(1000, tmp_path=tmp_path)
    units = text.render(tree, chosen(tmp_path, joule="", metrics="energy", region_metrics="energy")).splitlines()[3]
    assert units.split()[0] == "J"
    assert "used 3000 J ± 4.00 J" in text.render(tree, chosen(tmp_path, joule=""))


def test_a_bound_above_the_energy_and_one_that_is_not_known_are_said_in_words(tmp_path):
    few = text.render(tree_of(1, tmp_path=tmp_path), chosen(tmp_path, joule=""))
    assert "The 2 hosts used at most 7.00 J (k=2, measured; CPU package) while" in few
    unknown = tree_of(1000, tmp_path=tmp_path)
    for one in [*unknown.walk(NodeType.RUN), *unknown.walk(NodeType.NODE)]:
        one.metrics[MetricType.ENERGY] = replace(one.metrics[MetricType.ENERGY], uncertainty=None)
    assert "used 3000 J (bounds not known, measured; CPU package)" in text.render(unknown, chosen(tmp_path, joule=""))
    assert history.doubt(unknown) is None


def test_of_a_figure_below_its_bound_the_table_has_the_upper_end_alone(tmp_path):
    shown = text.render(tree_of(0.5, 0.7, tmp_path=tmp_path), chosen(tmp_path, joule="", metrics="energy"))
    rows = [line.split() for line in shown.splitlines() if " app " in line]
    # Host a: 0.5 +- 2 J; host b, twice as much, 1 +- 2 J; both: 1.5 +- 4 J. The bounds of a mean are no narrower.
    assert [row[-1] for row in rows[:3]] == ["<2.50", "<3.00", "<5.50"]
    assert next(row for row in rows if row[0] == "mean")[-1] == "<5.80"
    assert "<: at most; the readings tell no more." in shown


@pytest.mark.parametrize(
    ("joules", "column", "sentence"),
    [
        (0.0021, "J", "used at most 4.01 J"),
        (2.77, "J", "used 8.31 J"),
        (2770.0, "kJ", "used 8.31 kJ"),
        (4e9, "GJ", "used 12.0 GJ"),
    ],
)
def test_figures_are_in_a_unit_that_suits_them(joules, column, sentence, tmp_path):
    options = chosen(tmp_path, metrics="energy", region_metrics="energy")
    shown = text.render(tree_of(joules, tmp_path=tmp_path), options)
    assert shown.splitlines()[3].split()[0] == column
    assert sentence in shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.2771, "0.277"), (0.9996, "1"), (9.996, "10.0"), (8.304, "8.30"), (99.96, "100"), (1234.5, "1234")],
)
def test_figures_have_three_digits(value, shown):
    assert figures.digits(value) == shown


def test_the_text_fits_a_terminal_and_leaves_out_traffic_that_was_none(tmp_path):
    tree = tree_of(10, 20, tmp_path=tmp_path)
    for node in tree.walk(NodeType.NODE):
        for kind in (MetricType.DRAM_MEM, MetricType.CPU_UTIL, MetricType.GPU_POWER, MetricType.GPU_MEM):
            node.metrics[kind] = Metric(kind, 12345.0)
        node.metrics[MetricType.DISK_READ] = Metric(MetricType.DISK_READ, 0.0)
        node.metrics[MetricType.DISK_WRITE] = Metric(MetricType.DISK_WRITE, 86800.0)
        for region in node.regions:
            region.metrics.update(node.metrics)
    shown = text.render(tree, chosen(tmp_path))
    tables = shown[: shown.index("Traffic")].splitlines()
    assert len(tables) > 10
    assert max(map(len, tables)) <= 80
    assert "Traffic: disk write 174 kB/s." in shown
    assert "disk read" not in shown
    for head in ("gpu power", "GPU memory", "cpu util"):
        assert head in shown


def test_the_energy_is_said_to_be_the_hosts(tmp_path):
    one = multi_run_node("r", [run_node("0", [host("a", 10)], chosen(tmp_path))], {"app": "app"})
    shown = text.render(one, chosen(tmp_path))
    assert "The host used 10.0 J ± 2.00 J" in shown
    assert "while the application ran, 2.000 s" in shown
    assert "The 2 hosts used" in text.render(tree_of(10, tmp_path=tmp_path), chosen(tmp_path))
    assert "while 2 rounds of the application ran" in text.render(tree_of(1, 2, tmp_path=tmp_path), chosen(tmp_path))


@pytest.mark.parametrize(
    ("status", "processes", "said"),
    [
        ("SCRIPT_ERROR", [{"code": 3, "signal": 0}], "FAILED: the application ended with exit code 3."),
        ("SCRIPT_ERROR", [{"code": 137, "signal": 9}, {"code": 0, "signal": 0}], "ended with signal 9."),
        ("SCRIPT_ERROR", [], "FAILED: the application raised."),
        ("PROCESSING", [{"code": 0, "signal": 0}], ""),
    ],
)
def test_an_application_that_failed_is_said_to_have(status, processes, said, tmp_path):
    one = host("a", 10)
    one.metadata["processes"] = processes
    tree = multi_run_node("r", [run_node("0", [one], chosen(tmp_path))], {"app": "app", "status": status})
    shown = text.render(tree, chosen(tmp_path))
    assert said in shown
    assert ("FAILED" in shown) is bool(said)


def test_bench_entries_say_what_no_sensor_measured(tmp_path):
    options = chosen(tmp_path)
    for provenance, extra in (("measured", None), ("estimated", "estimated")):
        tree = multi_run_node("r", [run_node("0", [host("a", 10, provenance=provenance)], options)], {"app": "app"})
        entries = {entry["name"]: entry for entry in json.loads(bench.render(tree, options))}
        assert {entries[f"app - {what}"].get("extra") for what in ("energy - avg", "solve - energy")} == {extra}
        assert "extra" not in entries["app - runtime - avg"]


def test_bench_entries_have_value_unit_and_range(tmp_path):
    options = chosen(tmp_path, metrics="energy", region_metrics="energy", metric_stats="avg,max", joule="")
    entries = {entry["name"]: entry for entry in json.loads(bench.render(tree_of(10, 20, tmp_path=tmp_path), options))}
    assert entries["app - energy - avg"] == {
        "name": "app - energy - avg",
        "unit": "J",
        "value": 45.0,
        "range": "21.2132",
    }
    assert entries["app - energy - max"]["value"] == 60
    assert entries["app - solve - energy"]["value"] == pytest.approx((5 + 10 + 10 + 20) / 4)


def test_run_directories_are_new_agreed_upon_and_safe(tmp_path):
    first = claim(tmp_path, "app", "same", Place(), {})
    second = claim(tmp_path, "app", "same", Place(), {})
    assert (first.run_id, second.run_id) == ("same", "same-1")
    launch = {"SLURM_JOB_ID": "47", "SLURM_STEP_ID": "0"}
    ranks = [claim(tmp_path, "mpi", "x", Place(rank, 4, rank, 4), launch) for rank in range(4)]
    assert {directory.path for directory in ranks} == {tmp_path / "mpi" / "x"}
    other = claim(tmp_path, "mpi", "x", Place(0, 4, 0, 4), {**launch, "SLURM_STEP_ID": "1"})
    assert other.path.name == "x-1"
    assert claim(tmp_path, "job", "SLURM", Place(), {"SLURM_JOB_ID": "99"}).run_id == "99"
    assert (safe("../../etc"), safe(""), safe("a b/c")) == ("_.._etc", "_", "a_b_c")
    assert isinstance(first, RunDirectory)


def test_cost_and_co2_rest_on_factors_that_somebody_states(tmp_path):
    tree = tree_of(3.6e6, tmp_path=tmp_path)
    assert not {MetricType.MONEY, MetricType.CO2} & set(tree.metrics)
    assert text.summary(tree, list(tree.walk(NodeType.RUN)), chosen(tmp_path)).endswith(" s.")
    stated = {"price_factor": 0.25, "price_unit": "EUR", "price_source": "the invoice", "emissions_factor": "deu"}
    tree = tree_of(3.6e6, tmp_path=tmp_path, **stated)
    assert (tree.value(MetricType.MONEY), tree.value(MetricType.CO2)) == (0.75, pytest.approx(3 * 381))
    shown = text.render(tree, chosen(tmp_path, **stated))
    assert "0.75 EUR, 1.14e+03 g CO2." in shown
    assert re.search(
        r"Factors: CO2 life-cycle, .*: Ember .*, 2023 \(life-cycle, average, .*\); price: the invoice, \d{4}-", shown
    )


def test_a_country_that_is_not_known_costs_the_co2_alone(tmp_path):
    (run, *_) = tree_of(3.6e6, tmp_path=tmp_path, emissions_factor="XYZ", price_factor=1).walk(NodeType.RUN)
    assert (run.value(MetricType.CO2), run.value(MetricType.MONEY)) == (None, 3)
    assert "no carbon intensity for country 'XYZ'" in run.metadata["factors"][-1]


def test_what_the_host_used_stands_apart_from_what_a_pue_adds(tmp_path):
    stated = {"pue": 1.5, "price_factor": 3.6e6, "price_unit": "EUR"}
    tree = tree_of(10, tmp_path=tmp_path, **stated)
    shown = text.summary(tree, list(tree.walk(NodeType.RUN)), chosen(tmp_path, **stated))
    assert "The 2 hosts used 30.0 J ± 4.00 J (k=2, measured; CPU package) while the application ran" in shown
    assert shown.endswith(" s; with PUE 1.5 45.0 J ± 6.00 J: 45 EUR.")


def test_what_follows_from_an_upper_bound_is_one(tmp_path):
    stated = {"price_factor": 3.6e6, "price_unit": "EUR", "emissions_factor": 3.6e6}
    tree = tree_of(1, tmp_path=tmp_path, **stated)  # 3 J, of which 4 may be wrong
    assert "at most 7.00 J" in text.render(tree, chosen(tmp_path, **stated))
    assert ": at most 7 EUR, at most 7 g CO2." in text.render(tree, chosen(tmp_path, **stated))
    doubtful = {"cpu_ns": 10**9, "busy_ns": 4 * 10**9, "energy_j": 2.5, "uncertainty_j": 1.5, "provenance": "estimated"}
    assert "that part is at most 5.50 J (estimated: by CPU time" in own_tree(tmp_path, doubtful)
    assert "that part is 2.50 J (estimated: by CPU time" in own_tree(tmp_path, {**doubtful, "uncertainty_j": 1.0})


def lines_of(tree: DataNode, settings) -> list[list[str]]:
    return [line.split() for line in text.render(tree, settings).splitlines()]


def test_one_host_one_round_and_its_regions_are_one_table_of_80_columns(tmp_path):
    one = host("a", 10)
    for kind in (MetricType.DRAM_MEM, MetricType.CPU_UTIL):
        one.metrics[kind] = Metric(kind, 50.0)
    one.regions = [
        Region(
            name, "a", 0, 3, 1.0, 1.5, metrics={MetricType.RUNTIME: Metric(MetricType.RUNTIME, 1.0), **one.metrics},
            mean_s=0.5, std_s=0.1, max_s=0.75,
        )
        for name in ("relax", "step 12345")
    ]  # fmt: skip
    tree = multi_run_node("r", [run_node("0", [one], chosen(tmp_path))], {"app": "app"})
    lines = text.render(tree, chosen(tmp_path)).splitlines()
    assert [line[:3] for line in lines].count("---") == 1
    assert max(len(line) for line in lines[: lines.index("")]) <= 80
    (relax,) = [line.split() for line in lines if "relax" in line]
    assert relax == ["relax", "3", "2.00", "10.0", "5.00", "50.0", "50.0", "0.5", "0.1", "0.75"]
    one.regions[1] = replace(one.regions[1], name="a\x1b[2J" + "b" * 200)
    lines = text.render(tree, chosen(tmp_path)).splitlines()
    assert max(len(line) for line in lines[: lines.index(text.REGIONS)]) <= 80
    assert all(line.isprintable() for line in lines)


def test_regions_show_energy_and_how_long_a_call_took(tmp_path):
    one = host("a", 10)
    one.regions = [
        Region("f", "a", 0, 3, 1.0, 1.5, metrics={MetricType.ENERGY: Metric(MetricType.ENERGY, 4.0, low=3.0, high=5.0)},
               mean_s=0.5, std_s=0.1, max_s=0.75),
        Region("g", "a", 0, 1, 1.0, 1.0, metrics={
            MetricType.ENERGY: Metric(MetricType.ENERGY, 1.0, uncertainty=0.2, method="estimated")},
               mean_s=1.0, max_s=1.0),
        Region("h", "a", 0, 1, 1.0, 1.0, metrics={
            MetricType.ENERGY: Metric(MetricType.ENERGY, 1.0, uncertainty=2.0, method="bounded")},
               mean_s=1.0, max_s=1.0),
    ]  # fmt: skip
    tree = multi_run_node("r", [run_node("0", [one], chosen(tmp_path))], {"app": "app"})
    options = chosen(tmp_path, metrics="runtime,energy")
    found = lines_of(tree, options)
    assert ["app", "2.00", "10.0"] in found
    assert ["f", "3", "4.00", "0.5", "0.1", "0.75"] in found
    assert ["g", "1", "~1.00", "1.00", "0", "1.00"] in found
    assert ["h", "1", "<5.00", "1.00", "0", "1.00"] in found
    assert "~: estimated" in text.render(tree, options) and "<: at most" in text.render(tree, options)
    one.regions = one.regions[:1]
    assert "~" not in text.render(tree, options) and "<" not in text.render(tree, options)


def test_a_call_has_a_mean_energy_and_a_region_its_share_where_more_than_a_bound_is_known(tmp_path):
    def region(name: str, joules: float, u_j: float, **known: float) -> Region:
        energy = Metric(MetricType.ENERGY, joules, uncertainty=u_j, method="estimated", low=0.0, high=joules + 3 * u_j)
        return Region(name, "a", 0, 8, 1.0, 1.0, metrics={MetricType.ENERGY: energy}, mean_s=0.1, max_s=0.2, **known)

    one = host("a", 10)
    one.regions = [region("f", 4.0, 0.2, call_energy_j=0.5, share=0.4), region("=h", 1.0, 2.0)]
    options = chosen(tmp_path, metrics="energy", region_metrics="energy")
    tree = multi_run_node("r", [run_node("0", [one], options)], {"app": "app"})
    found = lines_of(tree, options)
    assert ["calls", "energy", "per", "call", "share", "a", "call", "±", "max"] in found
    assert ["f", "8", "~4.00", "~500", "~40.0", "0.1", "0", "0.2"] in found
    assert ["=h", "8", "<5.00", "-", "-", "0.1", "0", "0.2"] in found
    entries = {entry["name"]: entry for entry in json.loads(bench.render(tree, options))}
    assert entries["app - f - energy per call"]["value"] == pytest.approx(0.0005)  # kJ
    assert "app - =h - energy per call" not in entries
    write(tree, tmp_path, tmp_path / "out.csv", "functions", options)
    head, first, second = csv.reader((tmp_path / "out.csv").read_text().splitlines())
    rows = [dict(zip(head, row, strict=True)) for row in (first, second)]
    assert [row["function"] for row in rows] == ["f", "'=h"]
    assert [(row["energy_j"], row["call_energy_j"], row["share"]) for row in rows] == [
        ("4.0", "0.5", "0.4"), ("1.0", "", ""),
    ]  # fmt: skip
    assert DataNode.from_json(json.loads(json.dumps(tree.to_json()))) == tree


def test_rounds_have_mean_and_deviation(tmp_path):
    options = chosen(tmp_path, metrics="energy", region_metrics="energy")
    found = lines_of(tree_of(10, 20, tmp_path=tmp_path), options)
    assert ["mean", "all", "app", "45.0"] in found
    assert ["±", "all", "app", "21.2"] in found
    assert [line[:3] for line in found].count(["0", "all", "app"]) == 1
    solve = [line for line in found if "solve" in line]
    assert [line[:5] for line in solve] == [["mean", "a", "solve", "6", "(2"], ["mean", "b", "solve", "6", "(2"]]
    many = lines_of(tree_of(*range(1, 14), tmp_path=tmp_path), options)
    assert {line[0] for line in many if "app" in line} == {"mean", "±"}


def test_metrics_of_devices_stand_below_their_host(tmp_path):
    one = host("a", 10)
    disk = DataNode("disk-sda:read", NodeType.SENSOR)
    disk.metrics = {MetricType.DISK_READ: Metric(MetricType.DISK_READ, 5e6)}
    one.nodes = {"disk": DataNode("disk", NodeType.DEVICE_GROUP, nodes={"disk-sda:read": disk})}
    tree = multi_run_node("r", [run_node("0", [one], chosen(tmp_path))], {"app": "app"})
    shown = text.render(tree, chosen(tmp_path, group_by="device"))
    assert ["disk-sda:read", "5.00"] in [line.split() for line in shown.splitlines()]
    assert "Traffic" not in shown


def own_tree(tmp_path, *shares) -> str:
    hosts = []
    for place, share in enumerate(shares):
        hosts.append(host(f"h{place}", 10))
        if share is not None:
            hosts[-1].metadata["own"] = share
    return text.render(multi_run_node("r", [run_node("0", hosts, chosen(tmp_path))], {"app": "app"}), chosen(tmp_path))


def test_the_part_of_the_programs_own_processes_is_shown_and_marked(tmp_path):
    share = {"cpu_ns": 10**9, "busy_ns": 4 * 10**9, "energy_j": 2.5, "provenance": "modelled"}
    assert (
        "Its own processes had 1 s of CPU time, 25 % of what the CPUs worked in that time; of the CPUs' energy that"
        " part is 2.50 J (modelled: by CPU time, idle power shared alike)."
    ) in own_tree(tmp_path, share)
    worse = {**share, "provenance": "estimated"}
    assert "is 5.00 J (estimated: by CPU time" in own_tree(tmp_path, share, worse)
    assert "worked in that time." in own_tree(tmp_path, {"cpu_ns": 1, "busy_ns": 2})
    assert "had 0 s of CPU time, none" in own_tree(tmp_path, {"cpu_ns": 0, "busy_ns": 0})
    assert "Its own processes" not in own_tree(tmp_path, share, None)


def test_the_own_share_is_cpu_time_over_what_all_processors_worked():
    one = host("a", 10, 2.0)
    one.metadata["cpus"] = 4
    assert own_share(one, 10**9) is None
    one.metrics[MetricType.CPU_UTIL] = Metric(MetricType.CPU_UTIL, 50.0)
    assert own_share(one, 10**9) == {"cpu_ns": 10**9, "busy_ns": 4 * 10**9}
    one.metrics[MetricType.CPU_ENERGY] = Metric(MetricType.CPU_ENERGY, 8.0)
    assert own_share(one, 10**9)["energy_j"] == 2.0
    assert own_share(one, 10**9)["provenance"] == "modelled"
    assert own_share(one, 10**10)["energy_j"] == 8.0
    one.metrics[MetricType.CPU_ENERGY] = Metric(MetricType.CPU_ENERGY, 8.0, uncertainty=1.0)
    assert own_share(one, 10**9)["uncertainty_j"] == 0.25
    one.metrics[MetricType.CPU_ENERGY] = Metric(MetricType.CPU_ENERGY, 8.0, provenance="estimated")
    assert own_share(one, 0) == {"cpu_ns": 0, "busy_ns": 4 * 10**9, "energy_j": 0.0, "provenance": "estimated"}
