"""Sums and Slurm's rows at their edges, field by field, where one wrong figure would go unseen (docs/mutants.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from perun_hpc.accounting.summing import (
    add_slurm,
    carry_slurm,
    highest_of_all,
    inputs_digest,
    missing_record,
    sum_boundaries,
)
from perun_hpc.data_model.boundary import MAX_NOTE, MAX_NOTES
from perun_hpc.data_model.record import Device, EnergyRecord, Rank, Region, Step, to_json
from perun_hpc.errors import NotFoundError, UnavailableError
from perun_hpc.slurm.job_ids import job_id_arguments
from perun_hpc.slurm.sacct import (
    FIELDS,
    IDENTITY,
    SLACK_S,
    SlurmJob,
    by_id,
    identity_fields,
    is_one_of,
    match_run,
    nodes_of,
    pair_runs,
    parse_sacct,
    query_between,
    query_jobs,
)
from perun_hpc.store.layout import SHORT
from tests.accounting_data import NS, START_S, boundary, domain, parsed, slurm_job

pytestmark = pytest.mark.usefixtures("utc")

START_NS = START_S * NS


def summed(*records: dict[str, Any], problems: Sequence[str] = ()) -> EnergyRecord:
    return sum_boundaries([parsed(one) for one in records], problems)


def of_node(node: str, **other: Any) -> dict[str, Any]:
    """A node's record in which every figure is another one."""
    first = node == "n1"
    parts = {
        "package-0": domain("cpu", 8_000_000, u_uj=300, modelled_uj=5, suspended_uj=7, node_uj=9_000_000),
        "package-1": domain(
            "cpu", 4_000_000, u_uj=100, gap_ns=10 * NS, covered_ns=90 * NS, method="cores", provenance="modelled"
        ),
        "dram-0": domain("dram", 1_000_000, u_uj=300),
        "gpu-a": domain("gpu", 20_000_000, u_uj=1200, idle_ns=40 * NS, idle_uj=11),
        "node": domain("node", 40_000_000, u_uj=9_999),
    }
    rank = {"rank": int(first), "start_ns": START_NS + 6, "end_ns": START_NS + 8, "energy_uj": 30 + first}
    step = {
        "step_id": "0", "tasks": 2 + first, "nodes": 1, "start_ns": START_NS + 5 + first,
        "end_ns": START_NS + 9 + first, "energy_uj": 70, "ranks": [rank],
    }  # fmt: skip
    region = {
        "step_id": "0", "name": "work", "rank": int(first), "calls": 3, "time_ns": 40 if first else 60,
        "energy_uj": 12, "u_uj": 2,
    }  # fmt: skip
    settings = {"seconds": 100 if first else 110, "num_nodes": 4, "nodelist": "n[1-3]", **other}
    return boundary(node=node, domains=parts, steps=[step], regions=[region], **settings)


