"""Run the blocks of docs/install.md on a bare four-node cluster: installation, upgrade and removal, jobs meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import repeat

from devcluster import Cluster
from tests.install import packages
from tests.install.blocks import PAGE, Block, blocks

CHECKOUT = PAGE.parents[1]
UPGRADE, REMOVAL = "To upgrade", "To remove it"
BELONGS = (
    "/opt/perun-hpc",
    "/usr/bin/perun",
    "/usr/lib/systemd/system/perun-agent.service",
    "/usr/share/doc/perun-hpc",
)
"""What the package brings, and what must be gone when it is removed."""


class Trial:
    """One walk through the page."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.times: list[tuple[str, str, float]] = []
        self.problems: list[str] = []

    def walk(self, steps: list[Block]) -> None:
        """Run blocks one after the other, each on its hosts at once."""
        for step in steps:
            if step.systemd:
                continue
            began = time.monotonic()
            with ThreadPoolExecutor() as pool:
                list(pool.map(self.copied_out, repeat(step), self.hosts(step.host)))
            self.times.append((step.section, step.host, time.monotonic() - began))
            print(f"  {self.times[-1][2]:6.1f} s  {step.section}: on {step.host}", flush=True)

    def hosts(self, name: str) -> list[str]:
        """The cluster's hosts that a block is for."""
        several = {"every host": self.cluster.hosts, "a compute node": self.cluster.nodes[:1]}
        return several.get(name, self.cluster.hosts[:1])

    def copied_out(self, step: Block, host: str) -> None:
        """Run a block as it stands; SystemExit where one of its commands fails."""
        user = "alice" if step.host == "a login node" else "root"
        done = self.cluster.run(
            ["bash", "-euc", step.text], user=user, node=None if host == "ctl" else host, timeout=240
        )
        if done.returncode != 0:
            raise SystemExit(
                f"{step.section}, on {host}: exit code {done.returncode}\n{step.text}\n{done.stdout}{done.stderr}"
            )

    def must(self, holds: bool, what: str) -> None:
        """Note a claim that does not hold."""
        print(f"          {'yes' if holds else 'NO '}  {what}", flush=True)
        if not holds:
            self.problems.append(what)

    def said(self, *words: str, user: str = "alice", node: str | None = None) -> str:
        """What a command prints; its error text where it fails."""
        done = self.cluster.run(words, user=user, node=node, timeout=120)
        return done.stdout.strip() if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr.strip()}"

    def record(self, job: str) -> dict[str, object]:
        """A job's record as its owner sees it, after a sweep; empty where there is none."""
        self.said("runuser", "-u", "perun", "--", "perun", "collect", user="root")
        text = self.said("perun", "report", "--json", job)
        return json.loads(text) if text.startswith("{") else {"status": text}

    @contextmanager
    def jobs_meanwhile(self) -> Iterator[None]:
        """A measured job over the whole time, and one short job after the other; none of them may notice anything."""
        over, codes = threading.Event(), []
        end = self.cluster.shared / "end"
        end.unlink(missing_ok=True)
        wait = "until [ -e /shared/end ]; do sleep 1; done"
        long = self.said("sbatch", "--parsable", "-N2", "-o", "/dev/null", "--wrap", f"srun --perun sh -c '{wait}'")
        while "RUNNING" not in self.said("squeue", "-h", "-j", long, "-o", "%T"):
            time.sleep(0.1)

        def short() -> None:
            while not over.is_set():
                codes.append(self.cluster.run(["srun", "-N1", "true"], user="bob", timeout=120).returncode)

        thread = threading.Thread(target=short)
        thread.start()
        try:
            yield
        finally:
            end.touch()
            over.set()
            thread.join()
        self.must(set(codes) == {0}, f"{len(codes)} short jobs meanwhile ended with exit code 0")
        self.must(self.cluster.wait_job(long, 120) == "COMPLETED", "a long job ran through it and completed")
        self.must(set(self.cluster.states().values()) <= {"idle", "mix", "alloc", "comp"}, "no node is drained")
        self.long = long


