"""When the agent looks after things: as the kernel tells, with its own inotify, or each second."""

from __future__ import annotations

import select
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perun_hpc.agent import looks
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.register import Register
from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.base.steps import Step
from perun_hpc.agent.jobs.runs import Jobs
from perun_hpc.agent.looks import GLANCE_NS, OFTEN_NS, SELDOM_NS, Looks
from perun_hpc.agent.measure.meter import INTERVAL_NS
from perun_hpc.agent.sources.node import JobUse, Node
from perun_hpc.config.keeper import PolicyKeeper
from perun_hpc.data_model.job import SessionKey
from perun_hpc.process.clock import MACHINE

POLICY = {"site": {"values": {"agent.resident": True}, "origins": {}}}
JOBS = "sys/fs/cgroup/system.slice/slurmstepd.scope"


class Host:
    """A node of job 1 with one step, and what else the agent looks after: none of it wants to be looked at."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = AgentPaths(root / "run", root / "spool", root)
        self.paths.inbox.mkdir(parents=True)
        self.policy = root / "etc/policy.yaml"
        self.policy.parent.mkdir()
        files = {
            "cpu.stat": "usage_usec 5\n",
            "job_1/cpu.stat": "usage_usec 5\n",
            "job_1/step_0/cpu.stat": "usage_usec 5\n",
            "job_1/step_0/user/cgroup.events": "populated 1\nfrozen 0\n",
            "job_1/step_0/user/cgroup.procs": "1\n",
        }
        for name, text in files.items():
            file = root / JOBS / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.node = Node.open(root, (), MACHINE)
        self.register = Register("n1", 1)
        keeper = PolicyKeeper(self.policy, MACHINE, "n1", (), POLICY)
        keeper.check()
        self.quiet: dict[str, Any] = {
            name: SimpleNamespace(want_looks=False) for name in ("jobs", "sources", "slurm_figures")
        }
        now_ns = MACHINE.mono_ns()
        meter: Any = SimpleNamespace(steps=SimpleNamespace(want_looks=False))
        meter.schedule = SimpleNamespace(due_mono_ns=now_ns + 50 * SELDOM_NS)
        self.outbox, self.server = SimpleNamespace(waits=False), SimpleNamespace(busy=False)
        signs = looks.signs(self.paths)
        if signs is None:
            pytest.skip("others have all that the kernel gives this user")
        self.signs = signs
        self.looks = Looks(
            signs, self.paths, self.node, keeper, self.register, meter=meter, outbox=self.outbox, server=self.server,
            clock=MACHINE, **self.quiet,
        )  # type: ignore[arg-type]  # fmt: skip
        self.done()

    def begin(self, number: int) -> Session:
        last_ns = MACHINE.mono_ns()
        key = SessionKey(number, 0)
        session = Session(key, {"exclusive": "1"}, {}, "", "boot", Edge(0, last_ns, 0, "hook"), place=key.name)
        self.register.live[key] = session
        self.node.parent_cpu_ns("n1")
        self.node.use(session)
        self.node.suspended(session)
        return session

    def done(self) -> int:
        """Things were looked after; in how long again."""
        self.heard()
        self.looks.done()
        assert self.looks.glance_ns <= min(self.looks.due_ns, MACHINE.mono_ns() + 3 * GLANCE_NS // 2)
        return self.looks.due_ns - MACHINE.mono_ns()

    def heard(self) -> bool:
        """Whether the kernel has something to tell, and things are to be looked after at once for it."""
        assert self.looks.fd is not None
        if not select.select((self.looks.fd,), (), (), 0)[0]:
            return False
        self.looks.hear()
        return self.looks.due_ns - MACHINE.mono_ns() <= looks.LEAST_NS

    def is_seldom(self) -> bool:
        return self.done() > OFTEN_NS * 3 // 2


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.signs.close()
    host.node.close()


def test_the_kernel_tells_of_messages_a_policy_other_jobs_and_suspended_ones(host: Host) -> None:
    host.begin(1)
    assert host.is_seldom()
    events = host.root / JOBS / "job_1/step_0/user/cgroup.events"
    assert not host.heard()
    for change in (
        lambda: (host.paths.inbox / "1-job-start-2-0.msg").write_text(""),
        lambda: host.policy.write_text("monitor: {}\n"),
        lambda: events.write_text("populated 1\nfrozen 1\n"),
        lambda: (host.root / JOBS / "job_2").mkdir(),
    ):
        change()
        assert host.heard()
        host.done()


def test_a_policy_behind_a_link_is_watched_where_it_lies(host: Host) -> None:
    kept = host.root / "kept"
    kept.mkdir()
    (kept / "policy.yaml").write_text("")
    host.policy.symlink_to("../kept/policy.yaml")
    assert host.is_seldom()
    (kept / "policy.yaml").write_text("monitor: {}\n")
    assert host.heard()


def test_what_nobody_tells_is_looked_for_each_second(host: Host) -> None:
    session = host.begin(1)
    for one in host.quiet.values():
        one.want_looks = True
        assert not host.is_seldom()
        one.want_looks = False
    host.outbox.waits = True
    assert not host.is_seldom()
    host.outbox.waits, host.server.busy = False, True
    assert not host.is_seldom()
    host.server.busy = False
    assert host.is_seldom()
    (host.root / JOBS / "job_2").mkdir()  # a process of it may come at any time
    assert not host.is_seldom()
    (host.root / JOBS / "job_2").rmdir()
    assert host.is_seldom()
    host.node.forget(session)  # without a cgroup
    assert not host.is_seldom()


def test_what_the_kernel_tells_of_a_job_does_for_its_flagged_steps(host: Host) -> None:
    now_ns = [MACHINE.mono_ns()]
    clock: Any = SimpleNamespace(mono_ns=lambda: now_ns[0])
    meter: Any = SimpleNamespace(uses={})
    nobody: list[Any] = [None] * 5
    jobs = Jobs(host.paths, "boot", host.node, host.register, meter, *nobody, save=lambda: None, later=[], clock=clock)
    session = host.begin(1)
    session.add_step(Step(step_id=0, tasks=1, nodes=1, command="", options=""))
    session.run_on([0])
    meter.uses[session.key] = JobUse(cpu_ns=5)
    assert jobs.want_looks  # its cgroup may just be made
    now_ns[0] += 2 * INTERVAL_NS
    assert not jobs.want_looks
    meter.uses[session.key] = JobUse()
    assert jobs.want_looks


def test_who_comes_is_followed_by_a_look_within_a_second(host: Host) -> None:
    host.begin(1)
    assert host.is_seldom()
    host.looks.heed()
    assert host.looks.due_ns - MACHINE.mono_ns() < OFTEN_NS * 3 // 2


def test_an_inbox_that_is_another_one_is_looked_at_each_second(host: Host) -> None:
    host.begin(1)
    assert host.is_seldom()
    host.paths.inbox.rename(host.paths.inbox.with_name("old"))
    assert host.heard()
    assert not host.is_seldom()
