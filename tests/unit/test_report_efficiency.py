"""How much of what a job held it used, and what advice that bears: words where nothing is known, never 0."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.data_model.record import Device, EnergyRecord
from perun_hpc.report.efficiency import efficiency_lines
from perun_hpc.report.hints import hints
from perun_hpc.report.screen import WIDTH, Style, cells
from tests.accounting_data import NS, START_S, boundary, domain, parsed, slurm_job

GIB = 1 << 30


def job(nodes: int = 1, **slurm: Any) -> EnergyRecord:
    """A job of 1000 s and 4 CPUs a node, 400 s of CPU time and 3 GiB on each."""
    names = [f"n{n}" for n in range(1, nodes + 1)]
    records = [
        parsed(
            boundary(
                node=name, nodelist=",".join(names), num_nodes=nodes, seconds=1000,
                usage={"cpu_ns": 400 * NS, "mem_peak_b": 3 * GIB},
            )
        )
        for name in names
    ]  # fmt: skip
    values = {
        "nodelist": ",".join(names),
        "num_nodes": nodes,
        "cpus": 4 * nodes,
        "end_s": START_S + 1000,
        "time_limit_s": 4000,
    }
    return add_slurm(sum_boundaries(records), slurm_job(**{**values, **slurm}))


def gpu(busy: float, watched: float = 1.0, idle: float | None = 0.0, memory_b: int | None = GIB) -> Device:
    held_ns = 1000 * NS
    idle_ns = None if idle is None else round(idle * held_ns)
    return Device("n1", "gpu-GPU-1a2b3c4d-5e6f", 1, held_ns, idle_ns, round(busy * watched * held_ns),
                  round(watched * held_ns), memory_b)  # fmt: skip


def shown(record: EnergyRecord) -> list[str]:
    lines = efficiency_lines(record, Style())
    assert all(cells(line) <= WIDTH for line in lines)
    return [" ".join(line.split()) for line in lines]


def test_each_thing_held_has_its_share_of_what_was_asked_for() -> None:
    assert shown(job(nodes=2, mem_b=16 * GIB, time_limit_s=4000)) == [
        "Use",
        "CPU 10 % of 8 CPUs",
        "Memory 38 % of 8 GiB asked for on a node: 3 GiB at most on one node,",
        "page cache in it",
        "Time 25 % of 01:06:40 asked for: 00:16:40",
    ]


def test_what_is_not_known_is_said_in_words() -> None:
    record = replace(job(time_limit_s=None), cpu_ns=None, mem_peak_b=None, gpus=2)
    text = "\n".join(shown(record))
    assert "CPU not known" in text and "Memory not known" in text and "no limit is known" in text
    assert "GPU use not known" in text
    assert " 0 " not in text and "%" not in text
    assert shown(replace(record, start_ns=0)) == []


def test_a_gpu_has_its_utilisation_and_its_memory() -> None:
    record = replace(job(gpus=1), devices=(gpu(0.42, idle=0.1, memory_b=20 * GIB),))
    assert shown(record)[-1] == "GPU 1a2b3 42 % busy on average, idle for 10 % of it, 20 GiB of its memory"


def test_a_gpu_has_its_clock_its_limit_and_what_held_it_down() -> None:
    ns = 1000 * NS
    one = replace(gpu(0.9), clock_khz=1_305_000, limit_mw=300_000, braked_ns=ns, capped_ns=340 * NS, slowed_ns=60 * NS)
    text = " ".join(shown(replace(job(gpus=1), devices=(one,))))
    assert "1305 MHz at work, limit 300 W, which held it down for 34 % of it" in text
    assert "slowed by heat or the hardware for 6 % of it" in text
    record = replace(job(gpus=1), devices=(one,))
    assert "1 of 1 GPU slowed by heat or the hardware, for up to 6 % of the job: tell whoever runs n1" in advice(record)
    # What was hardly seen says nothing of the whole.
    hardly = replace(one, braked_ns=ns // 4, clock_khz=None, limit_mw=None)
    assert "limit" not in " ".join(shown(replace(record, devices=(hardly,)))) and not advice(
        replace(record, devices=(hardly,))
    )


@pytest.mark.parametrize("watched", [0.0, 0.4])
def test_the_use_of_a_gpu_that_was_hardly_watched_is_not_known(watched: float) -> None:
    record = replace(job(gpus=1), devices=(gpu(0.9, watched, idle=None, memory_b=None),))
    assert shown(record)[-1] == "GPU 1a2b3 use not known, idle time not known, memory not known"


def test_of_many_gpus_the_least_used_are_named() -> None:
    record = replace(job(gpus=16), devices=tuple(gpu(0.9 - 0.05 * n) for n in range(16)))
    lines = shown(record)
    named = [line for line in lines if line.startswith("GPU 1a2b3")]
    assert [line.split()[2] for line in named] == ["15", "20", "25", "30", "35", "40", "45", "50"]
    assert lines[-1] == "these are the least used of 16 GPUs"


def advice(record: EnergyRecord) -> str:
    return "\n".join(hints(record))


def beside_others(record: EnergyRecord) -> EnergyRecord:
    return replace(record, components=tuple(replace(c, methods=("cores",)) for c in record.components))


def test_fewer_cpus_are_advised_only_where_fewer_can_be_had() -> None:
    assert "the 4 CPUs were 10 % busy: fewer CPUs would cost less static energy" in advice(beside_others(job()))
    assert "CPUs" not in advice(replace(job(nodes=2), cpus=2))
    assert "CPUs" not in advice(replace(job(), cpu_ns=None))
    assert "CPUs" not in advice(replace(job(), gpus=1))


def test_of_nodes_that_a_job_held_alone_fewer_cpus_promise_no_saving() -> None:
    alone = advice(job())
    assert "fewer CPUs save only where others may use the rest (no --exclusive)" in alone
    assert "static energy" not in alone and "would do" not in alone


def test_of_static_power_that_is_not_known_no_saving_is_promised() -> None:
    record = beside_others(job())
    unknown = replace(record, components=tuple(replace(c, static_uj=0) for c in record.components))
    assert "fewer would do" in advice(unknown)
    assert "static" not in advice(unknown)


def two_nodes(static_uj: int) -> EnergyRecord:
    parts = [domain("cpu", uj * 10**6, static_uj=static_uj, dynamic_uj=uj * 10**6 - static_uj) for uj in (8000, 20_000)]
    records = [
        parsed(boundary(node=f"n{n}", nodelist="n[1-2]", num_nodes=2, seconds=1000, domains={"package-0": part}))
        for n, part in enumerate(parts, 1)
    ]
    return add_slurm(sum_boundaries(records), slurm_job(nodelist="n[1-2]", num_nodes=2, end_s=START_S + 1000))


def test_work_is_called_uneven_only_where_static_power_is_known() -> None:
    assert "is the work spread evenly?" in advice(two_nodes(10**9))
    assert "evenly" not in advice(two_nodes(0))


def test_less_memory_is_advised_where_much_was_spare_on_every_node() -> None:
    assert "asked for 64 GiB of memory on a node, used 3 GiB at most" in advice(job(nodes=2, mem_b=128 * GIB))
    assert "memory" not in advice(job(mem_b=6 * GIB))
    assert "memory" not in advice(job(mem_b=5 * GIB))
    assert "memory" not in advice(job(mem_b=None))
    record = job(nodes=2, mem_b=128 * GIB)
    unseen = replace(record, nodes=(record.nodes[0], replace(record.nodes[1], mem_peak_b=None)))
    assert "memory" not in advice(unseen)


def test_a_gpu_that_is_little_used_is_another_matter_than_an_idle_one() -> None:
    both = replace(job(gpus=2), devices=(gpu(0.1), gpu(0.0, idle=0.9)))
    assert "1 of 2 GPUs at most 10 % busy" in advice(both)
    assert "1 of 2 GPUs idle for 90 % of the job or more" in advice(both)
    assert "GPU" not in advice(replace(job(gpus=1), devices=(gpu(0.1, watched=0.2),)))
