"""The faults: each breaks something for as long as its context lasts, and says what may be lost meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from devcluster import ClusterError, site
from tests.faults.ground import Ground, hanging, repeated

CHECKOUT = Path(__file__).resolve().parents[2]
LIBFAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
NVML = "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1"
LONGEST_FREEZE_S = 300
LATE = "+10d"
REAL_WAITS = ["FAKETIME_DONT_FAKE_MONOTONIC=1", "DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"]
"""The clock that waits go by, and files' times, are not faked."""
CLUTTER = 10_000
UNSEEN, UNSEEN_FROM = 3000, 40_000_000
"""Jobs that perun never saw, and above which ids they are: no job of the cluster gets there."""
WEEKS_S = 21 * 86_400
CAUGHT_UP_S = 240
COLLECTOR_B = 192 << 20
_UNSEEN_JOBS = f"""
INSERT INTO `{{cluster}}_job_table`
    (mod_time, account, cpus_req, job_name, id_assoc, id_job, id_qos, id_resv, id_wckey, id_user, id_group, het_job_id,
     het_job_offset, state_reason_prev, nodelist, nodes_alloc, node_inx, `partition`, priority, state, timelimit,
     time_submit, time_eligible, time_start, time_end, tres_alloc, tres_req)
SELECT e, a.acct, 2, 'unseen', a.id_assoc, {{above}} + s.seq, 1, 0, 0, 2001, 2001, 0, 4294967294, 0, 'n[3-4]', 2,
     '2-3', 'main', 1, 3, 10, e - 700, e - 700, e - 600, e, '1=2,2=2000,4=2,5=2', '1=2,2=2000,4=2,5=2'
FROM (SELECT seq, {{until_s}} - seq * {WEEKS_S - 3600} DIV {UNSEEN} AS e FROM seq_1_to_{UNSEEN}) s
JOIN (SELECT * FROM `{{cluster}}_assoc_table` WHERE user = 'alice' AND deleted = 0 LIMIT 1) a;
"""
"""Finished jobs of two nodes, spread over the weeks, as slurmdbd's rows of them are (state 3: COMPLETED)."""
SERIES = (
    "time,value\n2026-01-01T00:00Z,nan\n",
    "time,value\n# f\xfcr M\xe4rz\n",
    "time,value\n2026-01-01T00:00Z,1\n2026-01-01T00:00Z,2\n",
    "time;value\n2026-01-01T00:00Z;1\n",
    "",
)
"""What a file of prices may hold."""

