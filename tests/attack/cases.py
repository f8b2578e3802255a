"""Attacks of bob on alice, the service and root, on a real cluster; normal jobs run meanwhile."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

from devcluster import Cluster, site
from devcluster.site import PREFIX
from tests.attack.table import Result
from tests.figures.ground import switched_on

NODE = "n1"
HERE = Path(__file__).parent
STORY = {
    "verbs": "job-start, job-end, reload, stop, release-gpus as an ordinary user",
    "forged": "rank-start, rank-data, window, summary for another user's job, its id spelled in a dozen ways",
    "other_job": "rank-start and window for another job of the same user",
    "outside": "rank-start and window for a job of the same user, from a process outside all jobs",
    "malformed": "packets of 0 to 200,000 bytes, other versions, doubled keys, then damaged ones at the live agent",
    "memory": "rank data as pipe, fifo, directory, device, socket, sparse file, changing file; 0 to 250 descriptors",
    "connections": "connects from a job without pause, 10,000 at least, 900 kept open",
    "messages": "100 connections that ask as fast as they can and never read",
    "slow": "500 clients that say nothing or read nothing",
    "ranks": "6,000 ranks of one process, the same rank again and again, with hostile command and options",
    "heavy": "32 MiB of rank data on 60 connections, again and again",
    "shared_memory": "500 ranks that hand over the same 32 MiB and end at once",
    "long_steps": "5,000 steps whose commands are as long as a message takes",
    "many_calls": "eight ranks with 32 MiB of valid calls each",
    "long_names": "20,000 regions with long names",
    "window": "window and new ranks as often as possible on a node shared with alice",
}


@dataclass(frozen=True)
class During:
    """How alice's jobs fared during an attack: how many ran and failed, and how late the agent served their hooks."""

    jobs: int
    failed: int
    served: int
    late_ms: float

    def __str__(self) -> str:
        served = f"{self.served} hooks served at once, slowest {self.late_ms:.0f} ms"
        return f"{self.jobs} jobs of alice beside it, {self.failed} failed, {served}"


