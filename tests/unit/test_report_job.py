"""The report's screen, as it stands in tests/golden; PERUN_GOLDEN=write rewrites the files for a person to review."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.accounting.summing import add_slurm, missing_record, sum_boundaries
from perun_hpc.data_model.record import EnergyRecord, Footprint, Step
from perun_hpc.errors import DataError
from perun_hpc.report.hints import hints
from perun_hpc.report.job import job_report, step_report
from perun_hpc.report.screen import WIDTH, Style, cells, printable
from tests.accounting_data import NS, START_S, boundary, domain, parsed, slurm_job

pytestmark = pytest.mark.usefixtures("utc")
GOLDEN = Path(__file__).parents[1] / "golden"
HOURS = 7200


def part(component: str, watts: float, seconds: int, **other: Any) -> dict[str, Any]:
    return domain(component, round(watts * seconds * 1e6), **{"covered_ns": seconds * NS, **other})


def used(busy: float, memory_b: int) -> dict[str, int]:
    """What an agent that watched a GPU nearly all the time says of it."""
    watched_ns = (HOURS - 1) * NS
    return {"busy_ns": round(busy * watched_ns), "watched_ns": watched_ns, "mem_peak_b": memory_b}


def gpu() -> EnergyRecord:
    """A measured job with a node of its own and four GPUs of which it used one."""
    parts = {
        "package-0": part("cpu", 96.1, HOURS),
        "package-1": part("cpu", 88.7, HOURS),
        "dram-0": part("dram", 21.3, HOURS),
        "gpu-0": part("gpu", 431.2, HOURS, idle_ns=60 * NS, idle_uj=500_000_000_000, **used(0.91, 61 << 30)),
        **{
            f"gpu-{n}": part(
                "gpu", 71.0 + n, HOURS, idle_ns=(6700 + n) * NS, idle_uj=499_000_000_000, **used(0.002 * n, n << 30)
            )
            for n in (1, 2, 3)
        },
    }
    data = boundary(domains=parts, seconds=HOURS, cpus_on_node=64)
    data["usage"] = {"cpu_ns": 64 * HOURS * NS // 9, "mem_peak_b": 131 << 30, "peak_mw": 912_000}
    job = slurm_job(
        name="train.sh", partition="gpu", gpus=4, cpus=64, end_s=START_S + HOURS, time_limit_s=86400, mem_b=512 << 30
    )
    foot = Footprint(7_706_000_000_000, 1890.0, 120.0, 0.21, "EUR", True, ("CO2 location-based: grid operator, 2026",))
    return replace(add_slurm(sum_boundaries([parsed(data)]), job), footprint=foot)


def simulated() -> EnergyRecord:
    """Two simulated nodes, a flagged step of eight ranks with two functions."""
    records = []
    for index, node in enumerate(("n1", "n2")):
        ranks = [
            {"rank": 4 * index + r, "pid": 100 + r, "start_ns": (START_S + 2) * NS, "end_ns": (START_S + 93 + r) * NS}
            for r in range(4)
        ]
        step = {"step_id": "0", "tasks": 8, "nodes": 2, "command": "python", "start_ns": ranks[0]["start_ns"],
                "end_ns": ranks[-1]["end_ns"], "ranks": ranks}  # fmt: skip
        regions = [
            {"step_id": "0", "rank": rank["rank"], "name": name, "calls": 5000, "time_ns": time_ns * (9 + index) // 9,
             "energy_uj": time_ns * (8 + index) // 1000, "u_uj": 3_000_000}
            for rank in ranks
            for name, time_ns in (("halo_exchange", 21 * NS // 2), ("update", 77 * NS))
        ]  # fmt: skip
        parts = {"package-0": part("cpu", 62.5 + 9 * index, 100), "dram-0": part("dram", 8.5, 100)}
        data = boundary(node=node, nodelist="n[1-2]", num_nodes=2, domains=parts, simulated=True)
        records.append(parsed({**data, "steps": [step], "regions": regions}))
    job = slurm_job(name="stencil.sh", nodelist="n[1-2]", num_nodes=2, cpus=8, shown_id="4700_11")
    return add_slurm(sum_boundaries(records), job)


def modelled() -> EnergyRecord:
    """A share of a node that others used as well."""
    shared = {"provenance": "modelled", "method": "weights"}
    parts = {
        "package-0": part("cpu", 31.0, 500, node_uj=98 * 500 * 10**6, modelled_uj=15_500 * 10**6, **shared),
        "dram-0": part("dram", 4.0, 500, node_uj=12 * 500 * 10**6, modelled_uj=2_000 * 10**6, **shared),
    }
    data = boundary(domains=parts, seconds=500, cpus_on_node=1)
    data["usage"] = {"cpu_ns": 60 * NS, "mem_peak_b": 512 << 20}
    return add_slurm(sum_boundaries([parsed(data)]), slurm_job(cpus=1, end_s=START_S + 500, state="TIMEOUT"))


def partial() -> EnergyRecord:
    """Three nodes, one never reported, one was read late and has a gap."""
    late = boundary(node="n1", nodelist="n[1-3]", num_nodes=3)
    late["start"]["late_ns"] = 12 * NS
    late["start"]["real_ns"] += 12 * NS
    gap = {"package-0": part("cpu", 70, 100, covered_ns=60 * NS, gap_ns=40 * NS)}
    torn = boundary(node="n3", nodelist="n[1-3]", num_nodes=3, domains=gap, state="partial", why="sensor lost for 40 s")
    record = sum_boundaries([parsed(late), parsed(torn)])
    return replace(add_slurm(record, slurm_job(nodelist="n[1-3]", num_nodes=3, cpus=12)), revision=2)


def estimated() -> EnergyRecord:
    """No power sensor: an estimate, marked as one."""
    parts = {"cpu-tdp": part("cpu", 45, 100, provenance="estimated", method="tdp", u_uj=1_300_000_000)}
    return add_slurm(sum_boundaries([parsed(boundary(domains=parts))]), slurm_job())


def unresolved() -> EnergyRecord:
    """A short job: counters that did not move, a bound above the value, static power not learnt, no memory peak."""
    shared = {"provenance": "modelled", "method": "cores", "static_uj": 0}
    parts = {
        "package-0": part("cpu", 0.003, 1, dynamic_uj=3000, u_uj=4000, covered_ns=NS // 2, **shared),
        "dram-0": part("dram", 0, 1, u_uj=0, covered_ns=NS // 2, **shared),
    }
    data = boundary(domains=parts, seconds=1)
    data["start"]["late_ns"] = NS // 2
    data["start"]["real_ns"] += NS // 2
    data["usage"] = {"cpu_ns": NS, "mem_peak_b": 0}
    data["steps"] = [{"step_id": "0", "tasks": 1, "nodes": 1, "ranks": []}]
    data["regions"] = [
        {"step_id": "0", "rank": 0, "name": "f", "calls": 9, "time_ns": 900, "energy_uj": 2000, "u_uj": 4000}
    ]
    return add_slurm(sum_boundaries([parsed(data)]), slurm_job(end_s=START_S + 1))


def running() -> EnergyRecord:
    """A job that has not ended."""
    job = slurm_job(state="RUNNING", end_s=None)
    record = missing_record(
        job, "c", "the job still runs: no figure of it is here yet; perun watch 4711 asks its nodes"
    )
    return replace(record, status="running")


def absent() -> EnergyRecord:
    """A job that nobody measured."""
    return missing_record(slurm_job(nodelist="n[1-2]", num_nodes=2), "c", "no node reported this job")


def many_hosts() -> EnergyRecord:
    """Twelve hosts: the extremes and the median stand for all."""
    nodes = [f"node{n:04d}" for n in range(1, 13)]
    records = [
        parsed(boundary(node=n, nodelist="node[0001-0012]", num_nodes=12,
                        domains={"package-0": part("cpu", 60 + 5 * i, 100)}))
        for i, n in enumerate(nodes)
    ]  # fmt: skip
    job = slurm_job(name="cfd", nodelist="node[0001-0012]", num_nodes=12, cpus=48, shown_id="4711+1")
    return add_slurm(sum_boundaries(records), job)


def hostile() -> EnergyRecord:
    """Names that would act on the terminal."""
    job = slurm_job(
        name="\x1b[2J\x07gone\u202egnp\n" + "長い名前" * 20, user="a\tb", account="=cmd()", state="COMPLETED"
    )
    return add_slurm(sum_boundaries([parsed(boundary())]), job)


SCREENS = (gpu, simulated, modelled, partial, estimated, unresolved, running, absent, many_hosts, hostile)


@pytest.mark.parametrize("make", SCREENS, ids=lambda make: make.__name__)
def test_the_screen_is_the_golden_one(make: Callable[[], EnergyRecord]) -> None:
    lines = job_report(make(), "the job's directory", Style())
    assert all(cells(line) <= WIDTH for line in lines)
    path = GOLDEN / f"report_{make.__name__}.txt"
    text = "\n".join(lines) + "\n"
    if os.environ.get("PERUN_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("make", SCREENS, ids=lambda make: make.__name__)
def test_every_screen_says_its_provenance_and_what_is_outside(make: Callable[[], EnergyRecord]) -> None:
    record = make()
    text = "\n".join(job_report(record, "the ledger", Style()))
    if record.energy_uj is None:
        assert "not known" in text
        return
    assert record.provenance in text
    assert "Scope" in text and "not in it" in " ".join(text.split())
    assert ("at least" in text) == (record.status == "partial" or record.footprint is not None)


def test_no_counter_moved() -> None:
    nothing = {"package-0": part("cpu", 0, 100, u_uj=0)}
    text = " ".join(" ".join(job_report(sum_boundaries([parsed(boundary(domains=nothing))]), "x", Style())).split())
    assert "not known: less than the sensors resolve (100 % of the job's time was counted)" in text
    assert " 0 J" not in text
    unread = {"package-0": part("cpu", 0, 100, u_uj=0, covered_ns=0)}
    text = "\n".join(job_report(sum_boundaries([parsed(boundary(domains=unread))]), "x", Style()))
    assert "(nothing was counted)" in text


def test_a_whole_record_says_what_its_readings_do_not_cover() -> None:
    said = "87 % of the job's time; what was drawn in the rest of it is not in the energy"
    for coverage, status, shown in ((0.87, "complete", True), (0.99, "complete", False), (0.87, "partial", False)):
        lines = job_report(replace(gpu(), coverage=coverage, status=status), "ledger", Style())
        assert (said in " ".join(" ".join(lines).split())) is shown


def test_what_follows_from_an_upper_end_is_one() -> None:
    foot = Footprint(None, 1.0, None, 0.5, "EUR", True, ())
    doubtful = replace(gpu(), energy_uj=8_000_000, u_uj=6_000_000, footprint=foot)
    text = " ".join(" ".join(job_report(doubtful, "ledger", Style())).split())
    assert "at most 2.50 g CO2e (location-based), 1.25 EUR, of what was measured" in text
    assert "at least 1.00 g" in " ".join(job_report(replace(doubtful, u_uj=0), "ledger", Style()))


def test_one_step_of_a_job() -> None:
    text = "\n".join(step_report(simulated(), "0", Style()))
    assert "Step 4700_11.0" in text and "halo_exchange" in text and "Ranks (8)" in text
    assert "no energy by rank" in text
    assert step_report(simulated(), "7", Style()) == []


def test_earlier_runs_of_a_requeued_job_are_told() -> None:
    first = replace(estimated(), state="REQUEUED")
    assert any(
        "this is run 2; before it: 4.50 kJ (REQUEUED)" in line for line in job_report(gpu(), "x", Style(), [first])
    )


def test_plain_ascii_where_the_terminal_has_no_more() -> None:
    for make in SCREENS[:-1]:
        assert all(line.isascii() for line in job_report(make(), "the ledger", Style(unicode=False)))


def test_colour_changes_nothing_but_colour() -> None:
    for make in SCREENS:
        coloured = "\n".join(job_report(make(), "x", Style(colour=True)))
        assert re.sub(r"\x1b\[\d+m", "", coloured) == "\n".join(job_report(make(), "x", Style()))


def test_colours_say_where_a_figure_comes_from() -> None:
    lines = job_report(gpu(), "x", Style(colour=True))
    energy = next(line for line in lines if "Energy" in line)
    assert "\x1b[34mEnergy\x1b[0m     \x1b[1m6.165 MJ" in energy and energy.endswith("\x1b[32mmeasured\x1b[0m")
    assert any("\x1b[36m██▏\x1b[0m" in line for line in lines)


@given(st.text(max_size=60))
def test_no_text_reaches_the_terminal_as_a_command(text: str) -> None:
    assert printable(text).isprintable()
    record = add_slurm(sum_boundaries([parsed(boundary())]), slurm_job(name=text, user=text, qos=text, state=text))
    lines = job_report(record, text, Style())
    assert all(line.isprintable() for line in lines)
    assert all(cells(line) <= WIDTH for line in lines)


def test_how_long_a_job_was_suspended_is_the_nodes_word_until_slurm_tells() -> None:
    data = boundary(domains={"package-0": part("cpu", 50, HOURS, suspended_uj=9_000_000)}, seconds=HOURS)
    data["usage"] = {"cpu_ns": 1, "mem_peak_b": 1, "suspended_ns": 65 * NS + 1}
    nodes = sum_boundaries([parsed(data)])
    assert (nodes.suspended_s, nodes.suspended_uj) == (65, 9_000_000)
    screen = " ".join("\n".join(job_report(nodes, "the archive", Style())).split())
    assert "suspended 9.00 J" in screen and "suspended for 00:01:05" in screen
    told = add_slurm(nodes, slurm_job(end_s=START_S + HOURS, suspended_s=67))
    assert told.suspended_s == 67
    del data["usage"]["suspended_ns"]  # an agent of before
    assert sum_boundaries([parsed(data)]).suspended_s == 0
    data["usage"]["suspended_ns"] = "long"
    with pytest.raises(DataError, match="long"):
        parsed(data)


def test_a_step_of_which_a_part_is_not_known_says_so_wherever_it_is_shown() -> None:
    def shown(u_uj: int) -> list[str]:
        span = {"start_ns": START_S * NS, "end_ns": (START_S + 10) * NS}
        step = Step("0", tasks=2, nodes=2, energy_uj=8_000_000, u_uj=u_uj, why="n2 did not report it", **span)
        made = replace(gpu(), steps=(step,))
        return [
            " ".join(" ".join(lines).split())
            for lines in (job_report(made, "x", Style()), step_report(made, "0", Style()))
        ]

    for text in shown(100_000):
        assert "at least 8.00 J ± 0.20 J" in text and "n2 did not report it" in text
    for text in shown(8_000_000):
        assert "at most 24.0 J" in text and "at least at most" not in text


def test_nodes_whose_bounds_overlap_are_not_called_uneven() -> None:
    record = many_hosts()
    assert any("times as much" in hint for hint in hints(record))
    wide = replace(record, nodes=tuple(replace(n, u_uj=(n.energy_uj or 0) // 3) for n in record.nodes))
    assert not any("times as much" in hint for hint in hints(wide))