Breaker = Callable[[Ground], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One fault.

    what : what is done, in words. loss : what may be lost and where that stands. of_slurm : whether it is Slurm itself
    that is broken, so that jobs may fail without any fault of perun's. flagged : whether steps with `--perun` are
    among the jobs. fast : whether ten jobs of it run with every test (`tests/slurm/test_faults.py`).
    """

    name: str
    what: str
    loss: str
    breaker: Breaker
    of_slurm: bool = False
    flagged: bool = True
    fast: bool = False


FAULTS: dict[str, Fault] = {}


def fault(
    name: str,
    what: str,
    loss: str,
    *,
    of_slurm: bool = False,
    flagged: bool = True,
    fast: bool = False,
) -> Callable[[Callable[[Ground], Iterator[None]]], Breaker]:
    """Enter a generator function (break, yield, heal) into the catalogue."""

    def enter(function: Callable[[Ground], Iterator[None]]) -> Breaker:
        breaker = contextlib.contextmanager(function)
        FAULTS[name] = Fault(name, what, loss, breaker, of_slurm, flagged, fast)
        return breaker

    return enter


@fault("none", "nothing is broken", "nothing")
def _none(ground: Ground) -> Iterator[None]:
    yield


@fault(
    "agent-killed",
    "kill -9 of the agents on two nodes, twice a second",
    "nothing of the energy: the counters go on; the gap in who used the CPUs is named (`the agent was restarted`)",
)
def _agent_killed(ground: Ground) -> Iterator[None]:
    with repeated(lambda: ground.signal_agents("KILL"), 0.5):
        yield


@fault(
    "agent-stopped",
    "SIGSTOP of the agents on two nodes, for as long as the jobs run",
    "jobs that began and ended meanwhile have no energy of these nodes, not 0: partial, `no reading during the job`",
)
def _agent_stopped(ground: Ground) -> Iterator[None]:
    with repeated(lambda: ground.signal_agents("STOP"), 2):
        yield
    ground.signal_agents("CONT")


@fault(
    "spool-full",
    "the spool's disk has no block left, on two nodes",
    "nothing but traces: what the disk refuses stays in memory",
)
def _spool_full(ground: Ground) -> Iterator[None]:
    ground.stop_agents()
    ground.on_broken(
        "cp -a /var/spool/perun /run/kept-spool && mount -t tmpfs -o size=16m,mode=755 tmpfs /var/spool/perun && "
        "cp -a /run/kept-spool/. /var/spool/perun/; cat /dev/zero > /var/spool/perun/fill 2>/dev/null; true"
    )
    # What is in the memory disk by then goes back to the node's own.
    ground.later.callback(
        ground.on_broken,
        "rm -rf /run/kept-spool && cp -a /var/spool/perun /run/kept-spool && umount -l /var/spool/perun && "
        "cp -a /run/kept-spool/. /var/spool/perun/ && rm -rf /run/kept-spool",
    )
    ground.later.callback(ground.stop_agents)
    yield
    ground.on_broken("rm /var/spool/perun/fill")


@fault("archive-readonly", "the archive is read-only on two nodes", "nothing: records wait in the spool", fast=True)
def _archive_readonly(ground: Ground) -> Iterator[None]:
    ground.on_broken("mount --bind /shared/perun /shared/perun && mount -o remount,bind,ro /shared/perun")
    ground.later.callback(ground.on_broken, "umount /shared/perun || umount -l /shared/perun")
    yield
    ground.on_broken("mount -o remount,bind,rw /shared/perun")


@fault(
    "node-late",
    "one node cannot reach the archive while jobs run; its records come ten days later, by the collector's clock "
    "(libfaketime), when the runs have given their names away",
    "nothing: a late node is added to its run, whatever name that has by then",
)
def _node_late(ground: Ground) -> Iterator[None]:
    node = ground.broken[1]
    ground.on(node, "mount --bind /shared/perun /shared/perun && mount -o remount,bind,ro /shared/perun")
    ground.later.callback(ground.on, node, "umount /shared/perun || umount -l /shared/perun")
    yield
    ground.cluster.wait_idle(120)
    _until(lambda: not any((ground.archive / "incoming").iterdir()), "the other nodes' records are collected")
    ground.restart_collector([f"LD_PRELOAD={LIBFAKETIME}", f"FAKETIME={LATE}", *REAL_WAITS])
    ground.later.callback(ground.restart_collector)
    _until(lambda: not list((ground.archive / "jobs").glob("*/*[0-9].[0-9]/record.json")), "all runs are renamed")
    ground.on(node, "mount -o remount,bind,rw /shared/perun")


def _until(condition: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise ClusterError(f"waited {timeout_s:.0f} s in vain until {what}")
        time.sleep(0.5)


@fault("archive-full", "the archive's file system is full, for agents and collector", "nothing: records wait")
def _archive_full(ground: Ground) -> Iterator[None]:
    fill = ground.file_system / "fill"
    fill.touch()
    with repeated(lambda: _fill(fill), 1):
        yield
    fill.unlink()


def _fill(path: Path) -> None:
    """Take what is free of the file system, down to the last block."""
    for size in (1 << 20, 1 << 12, 1):
        with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\1" * size)


@fault(
    "archive-hanging",
    "the archive's file system is frozen (fsfreeze): writers, the collector among them, hang and cannot be killed",
    "nothing: records wait",
)
def _archive_hanging(ground: Ground) -> Iterator[None]:
    where = str(ground.file_system)
    # Should this process die, somebody else must thaw it.
    subprocess.run(
        ["setsid", "-f", "sh", "-c", f"sleep {LONGEST_FREEZE_S}; fsfreeze -u {where} 2>/dev/null"], check=True
    )
    subprocess.run(["fsfreeze", "-f", where], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "-u", where], check=False)


@fault(
    "policy-garbage",
    "the policy becomes garbage and agents start anew",
    "nothing: the last good policy rules",
)
def _policy_garbage(ground: Ground) -> Iterator[None]:
    policy = ground.cluster.etc_perun / "policy.yaml"
    good = policy.read_bytes()
    policy.write_bytes(b"\0{{{: garbage\n\t- [" * 1000)
    ground.signal_agents("KILL")
    try:
        yield
    finally:
        policy.write_bytes(good)


@fault(
    "series-garbage",
    "the policy's file of prices holds NaN, a Latin-1 byte, a time twice, semicolons, nothing, is a directory, is gone",
    "no joule: a record has the footprint of the last good series, or says why it has none",
)
def _series_garbage(ground: Ground) -> Iterator[None]:
    policy, prices = ground.cluster.etc_perun / "policy.yaml", ground.cluster.etc_perun / "price.csv"
    good = policy.read_text()
    states = itertools.cycle((*SERIES, "directory", None))

    def next_state() -> None:
        state = next(states)
        shutil.rmtree(prices) if prices.is_dir() else prices.unlink(missing_ok=True)
        if state == "directory":
            prices.mkdir()
        elif state is not None:
            prices.write_text(state, encoding="latin-1")

    price = "  price: {series: /etc/perun/price.csv, currency: EUR, source: a market, date: 2026-01-31}"
    _replace(policy, re.sub("(?m)^  price: .*$", price, good))
    try:
        with repeated(next_state, 1):
            yield
    finally:
        _replace(policy, good)
        shutil.rmtree(prices) if prices.is_dir() else prices.unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    """Replace a file in one step, as administrators' editors do."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.chmod(0o644)
    fresh.replace(path)


@fault(
    "python-missing",
    "the installation's interpreter is gone and agents are dead, on all nodes",
    "as with stopped agents: the next agent learns of the jobs from the inbox",
)
def _python_missing(ground: Ground) -> Iterator[None]:
    python = ground.cluster.opt / "bin" / "python"
    away = python.with_name("python.away")
    python.rename(away)
    ground.signal_agents("KILL", ground.cluster.nodes)
    try:
        yield
    finally:
        away.rename(python)


PREFIX_LOSS = (
    "as with stopped agents: hooks, plugin and perun-launch are on the nodes' own disks; messages wait in the inbox, "
    "flagged steps run without measurement and say so"
)


@fault(
    "prefix-missing",
    "the installation prefix, a shared file system, is not there on two nodes, and agents are dead",
    PREFIX_LOSS,
)
def _prefix_missing(ground: Ground) -> Iterator[None]:
    ground.hooks_on_nodes()
    ground.stop_agents()
    ground.on_broken(f"mount -t tmpfs none {site.PREFIX}")
    try:
        yield
    finally:
        ground.on_broken(f"umount -l {site.PREFIX}")


@fault(
    "prefix-hung",
    "the installation prefix never answers on two nodes (a FUSE file system without its server), and agents are dead",
    PREFIX_LOSS,
)
def _prefix_hung(ground: Ground) -> Iterator[None]:
    ground.hooks_on_nodes()
    ground.stop_agents()
    with contextlib.ExitStack() as stack:
        for node in ground.broken:
            stack.enter_context(hanging(ground.cluster, node, site.PREFIX))
        yield


@fault(
    "plugin-missing",
    "perun_spank.so is gone",
    "the flag: `srun --perun` is refused as unknown, so no flagged steps ran; jobs without it lose nothing",
    flagged=False,
    fast=True,
)
def _plugin_missing(ground: Ground) -> Iterator[None]:
    plugin = ground.cluster.opt / "lib" / "perun" / "perun_spank.so"
    plugin.rename(plugin.with_suffix(".away"))
    try:
        yield
    finally:
        plugin.with_suffix(".away").rename(plugin)


@fault(
    "plugin-wrong-version",
    "perun_spank.so was built for Slurm 23.11",
    "the flag, as above: Slurm skips the optional plugin",
    flagged=False,
    fast=True,
)
def _plugin_wrong(ground: Ground) -> Iterator[None]:
    build = CHECKOUT / "build" / "wrong-plugin"
    build.mkdir(parents=True, exist_ok=True)
    header = build / "version.h"
    header.write_text(
        "#include <slurm/slurm_version.h>\n#undef SLURM_VERSION_NUMBER\n#define SLURM_VERSION_NUMBER 0x170b00\n"
    )
    make = ["make", "-s", "-B", "-C", str(CHECKOUT / "slurm"), f"BUILD={build}", f"CFLAGS=-include {header}"]
    subprocess.run([*make, f"{build}/perun_spank.so"], check=True)
    plugin = ground.cluster.opt / "lib" / "perun" / "perun_spank.so"
    plugin.rename(plugin.with_suffix(".away"))
    shutil.copy(build / "perun_spank.so", plugin)
    try:
        yield
    finally:
        plugin.with_suffix(".away").rename(plugin)


@fault(
    "nvml-hanging",
    "a libnvidia-ml.so.1 whose calls never return, on two nodes whose policy asks for NVML",
    "nothing of CPU and memory: NVML is asked by a child that may hang",
)
def _nvml_hanging(ground: Ground) -> Iterator[None]:
    source = CHECKOUT / "build" / "hanging_nvml.c"
    names = (
        "nvmlInit",
        "nvmlInit_v2",
        "nvmlInitWithFlags",
        "nvmlSystemGetDriverVersion",
        "nvmlDeviceGetCount_v2",
        "nvmlShutdown",
    )
    calls = "".join(f"int {name}(void) {{ for (;;) pause(); }}\n" for name in names)
    source.write_text(f"#include <unistd.h>\n{calls}")
    library = ground.cluster.etc_perun / "hanging_nvml.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    policy = ground.cluster.etc_perun / "policy.yaml"
    good = policy.read_text()
    policy.write_text(good.replace("backends: [powercap]", "backends: [powercap, nvml]"))
    ground.on_broken(f"cp /etc/perun/hanging_nvml.so {NVML} && ldconfig")
    ground.stop_agents()
    try:
        yield
    finally:
        policy.write_text(good)
        ground.on_broken(f"rm {NVML} && ldconfig")
        library.unlink()
        ground.stop_agents()


@fault(
    "clock-forward",
    "the clock of agents and collector steps an hour ahead while jobs run, and back at the end (libfaketime)",
    "nothing of the energy, which rests on the monotonic clock; times of day are what the clock said",
)
def _clock_forward(ground: Ground) -> Iterator[None]:
    with _clock(ground, "+3600"):
        yield


@fault(
    "clock-back",
    "the clock of agents and collector steps an hour back while jobs run, and forward at the end (libfaketime)",
    "as above",
)
def _clock_back(ground: Ground) -> Iterator[None]:
    with _clock(ground, "-3600"):
        yield


@contextlib.contextmanager
def _clock(ground: Ground, offset_s: str) -> Iterator[None]:
    """Agents and collector with a clock of their own; the hooks are static and read the monotonic clock only."""
    offset = ground.cluster.shared / "faketime"

    def step(to: str) -> None:
        fresh = offset.with_suffix(".new")
        fresh.write_text(f"{to}\n")
        fresh.chmod(0o644)
        fresh.replace(offset)

    step("+0")
    fake = [f"LD_PRELOAD={LIBFAKETIME}", "FAKETIME_TIMESTAMP_FILE=/shared/faketime", "FAKETIME_CACHE_DURATION=1"]
    fake += REAL_WAITS
    ground.stop_agents()
    words = ["exec setsid env -i PATH=/usr/bin:/bin LANG=C.UTF-8", *fake]
    python = f"{site.PREFIX}/bin/python -I -S {site.PREFIX}/libexec/perun/isolated.py"
    agent = " ".join([*words, f"{python} perun_hpc.agent"])
    ground.on_broken(f"setsid -f sh -c '{agent}' </dev/null >/dev/null 2>&1")
    ground.restart_collector(fake)
    timer = threading.Timer(3, lambda: step(offset_s))
    timer.start()
    ground.later.callback(ground.restart_collector)
    ground.later.callback(ground.stop_agents)
    try:
        yield
    finally:
        timer.join()
        step("+0")


@fault(
    "cpu-time-back",
    "the busy time of every other CPU of two nodes goes backwards, and forth, ten times a second",
    "nothing: such an interval is shared out by the jobs' own CPU times, and the record says so",
    fast=True,
)
def _cpu_time_back(ground: Ground) -> Iterator[None]:
    for node in ground.broken:
        ground.cluster.simulate(node, "stat_jumps")
    try:
        yield
    finally:
        for node in ground.broken:
            ground.cluster.simulate(node, "stat_steady")


@fault("slurmd-restarted", "slurmd of two nodes is restarted every 4 s", "nothing", of_slurm=True)
def _slurmd_restarted(ground: Ground) -> Iterator[None]:
    def again() -> None:
        ground.cluster.restart("slurmd", *ground.broken)

    with repeated(again, 4):
        yield


@fault("slurmctld-restarted", "slurmctld is restarted every 15 s", "nothing", of_slurm=True)
def _slurmctld_restarted(ground: Ground) -> Iterator[None]:
    with repeated(lambda: ground.cluster.restart("slurmctld"), 15):
        yield


@fault("slurmdbd-down", "slurmdbd is down while jobs run", "nothing: Slurm's own facts (state, exit code) come later")
def _slurmdbd_down(ground: Ground) -> Iterator[None]:
    ground.cluster.stop("slurmdbd")
    try:
        yield
    finally:
        ground.cluster.start("slurmdbd")


@fault(
    "slurmdbd-weeks",
    f"slurmdbd is down while jobs run, and comes back with {UNSEEN:,} jobs of the last three weeks that no node ever "
    "reported (rows put into its database); so long the collector has compared nothing",
    "nothing: each of them gets a record that says `no node reported this job`",
)
def _slurmdbd_weeks(ground: Ground) -> Iterator[None]:
    ground.cluster.stop("slurmdbd")
    now_s = int(time.time())
    above = UNSEEN_FROM + now_s // 60 % 1000 * 10_000  # others than another time on the same ground
    ground.sql(_UNSEEN_JOBS.format(cluster=ground.cluster.name, until_s=now_s - 60, above=above))
    ground.perun_python(
        "from perun_hpc.accounting.ledger import open_ledger\n"
        "from perun_hpc.accounting.site import load_site\n"
        "ledger = open_ledger(load_site().ledger, create=True)\n"
        f"ledger.marks.set_compared({ground.cluster.name!r}, {now_s - WEEKS_S})\n"
    )
    ground.later.callback(ground.sql, f"DELETE FROM `{ground.cluster.name}_job_table` WHERE id_job > {UNSEEN_FROM}")
    ground.looks.append(lambda healed: _caught_up(ground, range(above + 1, above + UNSEEN + 1), healed))
    try:
        yield
    finally:
        ground.cluster.start("slurmdbd")


def _caught_up(ground: Ground, unseen: range, healed: float) -> tuple[str, list[str]]:
    """Wait until every job that nobody reported has its record; how long that took, and the collector's memory."""
    told: set[int] = set()
    while len(told) < UNSEEN and time.monotonic() < healed + CAUGHT_UP_S:
        time.sleep(1)
        names = {path.name.split(".")[0] for path in (ground.archive / "jobs").glob("*/*.*")}
        told = {int(name) for name in names if name.isdigit() and int(name) in unseen}
    took_s = time.monotonic() - healed
    records = [ground.record(job, 0) for job in sorted(told)]
    wrong = sum(record is None or (record["status"], record["energy_uj"]) != ("missing", None) for record in records)
    status = ground.on(None, f"cat /proc/{site.collector_pid(ground.cluster)}/status")
    most_b = int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10
    errors = []
    if wrong or len(told) < UNSEEN:
        errors.append(f"of {UNSEEN} jobs that nobody reported {len(told)} have a record, {wrong} of these a wrong one")
    if most_b > COLLECTOR_B:
        errors.append(f"the collector took {most_b >> 20} MiB")
    return (
        f"{len(told):,} of {UNSEEN:,} jobs that nobody reported had records {took_s:.0f} s after slurmdbd came back; "
        f"the collector took {most_b >> 20} MiB at most"
    ), errors


@fault(
    "node-killed",
    "one node is killed while jobs run and boots again",
    "runs on that node end at its last saved reading, partial; Slurm itself requeues batch jobs and fails srun",
    of_slurm=True,
)
def _node_killed(ground: Ground) -> Iterator[None]:
    node = ground.broken[1]
    killed = threading.Event()

    def kill() -> None:
        ground.cluster.kill_node(node)
        killed.set()
        time.sleep(5)
        ground.cluster.start_node(node, wait=False)

    timer = threading.Timer(3, kill)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@fault(
    "collector-killed",
    "kill -9 of the collector every 0 to 4 s, another is started",
    "nothing",
    fast=True,
)
def _collector_killed(ground: Ground) -> Iterator[None]:
    def kill() -> None:
        time.sleep(random.uniform(0, 4))  # at any moment of its start and of its sweeps
        ground.restart_collector()

    with repeated(kill, 0):
        yield


@fault("two-epilogs", "every prolog and epilog of two nodes runs twice at once", "nothing")
def _two_epilogs(ground: Ground) -> Iterator[None]:
    ground.on_broken("touch /run/perun-twice")
    yield
    ground.on_broken("rm /run/perun-twice")


@fault(
    "stale-files",
    f"{CLUTTER} dead sockets and files each in the run directory, the inbox, the spool and its sessions, on two nodes",
    "nothing; with a full inbox a message that could not be delivered would be lost",
    fast=True,
)
def _stale_files(ground: Ground) -> Iterator[None]:
    ground.on_broken(
        f"{site.PREFIX}/bin/python -c '\n"
        "import os, socket\n"
        'for where in ("/run/perun", "/run/perun/inbox", "/var/spool/perun", "/var/spool/perun/sessions"):\n'
        "    os.chdir(where)\n"
        f"    for number in range({CLUTTER} // 2):\n"
        '        socket.socket(socket.AF_UNIX).bind(f"stale-{number}.sock")\n'
        '        open(f"stale-{number}.msg", "w").write("perun1\\0job-start\\0job_id")\n'
        '    os.mkdir("stale-directory")\n'
        "'"
    )
    sweep = "for d in /run/perun /var/spool/perun; do find $d -name 'stale-*' -delete; done"
    ground.later.callback(ground.on_broken, sweep)
    ground.stop_agents()
    ground.start_agents()
    yield
