"""Attacks on what root and the service user believe: the spool, the collector's socket, what is handed over."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from devcluster import site
from devcluster.site import PREFIX, SCIENCE
from perun_hpc.store import job_store
from tests.attack.cases import NODE, RECORD_S, Siege, record_of
from tests.attack.table import Result

PYTHON = f"{PREFIX}/bin/python"
SPOOL = "/var/spool/perun"
ALONE = "n3"
"""The node that bob has for himself, until somebody comes."""
SOCKET = "/run/perun-collect/wake"
STRANGER = 7_200_001
"""A job of which the real hook tells, as if Slurm had started it."""


def _sh(siege: Siege, script: str, user: str = "root", node: str | None = NODE) -> str:
    return siege.cluster.run(["sh", "-c", script], user=user, node=node, check=True).stdout


def _wait(what: str, condition: Callable[[], object], seconds: float = RECORD_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {what}"
        time.sleep(0.2)


def _kill_agent(siege: Siege) -> None:
    pid, _ = siege.agent()
    if pid:
        _sh(siege, f"kill -9 {pid}")


def _fresh_agent(siege: Siege) -> dict[str, str]:
    """Kill the node's agent and let a job start another; its pid and user ids, by what the kernel says."""
    _kill_agent(siege)
    siege.cluster.run(["srun", "-Q", "-w", NODE, "-n1", "true"], check=True)
    _wait("an agent", lambda: siege.agent()[0])
    pid, _ = siege.agent()
    uids = _sh(siege, f"grep ^Uid: /proc/{pid}/status").split()[1:]
    return {"pid": pid, "uids": " ".join(sorted(set(uids)))}


def root_phase(siege: Siege) -> Result:
    """What the service user left in the spool, when root starts the agent: whom it becomes, what it gives away."""
    perun = _sh(siege, "id -u perun").strip()
    bob = json.dumps({"agent": {"service_user": "bob"}, "user": "bob", "uid": 2002})
    plants = {
        "policy.json naming another account": f"echo '{bob}' > {SPOOL}/policy.json",
        "policy.json as a FIFO": f"mkfifo {SPOOL}/policy.json",
        "policy.json as a link": f"ln -s /etc/passwd {SPOOL}/policy.json",
        "a FIFO and a link among the sessions": (
            f"mkfifo {SPOOL}/sessions/attack.fifo; ln -s /etc/passwd {SPOOL}/sessions/attack.link"
        ),
        "a device file among the sessions": "",
    }
    _sh(siege, f"cp -p {SPOOL}/policy.json {SPOOL}/attack.kept 2>/dev/null || true")
    device = f"{SPOOL}/sessions/attack.device"
    before = _sh(siege, "stat -c '%u %a %Y' /etc/passwd")
    problems = []
    try:
        for what, plant in plants.items():
            _kill_agent(siege)  # it would put its policy there again
            _sh(siege, f"rm -f {SPOOL}/policy.json {SPOOL}/sessions/attack.*")
            if plant:
                _sh(siege, plant, user="perun")
            else:
                _sh(siege, f"mknod {device} c 1 3")
            agent = _fresh_agent(siege)
            if agent["uids"] != perun:
                problems.append(f"{what}: the agent has the ids {agent['uids']}")
            if not plant and _sh(siege, f"stat -c %u {device}").strip() != "0":
                problems.append(f"{what}: it was given away")
    finally:
        _sh(siege, f"rm -f {SPOOL}/policy.json {SPOOL}/sessions/attack.*")
        _sh(siege, f"[ ! -e {SPOOL}/attack.kept ] || mv {SPOOL}/attack.kept {SPOOL}/policy.json")
    if _sh(siege, "stat -c '%u %a %Y' /etc/passwd") != before:
        problems.append("/etc/passwd is another")
    story = f"in the spool, as the service user, before root starts the agent: {', '.join(plants)}"
    shown = "; ".join(problems) or f"each time the agent became the service user ({perun}) and gave nothing away"
    return Result("root-phase", story, len(plants), shown, not problems)


