from __future__ import annotations

import array
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.agent import curve, ranks, regions
from perun_hpc.agent.server import Allowance, Limits, Peer
from perun_hpc.agent.session import Edge, Session, SessionKey, per_node
from perun_hpc.errors import AccessError, DataError

SECOND = 1_000_000_000


def session(**job: str) -> Session:
    return Session(SessionKey(7, 0), {"uid": "1000", **job}, {}, "", "boot", Edge(0, 0, 0, "hook"))


def test_only_a_memory_file_is_read(tmp_path: Path) -> None:
    pipe = os.pipe()
    (tmp_path / "file").write_text("x")
    plain = os.open(tmp_path / "file", os.O_RDONLY)
    memory = os.memfd_create("m")
    os.write(memory, b"abc")
    for fd in (*pipe, plain):
        with pytest.raises(DataError, match="memory file"):
            ranks.check_memory(fd)
    assert ranks.check_memory(memory) == 3
    assert ranks.content(memory) == b"abc"
    for fd in (*pipe, plain, memory):
        os.close(fd)


def test_a_sparse_memory_file_is_read_up_to_its_first_empty_piece() -> None:
    fd = os.memfd_create("m")
    os.write(fd, b"head")
    os.ftruncate(fd, 1 << 40)
    assert len(ranks.content(fd)) <= 1 << 20
    os.close(fd)


@pytest.mark.parametrize(
    ("cgroup", "member"),
    [
        ("9:freezer:/slurm/uid_1000/job_7/step_0\n", True),
        ("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n", True),
        ("0::/system.slice/slurmstepd.scope/sABC/step_0\n", True),
        ("9:freezer:/slurm/uid_1000/job_77/step_0\n", False),
        ("9:freezer:/slurm_n1/uid_1000/job_8/job_7x\n", False),
        ("0::/user.slice/user-1000.slice\n", True),
    ],
)
def test_who_belongs_to_a_job(tmp_path: Path, cgroup: str, member: bool) -> None:
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/cgroup").write_text(cgroup)
    one = session(sluid="sABC")
    if member:
        ranks.check_member(tmp_path, Peer(5, 1000, 1000), one)
    else:
        with pytest.raises(AccessError, match="not part of job 7"):
            ranks.check_member(tmp_path, Peer(5, 1000, 1000), one)
    with pytest.raises(AccessError, match="not yours"):
        ranks.check_member(tmp_path, Peer(5, 1001, 1000), one)


def test_a_rank_too_many_is_refused() -> None:
    one = session()
    for rank in range(ranks.MAX_RANKS):
        ranks.register(one, {"step_id": "0", "rank": str(rank)}, 1, 0, 0)
    with pytest.raises(DataError, match="more than"):
        ranks.register(one, {"step_id": "1", "rank": "0"}, 1, 0, 0)


def test_a_user_has_a_burst_and_then_a_rate() -> None:
    allowance = Allowance(Limits(messages_per_s=10, burst=5))
    assert [allowance.take(1000, 0) for _ in range(6)] == [True] * 5 + [False]
    assert allowance.take(1001, 0)
    assert allowance.take(1000, SECOND // 10)
    assert not allowance.take(1000, SECOND // 10)
    assert all(allowance.take(0, 0) for _ in range(100))


def test_the_curve_between_its_points_and_beyond(tmp_path: Path) -> None:
    path = tmp_path / "curve.bin"
    curve.extend(path, [(100, 0), (200, 1000)])
    curve.extend(path, [(300, 1000), (250, 7), (400, 3000)])
    read = curve.Curve.read(path)
    assert [read.at(t) for t in (0, 100, 150, 250, 350, 400, 999)] == [0, 0, 500, 1000, 2000, 3000, 3000]


def test_a_torn_curve_loses_its_last_point_only(tmp_path: Path) -> None:
    path = tmp_path / "curve.bin"
    curve.extend(path, [(100, 0), (200, 1000)])
    path.write_bytes(path.read_bytes()[:-3])
    assert curve.Curve.read(path).at(999) == 0


def test_a_share_is_spread_like_the_nodes_counters() -> None:
    assert curve.spread([(0, 0), (10, 100), (20, 400)], 1000, 200) == [(10, 1050), (20, 1200)]
    assert curve.spread([(0, 0), (20, 0)], 1000, 0) == [(20, 1000)]


def data(names: list[str], calls: list[int], rows: int) -> bytes:
    tables = [{"name": "calls", "columns": ["region", "start_ns", "end_ns"], "rows": rows}]
    head = {"schema": regions.SCHEMA, "regions": names, "tables": tables}
    return json.dumps(head).encode() + b"\n" + array.array("q", calls).tobytes()


def test_nested_overlapping_open_and_raised_calls() -> None:
    rank = regions.parse(data(["f", "g"], [0, 10, 50, 0, 20, 30, 1, 60, -70, 0, 90, 0, 9, 1, 2], 5))
    assert regions.by_region(rank, 0, 100) == {0: (3, [(10, 50), (90, 100)]), 1: (1, [(60, 70)])}


def test_calls_are_cut_to_the_ranks_life() -> None:
    rank = regions.parse(data(["f"], [0, -5, 1 << 62], 1))
    assert regions.by_region(rank, 100, 200) == {0: (1, [(100, 200)])}


@given(st.binary(max_size=300))
def test_what_a_user_hands_over_never_breaks_the_reader(noise: bytes) -> None:
    whole = data(["f"], [0, 1, 2], 1)
    for text in (noise, whole[: len(noise)] + noise, whole.replace(b'"rows": 1', b'"rows": ' + noise)):
        try:
            rank = regions.parse(text)
        except DataError:
            continue
        regions.by_region(rank, 0, 100)


def test_slurms_numbers_per_node() -> None:
    assert per_node("2(x3),1") == [2, 2, 2, 1]
    assert session(cpus_per_node="2(x3),1", nodelist="n[1-4]", node="n4").cpus_on_node == 1
    assert session(cpus_per_node="4(x2)", nodelist="n[1-2]", node="n2").cpus_on_node == 4
    assert session(cpus_on_node="16").cpus_on_node == 16
    assert session().cpus_on_node == 0
