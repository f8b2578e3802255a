"""The benchmark suite's arithmetic: ratios, and arms measured in turn."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from bench.energy import interval
from bench.node_load import Nodes
from bench.result import Median, Result, added, interleaved, medians
from bench.site_jobs import Site, install
from perun_hpc.slurm import hostlist
from perun_hpc.slurm.sacct import query_between, query_jobs

ROOT = Path(__file__).parents[2]


def test_the_ratio_says_how_many_times_better():
    assert Result("a", 2.0, "s", "p", 6.0).ratio == 3
    assert Result("a", 6.0, "1/s", "p", 2.0, higher_is_better=True).ratio == 3
    assert Result("a", 1.0, "s").ratio is None
    assert Result("a", -0.001, "s", "p", 0.01).ratio is None


def test_a_line_of_json_has_all_that_a_reader_needs():
    line = json.loads(Result("a", Median.of([2.0, 1.0, 3.5]), "s", "p", 6.0, n=3).to_json())
    ours = {"name": "a", "value": 2.0, "unit": "s", "n": 3, "spread": [1.0, 3.5]}
    assert line == {**ours, "peer": "p", "peer_value": 6.0, "peer_spread": None, "ratio": 3.0}


def test_arms_are_measured_in_turn_and_every_second_round_backwards():
    order = []

    def arm(name):
        return lambda: float(order.append(name) or len(order))

    taken = interleaved({"a": arm("a"), "b": arm("b")}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert taken == {"a": [1.0, 4.0, 5.0], "b": [2.0, 3.0, 6.0]}


def test_a_median_bears_one_disturbed_round():
    values = iter([1.0, 900.0, 2.0])
    found = medians({"a": lambda: next(values)}, 3)
    assert found == {"a": 2.0}
    assert (found["a"].least, found["a"].most) == (1.0, 900.0)


def test_what_an_arm_adds_is_taken_round_by_round():
    assert added({"with": [1.5, 9.5, 3.25], "without": [1.0, 9.0, 2.0]}, "with", "without") == 0.5


def test_an_unknown_bench_is_refused_with_what_there_is():
    done = subprocess.run([sys.executable, "-m", "bench", "hok"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "hook, pairs, energy, launch, sampler" in done.stderr


def test_the_interval_of_a_ratio_of_medians_holds_it_and_is_a_point_where_nothing_varies():
    assert interval([2.0] * 40, [1.0] * 40) == (2.0, 2.0)
    theirs = [1 + (7 * at % 20) / 100 for at in range(200)]
    low, high = interval([one * 1.02 + (at % 3) / 100 for at, one in enumerate(theirs)], theirs)
    assert low < 1.03 < high
    assert high - low < 0.1


def test_a_sites_nodes_and_its_sacct_speak_of_the_same_jobs(tmp_path, monkeypatch):
    site = Site(nodes=1000, begin_s=1_795_356_000.0, speed=2.0)
    install(tmp_path / "bin", site)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    plan = {"site": asdict(site), "over": "files", "port": 0, "spool": "", "progress_s": 60, "ledger_s": 0}
    begin_s, end_s = site.begin_s, site.begin_s + 30
    rounds = Nodes(plan).rounds(begin_s, end_s)
    ended = Counter(job for _, _, one in rounds for job in one.ended)
    assert len(ended) == int(30 * site.per_s)  # so many end in that time, each reported by each of its nodes
    rows = {row.job_id: row for row in query_jobs([job.number for job in ended], members=False)}
    for job, reports in ended.items():
        row = rows[job.number]
        assert (row.num_nodes, len(hostlist.expand(row.nodelist)), row.end_s) == (reports, reports, int(job.end_s))
    assert {job.number for job in ended} <= {row.job_id for row in query_between(int(begin_s), int(end_s))}
    assert [at_s for at_s, _, _ in rounds] == sorted(at_s for at_s, _, _ in rounds if begin_s <= at_s)
    for at_s, node, one in rounds:
        assert all(job.start_s < at_s <= job.end_s and 0 <= node - job.first < job.nodes for job in one.running)
