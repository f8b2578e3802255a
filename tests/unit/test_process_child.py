"""Children of the agent begin as a fresh process would, whatever the agent holds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from perun_hpc.process import child
from perun_hpc.process.clock import MACHINE

MANY = 5_000

CROWDED = f"""
import json, os, resource, socket, sys, time
from pathlib import Path
from perun_hpc.process.clock import MACHINE
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (16_384, max(hard, 16_384)))
ours, client = socket.socketpair()
held = [os.open(os.devnull, os.O_RDONLY) for _ in range({MANY})]
late, late_client = socket.socketpair()
for fd in held[:16]:  # what is opened next is among the lowest again, as in an agent whose clients come and go
    os.close(fd)
resource.setrlimit(resource.RLIMIT_NOFILE, (6_000, max(hard, 16_384)))


def children():
    return [int(pid) for pid in Path(f"/proc/self/task/{{os.getpid()}}/children").read_text().split()]


def say(pid):
    for one in (ours, late):
        one.close()
    ends = []
    for one in (client, late_client):
        one.settimeout(0.5)
        try:
            ends.append(one.recv(1).decode())
        except TimeoutError:
            ends.append("no end of file")
    print(json.dumps({{
        "fds": sorted(int(one) for one in os.listdir(f"/proc/{{pid}}/fd")),
        "ends": ends,
    }}))
"""

WORKER = """
from perun_hpc.agent.sources.workers import Worker
worker = Worker("powercap", Path(sys.argv[1]), MACHINE)
worker.tend(time.monotonic_ns())
while worker.starting:
    time.sleep(0.005)
    worker.tend(time.monotonic_ns())
(pid,) = children()
say(pid)
worker.close()
"""

ROOT_HELPER = """
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.sources.root_helper import RootHelper
base = Path(sys.argv[1])
paths = AgentPaths(base, base, base)
paths.inbox.mkdir()
root_helper = RootHelper(paths, Path("/etc/perun/policy.yaml"), MACHINE)
root_helper.messages()  # it answers: it has begun
(pid,) = children()
say(pid)
root_helper.close()
"""

COMPILER = """
from perun_hpc.config.keeper import PolicyKeeper
base = Path(sys.argv[1])
os.mkfifo(base / "policy.yaml")  # the compiler waits at it
keeper = PolicyKeeper(base / "policy.yaml", MACHINE, "n1", (base / "policy.json",))
keeper.check()
(pid,) = children()
while b"perun_hpc.config.compile" not in Path(f"/proc/{pid}/cmdline").read_bytes():
    time.sleep(0.005)
say(pid)
os.kill(pid, 9)
"""

SAMPLING = """
from perun_hpc.monitoring.spawn import SamplingProcess
process = SamplingProcess()
pid = process.pid
while b"sampling_entry" not in Path(f"/proc/{pid}/cmdline").read_bytes():
    time.sleep(0.005)
say(pid)
process.end()
"""


def crowded(start: str, base: Path) -> dict[str, list[int]]:
    """What a child looks like whose parent holds thousands of descriptors, some above its limit."""
    done = subprocess.run(
        [sys.executable, "-c", CROWDED + start, str(base)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[int]] = json.loads(done.stdout)
    return found


def powercap(base: Path) -> Path:
    zone = base / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in {"name": "package-0", "energy_uj": "1", "max_energy_range_uj": "1000"}.items():
        (zone / name).write_text(text + "\n")
    return base


def test_a_worker_holds_its_own_descriptors_only_and_clients_see_their_end(tmp_path: Path) -> None:
    found = crowded(WORKER, powercap(tmp_path))
    assert len([fd for fd in found["fds"] if fd > 2]) == 2  # its socket, and the counter that it opened
    assert found["ends"] == ["", ""]


def test_the_root_helper_holds_its_own_descriptors_only(tmp_path: Path) -> None:
    found = crowded(ROOT_HELPER, tmp_path)
    assert len([fd for fd in found["fds"] if fd > 2]) == 2  # two sockets to the agent
    assert found["ends"] == ["", ""]


def test_the_policys_compiler_holds_no_descriptor_of_the_agent(tmp_path: Path) -> None:
    assert crowded(COMPILER, tmp_path)["ends"] == ["", ""]


def test_the_sampling_process_holds_no_descriptor_of_the_application(tmp_path: Path) -> None:
    assert crowded(SAMPLING, tmp_path)["ends"] == ["", ""]


def test_a_child_has_no_handler_and_no_blocked_signal_of_its_parent() -> None:
    said_r, said_w = os.pipe()

    def work() -> None:
        Path(f"/dev/fd/{said_w}").write_text(Path("/proc/self/status").read_text())

    before = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        started = child.start("status", work, (said_w,))
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(said_w)
    with os.fdopen(said_r) as said:
        status = dict(line.split(":\t", 1) for line in said.read().splitlines())
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigCgt"], 16) & 0x7FFFFFFF == 0  # 32 and 33 are the C library's own
    assert ended(started) == 0


def test_a_child_that_raises_ends_there_with_one_line(capfd) -> None:
    def work() -> None:
        raise RuntimeError("no way")

    assert ended(child.start("shipping", work)) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(" shipping: RuntimeError: no way")


def test_a_child_that_hangs_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import signal, sys\nfrom perun_hpc.process import child\n"
        "one = child.start('hanging', lambda: signal.pause())\nprint(one.pid, flush=True)\nsignal.pause()"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pidfd = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    import select

    assert select.select([pidfd], [], [], 30)[0], "the child outlived its parent"
    os.close(pidfd)
    parent.stdout.close()


def test_a_policy_with_more_mistakes_than_a_pipe_holds_is_refused(tmp_path: Path) -> None:
    from perun_hpc.config.keeper import PolicyKeeper

    policy = tmp_path / "policy.yaml"
    policy.write_text("".join(f"no_such_section_{number:04}_{'x' * 60}: 1\n" for number in range(2_000)))
    keeper = PolicyKeeper(policy, MACHINE, "n1", (tmp_path / "policy.json",))
    keeper.check()
    latest = time.monotonic() + 60
    while not keeper.poll():
        assert time.monotonic() < latest, "the compiler waits for somebody to read what it says"
        time.sleep(0.01)
    assert keeper.settled
    assert "no_such_section" in (keeper.refused or "")


def ended(started: child.Child) -> int:
    latest = time.monotonic() + 30
    while (code := started.poll()) is None:
        assert time.monotonic() < latest
        time.sleep(0.005)
    return code