SWAP = f"""
import os, sys, time
home = "{SPOOL}/sessions/attack.race"
os.makedirs(home, exist_ok=True)
path, n = home + "/file", 0
while not os.path.exists("{SPOOL}/attack.stop"):
    for make in (lambda: open(path + ".new", "w").close(), lambda: os.symlink("/etc/perun/attack", path + ".new")):
        make()
        os.rename(path + ".new", path)
        n += 1
print(n)
"""


def swapped_link(siege: Siege) -> Result:
    """A file of the spool becomes a link to one of root's while root takes the spool over for the service user."""
    secret = siege.cluster.etc_perun / "attack"
    secret.write_text("root's\n")
    secret.chmod(0o600)
    swapper = siege.cluster.popen(
        [PYTHON, "-I", "-c", SWAP], user="perun", node=NODE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    starts, problems = 8, []
    try:
        for _ in range(starts):
            _fresh_agent(siege)
            if secret.stat().st_uid != 0 or secret.stat().st_mode & 0o077:
                problems.append("root's file is the service user's")
                break
        _sh(siege, f"touch {SPOOL}/attack.stop", user="perun")
        out, err = swapper.communicate(timeout=60)
    finally:
        swapper.kill()
        secret.unlink()
        _sh(siege, f"rm -rf {SPOOL}/attack.stop {SPOOL}/sessions/attack.race")
    if swapper.returncode:
        problems.append(err.strip()[-200:])
    story = "a file of the spool that becomes a link to root's file and back, while agents start"
    shown = "; ".join(problems) or f"{starts} agents started meanwhile; the file stayed root's"
    return Result("swapped-link", story, int(out or 0), shown, not problems)


def wake(siege: Siege) -> Result:
    """Everybody on the controller may knock at the collector: as often as possible, and in its place."""
    _sh(siege, "install -d -o perun -g perun /run/perun-collect", node=None)
    with _policy(siege, "sweep: 1 s", "sweep: 60 s"):
        return _wake(siege)


def _wake(siege: Siege) -> Result:
    pid = site.collector_pid(siege.cluster)
    _wait("the collector's socket", lambda: siege.cluster.run(["test", "-S", SOCKET]).returncode == 0)
    stop = siege.box / "wake.stop"
    stop.unlink(missing_ok=True)
    words = [PYTHON, "-I", "/shared/attack/bob.py", "wake", "60", siege.alice]
    bob = siege.cluster.popen(words, user="bob", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    began_s, sweeps = time.monotonic(), set()
    job = siege.cluster.run(["srun", "-Q", "-w", NODE, "-n1", "sh", "-c", "echo $SLURM_JOB_ID"]).stdout.strip()
    while bob.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            sweeps.add(json.loads((siege.archive / "sweep.json").read_text())["began_s"])
        if len(sweeps) > 3 and time.monotonic() > began_s + 10:  # one that writes to slurmdbd lasts
            stop.touch()
        time.sleep(0.1)
    took_s = time.monotonic() - began_s
    out, err = bob.communicate()
    record = record_of(siege, job, RECORD_S)
    told = json.loads(out.splitlines()[-1]) if bob.returncode == 0 else {"n": 0, "bad": [err.strip()[-200:]]}
    problems = list(told["bad"])
    if site.collector_pid(siege.cluster) != pid:
        problems.append("the collector is another one")
    if record is None:
        problems.append("no record of alice's job")
    if not 1 < len(sweeps) < took_s / 2 + 2:
        problems.append(f"{len(sweeps)} sweeps in {took_s:.0f} s")
    story = "datagrams at the collector's socket without pause; files and sockets in its place"
    shown = "; ".join(problems[:4]) or f"{len(sweeps)} sweeps in {took_s:.0f} s; alice's record came"
    return Result("wake", story, told["n"], shown, not problems)


MPI = """
import time
from mpi4py import MPI
import perun_hpc
@perun_hpc.monitor()
def attacked():
    end = time.monotonic() + 3
    while time.monotonic() < end:
        pass
attacked()
print("sum", MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.rank))
"""


def rank_slots(siege: Siege) -> Result:
    """Bob's ranks, each with memory of its own, hold all that the agent keeps; alice's MPI step has its ranks."""
    before, _ = siege.agent()
    (siege.box / "mpi.py").write_text(MPI)
    bob = siege.bob("rank_slots", 40, siege.alice)
    mark = siege.box / "marks" / "slots"
    deadline = time.monotonic() + 120
    while not mark.exists() and bob.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    step = ["srun", "-Q", "--perun", "--mpi=pmi2", "-w", NODE, "-n2", "sh", "-c"]
    done = siege.cluster.run(
        [*step, f"echo job $SLURM_JOB_ID; exec {SCIENCE}/bin/python /shared/attack/mpi.py"], timeout=120
    )
    still = bob.poll() is None
    out, err = bob.communicate()
    told = json.loads(out.splitlines()[-1]) if bob.returncode == 0 else {"n": 0, "bad": [err.strip()[-200:]], "held": 0}
    problems = list(told["bad"])
    words = done.stdout.split()
    job = words[words.index("job") + 1] if "job" in words else ""
    if done.returncode or done.stdout.count("sum 1") != 2:
        problems.append(f"alice's step: {done.returncode} {done.stderr.strip()[-150:]}")
    record = record_of(siege, job, RECORD_S, measured=True) if job else None
    ranks = len((record or {}).get("ranks", ()))
    regions = [one["name"] for one in (record or {}).get("regions", ())]
    if ranks != 2 or not any(name.endswith("attacked") for name in regions):
        problems.append(f"{ranks} ranks, regions {regions}")
    if not still:
        problems.append("bob had let go before")
    after, rss_b = siege.agent()
    if not before or before != after:
        problems.append(f"the agent {before} became {after or 'none'}")
    story = "ranks of bob's, each living and with a memory file, until no more are taken; an MPI step of alice's beside"
    shown = f"agent {rss_b >> 20} MiB; bob held {told.get('held', 0)} ranks; alice's step has {ranks}, and its region"
    return Result("rank-slots", story, told["n"], "; ".join([*problems[:3], shown]), not problems)


def alone_ends(siege: Siege) -> Result:
    """Bob has a node for himself, and fine figures; from the moment a neighbour comes they are coarse (PLATYPUS)."""
    words = [PYTHON, "-I", "/shared/attack/bob.py", "alone", "60", "0"]
    step = ["srun", "-Q", "--perun=period=1s", "--exclusive", "-w", ALONE, "-n1", *words]
    bob = siege.cluster.popen(step, user="bob", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(25)
    values = {
        "SLURM_JOB_ID": STRANGER,
        "SLURM_JOB_UID": 2001,
        "SLURM_JOB_GID": 2001,
        "SLURM_JOB_USER": "alice",
        "SLURM_CLUSTER_NAME": "neighbour",
        "SLURMD_NODENAME": ALONE,
        "SLURM_JOB_NODELIST": ALONE,
    }
    settings = " ".join(f"{key}={value}" for key, value in values.items())
    _sh(siege, f"env -i {settings} {PREFIX}/libexec/perun/prolog", node=ALONE)
    came_ns = time.monotonic_ns()
    out, err = bob.communicate(timeout=180)
    _sh(siege, f"env -i {settings} {PREFIX}/libexec/perun/epilog", node=ALONE)
    _sh(siege, "rm -rf /shared/perun/neighbour", node=ALONE)
    story = "live figures and the trace of a job that has its node for itself, until a neighbour comes"
    if bob.returncode:
        return Result("alone-ends", story, 0, f"bob's program: {err.strip()[-300:]}", False)
    told = json.loads(out.splitlines()[-1])
    points = [at_ns for at_ns, _ in told["points"]]
    fine = [b - a for a, b in zip(points, points[1:], strict=False) if b < came_ns]
    after = [at_ns for at_ns in points if at_ns > came_ns + 1_500_000_000]
    coarse = [b - a for a, b in zip(after, after[1:], strict=False)]
    problems = []
    if not fine or min(fine) > 5_000_000_000:
        problems.append("no fine figures before: nothing was shown")
    if not coarse or min(coarse) < 9_000_000_000:
        problems.append(f"live: {[round(one / 1e9, 1) for one in coarse]} s apart")
    record_of(siege, told["job"], RECORD_S, measured=True)
    rows = _rows_after(siege, told["job"], time.time_ns() - (time.monotonic_ns() - came_ns) + 1_500_000_000)
    apart = [b - a for a, b in zip(rows, rows[1:], strict=False)]
    if len(rows) < 2 or min(apart) < 9.0:
        problems.append(f"the trace: {[round(one, 1) for one in apart]} s apart")
    least = min(fine, default=0) / 1e9, min(coarse, default=0) / 1e9, min(apart, default=0)
    shown = "before {:.1f} s apart, then {:.1f} s; rows of the trace then {:.1f} s".format(*least)
    return Result("alone-ends", story, told["n"], "; ".join([*problems, shown]), not problems)


def _rows_after(siege: Siege, job: str, real_ns: int) -> list[float]:
    """When rows of a job's trace on the node were read after a moment, in seconds."""
    data = job_store.open_job(siege.archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0")
    energy = data.energy.sel(node=ALONE)
    other = [name for name in energy.dims if name != "time"]
    held = energy.notnull().any(dim=other) if other else energy.notnull()
    times = data.time.values[held.values].astype("datetime64[ns]").astype("int64")
    return [int(at) / 1e9 for at in times if at > real_ns]


LOCAL = f"{SPOOL}/attack-archive"
HAND = """
import json, sys
from perun_hpc.archive import stream
for what, about, files in json.load(sys.stdin):
    try:
        stream.send({name: text.encode() for name, text in files.items()}, about, ("ctl", 6871), stream.Munge())
        print(json.dumps([what, "ok"]))
    except Exception as error:
        print(json.dumps([what, str(error)]))
"""


@contextlib.contextmanager
def _policy(siege: Siege, before: str, after: str) -> Iterator[None]:
    """Another policy for a while, and a collector that began under it."""
    path = siege.cluster.etc_perun / "policy.yaml"
    former = path.read_text()
    path.write_text(former.replace(before, after))
    try:
        _restart_collector(siege)
        yield
    finally:
        path.write_text(former)
        _restart_collector(siege)


@contextlib.contextmanager
def _collector(siege: Siege) -> Iterator[Path]:
    """The site's collector takes hand-overs for a while, into an archive of the controller's own."""
    _sh(siege, f"mkdir -m 711 -p {LOCAL}", user="perun", node=None)
    try:
        with _policy(siege, "archive: /shared/perun", f"archive: {LOCAL}\n  collector: ctl:6871"):
            yield siege.cluster.spool_dir("ctl") / "perun" / Path(LOCAL).name / siege.cluster.name
    finally:
        _sh(siege, f"rm -rf {LOCAL}", node=None)


def _restart_collector(siege: Siege) -> None:
    pid = site.collector_pid(siege.cluster)
    if pid is not None:
        siege.cluster.run(["kill", str(pid)], user="root", check=True)
    _wait("the collector's end", lambda: site.collector_pid(siege.cluster) is None)
    site.start_collector(siege.cluster)


def handed_over(siege: Siege) -> Result:
    """Root of a node, with the cluster's munge key, speaks for other nodes, jobs, clusters and times."""
    with _collector(siege) as archive:
        job = siege.cluster.run(["srun", "-Q", "-w", "n2", "-n1", "sh", "-c", "echo $SLURM_JOB_ID"]).stdout.strip()
        kept = archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "boundary" / "n2.json"
        _wait("n2's record of the job", kept.exists)
        _wait("Slurm's word of it", lambda: json.loads((kept.parent.parent / "record.json").read_text())["state"])
        true = json.loads(kept.read_text())
        forged = {**true, "revision": 9}
        line = {"t0_ns": 1, "t1_ns": 2, "domain": "package-0", "total_uj": 5, "shares": {"idle": 5}, "method": "m"}
        other = {**line, "total_uj": 900, "shares": {"idle": 900}}
        cluster = siege.cluster.name

        def ledger(node: str, *lines: dict[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
            text = "".join(json.dumps(one) + "\n" for one in lines)
            return {"what": "ledger", "cluster": cluster, "node": node}, {"2020-01-01.jsonl": text}

        def session(name: str, **fields: Any) -> tuple[dict[str, str], dict[str, str]]:
            return {"what": "session", "name": name}, {"record.json": json.dumps({**forged, **fields})}

        sent = [
            ("n2's record, from n1", *session(f"{job}.0")),
            ("n2's ledger, from n1", *ledger("n2", line)),
            ("another job's record under this one's name", *session(f"{job}.0", job_id=int(job) + 1)),
            ("n1's own ledger", *ledger("n1", line)),
            ("n1's ledger, changed", *ledger("n1", other)),
            ("a job that n1 never had", *session(f"{job}.0", node="n1")),
        ]
        done = siege.cluster.run([PYTHON, "-c", HAND], user="root", node="n1", input=json.dumps(sent), check=True)
        answers = dict(json.loads(one) for one in done.stdout.splitlines())
        problems = [what for what, *_ in sent[:3] if answers[what] == "ok"]
        problems += [f"{what}: {answers[what]}" for what, *_ in sent[3:] if answers[what] != "ok"]
        aside = archive / "aside" / f"{job}.0-n1"
        deadline = time.monotonic() + RECORD_S
        while not list(aside.glob("*.json")) and time.monotonic() < deadline:
            time.sleep(0.2)
        if not list(aside.glob("*.json")):
            problems.append("a node that the job did not have is not set aside")
        day = archive / "nodes/n1/2020-01-01.jsonl"
        if [json.loads(one) for one in day.read_text().splitlines()] != [line]:
            problems.append("n1's ledger was changed")
        if "900" not in day.with_name("2020-01-01.aside.jsonl").read_text():
            problems.append("what did not fit is not kept")
        record = json.loads((archive / "jobs" / f"{int(job) // 1000}" / f"{job}.0" / "record.json").read_text())
        if [one["node"] for one in record["nodes"]] != ["n2"] or json.loads(kept.read_text()) != true:
            problems.append("the job's record is another")
        words = [f"{PREFIX}/bin/perun", "audit", "-S", "2020-01-01", "--json"]
        audit = siege.cluster.run(words, user="perun", timeout=120)
        named = {one["where"] for one in json.loads(audit.stdout or "{}").get("findings", ())}
        if audit.returncode != 1 or not {f"aside/{job}.0-n1", "n1 2020-01-01"} <= named:
            problems.append("perun audit does not name what was set aside")
    story = ", ".join(what for what, *_ in sent)
    shown = "; ".join(problems[:3]) or "refused, or kept apart and named by perun audit; the job's record is n2's alone"
    return Result("handed-over", f"by root of n1, with the munge key: {story}", len(sent), shown, not problems)


CASES: dict[str, Callable[[Siege], Result]] = {
    "rank-slots": rank_slots,
    "wake": wake,
    "root-phase": root_phase,
    "swapped-link": swapped_link,
    "alone-ends": alone_ends,
    "handed-over": handed_over,
}