def test_every_figure_of_a_record_is_the_sum_that_it_says() -> None:
    one = of_node(
        "n1", usage={"cpu_ns": 10 * NS, "mem_peak_b": 5, "peak_mw": 1000, "suspended_ns": 3 * NS},
        het_job_id="4710", het_offset="1", agent={"cpu_ns": 3, "rss_b": 8},
    )  # fmt: skip
    trace = {"stored": True, "state": "partial", "why": "disk full", "bytes": 77}
    other = of_node(
        "n2", usage={"cpu_ns": 20 * NS, "mem_peak_b": 9, "peak_mw": 2000}, trace=trace, state="aborted",
        why="agent lost", agent={"cpu_ns": 4, "rss_b": 7},
    )  # fmt: skip
    record = summed(other, one, problems=["n9: damaged"])
    assert (record.schema, record.revision, record.status, record.provenance) == (
        "perun.record/1", 1, "partial", "modelled"
    )  # fmt: skip
    assert (record.energy_uj, record.u_uj, record.static_uj, record.dynamic_uj) == (
        66_000_000, 2600, 16_500_000, 49_500_000
    )  # fmt: skip
    assert (record.idle_uj, record.suspended_uj, record.modelled_uj) == (22, 14, 10)
    assert (record.start_ns, record.end_ns) == (START_NS, START_NS + 110 * NS)
    assert (record.power_mean_mw, record.power_peak_mw) == (600, 3000)
    assert (record.cpus, record.gpus, record.num_nodes, record.cpu_ns, record.mem_peak_b) == (8, 2, 4, 30 * NS, 9)
    assert (record.gpu_held_s, record.gpu_idle_s, record.suspended_s) == (210, 80, 3)
    assert record.coverage == pytest.approx(390 / 400 * 2 / 4)
    assert (record.het_job_id, record.het_offset, record.trace_bytes) == (4710, 1, 77)
    assert (record.agent_cpu_ns, record.agent_rss_b) == (7, 8)
    assert record.missing == (
        "n9: damaged", "n3: no boundary record", "1 of 4 nodes: no boundary record", "n2: agent lost",
        "n2: its trace is partial: disk full",
    )  # fmt: skip
    assert record.missing_nodes == ("n3",)
    _, dram, gpu, meter = record.components
    assert json.loads(to_json(record))["components"][0] == {
        "component": "cpu", "energy_uj": 24_000_000, "u_uj": 800, "static_uj": 6_000_000, "dynamic_uj": 18_000_000,
        "idle_uj": 0, "suspended_uj": 14, "modelled_uj": 10, "covered_ns": 380 * NS, "gap_ns": 20 * NS, "domains": 4,
        "provenance": "modelled", "methods": ["cores", "exclusive"],
        "doubts": [{"cause": "cpu", "uj": 800}],
    }  # fmt: skip
    assert [(c.component, c.energy_uj, c.u_uj, c.idle_uj) for c in (dram, gpu, meter)] == [
        ("dram", 2_000_000, 600, 0), ("gpu", 40_000_000, 2400, 22), ("node", 80_000_000, 19_998, 0)
    ]  # fmt: skip
    first, second = record.nodes
    assert (first.node, first.state, first.energy_uj, first.u_uj, first.node_uj) == (
        "n1", "closed", 33_000_000, 1300, 34_000_000
    )  # fmt: skip
    assert (first.cpu_ns, first.cpus, first.mem_peak_b, first.peak_mw, first.coverage) == (10 * NS, 4, 5, 1000, 0.975)
    assert (second.state, second.why, second.end_ns) == ("aborted", "agent lost", START_NS + 110 * NS)
    assert record.devices == (
        Device("n1", "gpu-a", 20_000_000, 100 * NS, 40 * NS),
        Device("n2", "gpu-a", 20_000_000, 110 * NS, 40 * NS),
    )
    assert record.steps == (Step("0", 3, 2, START_NS + 5, START_NS + 10, 140),)
    assert record.ranks == (
        Rank("0", 0, "n2", START_NS + 6, START_NS + 8, 30),
        Rank("0", 1, "n1", START_NS + 6, START_NS + 8, 31),
    )
    assert record.regions == (Region("0", "work", 6, 2, 100, 40, 60, 24, 4),)
    assert [(s.node, s.domain, s.energy_uj) for s in record.shares] == [
        (node, name, uj)
        for node in ("n1", "n2")
        for name, uj in (
            ("dram-0", 1_000_000), ("gpu-a", 20_000_000), ("package-0", 8_000_000), ("package-1", 4_000_000)
        )
    ]  # fmt: skip


def test_a_record_without_holes_is_complete() -> None:
    record = summed(boundary(usage={"peak_mw": 1}))
    assert (record.status, record.missing, record.missing_nodes, record.coverage) == ("complete", (), (), 1.0)
    assert (record.num_nodes, record.gpus, record.gpu_held_s, record.gpu_idle_s) == (1, 0, 0, None)
    assert (record.het_job_id, record.het_offset, record.suspended_s, record.trace_bytes) == (None, None, 0, 0)
    assert (record.cpu_ns, record.agent_rss_b, record.simulated) == (None, None, False)
    assert (record.uid, record.gid, record.user, record.account, record.partition) == (
        2001, 2001, "alice", "physics", "main"
    )  # fmt: skip


def test_the_first_of_a_het_job_has_its_offset() -> None:
    assert summed(boundary(het_job_id=7, het_offset=0)).het_offset == 0
    assert summed(boundary(het_job_id=0, het_offset=0)).het_offset is None


def test_one_domain_that_is_not_known_leaves_a_partial_sum_of_the_others() -> None:
    parts = {"package-0": domain("cpu", 5), "dram-0": domain("dram", None), "gpu-a": domain("gpu", None)}
    record = summed(boundary(domains=parts))
    assert (record.energy_uj, record.status) == (5, "partial")
    assert record.missing == ("n1: not measured: dram-0, gpu-a",)
    assert record.coverage == pytest.approx(1 / 3)
    assert [c.component for c in record.components] == ["cpu"]
    assert summed(boundary(domains={})).missing == ("n1: no energy sensor",)
    assert summed(boundary(state="open", why=None)).missing == ("n1: closed without an end reading",)