def main() -> int:
    """Walk through the page; 1 where something does not hold."""
    page = blocks(PAGE.read_text())
    kept = [one for one in page if one.section not in (UPGRADE, REMOVAL)]
    cluster = Cluster("install", bare=True)
    cluster.down()
    cluster.up(progress=print)
    trial = Trial(cluster)
    try:
        prepare(kept[0], cluster)
        began = time.monotonic()
        print("installation", flush=True)
        trial.walk(kept[1:])
        spent_s = time.monotonic() - began
        installed(trial)
        print("upgrade", flush=True)
        with trial.jobs_meanwhile():
            before = {node: trial.said("perun", "agent", "status", user="root", node=node) for node in cluster.nodes}
            for host in cluster.hosts:
                cluster.run(["sh", "-c", "echo '# ours' >> /etc/perun/policy.yaml"], user="root", node=host, check=True)
            trial.walk([one for one in page if one.section == UPGRADE])
        upgraded(trial, before)
        print("removal", flush=True)
        steps = [one for one in page if one.section == REMOVAL]
        with trial.jobs_meanwhile():
            refused = cluster.run(["dpkg", "--remove", "perun-hpc"], user="root", node="n1")
            trial.must(refused.returncode != 0 and "scontrol reconfigure" in refused.stderr, "not while Slurm needs it")
            trial.walk(steps[:-1])
        removed(trial)
        trial.walk(steps[-1:])
        trial.must("perun" not in trial.said("getent", "passwd", user="root"), "no account is left")
        trial.must(trial.said("srun", "-N2", "hostname") != "", "jobs run as before")
    finally:
        cluster.down()
    print(f"from a bare cluster to an accounted job: {spent_s:.0f} s, {len(trial.times)} blocks in all")
    left = [f"{one.section}, on {one.host}" for one in page if one.systemd]
    print("not run here, where no host has systemd: " + "; ".join(left))
    for problem in trial.problems:
        print(f"does not hold: {problem}", file=sys.stderr)
    return 1 if trial.problems else 0


def prepare(make: Block, cluster: Cluster) -> None:
    """The page's first block and a second release to upgrade to; packages that are there are taken."""
    if not list(packages.PACKAGES.glob("*-1_amd64.deb")):
        subprocess.run(["bash", "-euc", make.text], cwd=CHECKOUT, check=True)
    packages.prepare()
    (cluster.shared / "new").mkdir()
    for place, into in ((packages.PACKAGES, cluster.shared), (packages.NEXT, cluster.shared / "new")):
        (package,) = place.glob("*_amd64.deb")
        shutil.copy(package, into)


def installed(trial: Trial) -> None:
    """What must be true once the page's last step is done."""
    for job in trial.said("sacct", "-nX", "-o", "JobID").split():
        record = trial.record(job)
        trial.must(record["status"] == "complete" and int(str(record["energy_uj"])) > 0, f"job {job} has its energy")
        mine = trial.cluster.run(
            ["runuser", "-u", "perun", "--", "perun", "jobs", "-a", "--format", "json"], user="root"
        )
        trial.must(int(job) in [one["job_id"] for one in json.loads(mine.stdout)], f"job {job} is in the ledger")
    trial.must(
        trial.said("pgrep", "-u", "perun", "-f", "collect --daemon", user="root").isdigit(), "the collector runs"
    )
    numbers = {trial.said("id", "-u", "perun", node=host) for host in trial.cluster.hosts[1:]}
    trial.must(numbers == {"820"}, "the service user has one number on all hosts")
    trial.must("--perun" in trial.said("srun", "--help"), "srun knows --perun")
    trial.must("perun" in trial.said("man", "-w", "perun-report"), "perun report has a manual page")


def upgraded(trial: Trial, before: dict[str, str]) -> None:
    """What must be true after an upgrade."""
    trial.must("-2" in trial.said("dpkg-query", "-W", "perun-hpc"), "the new package is there")
    after = {node: trial.said("perun", "agent", "status", user="root", node=node) for node in before}
    running = [node for node, text in before.items() if "up" in text]
    changed = all(pid(before[node]) != pid(after[node]) and "up" in after[node] for node in running)
    trial.must(bool(running) and changed, f"the agents of {', '.join(running)} run the new code")
    trial.must("# ours" in trial.said("cat", "/etc/perun/policy.yaml", node="n1"), "the policy is the administrator's")
    record = trial.record(trial.long)
    trial.must(record["status"] == "complete" and int(str(record["energy_uj"])) > 0, "the long job has its energy")
    trial.must(
        len(trial.said("runuser", "-u", "perun", "--", "perun", "jobs", "-a", user="root").splitlines()) > 3,
        "the ledger has the jobs before it",
    )


def pid(status: str) -> str:
    """The pid in what `perun agent status` says."""
    return status.partition("pid ")[2].partition(",")[0]


def removed(trial: Trial) -> None:
    """What must be true after a removal."""
    for host in trial.cluster.hosts:
        left = [path for path in BELONGS if trial.said("ls", "-d", path, user="root", node=host).startswith("/")]
        trial.must(not left, f"{host}: nothing of the package is left {' '.join(left)}".rstrip())
        kept = trial.said(
            "ls", "-d", "/etc/perun/policy.yaml", "/var/lib/perun", "/var/spool/perun", user="root", node=host
        )
        trial.must(len(kept.split()) == 3, f"{host}: policy, ledger and spool are left")
    agents = [
        node
        for node in trial.cluster.nodes
        if trial.said("pgrep", "-f", "perun_hpc.agent", user="root", node=node).isdigit()
    ]
    trial.must(not agents, "no agent runs")


if __name__ == "__main__":
    sys.exit(main())
