from __future__ import annotations

import array
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.agent.base.job_facts import per_node
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.jobs import intake, ranks
from perun_hpc.agent.measure import curve
from perun_hpc.data_model import rank_data
from perun_hpc.data_model.job import SessionKey
from perun_hpc.energy import regions
from perun_hpc.energy.regions import union
from perun_hpc.errors import AccessError, DataError
from perun_hpc.process.server import Allowance, Limits, Peer

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
    assert intake.content_b(memory) == 3
    for fd in (*pipe, plain, memory):
        os.close(fd)


def taking(tmp_path: Path, *sessions: Session, files: int = 5000) -> intake.Intake:
    """An intake of a spool in which some sessions have their directories."""
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    for one in sessions:
        paths.session(one.key.name).mkdir(parents=True)
    return intake.Intake(paths, files)


def memory(data: bytes, size_b: int = 0) -> int:
    fd = os.memfd_create("m")
    os.pwrite(fd, data, 0)
    os.ftruncate(fd, max(size_b, len(data)))
    return fd


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def kept(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "spool").rglob("*.rank")}


def test_a_sparse_memory_file_is_taken_as_far_as_it_holds_something(tmp_path: Path) -> None:
    one = session()
    taken = taking(tmp_path, one)
    taken.take(one, 0, 0, memory(b"head", 1 << 40))
    taken.drain()
    assert kept(tmp_path)["0-0.rank"].rstrip(b"\0") == b"head"
    assert len(kept(tmp_path)["0-0.rank"]) <= 4096


def test_a_memory_that_many_ranks_hand_over_is_copied_once(tmp_path: Path) -> None:
    one = session()
    taken = taking(tmp_path, one)
    shared = memory(b"x" * (3 << 20))
    taken.hold(one, 0, 0, shared)
    for rank in range(1, 500):
        with pytest.raises(DataError, match="another rank's"):
            taken.hold(one, 0, rank, shared)
    for rank in range(500):
        taken.rank_ended(one, 0, rank)
    pieces = 0
    while taken.busy:
        taken.step()
        pieces += 1
    assert {name: len(data) for name, data in kept(tmp_path).items()} == {"0-0.rank": 3 << 20}
    assert pieces <= 4
    assert one.left_out == {intake.SHARED_LEFT_OUT: 499}
    os.close(shared)


def test_what_exceeds_the_jobs_bytes_is_refused_before_a_byte_is_copied(tmp_path: Path) -> None:
    one, most = session(), intake.MAX_JOB_B // intake.MAX_DATA_B
    taken = taking(tmp_path, one)
    fds = [memory(b"x", intake.MAX_DATA_B) for _ in range(most + 2)]
    for rank, fd in enumerate(fds):
        os.posix_fallocate(fd, 0, intake.MAX_DATA_B)
        taken.hold(one, 0, rank, fd)
    open_before = descriptors()
    for rank in range(most + 2):
        taken.rank_ended(one, 0, rank)
    assert one.left_out == {intake.BYTES_LEFT_OUT: 2}
    assert descriptors() == open_before - 2  # nor is their memory kept
    taken.drop(one)
    assert descriptors() == open_before - most - 2
    for fd in fds:
        os.close(fd)


def test_users_take_turns_and_one_cannot_hold_all_descriptors(tmp_path: Path) -> None:
    alice, bob = session(), Session(SessionKey(8, 0), {"uid": "1001"}, {}, "", "boot", Edge(0, 0, 0, "hook"))
    taken = taking(tmp_path, alice, bob, files=20)
    for rank in range(16):
        taken.take(bob, 0, rank, memory(b"x" * (2 << 20)))
    with pytest.raises(DataError, match="16 memory files"):
        taken.hold(bob, 0, 16, memory(b"x"))
    taken.take(alice, 0, 99, memory(b"a"))
    assert taken.copies(alice)
    for _ in range(2):
        taken.step()
    assert not taken.copies(alice)
    assert taken.copies(bob)
    taken.drain()
    assert len(kept(tmp_path)) == 17
    assert bob.left_out == {intake.FILES_LEFT_OUT: 1}


