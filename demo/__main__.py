"""`make demo`: a four-node Slurm cluster, three jobs of an ordinary user, and what perun says of them."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from pathlib import Path

from devcluster import Cluster, site
from perun_hpc.archive.places import RECORD, Archive, Run

HERE = Path(__file__).resolve().parent
PERUN = "perun"
USER = "alice"
HOME = f"/home/{USER}"


class Screen:
    """Prints the demo's progress: headings, the commands that are run, and a line that moves while it waits."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.moving = False

    def say(self, text: str = "") -> None:
        """Print one line."""
        self._settle()
        print(text, flush=True)

    def step(self, text: str) -> None:
        """Print one timed step."""
        self.say(f"[{time.monotonic() - self.start:5.1f} s] {text}")

    def command(self, text: str) -> None:
        """Show a command as the user typed it."""
        self.say(f"\n{USER}@ctl$ {text}")

    def move(self, text: str) -> None:
        """Rewrite the waiting line; nothing where nobody watches."""
        if sys.stdout.isatty():
            print(f"\r\033[K{text}", end="", flush=True)
            self.moving = True

    def _settle(self) -> None:
        if self.moving:
            print("\r\033[K", end="")
            self.moving = False


def main() -> int:
    """Run the demo; returns the exit code."""
    screen = Screen()
    cluster = Cluster("demo")
    cluster.up(progress=screen.step)
    site.install(cluster, screen.step)
    _copy_programs(cluster)
    screen.step("submitting three jobs as an ordinary user")

    jobs = {
        "a plain batch job on two nodes, no flag at all": _submit(cluster, screen, "sbatch --parsable batch.sh"),
        "an mpi4py program under srun --perun": _submit(
            cluster,
            screen,
            "sbatch --parsable -J stencil -N4 -n8 --exclusive -o stencil.out "
            f"--wrap 'srun --perun {site.SCIENCE}/bin/python stencil.py 8'",
        ),
        "a compiled MPI program under srun --perun": _submit(
            cluster,
            screen,
            "sbatch --parsable -J pingpong -N2 -n4 --exclusive -o pingpong.out --wrap 'srun --perun ./pingpong 5'",
        ),
    }
    failed = not _wait(cluster, screen, list(jobs.values()))
    for name, output in (("stencil", "stencil.out"), ("pingpong", "pingpong.out")):
        screen.command(f"cat {output}")
        screen.say(cluster.run(["cat", f"{HOME}/{output}"], user=USER).stdout.rstrip() or f"({name} wrote nothing)")
    for what, job in jobs.items():
        screen.say(f"\n--- {what}")
        screen.command(f"perun report {job}")
        done = cluster.run([PERUN, "report", str(job)], user=USER)
        screen.say((done.stdout + done.stderr).rstrip())
        failed = failed or done.returncode != 0
    screen.command("perun jobs")
    screen.say(cluster.run([PERUN, "jobs"], user=USER).stdout.rstrip())
    _where_it_is(cluster, screen, list(jobs.values()))
    return 1 if failed else 0


def _copy_programs(cluster: Cluster) -> None:
    """Put the programs into the user's home and compile the C one with the user's own MPI."""
    home = cluster.home / USER
    for name in ("stencil.py", "pingpong.c", "batch.sh"):
        shutil.copyfile(HERE / name, home / name)
        (home / name).chmod(0o644)
    cluster.run([f"{site.SCIENCE}/bin/mpicc", "-O2", "-o", "pingpong", "pingpong.c"], user=USER, check=True)


def _submit(cluster: Cluster, screen: Screen, line: str) -> int:
    screen.command(line.replace(" --parsable", ""))
    done = cluster.run(shlex.split(line), user=USER, check=True)
    job = int(done.stdout.split(";")[0])
    screen.say(f"Submitted batch job {job}")
    return job


def _wait(cluster: Cluster, screen: Screen, jobs: list[int], timeout_s: float = 90) -> bool:
    """Wait until all jobs are over and in the ledger, showing what they do; whether they are."""
    screen.say()
    deadline = time.monotonic() + timeout_s
    seen: dict[int, str] = {}
    while time.monotonic() < deadline:
        names = ",".join(map(str, jobs))
        done = cluster.run(["squeue", "-h", "-t", "all", "-j", names, "-o", "%i %T"], user=USER)
        states = {int(job): state for job, state in (line.split() for line in done.stdout.splitlines())}
        for job, state in states.items():
            if seen.get(job) != state:
                screen.step(f"job {job}: {state.lower()}")
                seen[job] = state
        recorded = [job for job in jobs if _record(cluster, job)]
        screen.move(
            "  ".join(f"{job}: {'in the ledger' if job in recorded else states.get(job, '').lower()}" for job in jobs)
        )
        if len(recorded) == len(jobs):
            screen.step("all jobs are over and in the ledger")
            return True
        time.sleep(0.5)
    screen.step(f"gave up after {timeout_s:.0f} s; see {cluster.log_dir('ctl')}")
    return False


def _record(cluster: Cluster, job: int) -> dict[str, object] | None:
    try:
        record: dict[str, object] = json.loads((directory(cluster, job) / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return record


def directory(cluster: Cluster, job: int) -> Path:
    """A job's directory in the archive."""
    return Archive(cluster.shared / "perun", cluster.name).job(Run(job, 0))


def _where_it_is(cluster: Cluster, screen: Screen, jobs: list[int]) -> None:
    """Show slurmdbd's line, the stores, how to open one and how to end."""
    numbers = ",".join(map(str, jobs))
    screen.say("\n--- what slurmdbd holds")
    line = ["sacct", "-X", "-n", "-P", "-j", numbers, "-o", "jobid,state,admincomment"]
    screen.command(" ".join(line))
    screen.say(cluster.run(line, user=USER).stdout.rstrip())
    store = f"{directory(cluster, jobs[1])}/job.zarr"
    screen.say("\n--- where the stores lie (the nodes see them below /shared)")
    for job in jobs:
        path = directory(cluster, job)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        screen.say(f"{path}  {size / 1024:.0f} KiB")
    screen.say(
        f"""
To open one (perun_hpc.open gives a tree of xarray's with names and units; zarr shows the files as they are):
  .venv/bin/python -c 'import perun_hpc; print(perun_hpc.open("{store}"))'
  .venv/bin/python -c 'import zarr; print(zarr.open("{store}", mode="r").tree())'
To look around on the cluster, as {USER}:   python3 -m devcluster --name demo shell
To take everything down:                 make demo-down"""
    )


if __name__ == "__main__":
    sys.exit(main())
