"""`perun monitor` under srun: four MPI ranks on two nodes, with the nodes' agents and without."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster import Cluster, site

pytestmark = pytest.mark.cluster

PYTHON = f"{site.SCIENCE}/bin/python"
PERUN = f"{site.PREFIX}/bin/perun"
MONITOR = [PERUN, "monitor", "--sampling-period", "0.2", "-n"]
STEP = ["srun", "--mpi=pmi2", "-N2", "-n4"]
AGENT_S = 30.0

PROGRAMS = {
    "whole.py": """
        import time
        from mpi4py import MPI
        try:
            from perun_hpc import monitor
        except ImportError:  # without perun: perun is not installed in this environment
            monitor = lambda name: lambda f: f
        @monitor("work")
        def work():
            time.sleep(0.5)
            return MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank)
        total = work() + work()
        if MPI.COMM_WORLD.rank == 0:
            print("sum", total, flush=True)
    """,
    "failing.py": """
        import time
        from mpi4py import MPI
        time.sleep(1)
        MPI.COMM_WORLD.barrier()
        if MPI.COMM_WORLD.rank == 1:
            raise ValueError("mine")
        MPI.COMM_WORLD.barrier()
    """,
    "train.py": """
        import torch
        torch.manual_seed(0)
        x = torch.randn(256, 32)
        y = (x.sum(1, keepdim=True) > 0).float()
        model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        for epoch in range(20):
            optimiser.zero_grad()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x), y)
            loss.backward()
            optimiser.step()
            print(epoch, f"{loss.item():.6f}")
    """,
    "counting.py": """
        import signal, time
        signal.signal(signal.SIGUSR1, lambda *_: print("got it", flush=True))
        print("up", flush=True)
        end = time.monotonic() + 4
        while time.monotonic() < end:
            time.sleep(0.01)
    """,
    "endless.py": """
        import time
        from mpi4py import MPI
        if MPI.COMM_WORLD.rank == 0:
            print("up", flush=True)
        time.sleep(300)
    """,
}


@pytest.fixture(scope="module")
def home(cluster: Cluster) -> Path:
    """A directory of alice's on all nodes, as this machine sees it, with the programs in it."""
    cluster.run(["rm", "-rf", "/shared/alice-monitor"], user="root", check=True)
    cluster.run(["mkdir", "/shared/alice-monitor"], user="root", check=True)
    cluster.run(["chown", "alice:", "/shared/alice-monitor"], user="root", check=True)
    directory = cluster.shared / "alice-monitor"
    for name, text in PROGRAMS.items():
        lines = text.strip("\n").splitlines()
        (directory / name).write_text("".join(line[8:] + "\n" for line in lines))
    return directory


@pytest.fixture(params=["agent", "no agent"])
def agents(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether the nodes have agents: as the site has them, or with the hooks switched off and the agents stopped."""
    if request.param == "agent":
        cluster.run(["srun", "-N4", "true"], check=True)
        _wait_for_agents(cluster)
        yield True
        return
    cluster.wait_idle()  # an Epilog that the switch silences would leave its job's session behind
    switch = cluster.etc_perun / "disable"
    switch.touch()
    try:
        for node in cluster.nodes:
            cluster.run([PERUN, "agent", "stop"], user="root", node=node)
        yield False
    finally:
        switch.unlink()


def _wait_for_agents(cluster: Cluster) -> None:
    deadline = time.monotonic() + AGENT_S
    for node in cluster.nodes:
        while cluster.run([PERUN, "agent", "status"], user="root", node=node).returncode:
            assert time.monotonic() < deadline, f"no agent on {node}"
            time.sleep(0.2)


def srun(cluster: Cluster, *command: str) -> subprocess.CompletedProcess[str]:
    return cluster.run([*STEP, *command], cwd="/shared/alice-monitor", timeout=120)


def only_run(home: Path, app: str) -> Path:
    """The one directory of an application's runs: all ranks of the step agreed on it."""
    (directory,) = (path for path in (home / "perun_results" / app).iterdir() if path.name != ".launches")
    return directory


def exported(cluster: Cluster, app: str) -> dict[str, Any]:
    """The application's run, read back from what lies in its directory."""
    done = cluster.run([PERUN, "export", "-n", app, "-o", f"{app}.json", "json"], cwd="/shared/alice-monitor")
    assert done.returncode == 0, done.stderr
    tree: dict[str, Any] = json.loads((cluster.shared / "alice-monitor" / f"{app}.json").read_text())
    return tree


def test_four_ranks_on_two_nodes(cluster: Cluster, home: Path, agents: bool) -> None:
    app = f"whole-{'agent' if agents else 'alone'}"
    plain = srun(cluster, PYTHON, "whole.py")
    done = srun(cluster, *MONITOR, app, PYTHON, "whole.py")
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout) == (0, "sum 12\n"), done.stderr
    (run,) = json.loads((only_run(home, app) / "run.json").read_text())["nodes"].values()
    samplers = list(only_run(home, app).glob("0/*/summary.json"))
    if agents:
        assert samplers == []
        assert f"perun report {run['metadata']['job_id']}" in done.stderr
        report = _report(cluster, run["metadata"]["job_id"])
        assert [(rank["rank"]) for step in report["steps"] for rank in step["ranks"]] == [0, 1, 2]
        assert {(r["name"], r["rank"], r["calls"]) for r in report["regions"]} == {("work", n, 2) for n in range(3)}
        return
    assert len(samplers) == 2  # one owner of the sensors on each host
    ranks = {}
    for name, host in run["nodes"].items():
        assert host["metadata"]["state"] == "complete", host["metadata"]
        ranks[name] = {region["rank"]: region["calls"] for region in host["regions"]}
        assert host["metrics"]["energy"]["value"] > 0
    assert sorted(len(of_host) for of_host in ranks.values()) == [1, 3]
    assert {rank: calls for of_host in ranks.values() for rank, calls in of_host.items()} == dict.fromkeys(range(4), 2)