def test_nothing_known_is_nothing_covered() -> None:
    assert summed(boundary(domains={"dram-0": domain("dram", None), "gpu-a": domain("gpu", None)})).coverage == 0.0
    assert summed(boundary(domains={})).coverage == 0.0


def test_the_uncertainty_of_a_meter_counts_where_there_is_nothing_else() -> None:
    meter, package = domain("node", 100, u_uj=7), domain("cpu", 60, u_uj=3)
    assert summed(boundary(domains={"node": meter})).u_uj == 7
    assert summed(boundary(domains={"node": meter, "package-0": package})).u_uj == 3


def test_what_is_not_known_is_not_wasted() -> None:
    record = add_slurm(summed(boundary(domains={})), slurm_job(state="FAILED"))
    assert (record.energy_uj, record.wasted_uj) == (None, 0)
    assert carry_slurm(record, record).wasted_uj == 0


def test_idle_time_of_gpus_is_known_where_it_is_of_each() -> None:
    parts = {"gpu-a": domain("gpu", 5, idle_ns=3 * NS), "gpu-b": domain("gpu", 5, idle_ns=None)}
    assert summed(boundary(domains=parts)).gpu_idle_s is None
    parts["gpu-b"]["idle_ns"] = 4 * NS
    assert summed(boundary(domains=parts)).gpu_idle_s == 7
    parts["gpu-b"]["idle_ns"] -= 1
    short = boundary(domains={**parts, "gpu-b": parts["gpu-b"]}, usage={"suspended_ns": 5 * NS - 1})
    short["end"]["real_ns"] -= 1
    record = summed(short)
    assert (record.gpu_idle_s, record.gpu_held_s, record.suspended_s) == (6, 199, 4)  # whole seconds


@pytest.mark.parametrize(
    ("span_ns", "told_mw", "peak_mw"),
    [(NS, 0, 5000), (NS - 1, 0, 0), (NS, 9000, 9000), (3 * NS, 0, 1667), (NS, None, None)],
)
def test_a_nodes_highest_power_is_at_least_the_mean_of_the_whole(
    span_ns: int, told_mw: int | None, peak_mw: int | None
) -> None:
    data = boundary(domains={"package-0": domain("cpu", 5_000_000)}, usage={"peak_mw": told_mw})
    data["end"]["real_ns"] = data["start"]["real_ns"] + span_ns
    assert summed(data).nodes[0].peak_mw == peak_mw


def test_highest_powers_add_up_where_all_are_known() -> None:
    assert highest_of_all([1, 2]) == 3
    assert highest_of_all([1, None]) is highest_of_all([]) is None
    assert highest_of_all([0]) == 0


def test_a_job_of_no_length_has_a_mean_power_all_the_same() -> None:
    assert summed(boundary(seconds=0, domains={"package-0": domain("cpu", 3)})).power_mean_mw == 3_000_000


@pytest.mark.parametrize(
    ("trace", "holes"),
    [
        ({"stored": True, "state": "complete"}, ()),
        ({"stored": True, "state": "partial", "why": "x"}, ("n1: its trace is partial: x",)),
        ({"stored": False}, ()),
        ({"stored": False, "why": SHORT}, ()),
        ({"stored": False, "why": "disk full"}, ("n1: no trace: disk full",)),
        ({"stored": False, "state": "partial", "why": None}, ()),
        (None, ()),
    ],
)
def test_a_lost_trace_is_told_and_the_energy_complete(trace: dict[str, Any] | None, holes: tuple[str, ...]) -> None:
    record = summed(boundary(trace=trace))
    assert (record.missing, record.status) == (holes, "complete")


def test_owners_who_differ_are_nobody() -> None:
    record = summed(of_node("n1"), of_node("n2", uid=2002))
    assert (record.uid, record.gid, record.user) == (None, None, "")
    assert record.notes[-1].endswith(": 2001, 2002")
    assert summed(of_node("n1"), of_node("n2", uid=None)).uid == 2001


def test_notes_are_told_once_where_all_nodes_say_the_same_and_in_bounds() -> None:
    both = summed(of_node("n1", notes=["a", "b"]), of_node("n2", settings={"notes": ["a"]}))
    assert both.notes == ("a", "n1: b")
    long = summed(of_node("n1", notes=["x" * 400, *map(str, range(40))]))
    assert (len(long.notes), long.notes[0]) == (MAX_NOTES, "x" * MAX_NOTE)
    many = summed(of_node("n1", notes=[f"a{n}" for n in range(15)]), of_node("n2", notes=[f"b{n}" for n in range(15)]))
    assert many.notes == (*(f"n1: a{n}" for n in range(15)), *(f"n2: b{n}" for n in range(MAX_NOTES - 15)))