def test_memory_that_grows_or_shrinks_while_it_is_copied_breaks_nothing(tmp_path: Path) -> None:
    one = session()
    taken = taking(tmp_path, one)
    growing, shrinking = memory(b"g" * (2 << 20)), memory(b"s" * (4 << 20))
    taken.take(one, 0, 0, growing)
    taken.take(one, 0, 1, shrinking)
    taken.step()
    os.ftruncate(growing, 1 << 30)
    os.pwrite(growing, b"more" * (1 << 20), 2 << 20)
    os.ftruncate(shrinking, 1 << 20)
    taken.drain()
    assert {name: len(data) for name, data in kept(tmp_path).items()} == {"0-0.rank": 2 << 20, "0-1.rank": 1 << 20}


@pytest.mark.parametrize(
    ("cgroup", "member"),
    [
        ("9:freezer:/slurm/uid_1000/job_7/step_0\n", True),
        ("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n", True),
        ("0::/system.slice/slurmstepd.scope/sABC/step_0\n", True),
        ("9:freezer:/slurm/uid_1000/job_77/step_0\n", False),
        ("9:freezer:/slurm_n1/uid_1000/job_8/job_7x\n", False),
        ("9:freezer:/slurm_n1/uid_1000/job_8/job_7\n", False),
        ("0::/user.slice/user-1000.slice\n", False),
        ("12:cpuset:/\n9:freezer:/\n1:name=systemd:/user.slice/user-1000.slice/session-3.scope\n", False),
        ("0::/user.slice/user-1000.slice/user@1000.service/slurmstepd.scope/job_7/step_0\n", False),
        ("0::/user.slice/user-1000.slice/user@1000.service/job_7\n", False),
        ("0::/system.slice/slurmstepd.scope/job_8/step_0/user/task_0/slurmstepd.scope/job_7\n", False),
        ("0::/system.slice/ssh.service\n9:freezer:/slurm/uid_1000/job_7\n", True),
        ("", False),
    ],
)
@pytest.mark.parametrize("slurms", ["cpuset/slurm/uid_1000/job_7", "system.slice/slurmstepd.scope", "freezer/slurm"])
def test_who_belongs_to_a_job(tmp_path: Path, cgroup: str, member: bool, slurms: str) -> None:
    """Whatever cgroup of its own a user gives the name of the job's, and also while no job has a cgroup."""
    (tmp_path / "sys/fs/cgroup" / slurms).mkdir(parents=True)
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


V1 = "sys/fs/cgroup/freezer/slurm/uid_1000/job_7/step_0/cgroup.procs"
V2 = "sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0/user/task_0/cgroup.procs"
SLUID = "sys/fs/cgroup/system.slice/slurmstepd.scope/sABC/step_0/user/task_0/cgroup.procs"


@pytest.mark.parametrize("file", [V1, V2, SLUID])
def test_who_belongs_to_a_job_where_proc_hides_processes(tmp_path: Path, file: str) -> None:
    """hidepid=2: the cgroups list the processes all the same."""
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(f"1\n{os.getpid()}\n")
    ranks.check_member(tmp_path, Peer(os.getpid(), 1000, 1000), session(sluid="sABC"))
    with pytest.raises(AccessError, match="not part of job 7"):
        ranks.check_member(tmp_path, Peer(os.getppid(), 1000, 1000), session(sluid="sABC"))


@pytest.mark.parametrize("cgroup", ["0::/user.slice/user-1000.slice\n", "0::/system.slice/slurmd.service\n", ""])
def test_on_a_node_without_slurms_cgroups_the_user_id_is_all_there_is(tmp_path: Path, cgroup: str) -> None:
    """proctrack/linuxproc: what the job's processes are in is the cgroup of slurmd, or of whoever started it."""
    (tmp_path / "sys/fs/cgroup/system.slice/slurmd.service").mkdir(parents=True)
    (tmp_path / "proc/5").mkdir(parents=True)
    (tmp_path / "proc/5/cgroup").write_text(cgroup)
    ranks.check_member(tmp_path, Peer(5, 1000, 1000), session())
    with pytest.raises(AccessError, match="not yours"):
        ranks.check_member(tmp_path, Peer(5, 1001, 1000), session())


def test_a_hidden_process_beside_a_job_that_has_no_cgroup_is_not_of_it(tmp_path: Path) -> None:
    """An allocation without a step has no cgroup, so nothing is in it: on a node where Slurm keeps any."""
    (tmp_path / "sys/fs/cgroup/system.slice/slurmstepd.scope/job_8").mkdir(parents=True)
    with pytest.raises(AccessError, match="not part of job 7"):
        ranks.check_member(tmp_path, Peer(os.getpid(), 1000, 1000), session())