REAL = {
    "hello world": ["-n4", PYTHON, "-m", "mpi4py.bench", "helloworld"],
    "ring": ["-n4", PYTHON, "-m", "mpi4py.bench", "ringtest", "-n", "1024"],
    "training": ["-n1", "-N1", "/usr/bin/python3", "train.py"],
}


@pytest.mark.parametrize("name", REAL)
def test_programs_that_nobody_here_wrote_print_the_same(cluster: Cluster, home: Path, name: str) -> None:
    """mpi4py's own modules, and PyTorch in Debian's Python, which has never heard of perun."""
    if name == "training" and not Path("/usr/lib/python3/dist-packages/torch").is_dir():
        pytest.skip("Debian's python3-torch is not installed")
    options = [word for word in REAL[name] if word.startswith(("-n4", "-n1", "-N1"))]
    program = REAL[name][len(options) :]
    step = ["srun", "--mpi=pmi2", "-w", "n1" if "-N1" in options else "n1,n2", *options]
    printed = []
    for line in ([*step, *program], [*step, "--perun", *program], [*step, *MONITOR, "real", *program]):
        done = cluster.run(line, cwd="/shared/alice-monitor", timeout=120)
        assert done.returncode == 0, done.stderr
        # Ranks print in any order; times differ.
        printed.append(sorted(re.sub(r"= \S+ seconds", "SECONDS", out) for out in done.stdout.splitlines()))
    assert printed[0]
    assert printed[1] == printed[0]
    assert printed[2] == printed[0]


def _report(cluster: Cluster, job: str) -> dict[str, Any]:
    """The boundary record of the job's node with the most ranks, waited for."""
    deadline = time.monotonic() + 60
    while True:
        done = cluster.run([PERUN, "report", "--json", job])
        base = cluster.shared / "perun" / cluster.name / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "boundary"
        if done.returncode == 0 and base.exists():
            records = [json.loads(path.read_text()) for path in base.glob("*.json")]
            if len(records) == 2:
                found: dict[str, Any] = max(records, key=lambda record: len(record["regions"]))
                return found
        assert time.monotonic() < deadline, (done.stdout, done.stderr)
        time.sleep(0.2)


def test_fault_16_a_rank_that_raises_ends_the_step_as_without_perun(cluster: Cluster, home: Path, agents: bool) -> None:
    app = f"failing-{'agent' if agents else 'alone'}"
    program = [PYTHON, "-m", "mpi4py", "failing.py"]  # without -m mpi4py the others wait for ever, perun or not
    plain = srun(cluster, *program)
    begin = time.monotonic()
    done = srun(cluster, *MONITOR, app, *program)
    assert time.monotonic() - begin < 30
    assert done.returncode == plain.returncode != 0
    assert "ValueError: mine" in done.stderr
    if not agents:
        (run,) = exported(cluster, app)["nodes"].values()
        ended = [process for host in run["nodes"].values() for process in host["metadata"]["processes"]]
        # Older Slurms kill the other ranks at once, perun with them; from 26.05 on they get SIGTERM, and perun sees it.
        seen = sorted(process["rank"] for process in ended) == [0, 1, 2, 3]
        assert run["metadata"]["state"] == ("complete" if seen else "partial"), run["metadata"]
        assert not seen or all(process["code"] or process["signal"] for process in ended), ended


def test_fault_13_a_cancelled_step_leaves_its_data(cluster: Cluster, home: Path, agents: bool) -> None:
    """As at the time limit: Slurm sends SIGTERM, and what is still there after KillWait is killed."""
    app = f"endless-{'agent' if agents else 'alone'}"
    step = [*STEP, *MONITOR, app, PYTHON, "endless.py"]
    process = cluster.popen(
        step, cwd="/shared/alice-monitor", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "up\n"
        time.sleep(1)
        job = cluster.run(["squeue", "-h", "-u", "alice", "-t", "R", "-o", "%i"], check=True).stdout.split()[0]
        cluster.run(["scancel", job], check=True)
        _, err = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
    cluster.wait_job(job)
    if agents:
        assert _report(cluster, job)["steps"]
        return
    (run,) = exported(cluster, app)["nodes"].values()
    assert run["metrics"]["runtime"]["value"] >= 1, err


def test_a_signal_that_slurm_sends_arrives_once(cluster: Cluster, home: Path) -> None:
    """Slurm 22.05 signals the task's first process, which is perun; the program gets it from perun."""
    step = ["srun", "-n1", *MONITOR, "counting", PYTHON, "counting.py"]
    process = cluster.popen(step, cwd="/shared/alice-monitor", stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    job = cluster.run(["squeue", "-h", "-u", "alice", "-t", "R", "-o", "%i"], check=True).stdout.split()[0]
    cluster.run(["scancel", "--signal=USR1", f"{job}.0"], check=True)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "got it\n")