def test_steps_and_regions_have_an_order_that_does_not_depend_on_the_nodes() -> None:
    steps = [{"step_id": one, "ranks": [{"rank": 1}, {"rank": 0}]} for one in ("-1", "-4", "10", "2", "-5")]
    regions = [
        {"step_id": step, "name": name, "time_ns": time_ns}
        for step, name, time_ns in (("2", "b", 5), ("2", "a", 5), ("10", "c", 9), ("2", "d", 7))
    ]
    record = summed(boundary(steps=steps, regions=regions))
    assert [step.step_id for step in record.steps] == ["batch", "2", "10", "further", "extern"]
    assert record.steps[1] == Step("2", 0, 1, 0, 0, None)
    assert [(one.step_id, one.rank) for one in record.ranks] == [
        (step, rank) for step in ("batch", "2", "10", "further", "extern") for rank in (0, 1)
    ]
    assert [one.name for one in record.regions] == ["d", "a", "b", "c"]
    assert record.regions[0] == Region("2", "d", 0, 1, 7, 7, 7, None, 0)
    bare = summed(boundary(steps=[{"step_id": "2", "ranks": [{}]}], regions=[{"step_id": "2", "name": "d"}]))
    assert bare.regions == (Region("2", "d", 0, 1, 0, 0, 0, None, 0),)
    assert bare.ranks == (Rank("2", 0, "n1", 0, 0, None),)


def test_of_two_records_of_a_node_the_later_revision_counts_and_one_without_a_start_never() -> None:
    old, new = of_node("n1", revision=1), of_node("n1", revision=2, user="bob")
    assert summed(old, new).user == summed(new, old).user == "bob"
    late = {**new, "start": {**new["start"], "from": "epilog"}}
    assert summed(old, late).user == summed(late, old).user == "alice"
    digests = {inputs_digest([parsed(one) for one in which], why) for which, why in (
        ((old,), ()), ((new,), ()), ((old, of_node("n2")), ()), ((old,), ("damaged",)),
    )}  # fmt: skip
    assert len(digests) == 4
    pair = [parsed(old), parsed(of_node("n2"))]
    assert inputs_digest(pair, ("b", "a")) == inputs_digest(pair[::-1], ("a", "b"))
    assert len(inputs_digest(pair)) == 32


# --- what Slurm adds

FROM_SLURM = {
    "submit_s": START_S - 7, "name": "n", "uid": 1, "gid": 2, "user": "u", "account": "a", "partition": "p", "qos": "q",
    "nodelist": "n[1-2]", "num_nodes": 2, "cpus": 3, "gpus": 4, "state": "FAILED", "exit_code": 5, "exit_signal": 6,
    "suspended_s": 7, "time_limit_s": 8,
}  # fmt: skip


def test_every_field_of_slurms_gets_into_the_record() -> None:
    job = slurm_job(shown_id="4700_3", sluids=("s1", "s2"), **FROM_SLURM)
    record = add_slurm(summed(boundary()), job)
    assert {name: getattr(record, name) for name in FROM_SLURM} == FROM_SLURM
    assert (record.array_job_id, record.array_task_id, record.sluid) == (4700, 3, "s1")
    assert (record.gpu_held_s, record.cpu_ns, record.wasted_uj) == (400, 380 * NS, record.energy_uj)
    again = carry_slurm(record, summed(boundary(domains={"package-0": domain("cpu", 5)})))
    assert {name: getattr(again, name) for name in FROM_SLURM} == FROM_SLURM
    assert (again.array_job_id, again.gpu_held_s, again.wasted_uj, again.energy_uj) == (4700, 400, 5, 5)
    assert carry_slurm(replace(record, state="COMPLETED"), again).wasted_uj == 0


