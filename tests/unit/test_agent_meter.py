"""The node's meter on a small kernel tree: which energy and which times go to which job, to the microjoule."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.daemon import INLINE
from perun_hpc.agent.measure.meter import Meter
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.measure.visibility import Visibility
from perun_hpc.agent.sources import machine
from perun_hpc.agent.sources.node import Node
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.config.policy import parse
from perun_hpc.data_model.job import SessionKey
from perun_hpc.files import write_json
from perun_hpc.process.clock import MACHINE, Clock

CPUS = 4
S = 1_000_000_000
TICK_NS = 10_000_000


def put(path: Path, text: str) -> None:
    """Change a file in place, as the kernel's are: descriptors stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.write(text.encode())
        file.truncate()


class Machine:
    """One package of four CPUs, jobs with cgroups of version 1, and a meter of them."""

    def __init__(self, base: Path, policy_text: bytes = b"", cores: int = CPUS, clock: Clock = MACHINE) -> None:
        self.paths = AgentPaths(base / "run", base / "spool", base / "root")
        self.paths.node.mkdir(parents=True)
        self.root = self.paths.root
        self.counted_uj = 0
        self.busy = [0] * CPUS
        zone = self.root / "sys/class/powercap/intel-rapl:0"
        put(zone / "name", "package-0\n")
        put(zone / "max_energy_range_uj", "262143328850\n")
        self.counter = zone / "energy_uj"
        for cpu in range(CPUS):
            put(self.root / f"sys/devices/system/cpu/cpu{cpu}/topology/core_id", f"{cpu % cores}\n")
        put(self.root / "sys/devices/system/cpu/online", "0-3\n")
        put(self.root / "proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
        self.run({}, 0)
        self.node = Node.open(self.root, INLINE, clock)
        self.register = Register("n1", CPUS)
        if policy_text:
            write_json(base / "policy.json", compile_policy(parse(policy_text, "p")))
        policy = PolicyKeeper(base / "policy.yaml", MACHINE, "n1", (base / "policy.json",))
        if policy_text:
            policy.check()  # there is no newer one: what was compiled rules
        self.ledger = NodeLedger(self.paths)
        visibility = Visibility(self.paths, self.register)
        topology = partial(machine.topology, self.root)
        self.meter = Meter(self.node, topology, self.register, policy, self.ledger, visibility, clock)

    def run(self, ticks: dict[int, int], energy_uj: int) -> None:
        """CPUs work for so many ticks, and the package takes energy."""
        for cpu, more in ticks.items():
            self.busy[cpu] += more
        put(self.root / "proc/stat", "".join(f"cpu{n} {busy} 0 0 0 0 0 0 0\n" for n, busy in enumerate(self.busy)))
        self.counted_uj += energy_uj
        put(self.counter, f"{self.counted_uj}\n")

    def cgroup(self, job: int, cpu_ns: int | None, cpus: str = "", peak_b: int = 0) -> None:
        """What a job's cgroup says; a time of None: it is gone, an open file of it gives nothing."""
        cgroups = self.root / "sys/fs/cgroup"
        put(cgroups / f"cpuacct/slurm/uid_0/job_{job}/cpuacct.usage", "" if cpu_ns is None else f"{cpu_ns}\n")
        put(cgroups / f"memory/slurm/uid_0/job_{job}/memory.max_usage_in_bytes", f"{peak_b}\n")
        put(cgroups / f"memory/slurm/uid_0/job_{job}/memory.limit_in_bytes", f"{peak_b * 3}\n")
        put(cgroups / f"cpuset/slurm/uid_0/job_{job}/cpuset.cpus", f"{cpus}\n")

    def all_jobs(self, cpu_ns: int) -> None:
        put(self.root / "sys/fs/cgroup/cpuacct/slurm/cpuacct.usage", f"{cpu_ns}\n")

    def begin(self, job: int, cpus: int = 2) -> Session:
        key = SessionKey(job, 0)
        edge = Edge(0, 0, 0, "hook")
        session = Session(key, {"cpus_on_node": str(cpus)}, {}, "", "boot", edge)
        self.register.live[key] = session
        self.meter.look_at(session)
        return session


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.node.close()


def two_jobs(host: Machine) -> tuple[Session, Session]:
    host.meter.end_interval()
    host.cgroup(1, 0, "0-1", 5)
    host.cgroup(2, 0, "2-3", 7)
    host.all_jobs(0)
    first, second = host.begin(1), host.begin(2)
    host.meter.end_interval()
    return first, second


def test_energy_goes_by_cpu_time(host: Machine) -> None:
    first, second = two_jobs(host)
    host.run({0: 300, 2: 100}, 1_000_000)
    host.cgroup(1, 300 * TICK_NS, "0-1", 9)
    host.cgroup(2, 100 * TICK_NS, "2-3", 6)
    host.all_jobs(400 * TICK_NS)
    host.meter.end_interval()
    assert (first.energy_uj, second.energy_uj) == (750_000, 250_000)
    assert (first.cpu_ns, second.cpu_ns) == (300 * TICK_NS, 100 * TICK_NS)
    assert (first.cpus, second.cpus) == ([0, 1], [2, 3])
    assert (first.mem_peak_b, second.mem_peak_b) == (9, 7)
    assert (first.memory_b, second.memory_b) == (27, 18)
    assert not host.meter.sees_change()
    second.suspend(True)
    assert host.meter.sees_change()


@pytest.mark.parametrize(
    ("kept", "former", "given_uj"),
    [("3", "0-1", 1_000_000), ("3", "3", 750_000), ("", "0-1", 750_000), ("0-3", "0-1", 750_000)],
)
def test_a_job_with_all_cpus_but_those_of_the_system_has_the_package(
    host: Machine, kept: str, former: str, given_uj: int
) -> None:
    """CPU 3 works, too. It is the system's if slurmd runs there, no job was seen on it, and not all CPUs are such."""
    put(host.root / "sys/fs/cgroup/cpuset/slurm/system/cpuset.cpus", f"{kept}\n")
    host.cgroup(2, 0, former)
    before = host.begin(2)
    host.meter.end_interval()
    host.meter.end_interval()
    del host.register.live[before.key]
    host.cgroup(1, 0, "0-2")
    host.all_jobs(0)
    job = host.begin(1, cpus=3)
    host.meter.end_interval()
    host.run({0: 300, 3: 100}, 1_000_000)
    host.cgroup(1, 300 * TICK_NS, "0-2")
    host.all_jobs(300 * TICK_NS)
    host.meter.end_interval()
    assert job.energy_uj == given_uj


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize(("seconds", "day"), [(1, "2026-11-29"), (2, "2026-11-30"), (3, "2026-11-30")])
def test_an_interval_over_midnight_is_of_the_day_in_which_its_middle_lies(
    tmp_path: Path, seconds: int, day: str
) -> None:
    """Four seconds that end so many after midnight, on a machine that has been up for days."""
    mono_ns = [7 * 86_400 * S]
    midnight_ns = 1_795_996_800 * S - mono_ns[0] + (seconds - 4) * S
    host = Machine(tmp_path, clock=Clock(lambda: mono_ns[0], lambda: midnight_ns + mono_ns[0]))
    try:
        first, _ = two_jobs(host)
        mono_ns[0] += 4 * S
        host.run({0: 300, 2: 100}, 1_000_000)
        host.cgroup(1, 300 * TICK_NS, "0-1")
        host.cgroup(2, 100 * TICK_NS, "2-3")
        host.meter.end_interval()
        assert [name for name in first.shares if first.shares[name]] == [day]
        assert '"total_uj":1000000,' in host.paths.ledger(day).read_text()
    finally:
        host.node.close()


def test_only_who_was_suspended_when_an_interval_began_was_so_for_its_time(host: Machine) -> None:
    first, second = two_jobs(host)
    begin = host.meter.last
    first.suspended = True
    host.run({0: 300, 2: 100}, 1_000_000)
    end = host.meter.end_interval()
    assert begin is not None
    assert (first.suspended_ns, second.suspended_ns) == (end.mono_ns - begin.mono_ns, 0)
    assert not first.suspended  # its cgroup is not frozen
    host.meter.end_interval()
    assert first.suspended_ns == end.mono_ns - begin.mono_ns


def test_a_second_interval_has_what_was_used_in_it(host: Machine) -> None:
    first, second = two_jobs(host)
    for round in (1, 2):
        host.run({0: 300, 2: 100}, 1_000_000)
        host.cgroup(1, round * 300 * TICK_NS, "0-1")
        host.cgroup(2, round * 100 * TICK_NS, "2-3")
        host.all_jobs(round * 400 * TICK_NS)
        host.meter.end_interval()
    assert (first.energy_uj, second.energy_uj) == (1_500_000, 500_000)
    assert (first.cpu_ns, second.cpu_ns) == (600 * TICK_NS, 200 * TICK_NS)


def test_the_policy_says_how_long_intervals_are_and_what_a_second_thread_weighs(tmp_path: Path) -> None:
    host = Machine(tmp_path, b"sampling: {interval: 5 s}\nenergy: {kappa: 0.6}\n", cores=2)
    assert host.meter.keeps_pace
    assert host.meter.schedule.period_ns == 5 * S
    host.meter.parametrise()
    host.cgroup(1, 0, "0,2")
    host.cgroup(2, 0, "1")
    host.begin(1), host.begin(2)
    host.meter.end_interval()
    host.run({0: 100, 1: 100, 2: 100}, 2_600_000)
    host.cgroup(1, 200 * TICK_NS, "0,2")
    host.cgroup(2, 100 * TICK_NS, "1")
    host.meter.end_interval()
    assert [session.energy_uj for session in host.register.live.values()] == [1_450_001, 1_149_999]
    # Half of it is static: nobody knows how much.
    host.node.close()


def test_by_policy_the_watts_of_jobs_work_are_learnt(tmp_path: Path) -> None:
    host = Machine(tmp_path, b"energy: {package_sharing: cores+fit}\n")
    try:
        host.meter.parametrise()
        first, second = two_jobs(host)
        host.run({0: 300, 2: 100}, 1_000_000)
        host.cgroup(1, 300 * TICK_NS, "0-1")
        host.cgroup(2, 100 * TICK_NS, "2-3")
        host.meter.end_interval()
        accounts = [one.domains["package-0"] for one in (first, second)]
        assert [one.method for one in accounts] == ["cores+fit", "cores+fit"]
        # In milliseconds nothing is learnt, and half is static.
        assert [one.energy_uj for one in accounts] == pytest.approx([625_000, 375_000], abs=2)
        assert all(0 < one.sharing_doubt_uj + one.others_doubt_uj < one.dynamic_uj for one in accounts)
    finally:
        host.node.close()


def test_a_job_whose_cgroup_is_gone_has_what_the_one_above_kept(host: Machine) -> None:
    first, second = two_jobs(host)
    host.run({0: 300, 2: 100}, 1_000_000)
    host.cgroup(1, None)
    host.cgroup(2, 100 * TICK_NS, "2-3")
    host.all_jobs(400 * TICK_NS)
    host.meter.end_interval()
    assert (first.energy_uj, second.energy_uj) == (750_000, 250_000)
    assert first.cpu_ns == 300 * TICK_NS


def test_a_job_whose_cgroup_is_gone_has_nothing_where_the_others_have_all(host: Machine) -> None:
    first, second = two_jobs(host)
    host.run({2: 100}, 1_000_000)
    host.cgroup(1, None)
    host.cgroup(2, 100 * TICK_NS, "2-3")
    host.all_jobs(100 * TICK_NS)
    host.meter.end_interval()
    assert (first.energy_uj, second.energy_uj, first.cpu_ns) == (0, 1_000_000, 0)


def test_what_the_directory_of_another_slurmd_kept_is_no_time_of_a_job_that_is_gone(host: Machine) -> None:
    host.meter.end_interval()
    cgroups = host.root / "sys/fs/cgroup"
    sessions = {}
    for job, node in ((1, "n1"), (2, "n2")):
        put(cgroups / f"cpuacct/slurm_{node}/cpuacct.usage", "0\n")
        put(cgroups / f"cpuacct/slurm_{node}/uid_0/job_{job}/cpuacct.usage", "0\n")
        host.register.home = ("c", node)  # as each job's prolog names it
        sessions[node] = session = Session(
            SessionKey(job, 0), {"cpus_on_node": "1", "node": node}, {}, "", "boot", Edge(0, 0, 0, "hook")
        )
        host.register.live[session.key] = session
        host.meter.look_at(session)
    host.meter.end_interval()
    host.run({0: 3, 1: 1}, 4000)
    put(cgroups / "cpuacct/slurm_n1/cpuacct.usage", f"{3 * TICK_NS}\n")
    put(cgroups / "cpuacct/slurm_n1/uid_0/job_1/cpuacct.usage", f"{3 * TICK_NS}\n")
    put(cgroups / "cpuacct/slurm_n2/cpuacct.usage", f"{1 * TICK_NS}\n")
    put(cgroups / "cpuacct/slurm_n2/uid_0/job_2/cpuacct.usage", "")
    host.meter.end_interval()
    assert {node: session.cpu_ns // TICK_NS for node, session in sessions.items()} == {"n1": 3, "n2": 1}
    assert {node: session.energy_uj for node, session in sessions.items()} == {"n1": 3000, "n2": 1000}


def test_where_two_are_gone_nobody_knows_which_took_what(host: Machine) -> None:
    first, second = two_jobs(host)
    host.run({0: 300, 2: 100}, 1_000_000)
    for job in (1, 2):
        host.cgroup(job, None)
    host.all_jobs(400 * TICK_NS)
    host.meter.end_interval()
    assert (first.cpu_ns, second.cpu_ns) == (0, 0)
    assert (first.energy_uj, second.energy_uj) == (750_000, 250_000)  # by what its CPUs did


def test_what_a_job_used_before_it_was_looked_at_is_not_of_the_open_interval(host: Machine) -> None:
    host.meter.end_interval()
    host.cgroup(1, 500 * TICK_NS, "0-1")
    host.run({0: 500}, 1_000_000)
    session = host.begin(1)
    host.run({0: 100}, 0)
    host.cgroup(1, 600 * TICK_NS, "0-1")
    host.meter.end_interval()
    assert session.cpu_ns == 100 * TICK_NS


def test_a_cgroup_that_was_made_after_the_job_was_looked_at_counts_from_nothing(host: Machine) -> None:
    host.meter.end_interval()
    session = host.begin(1)
    host.cgroup(1, 50 * TICK_NS, "0-1")
    host.run({0: 50}, 1_000_000)
    host.meter.end_interval()
    assert (session.cpu_ns, session.cpus) == (50 * TICK_NS, [0, 1])


def test_a_time_that_goes_backwards_is_not_known(host: Machine) -> None:
    first, _ = two_jobs(host)
    host.cgroup(1, 10, "0-1")
    host.cgroup(2, 10, "2-3")
    host.meter.end_interval()
    host.cgroup(1, 9, "0-1")
    host.meter.end_interval()
    assert first.cpu_ns == 10


def test_before_the_first_reading_there_is_nothing_to_go_on_from(host: Machine) -> None:
    assert host.meter.to_go_on_from() is None
    snapshot = host.meter.end_interval()
    going_on = host.meter.to_go_on_from()
    assert going_on is not None
    assert going_on.mono_ns == snapshot.mono_ns == host.meter.last.mono_ns  # type: ignore[union-attr]


def test_the_next_agent_books_what_was_counted_meanwhile(host: Machine) -> None:
    first, second = two_jobs(host)
    last, uses, parent = host.meter.to_go_on_from(), dict(host.meter.uses), host.meter.parent_cpu_ns
    assert last is not None
    host.run({0: 300, 2: 100}, 1_000_000)
    host.cgroup(1, 300 * TICK_NS, "0-1")
    host.cgroup(2, 100 * TICK_NS, "2-3")
    host.meter.continue_from(last, uses, parent, host.meter.inside)
    assert (first.energy_uj, second.energy_uj) == (750_000, 250_000)


def test_a_job_that_was_resumed_while_no_agent_ran_was_not_suspended(host: Machine) -> None:
    first, second = two_jobs(host)
    first.suspend(True)  # as the agent that is gone saw it last
    last, uses, parent = host.meter.to_go_on_from(), dict(host.meter.uses), host.meter.parent_cpu_ns
    assert last is not None
    host.run({0: 300, 2: 100}, 1_000_000)
    host.cgroup(1, 300 * TICK_NS, "0-1")
    host.cgroup(2, 100 * TICK_NS, "2-3")
    host.meter.continue_from(last, uses, parent, host.meter.inside)
    assert (first.energy_uj, second.energy_uj, first.suspended, first.suspended_ns) == (750_000, 250_000, False, 0)
    assert [account.suspended_uj for account in first.domains.values()] == [0]


def test_a_session_that_is_over_gets_nothing_more(host: Machine) -> None:
    first, second = two_jobs(host)
    host.register.over.add(first.key)
    host.run({0: 300, 2: 100}, 1_000_000)
    host.cgroup(1, 300 * TICK_NS, "0-1")
    host.cgroup(2, 100 * TICK_NS, "2-3")
    host.meter.end_interval()
    assert (first.energy_uj, first.cpu_ns, second.cpu_ns) == (0, 0, 100 * TICK_NS)
    assert host.meter.uses.keys() == {second.key}


def test_an_interval_is_due_at_the_time_of_the_schedule(host: Machine) -> None:
    meter = host.meter
    due_ns, to_wall_ns = meter.schedule.due_mono_ns, meter.schedule.offset_ns
    assert not meter.is_due(due_ns - 1, due_ns - 1 + to_wall_ns)
    assert meter.is_due(due_ns, due_ns + to_wall_ns)
    assert not meter.is_due(due_ns, due_ns + to_wall_ns)
    assert meter.schedule.due_mono_ns == due_ns + 10 * S
    assert meter.keeps_pace


def test_a_job_without_a_cpuset_runs_where_no_other_does(host: Machine) -> None:
    host.cgroup(1, 0, "0-1")
    host.cgroup(2, 0)
    host.begin(1)
    second = host.begin(2)
    host.meter.end_interval()
    host.run({0: 100, 3: 300}, 1_000_000)
    host.cgroup(1, 100 * TICK_NS, "0-1")
    host.cgroup(2, 300 * TICK_NS)
    host.meter.end_interval()
    assert (second.energy_uj, second.cpus) == (750_000, [])


def test_forgotten_is_forgotten(host: Machine) -> None:
    first, _ = two_jobs(host)
    host.meter.forget(first)
    assert first.key not in host.meter.uses
    assert (first.checks, first.doubt) == ({}, "")