def test_a_hidden_process_of_a_site_without_cgroups_has_its_user_id_alone(tmp_path: Path) -> None:
    ranks.check_member(tmp_path, Peer(os.getpid(), 1000, 1000), session())
    with pytest.raises(AccessError, match="not yours"):
        ranks.check_member(tmp_path, Peer(os.getpid(), 1001, 1000), session())


def test_a_rank_that_is_watched_is_not_looked_up_again(tmp_path: Path) -> None:
    (tmp_path / V2).parent.mkdir(parents=True)
    (tmp_path / V2).write_text(f"{os.getpid()}\n")
    one = session()
    ranks.check_member(tmp_path, Peer(os.getpid(), 1000, 1000), one)
    ranks.register(one, {"step_id": "0", "rank": "0"}, os.getpid(), 0, 0)
    (tmp_path / V2).write_text("")
    ranks.check_member(tmp_path, Peer(os.getpid(), 1000, 1000), one)


def test_a_process_that_is_gone_speaks_for_no_job(tmp_path: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait(20)
    with pytest.raises(AccessError, match="gone"):
        ranks.check_member(tmp_path, Peer(child.pid, 1000, 1000), session())


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
    used = [read.over(union(array.array("q", (0, t)))).uj for t in (1, 100, 150, 250, 350, 400, 999)]
    assert used == [0, 0, 500, 1000, 2000, 3000, 3000]


def test_a_torn_curve_loses_its_last_point_only(tmp_path: Path) -> None:
    path = tmp_path / "curve.bin"
    curve.extend(path, [(100, 0), (200, 1000)])
    path.write_bytes(path.read_bytes()[:-3])
    found = curve.Curve.read(path).over(union(array.array("q", (0, 999))))
    assert (found.uj, found.u_uj) == (0, 0)


def test_a_share_is_spread_like_the_nodes_counters() -> None:
    assert curve.spread([(0, 0), (10, 100), (20, 400)], 1000, 200) == [(10, 1050), (20, 1200)]
    assert curve.spread([(0, 0), (20, 0)], 1000, 0) == [(20, 1000)]


def data(names: list[str], calls: list[int]) -> bytes:
    return b"".join(rank_data.final({"rank": 0}, "exit", names, array.array("q", calls).tobytes(), ()))


def spans_of(rank: rank_data.RankData, start_ns: int, end_ns: int) -> dict[int, tuple[int, list[tuple[int, int]]]]:
    found = regions.by_region(rank.calls, len(rank.names), start_ns, end_ns)
    return {region: (marked.calls, list(marked.spans)) for region, marked in found.items()}


def test_nested_overlapping_open_and_raised_calls() -> None:
    rank = rank_data.parse(data(["f", "g"], [0, 10, 50, 0, 20, 30, 1, 60, -70, 0, 90, 0, 9, 1, 2]))
    assert spans_of(rank, 0, 100) == {0: (3, [(10, 50), (90, 100)]), 1: (1, [(60, 70)])}


def test_calls_are_cut_to_the_ranks_life() -> None:
    rank = rank_data.parse(data(["f"], [0, 5, 1 << 62]))
    assert spans_of(rank, 100, 200) == {0: (1, [(100, 200)])}


@given(st.binary(max_size=300))
def test_what_a_user_hands_over_never_breaks_the_reader(noise: bytes) -> None:
    whole = data(["f"], [0, 1, 2])
    for text in (noise, whole[: len(noise)] + noise, whole.replace(b'"rows":1', b'"rows":' + noise)):
        try:
            rank = rank_data.parse(text)
        except DataError:
            continue
        regions.by_region(rank.calls, len(rank.names), 0, 100)


def test_slurms_numbers_per_node() -> None:
    assert per_node("2(x3),1") == [2, 2, 2, 1]
    assert session(cpus_per_node="2(x3),1", nodelist="n[1-4]", node="n4").cpus_on_node == 1
    assert session(cpus_per_node="4(x2)", nodelist="n[1-2]", node="n2").cpus_on_node == 4
    assert session(cpus_on_node="16").cpus_on_node == 16
    assert session().cpus_on_node == 0