def test_what_slurm_does_not_know_stays_as_the_nodes_told_it() -> None:
    data = boundary(het_job_id=4710, het_offset=1, sluid="own", domains={"gpu-a": domain("gpu", 9)})
    told = summed(data)
    empty = dict.fromkeys(("submit_s", "uid", "gid"), None) | dict.fromkeys(
        ("user", "account", "partition", "nodelist"), ""
    )
    record = add_slurm(
        replace(told, submit_s=5), slurm_job(num_nodes=0, cpus=0, gpus=0, cpu_ns=1, sluids=("s",), **empty)
    )
    assert record.submit_s == 5
    for name in ("uid", "gid", "user", "account", "partition", "nodelist", "num_nodes", "cpus", "gpus", "cpu_ns"):
        assert getattr(record, name) == getattr(told, name), name
    assert (record.sluid, record.het_job_id, record.het_offset, record.gpu_held_s) == ("own", 4710, 1, 100)
    het = add_slurm(told, slurm_job(shown_id="8+2"))
    assert (het.het_job_id, het.het_offset) == (8, 2)


@pytest.mark.parametrize(("more_s", "coverage"), [(2, 1.0), (3, 100 / 103), (100, 0.5)])
def test_a_job_longer_by_more_than_rounding_is_covered_in_part(more_s: int, coverage: float) -> None:
    record = add_slurm(summed(boundary()), slurm_job(end_s=START_S + 100 + more_s))
    assert record.coverage == pytest.approx(coverage, rel=1e-12)
    wider = add_slurm(summed(boundary()), slurm_job(end_s=START_S + 100 + more_s, num_nodes=2))
    assert wider.coverage == pytest.approx(coverage if more_s <= 2 else coverage / 2)


def test_the_record_of_a_run_that_nobody_reported() -> None:
    record = missing_record(slurm_job(nodelist="n[1-2]", num_nodes=2, gpus=1, run=3), "c", "nobody")
    assert (record.energy_uj, record.u_uj, record.status, record.provenance) == (None, 0, "missing", "missing")
    assert (record.start_ns, record.end_ns, record.revision) == (START_NS, START_NS + 100 * NS, 1)
    assert (record.restart_count, record.missing, record.missing_nodes) == (3, ("nobody",), ("n1", "n2"))
    assert (record.coverage, record.gpu_held_s, record.wasted_uj) == (0.0, 100, 0)
    never = missing_record(slurm_job(start_s=None, end_s=None, nodelist="n["), "c", "x")
    assert (never.start_ns, never.end_ns, never.missing_nodes) == (0, 0, ())
    running = missing_record(slurm_job(end_s=None), "c", "x")
    assert running.end_ns == START_NS


# --- sacct's rows

ROW = {
    "JobIDRaw": "9", "JobID": "9", "JobName": "x", "User": "alice", "UID": "2001", "GID": "2002", "Account": "physics",
    "Partition": "main", "QOS": "normal", "Cluster": "c", "Submit": "100", "Start": "200", "End": "300",
    "Suspended": "00:00:10", "State": "COMPLETED", "ExitCode": "1:2", "NodeList": "n1", "NNodes": "1", "NCPUS": "8",
    "AllocTRES": "gres/gpu=2", "TimelimitRaw": "10", "TotalCPU": "00:01", "AdminComment": "told",
}  # fmt: skip


def rows(*changes: dict[str, str], extra: Sequence[str] = ()) -> list[SlurmJob]:
    table = [{**dict.fromkeys(extra, ""), **ROW, **change} for change in changes]
    text = "".join("".join(row[name] + "|" for name in (*FIELDS, *extra)) + "\n" for row in table)
    return parse_sacct(text, "|", extra)


def test_every_column_gets_into_its_field() -> None:
    (job,) = rows({})
    assert job == SlurmJob(
        9, "9", "x", "alice", 2001, 2002, "physics", "main", "normal", "c", 100, 200, 300, 10, "COMPLETED", 1, 2, "n1",
        1, 8, 2, 600, NS, "told",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("00:01", 1), ("01:02", 62), ("01:00:00", 3600), ("2-01:00:01", 176_401), ("00:02.500", 2.5), ("7", 7), ("", 0),
     ("x", 0), ("1-x", 0)],
)  # fmt: skip
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert rows({"TotalCPU": text})[0].cpu_ns == (int(seconds * NS) or None)
    assert rows({"Suspended": text})[0].suspended_s == int(seconds)


@pytest.mark.parametrize(
    ("tres", "gpus"),
    [("", 0), ("gres/gpu=3", 3), ("cpu=8,gres/gpu:a100=2,gres/gpu=4", 4), ("gres/gpu:a100=2", 0), ("gres/gpu=x", 0)],
)
def test_gpus_are_the_untyped_entry(tres: str, gpus: int) -> None:
    assert rows({"AllocTRES": tres})[0].gpus == gpus


