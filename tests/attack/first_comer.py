"""An attack on where the ranks of a launch find each other: who can foresee a name makes it first."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable

from devcluster.site import PREFIX, SCIENCE
from perun_hpc.comm import launch_key
from perun_hpc.monitoring.address import SOCKET, places
from tests.attack.cases import NODE, Siege
from tests.attack.table import Result

PYTHON = f"{PREFIX}/bin/python"
AHEAD = 40
"""So many job ids to come are foreseen."""

BOB = """
import contextlib, json, os, selectors, socket, sys, time, zlib
victim, first, ahead, name, stop = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5]
places = sys.argv[6:]
space = os.readlink("/proc/self/ns/pid").strip("pid:[]")
waiting, made, heard, kept = selectors.DefaultSelector(), [], 0, set()

def listen(path):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        listener.bind(path)
    except OSError:
        return listener.close()
    listener.listen(16)
    if not path.startswith("\\0"):
        os.chmod(path, 0o777)
    waiting.register(listener, selectors.EVENT_READ, True)

def directory(path):
    with contextlib.suppress(OSError):
        os.mkdir(path)
        os.chmod(path, 0o777)
        made.append(path)
        return True

for job in range(first, first + ahead):
    for step in range(2):
        for number in range(2):
            key = f"{job}.0.{step}"
            own = f"perun-{victim}-{zlib.crc32(key.encode()):08x}-{number}"
            listen("\\0" + own)
            for place in places:
                if directory(f"{place}/{own}"):
                    listen(f"{place}/{own}/{name}")
print("ready", flush=True)
while not os.path.exists(stop):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError):
            words = open(f"/proc/{pid}/stat").read().rpartition(")")
            if "slurmstepd" not in words[0]:
                continue
            starter = f"{space}-{pid}-{words[2].split()[19]}"
            if starter in kept:
                continue
            kept.add(starter)
            launches = [""] + [f"-{job}.0.{step}" for job in range(first, first + ahead) for step in range(2)]
            for launch in launches:
                for end in ("-init", "-0"):
                    path = f"/dev/shm/perun-meet-{victim}-{starter}{launch}{end}"
                    if directory(path):
                        os.symlink("no", f"{path}/decision")
    for key, _ in waiting.select(0.001):
        with contextlib.suppress(OSError):
            if key.data:
                waiting.register(key.fileobj.accept()[0], selectors.EVENT_READ, False)
                continue
            data = key.fileobj.recv(4096)
            heard += len(data)
            if not data:
                waiting.unregister(key.fileobj)
print(json.dumps({"n": len(made), "heard": heard, "meetings": len(kept)}), flush=True)
for path in reversed(made):
    with contextlib.suppress(OSError):
        for inside in os.listdir(path):
            os.unlink(f"{path}/{inside}")
        os.rmdir(path)
"""
MPI = """
import perun_hpc
from mpi4py import MPI
@perun_hpc.monitor()
def attacked():
    return MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank)
print(f"sum {attacked()}\\n", end="", flush=True)
"""
PLAIN = """
import os
print(f"rank {os.environ['SLURM_PROCID']}\\n", end="", flush=True)
"""

SOUND = 2 * [(0, ["sum 1", "sum 1"]), (0, ["rank 0", "rank 1"])]
"""Exit codes and outputs of `_steps`."""


def first_comer(siege: Siege) -> Result:
    """Bob makes what alice's ranks would make, whatever of it can be foreseen; her programs run as ever."""
    for name, text in (("meet.py", MPI), ("ranks.py", PLAIN)):
        (siege.box / name).write_text(text)
    stop = siege.box / "first-comer.stop"
    stop.unlink(missing_ok=True)
    last = int(siege.cluster.run(["srun", "-Q", "-w", NODE, "sh", "-c", "echo $SLURM_JOB_ID"], check=True).stdout)
    assert launch_key({"SLURM_JOB_ID": str(last), "SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}) == f"{last}.0.0"
    before = _steps(siege)
    uid = siege.cluster.run(["id", "-u"], check=True).stdout.strip()
    words = [uid, str(last + 1), str(AHEAD), SOCKET, f"/shared/attack/{stop.name}", *places({})]
    bob = siege.cluster.popen(
        [PYTHON, "-I", "-c", BOB, *words],
        user="bob", node=NODE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert bob.stdout is not None and bob.stdout.readline() == "ready\n"
        began_s = time.monotonic()
        during = _steps(siege)
        took_s = time.monotonic() - began_s
    finally:
        stop.touch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            bob.wait(60)
        bob.kill()
    out, err = bob.communicate()
    told = json.loads(out.splitlines()[-1]) if bob.returncode == 0 else {"n": 0, "heard": 0, "meetings": 0}
    problems = [] if bob.returncode == 0 else [f"bob's program: {err.strip()[-200:]}"]
    if during != before or before != SOUND:
        problems.append(f"alice's programs ended with {during}, {before} without bob")
    if not told["meetings"]:
        problems.append("bob saw no step begin")
    if told["heard"]:
        problems.append(f"her ranks told bob {told['heard']} bytes")
    story = "directories, decisions and listening sockets where alice's ranks may meet, made by bob before her"
    shown = f"her four programs ended as without bob, in {took_s:.0f} s; he heard nothing"
    return Result("first-comer", story, told["n"], "; ".join(problems) or shown, not problems)


def _steps(siege: Siege) -> list[tuple[int, list[str]]]:
    """Exit code and output of alice's programs: a flagged MPI step, `perun monitor` of two tasks, each twice."""
    flagged = [
        "srun",
        "-Q",
        "--perun",
        "--mpi=pmi2",
        "-w",
        NODE,
        "-n2",
        f"{SCIENCE}/bin/python",
        "/shared/attack/meet.py",
    ]
    perun = ["srun", "-Q", "-w", NODE, "-n2", "-D", "/tmp", f"{PREFIX}/bin/perun", "monitor"]
    monitored = [*perun, "--data-out", "/tmp/first-comer", "/shared/attack/ranks.py"]
    ended = []
    for line in (flagged, monitored, flagged, monitored):
        done = siege.cluster.run(line, timeout=120)
        ended.append((done.returncode, sorted(one for one in done.stdout.splitlines() if one[:4] in ("sum ", "rank"))))
    return ended


CASES: dict[str, Callable[[Siege], Result]] = {"first-comer": first_comer}