class Siege:
    """A cluster on which alice has a job on the node under attack; `timed` where nothing else runs on the machine."""

    def __init__(self, cluster: Cluster, timed: bool) -> None:
        self.cluster = cluster
        self.timed = timed
        self.box = cluster.shared / "attack"
        self.archive = cluster.shared / "perun" / cluster.name

    @contextlib.contextmanager
    def laid(self) -> Iterator[Siege]:
        """Put bob's program where he finds it, and start alice's job."""
        shutil.rmtree(self.box, ignore_errors=True)
        self.box.mkdir()
        (self.box / "marks").mkdir()
        (self.box / "marks").chmod(0o1777)
        shutil.copyfile(HERE / "bob.py", self.box / "bob.py")
        self.alice = self.submit("alice", "sleep 3000")
        self.wait_running(self.alice)
        deadline = time.monotonic() + 60
        while not self.agent()[0]:  # slurmd may have read perun's lines after the job began
            assert time.monotonic() < deadline, "no agent"
            self.cluster.run(["srun", "-Q", "-w", NODE, "-n1", "true"])
        try:
            yield self
        finally:
            for user in ("alice", "bob"):
                self.cluster.run(["scancel", "-u", user], user="root")
            self.cluster.wait_idle()
            shutil.rmtree(self.box, ignore_errors=True)

    def submit(self, user: str, script: str, *options: str) -> str:
        command = ["sbatch", "--parsable", "-w", NODE, "-o", "/dev/null", *options, f"--wrap={script}"]
        return self.cluster.run(command, user=user, check=True).stdout.strip().split(";")[0]

    def wait_running(self, job: str) -> None:
        deadline = time.monotonic() + 60
        while self.cluster.run(["squeue", "-h", "-j", job, "-o", "%T"], user="root").stdout.strip() != "RUNNING":
            assert time.monotonic() < deadline, f"job {job} does not start"
            time.sleep(0.2)

    def agent(self) -> tuple[str, int]:
        """Pid and memory of the node's agent; "" if none answers."""
        script = """import json; from perun_hpc.wire.client import request
print(json.dumps(dict(request("status", {}, timeout_s=10).fields)))"""
        done = self.cluster.run([f"{PREFIX}/bin/python", "-I", "-c", script], user="root", node=NODE)
        if done.returncode:
            return "", 0
        fields = json.loads(done.stdout)
        return fields["pid"], int(fields["rss_b"])

    def bob(self, case: str, seconds: float, job: str, inside: bool = True) -> subprocess.Popen[str]:
        """Start one of bob's cases, in a job of his own or beside all jobs."""
        words = [f"{PREFIX}/bin/python", "-I", "/shared/attack/bob.py", case, str(seconds), job]
        if inside:
            words = ["srun", "-w", NODE, "-n1", "-J", "attack", *words]
        started: subprocess.Popen[str] = self.cluster.popen(
            words,
            user="bob",
            node=None if inside else NODE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return started

    def collector_peak_b(self) -> int:
        """The most memory that the collector has held; 0 where none runs."""
        pid = site.collector_pid(self.cluster)
        told = self.cluster.run(["cat", f"/proc/{pid}/status"], user="root").stdout if pid else ""
        return int(told.partition("VmHWM:")[2].split()[0]) << 10 if told else 0

    def boundary(self, job: str) -> dict[str, Any] | None:
        """The node's boundary record of a job, waited for."""
        kept = f"jobs/{int(job) // 1000}/{job}.0/boundary/{NODE}.json"
        places = [self.archive / f"incoming/{job}.0/{NODE}.json", self.archive / kept]
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for place in places:
                with contextlib.suppress(FileNotFoundError):
                    found: dict[str, Any] = json.loads(place.read_text())
                    return found
            time.sleep(0.2)
        return None


def attack(siege: Siege, case: str, seconds: float, inside: bool = True, job: str | None = None) -> Result:
    """Let bob run one case while alice runs short jobs on the node; the agent must be the same one afterwards."""
    before, _ = siege.agent()
    bob = siege.bob(case, seconds, job or siege.alice, inside)
    jobs: list[str] = []
    failed = 0
    while bob.poll() is None:
        done = siege.cluster.run(["srun", "-Q", "-w", NODE, "-n1", "sh", "-c", "echo $SLURM_JOB_ID"], timeout=120)
        failed += done.returncode != 0
        jobs += done.stdout.split()
        time.sleep(0.3)
    out, err = bob.communicate()
    after, rss_b = siege.agent()
    records = [siege.boundary(one) for one in jobs]
    starts = [record["start"] for record in records if record is not None]
    served = [start["late_ns"] / 1e6 for start in starts if start["from"] == "hook"]
    during = During(len(jobs) + failed, failed, len(served), max(served, default=0.0))
    name = case.replace("_", "-")
    if bob.returncode != 0:
        return Result(name, STORY[case], 0, f"bob's program ended with {bob.returncode}: {err.strip()[-300:]}", False)
    told = json.loads(out.splitlines()[-1])
    problems = list(told["bad"])
    if not before or before != after:
        problems.append(f"the agent {before} became {after or 'none'}")
    if rss_b > 128 << 20:
        problems.append(f"the agent takes {rss_b >> 20} MiB")
    if failed or None in records:
        problems.append(f"{failed} jobs failed, {records.count(None)} without a record")
    outcome = "; ".join(problems[:3]) if problems else "nothing came through"
    return Result(name, STORY[case], told["n"], f"{outcome}; agent {rss_b >> 20} MiB; {during}", not problems)


RECORD_S = 60.0
OWN_RECORD_S = 240.0
"""The one who overfills it waits for himself: two tries of a minute of CPU time each, on a busy machine."""
HOOK_P99_MS = 500.0
COLLECTOR_B = 200 << 20


def greedy(siege: Siege, case: str, seconds: float, after_s: float) -> Result:
    """Bob's job overfills what is kept of it, and ends; alice's jobs beside and after it fare as ever."""
    before, _ = siege.agent()
    bob = siege.bob(case, seconds, siege.alice)
    jobs: list[str] = []
    failed, until_s = 0, None
    held_b = 0
    while until_s is None or time.monotonic() < until_s:
        if until_s is None and bob.poll() is not None:
            until_s = time.monotonic() + after_s
        done = siege.cluster.run(["srun", "-Q", "-w", NODE, "-n1", "sh", "-c", "echo $SLURM_JOB_ID"], timeout=120)
        failed += done.returncode != 0
        jobs += done.stdout.split()
        held_b = max(held_b, siege.agent()[1])
    out, err = bob.communicate()
    name = case.replace("_", "-")
    if bob.returncode != 0:
        return Result(name, STORY[case], 0, f"bob's program ended with {bob.returncode}: {err.strip()[-300:]}", False)
    waited_s = time.monotonic()
    last = record_of(siege, jobs[-1], RECORD_S)
    waited_s = time.monotonic() - waited_s
    bobs = _last_job(siege, "bob")
    told = record_of(siege, bobs, OWN_RECORD_S, measured=True)
    edges = [record[end] for record in map(siege.boundary, jobs) if record for end in ("start", "end")]
    late_ms = sorted(edge["late_ns"] / 1e6 for edge in edges)
    p99_ms = late_ms[int(len(late_ms) * 0.99)] if late_ms else math.inf
    collector_b = siege.collector_peak_b()
    after, _ = siege.agent()
    problems = [] if before == after else [f"the agent {before} became {after or 'none'}"]
    if failed or last is None:
        problems.append(f"{failed} jobs failed, alice's last record {'is' if last else 'is not'} there")
    if told is None or told["energy_uj"] is None:
        problems.append("bob's energy is lost")
    if siege.timed and p99_ms > HOOK_P99_MS:
        problems.append("too slow")
    if held_b > 128 << 20 or collector_b > COLLECTOR_B:
        problems.append("too large")
    notes = "; ".join((told or {}).get("notes", ()))[:160]
    outcome = (
        f"{'; '.join(problems) or 'held'}; hooks of {len(jobs)} jobs of alice: p99 {p99_ms:.0f} ms; agent "
        f"{held_b >> 20} MiB, collector {collector_b >> 20} MiB; her last record after {waited_s:.0f} s; "
        f"bob's notes: {notes or 'none'}"
    )
    return Result(name, STORY[case], json.loads(out.splitlines()[-1])["n"], outcome, not problems)


def _last_job(siege: Siege, user: str) -> str:
    done = siege.cluster.run(["sacct", "-n", "-X", "-P", "-u", user, "-o", "JobIDRaw", "-S", "now-1day"], user="root")
    return max(done.stdout.split(), key=int, default="0")


def own_job(siege: Siege, case: str, inside: bool) -> Result:
    """Bob against a job of his own, from another of his jobs or from outside all jobs."""
    job = siege.submit("bob", "sleep 300")
    siege.wait_running(job)
    try:
        return attack(siege, case, 0, inside=inside, job=job)
    finally:
        siege.cluster.run(["scancel", job], user="root")


# Files.

ROOTS = ("/run/perun", "/var/spool/perun", "/shared/perun", "/etc/perun", "/var/lib/perun", "/var/log/perun", PREFIX)
PUBLIC = ("/run/perun/hook.conf",)
"""The hooks' deadline and the name of the policy."""
PRIVATE = ("/run/perun/", "/var/spool/perun/", "/shared/perun/", "/var/lib/perun/", "/var/log/perun/")
RUN = re.compile(r"(?P<job>\d+)\.\d+(@\d+)?")
"""The directory of one run of a job: JOB.RESTART, for an older one of that number JOB.RESTART@SUBMIT."""


def files(siege: Siege) -> Result:
    """Everything perun has on a node and on the controller, as bob: write it, plant links in it, read alice's part."""
    tried, problems = 0, []
    for node in (NODE, None):
        listed = siege.cluster.run(["find", *ROOTS, "-not", "-path", "*/lib/python*"], user="root", node=node)
        words = [f"{PREFIX}/bin/python", "-I", "/shared/attack/bob.py", "reach", "0", "0"]
        done = siege.cluster.run(words, user="bob", node=node, input=listed.stdout, check=True)
        readable, told = (json.loads(line) for line in done.stdout.splitlines())
        tried += told["n"]
        problems += told["bad"]
        own, sums = _jobs_of(siege, "bob"), re.compile(r".*/usage/2002(/.*)?")
        for path in readable["readable"]:
            jobs = (RUN.fullmatch(part) for part in Path(path).parts)
            if sums.fullmatch(path) or any(run and run["job"] in own for run in jobs):
                continue  # his own
            if path.startswith(PRIVATE) and path not in PUBLIC:
                problems.append(f"readable: {path}")
    story = "write, plant links in, read every path of run directory, spool, archive, ledger, logs, policy, prefix"
    return Result(
        "files", story, tried, "; ".join(problems[:4]) or "none writable, none of others readable", not problems
    )


def _jobs_of(siege: Siege, user: str) -> set[str]:
    done = siege.cluster.run(["sacct", "-n", "-X", "-P", "-u", user, "-o", "JobIDRaw", "-S", "now-1day"], user="root")
    return set(done.stdout.split())


def counters(siege: Siege) -> Result:
    """perun leaves the modes of raw counters as the kernel has them; its own process cannot be looked into."""
    pid, _ = siege.agent()
    tries = [
        ["cat", f"/proc/{pid}/environ"],
        ["ls", f"/proc/{pid}/fd"],
        ["head", "-c1", f"/proc/{pid}/mem"],
        ["kill", "-0", pid],
    ]
    came = [" ".join(words) for words in tries if siege.cluster.run(words, user="bob", node=NODE).returncode == 0]
    modes = siege.cluster.run(
        ["sh", "-c", "stat -Lc %a /sys/class/powercap/*/energy_uj | sort -u"], user="root", node=NODE
    )
    before = siege.cluster.run(
        ["sh", "-c", "stat -Lc %a /sys/class/powercap/*/energy_uj | sort -u"], user="root", node="n4"
    )
    held = not came and modes.stdout == before.stdout
    story = "environment, descriptors, memory and signals of the agent; modes of energy_uj"
    return Result(
        "process", story, len(tries), "; ".join(came) or f"refused; energy_uj {modes.stdout.split()}, as found", held
    )


def owned(siege: Siege) -> Result:
    """Somebody who owns the agent's user id asks root's helper, whose socket he has, for what it must not give."""
    pid, _ = siege.agent()
    shutil.copyfile(HERE / "owned.py", siege.box / "owned.py")
    plant = f"echo root > /run/perun/victim; ln -s /etc/shadow /run/perun/inbox/{OWNED_MESSAGE}"
    look = "cd /run/perun && ls -A . inbox && cat victim hook.conf && stat -c %a:%u /etc/shadow hook.conf inbox"

    def on_node(script: str) -> str:
        return siege.cluster.run(["sh", "-c", script], user="root", node=NODE).stdout

    on_node(plant)
    before = on_node(look)
    words = [f"{PREFIX}/bin/python", "-I", "/shared/attack/owned.py", pid]
    done = siege.cluster.run(words, user="root", node=NODE, timeout=120)
    after = on_node(look)
    # Of every process of the agent's: the real user, and whether any capability is left to it or to what it executes.
    tell = f"for p in {pid} $(cat /proc/{pid}/task/{pid}/children); do cat /proc/$p/status; done"
    lines = on_node(tell).splitlines()
    held = [line for line in lines if re.match(r"Cap(Inh|Prm|Eff|Bnd|Amb):\s+0*[1-9a-f]|NoNewPrivs:\s+0", line)]
    uids = sorted({line.split()[1] for line in lines if line.startswith("Uid:")}, key=int)
    on_node(f"rm -f /run/perun/victim /run/perun/inbox/{OWNED_MESSAGE}")
    story = "the agent's uid, and words to root's helper: other verbs, paths, links, another policy, its own sensors"
    if done.returncode != 0:
        return Result("owned", story, 0, f"it ended with {done.returncode}: {done.stderr.strip()[-300:]}", False)
    told = json.loads(done.stdout.splitlines()[-1])
    problems = [*told["bad"], *held]
    if before != after:
        problems.append("root's files are others than before")
    if siege.agent()[0] != pid:
        problems.append("the agent is another one")
    outcome = "; ".join(problems[:4]) or f"nothing given; uids {', '.join(uids)} without a capability"
    return Result("owned", story, told["n"], outcome, not problems)


OWNED_MESSAGE = "00000000000000000001-job-end-7-0.msg"


# Environment.

EVIL_C = """
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>
__attribute__((constructor)) static void mark(void) {
    char path[200]; snprintf(path, sizeof path, "/shared/attack/marks/preload-%d-%d", (int)getuid(), (int)getpid());
    int fd = open(path, O_CREAT | O_WRONLY, 0644); if (fd >= 0) close(fd);
}
"""
EVIL_PY = "import os\nopen(f'/shared/attack/marks/python-{os.getuid()}-{os.getpid()}', 'w').close()\n"


def environment(siege: Siege) -> Result:
    """Whatever bob's environment says, nothing of his runs as anybody but him, and hooks and launcher work."""
    (siege.box / "evil.c").write_text(EVIL_C)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", siege.box / "evil.so", siege.box / "evil.c"], check=True)
    (siege.box / "py").mkdir(exist_ok=True)
    for name in ("sitecustomize", "usercustomize", "json", "perun_hpc", "zarr"):
        (siege.box / "py" / f"{name}.py").write_text(EVIL_PY)
    (siege.box / "rc.sh").write_text("touch /shared/attack/marks/bash-$(id -u)-$$\n")
    hostile = {
        "LD_PRELOAD": "/shared/attack/evil.so",
        "LD_LIBRARY_PATH": "/shared/attack",
        "LD_AUDIT": "/shared/attack/evil.so",
        "PYTHONPATH": "/shared/attack/py",
        "PYTHONSTARTUP": "/shared/attack/py/json.py",
        "PYTHONHOME": "/shared/attack/py",
        "BASH_ENV": "/shared/attack/rc.sh",
        "ENV": "/shared/attack/rc.sh",
        "PERUN_POLICY": "/shared/attack/policy.yaml",
        "PERUN_SOCKET": "/shared/attack/agent.sock",
        "PERUN_ARGV0": "/bin/false",
        "PERUN_JOB": f"{siege.alice}.0",
        "PERUN_STEP": "-1",
        "PERUN_OPTIONS": "period=0s;$(id)",
        "PERUN_PID": "1",
        "SPANK_LD_PRELOAD": "/shared/attack/evil.so",
        "SPANK_PATH": "/shared/attack",
        "SLURM_SPANK_LD_PRELOAD": "/shared/attack/evil.so",
        "SLURM_CLUSTER_NAME": "../../../tmp",
        "SLURM_JOB_RESTART_COUNT": "../../1",
        "SLURMD_NODENAME": "../x",
        "SLURM_JOB_EXCLUSIVE": "yes",
        "IFS": "/",
    }
    problems = []
    tried = 0
    for flag in ((), ("--perun",), ("--perun=period=$(touch /shared/attack/marks/flag),off;id",)):
        comment = "$(touch /shared/attack/marks/comment)`id`"
        words = [
            "srun",
            "-Q",
            *flag,
            "-w",
            NODE,
            "-n1",
            "-J",
            "$(touch /shared/attack/marks/name)",
            f"--comment={comment}",
        ]
        # PYTHONHOME would keep any Python of the user's from starting; here the user's command is a shell.
        done = siege.cluster.run([*words, "sh", "-c", "echo $SLURM_JOB_ID"], user="bob", env=hostile, timeout=90)
        tried += len(hostile) + 3
        if done.returncode != 0:
            problems.append(f"srun {' '.join(flag)}: {done.stderr.strip()[-120:]}")
            continue
        record = siege.boundary(done.stdout.split()[-1])
        if (
            record is None
            or record["cluster"] != siege.cluster.name
            or record["node"] != NODE
            or record["restart_count"] != 0
        ):
            problems.append("the record follows bob's environment")
    marks = sorted(path.name for path in (siege.box / "marks").iterdir())
    foreign = [name for name in marks if not any(f"-{uid}-" in name for uid in (2002,))]
    problems += [f"ran: {name}" for name in foreign]
    story = (
        f"{len(hostile)} variables (LD_*, PYTHON*, PERUN_*, SPANK_*, SLURM_*), job name, comment and flag with commands"
    )
    outcome = "; ".join(problems[:4]) or f"{len(marks)} things of bob's ran, all of them as bob"
    return Result("environment", story, tried, outcome, not problems)


# What people read.

NASTY = "\x1b]0;owned\x07\x1b[2J<script>alert(1)</script>'; DROP TABLE job; --\u202e|\r=1+1"


def reports(siege: Siege) -> Result:
    """A job whose name, comment, command and regions are made to hurt whoever reads about it."""
    code = (
        "import perun_hpc\nfor n in (N, N * 50, '\\ud800', 'a\\x00b', '\\x1b[2J'):\n  with perun_hpc.region(n): pass\n"
    )
    script = siege.box / "nasty.py"
    script.write_text(
        f"# -*- coding: utf-8 -*-\nN = {NASTY!r}\ntry:\n  "
        + code.replace("\n", "\n  ")
        + "\nexcept Exception as error: print(error)\n"
    )
    words = [
        "srun",
        "-Q",
        "--perun",
        "-w",
        NODE,
        "-n1",
        "-J",
        NASTY,
        f"--comment={NASTY}",
        "sh",
        "-c",
        "echo $SLURM_JOB_ID; exec python3 /shared/attack/nasty.py",
    ]
    done = siege.cluster.run(words, user="bob", timeout=90)
    job = done.stdout.split()[0]
    problems = []
    if record_of(siege, job) is None:
        problems.append("no record of the job")
    shown = 0
    for user in ("bob", "root", "perun"):
        for command in (
            ["report", job],
            ["report", "--json", job],
            ["jobs"],
            ["jobs", "--csv"],
            ["usage", "--by", "user"],
        ):
            answer = siege.cluster.run([f"{PREFIX}/bin/perun", *command], user=user)
            text = answer.stdout + answer.stderr
            shown += 1
            if any(ord(char) < 32 and char not in "\n\t" for char in text) or "\u202e" in text or "Traceback" in text:
                problems.append(f"{user}: perun {' '.join(command)} shows it raw")
    story = "job name, comment, regions with escapes, HTML, SQL, NUL, lone surrogates, bidi; report, jobs, usage"
    return Result(
        "reports",
        story,
        shown,
        "; ".join(problems[:4]) or "shown as escapes; the ledger and the collector go on",
        not problems,
    )


def record_of(siege: Siege, job: str, seconds: float = 40, measured: bool = False) -> dict[str, Any] | None:
    """A job's record once there is one; `measured`: one with energy, which may follow one that waits for its node."""
    path = siege.archive / f"jobs/{int(job) // 1000}/{job}.0/record.json"
    deadline = time.monotonic() + seconds
    found: dict[str, Any] | None = None
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            found = json.loads(path.read_text())
            if found is not None and (not measured or found["energy_uj"] is not None):
                return found
        time.sleep(0.2)
    return found


def poison(siege: Siege) -> Result:
    """Bob gives his job a record of his own making, wherever he can write, and asks perun about it."""
    body = "perun1:rev=9:st=complete:pv=measured:n=1/1:cov=1000000:e=1/0:cpu=1/0"
    line = f"{body}:crc={crc32(body.encode()):08x}"
    job = siege.submit("bob", "sleep 1", f"--comment={line}", "-J", line)
    alice = siege.alice
    tries = [
        ["scontrol", "update", f"jobid={job}", f"admincomment={line}"],
        ["scontrol", "update", f"jobid={alice}", f"admincomment={line}"],
        ["sacctmgr", "-i", "modify", "job", "where", f"jobid={job}", "set", f"AdminComment={line}"],
        ["sbatch", "--parsable", f"--admin-comment={line}", "--wrap=true", "-o", "/dev/null"],
    ]
    problems = []
    for words in tries:
        siege.cluster.run(words, user="bob")
        comments = siege.cluster.run(
            ["sacct", "-n", "-X", "-P", "-j", f"{job},{alice}", "-o", "AdminComment"], user="root"
        )
        held = siege.cluster.run(["scontrol", "show", "job", job], user="root")
        if line in comments.stdout or f"AdminComment={line}" in held.stdout:
            problems.append(f"{words[0]} sets AdminComment")
    record = record_of(siege, job, 90, measured=True)
    home = siege.cluster.home / "bob"
    forged = home / f"perun/{siege.cluster.name}/jobs/{int(job) // 1000}/{job}.0"
    forged.mkdir(parents=True, exist_ok=True)
    (forged / "record.json").write_text(json.dumps({**(record or {}), "energy_uj": 1}))
    (home / "policy.yaml").write_text(
        "store: {archive: /home/bob/perun}\ncollect: {ledger: 'sqlite:////home/bob/l.db'}\n"
    )
    subprocess.run(["chown", "-R", "2002:2002", home], check=True)
    siege.cluster.run([f"{PREFIX}/bin/perun", "report", job], user="bob", env={"PERUN_POLICY": "/home/bob/policy.yaml"})
    answer = siege.cluster.run([f"{PREFIX}/bin/perun", "report", "--json", job], user="perun")
    if record is None or not record.get("energy_uj") or record["energy_uj"] == 1:
        problems.append("no true record")
    elif str(record["energy_uj"]) not in answer.stdout:
        problems.append("the ledger tells something else than the record")
    story = "AdminComment by scontrol, sacctmgr, sbatch; a forged line as comment and name; a forged archive"
    return Result(
        "poison",
        story,
        len(tries) + 3,
        "; ".join(problems) or "refused or without effect; the ledger has the agent's figure",
        not problems,
    )


def traversal(siege: Siege) -> Result:
    """Names that lead elsewhere, as if Slurm itself had said them: root's hook with hostile values."""
    names = (
        "../../../../tmp/out",
        "/etc",
        ".",
        "..",
        "a/b",
        "a\nb",
        "-rf",
        ".hidden",
        "x" * 300,
        "\udcff",
        "n;id",
        "%n%s",
    )
    before = _outside(siege)
    tried = 0
    ids = iter(range(7_000_001, 7_001_000))
    for name in names:
        for variable in ("SLURM_CLUSTER_NAME", "SLURMD_NODENAME", "SLURM_JOB_NODELIST"):
            values = {
                "SLURM_JOB_ID": str(next(ids)),
                "SLURM_JOB_UID": "2002",
                "SLURM_JOB_GID": "2002",
                "SLURM_JOB_USER": name[:50],
                "SLURM_CLUSTER_NAME": "traversal",
                "SLURMD_NODENAME": NODE,
                "SLURM_JOB_NODELIST": NODE,
                variable: name,
            }
            settings = " ".join(f"{key}={shlex.quote(value)}" for key, value in values.items())
            hooks = f"{PREFIX}/libexec/perun"
            siege.cluster.run(
                ["sh", "-c", f"env -i {settings} {hooks}/prolog; env -i {settings} {hooks}/epilog"],
                user="root",
                node=NODE,
            )
            tried += 1
    job = siege.cluster.run(
        ["srun", "-Q", "-w", NODE, "-n1", "sh", "-c", "echo $SLURM_JOB_ID"], check=True
    ).stdout.strip()
    problems = [f"made {path}" for path in sorted(_outside(siege) - before)]
    if siege.boundary(job) is None:
        problems.append("the jobs after it are not shipped")
    # What was refused stays in the spool; an administrator looks at it. Here it goes.
    siege.cluster.run(
        ["sh", "-c", "rm -rf /var/spool/perun/sessions/7000* /shared/perun/traversal"], user="root", node=NODE
    )
    story = "cluster, node and node list named ../.., /etc, a/b, with line breaks, 300 characters, no UTF-8"
    return Result(
        "traversal",
        story,
        tried,
        "; ".join(problems[:4]) or "nothing outside spool and archive, later jobs are shipped",
        not problems,
    )


def _outside(siege: Siege) -> set[str]:
    """Top-level entries of places where nothing may appear."""
    script = "ls -A1 -d /* /tmp/* /etc/* /shared/* /shared/perun/* /var/spool/* /run/* 2>/dev/null"
    found = siege.cluster.run(["sh", "-c", script], user="root", node=NODE).stdout.splitlines()
    return {path for path in found if path != "/shared/perun/traversal"}


def shared_trace(siege: Siege) -> Result:
    """The trace and regions of bob's job on the shared node: no row finer than the policy's resolution."""
    job = siege.submit("bob", "srun --perun python3 -c 'import time; time.sleep(24)'", "-J", "spy")
    siege.cluster.wait_job(job, timeout=120)
    record = siege.boundary(job)
    problems = []
    if record is None:
        return Result("shared-trace", "the trace of a job on a shared node", 1, "no record", False)
    trace = record["trace"]
    if trace.get("stored") and trace["period_ns"] < 10_000_000_000:
        problems.append(f"a row every {trace['period_ns'] / 1e9:g} s")
    story = "the stored trace of a job that shares its node"
    shown = (
        f"one row per {trace['period_ns'] / 1e9:g} s, {trace['rows']} rows"
        if trace.get("stored")
        else f"none: {trace.get('why')}"
    )
    return Result("shared-trace", story, 1, "; ".join(problems) or shown, not problems)


SHARED = "n2"
"""A node that bob shares with another job of alice's, whose processes know the energy plugin."""


def slurm_figures(siege: Siege) -> Result:
    """With the energy plugin in force: what Slurm's own commands show bob of alice's job beside his, and how often."""
    name, story = (
        "slurm-figures",
        "sstat, sacct, scontrol show node of alice's job and bob's own, as fast as it goes",
    )
    before, _ = siege.agent()
    with switched_on(siege.cluster, nodes=[SHARED]):
        # So long that the mean power is another one in each 10 s, since a figure that stays shows no step.
        waves = "import time\nwhile True:\n end = time.time() + 7\n while time.time() < end: pass\n time.sleep(6)"
        alice = siege.submit("alice", f"exec python3 -c {shlex.quote(waves)}", "-n1", "-w", SHARED)
        try:
            siege.wait_running(alice)
            words = ["srun", "-Q", "-w", SHARED, "-n1", f"{PREFIX}/bin/python", "-I", "/shared/attack/bob.py"]
            done = siege.cluster.run([*words, "slurm_figures", "45", alice], user="bob", timeout=180)
            state = siege.cluster.run(["squeue", "-h", "-j", alice, "-o", "%T"], user="root").stdout.strip()
        finally:
            siege.cluster.run(["scancel", alice], user="root")
            siege.cluster.wait_job(alice)
    if done.returncode:
        return Result(name, story, 0, f"bob's program: {done.stderr.strip()[-300:]}", False)
    told = json.loads(done.stdout.splitlines()[-1])
    problems = list(told["bad"])
    if state != "RUNNING":
        problems.append(f"alice's job became {state or 'nothing'}")
    if siege.agent()[0] != before:
        problems.append("the agent of another node became another")
    shown = "; ".join(
        f"{what}: {count} values" + (f", {apart:.1f} s apart at least" if apart else "")
        for what, count, apart in told["seen"]
    )
    return Result(name, story, told["n"], "; ".join([*problems[:3], shown]), not problems)


CASES: dict[str, Callable[[Siege], Result]] = {
    "verbs": lambda siege: attack(siege, "verbs", 0),
    "forged": lambda siege: attack(siege, "forged", 0),
    "other-job": lambda siege: own_job(siege, "other_job", True),
    "outside": lambda siege: own_job(siege, "outside", False),
    "malformed": lambda siege: attack(siege, "malformed", 20),
    "memory": lambda siege: attack(siege, "memory", 10),
    "connections": lambda siege: attack(siege, "connections", 20),
    "messages": lambda siege: attack(siege, "messages", 20),
    "slow": lambda siege: attack(siege, "slow", 10),
    "ranks": lambda siege: attack(siege, "ranks", 20),
    "heavy": lambda siege: attack(siege, "heavy", 20),
    "shared-memory": lambda siege: greedy(siege, "shared_memory", 0, 10),
    "long-steps": lambda siege: greedy(siege, "long_steps", 5, 5),
    "many-calls": lambda siege: greedy(siege, "many_calls", 0, 20),
    "long-names": lambda siege: greedy(siege, "long_names", 0, 10),
    "window": lambda siege: attack(siege, "window", 35),
    "files": files,
    "process": counters,
    "owned": owned,
    "environment": environment,
    "reports": reports,
    "poison": poison,
    "traversal": traversal,
    "shared-trace": shared_trace,
    "slurm-figures": slurm_figures,
}