def test_a_gpu_that_gave_the_job_nothing_and_that_nobody_watched_is_not_the_jobs() -> None:
    others = domain("gpu", 0, node_uj=9, method="holder", u_uj=0)
    held = domain("gpu", 0, node_uj=9, method="holder", u_uj=0, idle_ns=5)
    lost = domain("gpu", None)
    parts = {"package-0": domain("cpu", 8), "gpu-a": others, "gpu-b": held, "gpu-c": lost}
    record = sum_boundaries([parsed(boundary(domains=parts))])
    assert [d.domain for d in record.devices] == ["gpu-b", "gpu-c"]
    assert (record.gpus, record.gpu_held_s) == (2, 200)
    none = sum_boundaries([parsed(boundary(domains={"package-0": domain("cpu", 8), "gpu-a": others}))])
    assert (none.gpus, none.gpu_held_s, [c.component for c in none.components]) == (0, 0, ["cpu"])


@pytest.mark.parametrize(
    ("tres", "mem_b"),
    [("cpu=4,mem=4G,node=1", 4 << 30), ("mem=3900M", 3900 << 20), ("mem=62.50G", 125 << 29), ("mem=1T", 1 << 40),
     ("cpu=4,node=1", None), ("mem=0M", None), ("mem=x", None), ("mem=4", None), ("gres/mem=4G", None)],
)  # fmt: skip
def test_memory_is_what_slurm_gave_out(tres: str, mem_b: int | None) -> None:
    assert rows({"AllocTRES": tres})[0].mem_b == mem_b


def test_what_is_no_number_is_not_known() -> None:
    (job,) = rows({"UID": "", "GID": "x", "NNodes": "", "NCPUS": "?", "TimelimitRaw": "UNLIMITED", "ExitCode": ""})
    assert (job.uid, job.gid, job.num_nodes, job.cpus, job.time_limit_s) == (None, None, 0, 0, None)
    assert (job.exit_code, job.exit_signal) == (None, None)
    (job,) = rows({"Submit": "0", "Start": "Unknown", "End": "1970-01-01T00:01:00", "State": "CANCELLED by 7"})
    assert (job.submit_s, job.start_s, job.end_s, job.state) == (None, None, 60, "CANCELLED")
    assert rows({"State": "RESIZING+"})[0].state == "RESIZING"


def test_half_a_row_is_no_answer_and_an_empty_one_is_of_nobody() -> None:
    assert parse_sacct("", "|") == []
    assert len(rows({}, {"JobIDRaw": "10"}, {"JobIDRaw": "11"})) == 3
    with pytest.raises(UnavailableError, match="cannot be read"):
        rows({"JobIDRaw": "x"})


def test_slurms_own_names_of_a_run_are_kept_once_each() -> None:
    (job,) = rows({"SLUID": "s", "OriginalSLUID": "o"}, extra=IDENTITY)
    assert job.sluids == ("s", "o")
    assert rows({"SLUID": "s", "OriginalSLUID": "s"}, extra=IDENTITY)[0].sluids == ("s",)
    assert rows({"SLUID": "", "OriginalSLUID": "o"}, extra=IDENTITY)[0].sluids == ("o",)
    assert identity_fields(lambda *_: "JobID OriginalSLUID\nSLUID State") == IDENTITY
    assert identity_fields(lambda *_: "JobID State") == ()


@pytest.mark.parametrize(
    ("shown", "array", "het"),
    [("9", (None, None), (None, None)), ("8_3", (8, 3), (None, None)), ("8+1", (None, None), (8, 1)),
     ("8_[1-4]", (None, None), (None, None)), ("_3", (None, None), (None, None)), ("8+", (None, None), (None, None)),
     ("x_3", (None, None), (None, None)), ("8+x", (None, None), (None, None)), ("+1", (None, None), (None, None))],
)  # fmt: skip
def test_array_and_het_ids(shown: str, array: tuple[int | None, ...], het: tuple[int | None, ...]) -> None:
    job = slurm_job(shown_id=shown)
    assert (job.array, job.het) == (array, het)


@pytest.mark.parametrize(
    ("change", "ran"),
    [
        ({}, True),
        ({"start_s": None}, False),
        ({"num_nodes": 0}, False),
        ({"nodelist": ""}, False),
        ({"state": "CANCELLED", "end_s": START_S}, False),
        ({"state": "CANCELLED", "end_s": START_S + 1}, True),
        ({"state": "CANCELLED", "end_s": None}, True),
        ({"state": "COMPLETED", "end_s": START_S}, True),
    ],
)
def test_whether_a_run_had_nodes_for_a_time(change: dict[str, Any], ran: bool) -> None:
    assert slurm_job(**change).ran is ran
    assert slurm_job(state="RUNNING").ended is False
    assert slurm_job().ended is True


def test_runs_are_numbered_by_their_start_and_anew_when_an_id_has_come_again() -> None:
    requeued = {"State": "REQUEUED", "Submit": "100", "Start": "200", "End": "300"}
    second = {"Submit": "300", "Start": "400", "End": "500"}
    waits = {"Submit": "300", "Start": "Unknown", "End": "Unknown", "State": "PENDING"}
    assert [job.run for job in rows(second, requeued)] == [0, 1]
    assert [(job.run, job.state) for job in rows(waits, requeued)] == [(0, "REQUEUED"), (1, "PENDING")]
    at_once = {"Submit": "100", "Start": "Unknown", "End": "Unknown", "State": "PENDING"}
    assert [job.state for job in rows(at_once, {"Start": "Unknown"}, {})] == ["COMPLETED", "COMPLETED", "PENDING"]
    assert [job.end_s for job in rows({"Start": "Unknown", "End": "150"}, {"Start": "Unknown", "End": "140"})] == [
        140,
        150,
    ]
    for gap_s, number in ((86_400, 1), (86_401, 0)):
        again = {"Submit": str(300 + gap_s), "Start": str(400 + gap_s), "End": str(500 + gap_s)}
        assert [job.run for job in rows(requeued, again)] == [0, number]
    assert [job.run for job in rows({**requeued, "End": "Unknown"}, {**second, "Submit": "999999"})] == [0, 1]


def test_the_parts_of_a_resized_run_are_one_with_the_most_that_it_had() -> None:
    first = {
        "State": "RESIZING", "NodeList": "n[1-2]", "NNodes": "2", "NCPUS": "16", "AllocTRES": "gres/gpu=4",
        "Suspended": "00:20", "AdminComment": "first", "SLUID": "a",
    }  # fmt: skip
    rest = {"Submit": "150", "Start": "250", "End": "900", "AdminComment": "", "SLUID": "b", "OriginalSLUID": "a"}
    (job,) = rows(first, rest, extra=IDENTITY)
    assert (job.submit_s, job.start_s, job.end_s, job.run) == (100, 200, 900, 0)
    assert (job.nodelist, job.num_nodes, job.cpus, job.gpus, job.suspended_s) == ("n[1-2]", 2, 16, 4, 20)
    assert (job.admin_comment, job.sluids, job.state) == ("first", ("a", "b"), "COMPLETED")
    (grown,) = rows({**first, "NodeList": "n1", "NNodes": "1"}, {**rest, "NodeList": "n[1-3]", "NNodes": "3"})
    assert (grown.nodelist, grown.num_nodes) == ("n[1-3]", 3)
    (moved,) = rows({**first, "NodeList": "n1"}, {**rest, "NodeList": "n2"})
    assert (moved.nodelist, moved.num_nodes) == ("n1,n2", 2)
    (odd,) = rows({**first, "NodeList": "n[", "NNodes": "5"}, rest)
    assert (odd.nodelist, odd.num_nodes) == ("n1", 5)
    assert len(rows(first, {**rest, "NNodes": "0"})) == len(rows(first, {**rest, "NodeList": ""})) == 2
    (early,) = rows({**first, "Start": "Unknown"}, rest)
    assert early.start_s == 250


def test_pairs_are_of_those_that_overlap_most_and_each_once() -> None:
    a, b = slurm_job(start_s=100, end_s=200), slurm_job(start_s=200, end_s=300)
    assert pair_runs([a, b], [(190, 300), (100, 195)]) == {1: 0, 0: 1}
    assert pair_runs([a], [(100, 200), (100, 200)]) in ({0: 0}, {0: 1})
    assert pair_runs([a], [(230, 240)], slack_s=30) == {0: 0}
    assert pair_runs([a], [(231, 240)], slack_s=30) == {}
    assert pair_runs([a], [(150, 160), (110, 120)]) == {0: 1}  # of two alike the one that begins nearer
    assert pair_runs([slurm_job(start_s=None, submit_s=100, end_s=None)], [(150, 160)]) == {0: 0}
    assert pair_runs([slurm_job(start_s=None, submit_s=None)], [(0, 10**10)]) == {}
    assert pair_runs([slurm_job(nodelist="")], [(START_S, START_S + 9)]) == {}
    named = replace(a, sluids=("s",))
    assert pair_runs([named], [(100, 200)], sluids=["other"]) == {}
    assert pair_runs([named], [(100, 200), (150, 160)], sluids=[None, "s"]) == {0: 0}
    assert pair_runs([named], [(100, 200), (150, 160)], sluids=["other"]) == {0: 1}
    assert match_run([a, b], 210 * NS, 290 * NS) is b
    assert match_run([named], 100 * NS, 200 * NS, sluid="other") is None


def test_half_a_minute_between_two_clocks_is_no_difference() -> None:
    job = slurm_job(start_s=100, end_s=200)
    assert pair_runs([job], [(230, 240)]) == {0: 0}
    assert pair_runs([job], [(231, 240)]) == {}


def test_a_job_id_has_32_bits() -> None:
    assert job_id_arguments("4294967295") == ("4294967295", None)
    with pytest.raises(NotFoundError):
        job_id_arguments("4294967296")
    assert job_id_arguments("0000004711_0000000003") == ("0000004711_0000000003", None)
    for too_long in ("00000004711", "4711_00000000003", "0099999999999", "9" * 5000):
        with pytest.raises(NotFoundError):
            job_id_arguments(too_long)


def test_a_component_that_took_nothing_took_nothing() -> None:
    (component,) = summed(boundary(domains={"package-0": domain("cpu", 0)})).components
    assert component.energy_uj == 0


def test_nodes_of_runs_are_known_where_slurm_tells_of_each() -> None:
    assert nodes_of([slurm_job(nodelist="n[1-2]"), slurm_job(nodelist="n3")]) == {"n1", "n2", "n3"}
    assert nodes_of([slurm_job(nodelist="", start_s=5, num_nodes=1), slurm_job()]) is None
    assert nodes_of([slurm_job(nodelist="", start_s=None), slurm_job()]) == {"n1"}
    assert nodes_of([slurm_job(nodelist="", num_nodes=0), slurm_job()]) == {"n1"}
    assert nodes_of([slurm_job(nodelist="n[")]) is nodes_of([]) is None
    assert is_one_of("n1.cluster", frozenset({"n1"}))
    assert is_one_of("n1.cluster", frozenset({"n1.cluster"}))
    assert not is_one_of("n1", frozenset({"n1.cluster"}))
    jobs = [slurm_job(1), slurm_job(2), slurm_job(1, name="again")]
    assert by_id(jobs) == {1: [jobs[0], jobs[2]], 2: [jobs[1]]}


def test_what_sacct_is_asked() -> None:
    asked: list[list[str]] = []

    def runner(command: Sequence[str], text: str | None, timeout_s: float) -> str:
        asked.append(list(command))
        return ""

    assert query_between(5, 9, ["--state=CD"], "c", runner, ["SLUID"]) == query_jobs([10, "9"], None, runner) == []
    first, second = asked
    assert first[:5] == ["sacct", "--allocations", "--duplicates", "--noheader", "--parsable"]
    assert first[-7:] == [
        f"--format={','.join(FIELDS)},SLUID",
        "-S",
        "uts5",
        "-E",
        "uts9",
        "--state=CD",
        "--clusters=c",
    ]
    assert second[-3:] == [f"--format={','.join(FIELDS)}", "-j", "10,9"]


@pytest.mark.parametrize(("late_s", "found"), [(SLACK_S, True), (SLACK_S + 1, False)])
def test_a_run_that_begins_after_the_span_is_another_one_from_the_first_second_beyond_the_slack(
    late_s: int, found: bool
) -> None:
    job = slurm_job(start_s=START_S + late_s, end_s=START_S + late_s + 600)
    assert match_run([job], (START_S - 600) * 10**9, START_S * 10**9) == (job if found else None)
    job = slurm_job(start_s=START_S - 600 - late_s, end_s=START_S - late_s)
    assert match_run([job], START_S * 10**9, (START_S + 600) * 10**9) == (job if found else None)


@pytest.mark.parametrize("which", ["n1", "n2"])
def test_a_node_without_a_record_is_missing_whichever_record_names_it(which: str) -> None:
    """A record that began without its job's start names its own node alone."""
    known = {"n1": ("", 1), "n2": ("", 1), which: ("n[1-3]", 4)}
    parts = [of_node(node, nodelist=nodelist, num_nodes=nodes) for node, (nodelist, nodes) in known.items()]
    found = summed(*parts)
    assert (found.status, found.missing_nodes, found.nodelist, found.num_nodes) == ("partial", ("n3",), "n[1-3]", 4)
    assert found.missing == ("n3: no boundary record", "1 of 4 nodes: no boundary record")
