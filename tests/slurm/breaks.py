"""What can be broken on the test cluster, one thing at a time, and the checks of `perun doctor` that must notice it.

Every break is real: a file, a mount, a process, a line of Slurm's configuration. Only node `n3` and the controller are
looked at.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from devcluster import Cluster, site
from tests.faults.ground import hanging

NODE = "n3"
PERUN = f"{site.PREFIX}/bin/perun"
LIBEXEC = f"{site.PREFIX}/libexec/perun"
PLUGIN = f"{site.PREFIX}/lib/perun/perun_spank.so"
SPOOL = "/var/spool/perun"
GONE_HOOK = "/etc/slurm/gone-hook"
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"

Breaking = Callable[[Cluster], AbstractContextManager[object]]


@dataclass(frozen=True)
class Break:
    """One thing that is broken: how, on which host it is looked for, which checks notice it and what they name."""

    what: str
    how: Breaking
    keys: frozenset[str]
    names: str
    host: str | None = NODE
    env: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    program: tuple[str, ...] = (PERUN,)


def on(cluster: Cluster, host: str | None, script: str, check: bool = True) -> str:
    """Run a shell script as root on a host; returns what it printed."""
    return cluster.run(["sh", "-c", script], user="root", node=host, check=check, timeout=60).stdout


def until(what: str, done: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {what}"
        time.sleep(0.1)


def script(host: str | None, do: str, undo: str) -> Breaking:
    """A break by a shell script, and what takes it back."""

    @contextlib.contextmanager
    def broken(cluster: Cluster) -> Iterator[None]:
        try:
            on(cluster, host, do)
            yield
        finally:
            on(cluster, host, undo)

    return broken


def idle_agent(host: str, do: str, undo: str) -> Breaking:
    """The same, on a node whose agent has ended."""
    return script(
        host, f"{PERUN} agent stop 2>/dev/null; while pgrep -P 1 -f '[p]erun_hpc.agent'; do sleep 0.1; done; {do}", undo
    )


def covered(path: str, content: str = "/dev/null", host: str = NODE) -> Breaking:
    """Another file lies over a path, on one node only."""
    return script(host, f"mount --bind {content} {path}", f"umount {path}")


def rewritten(path: str, program: str, host: str = NODE) -> Breaking:
    """A copy of a file, changed by sed or another filter, lies over it, on one node only."""
    copy = "/tmp/doctor-copy"
    do = f"{program} <{path} >{copy}; chmod --reference={path} {copy}; mount --bind {copy} {path}"
    return script(host, do, f"umount {path}")


def slurm_conf(*lines: str, without: str = "") -> Breaking:
    """Lines of slurm.conf beside those of the installation, or in the place of one, read by a reconfigure."""

    @contextlib.contextmanager
    def broken(cluster: Cluster) -> Iterator[None]:
        kept = [line for line in site.SLURM_CONF if not (without and line.startswith(without))]
        try:
            cluster.configure([*kept, *lines])
            cluster.reconfigure()
            yield
        finally:
            cluster.configure(site.SLURM_CONF)
            cluster.reconfigure()

    return broken


@contextlib.contextmanager
def _replaced(path: Path, old: str, new: str) -> Iterator[None]:
    """Another text in a file that has the old one, for as long as it takes."""
    good = path.read_text()
    assert old in good
    try:
        path.write_text(good.replace(old, new))
        yield
    finally:
        path.write_text(good)


def cgroup_conf(old: str, new: str) -> Breaking:
    """Another line of cgroup.conf, read by a reconfigure."""

    @contextlib.contextmanager
    def broken(cluster: Cluster) -> Iterator[None]:
        try:
            with _replaced(cluster.etc_slurm / "cgroup.conf", old, new):
                cluster.reconfigure()
                yield
        finally:
            cluster.reconfigure()

    return broken


def plugstack(*lines: str) -> Breaking:
    """Other lines of plugstack.conf."""

    @contextlib.contextmanager
    def broken(cluster: Cluster) -> Iterator[None]:
        try:
            cluster.configure(None, lines)
            yield
        finally:
            cluster.configure(None, site.PLUGSTACK)

    return broken


def policy(old: str, new: str) -> Breaking:
    """Other lines of the policy."""

    return lambda cluster: _replaced(cluster.etc_perun / "policy.yaml", old, new)


def hangs(path: str) -> Breaking:
    """A file system that answers nothing is mounted there."""

    def broken(cluster: Cluster) -> AbstractContextManager[None]:
        on(
            cluster,
            NODE,
            f"{PERUN} agent stop 2>/dev/null; while pgrep -P 1 -f '[p]erun_hpc.agent'; do sleep 0.1; done",
        )
        return hanging(cluster, NODE, path)

    return broken


@contextlib.contextmanager
def gone_hook(cluster: Cluster) -> Iterator[None]:
    """EpilogSlurmctld's file is removed; newer Slurms do not even take a name that there is none of."""
    on(cluster, None, f"install -m 755 /bin/true {GONE_HOOK}")
    with slurm_conf(f"EpilogSlurmctld={GONE_HOOK}")(cluster):
        on(cluster, None, f"mv {GONE_HOOK} {GONE_HOOK}.gone")
        yield
        on(cluster, None, f"mv {GONE_HOOK}.gone {GONE_HOOK}")
    on(cluster, None, f"rm {GONE_HOOK}")


def stopped(daemon: str) -> Breaking:
    """A daemon of the controller's does not run."""

    @contextlib.contextmanager
    def broken(cluster: Cluster) -> Iterator[None]:
        try:
            cluster.stop(daemon)
            yield
        finally:
            cluster.start(daemon)
            cluster.reconfigure()
            cluster.wait_idle()

    return broken


@contextlib.contextmanager
def other_plugin(cluster: Cluster) -> Iterator[None]:
    """A plugin that was built for Slurm 21.08."""
    source = (
        "#include <stdint.h>\n#include <slurm/spank.h>\n"
        "#undef SLURM_VERSION_NUMBER\n#define SLURM_VERSION_NUMBER 0x150800\nSPANK_PLUGIN(perun, 1)\n"
    )
    into = cluster.shared / "old-plugin"
    into.mkdir(exist_ok=True)
    line = ["gcc", "-shared", "-fPIC", "-xc", "-", "-o", str(into / "perun_spank.so")]
    subprocess.run(line, input=source, text=True, check=True, timeout=60)
    with plugstack(f"optional /shared/old-plugin/perun_spank.so prefix={site.PREFIX}")(cluster):
        yield
    shutil.rmtree(into)


@contextlib.contextmanager
def other_script(cluster: Cluster) -> Iterator[None]:
    """The site's own Prolog has taken the place of perun's."""
    path = cluster.etc_slurm / "site-prolog.sh"
    path.write_text("#!/bin/sh\nexit 0\n")
    path.chmod(0o755)
    with slurm_conf("Prolog=/etc/slurm/site-prolog.sh", without="Prolog")(cluster):
        yield
    path.unlink()


def agent_lives(cluster: Cluster) -> None:
    """An agent that answers on the node."""
    on(cluster, NODE, "for p in $(pgrep -P 1 -f -- '[p]erun_hpc.agent'); do kill -CONT $p; done", check=False)
    if cluster.run([PERUN, "agent", "status"], user="root", node=NODE).returncode:
        cluster.run(["srun", "-w", NODE, "true"], check=True)
        cluster.wait_idle(nodes=[NODE])
        until("an agent", lambda: cluster.run([PERUN, "agent", "status"], user="root", node=NODE).returncode == 0)


@contextlib.contextmanager
def agent_stands_still(cluster: Cluster) -> Iterator[None]:
    agent_lives(cluster)
    with script(
        NODE, "kill -STOP $(pgrep -P 1 -f '[p]erun_hpc.agent')", "kill -CONT $(pgrep -P 1 -f '[p]erun_hpc.agent')"
    )(cluster):
        yield


@contextlib.contextmanager
def agent_is_killed_under_a_job(cluster: Cluster) -> Iterator[None]:
    job = cluster.popen(["srun", "-Q", "-w", NODE, "sleep", "600"], "alice")
    try:
        until("the job's agent", lambda: f"{NODE}" in on(cluster, None, f"squeue -h -t R -w {NODE} -o %N"))
        until("an agent", lambda: cluster.run([PERUN, "agent", "status"], user="root", node=NODE).returncode == 0)
        on(cluster, NODE, "kill -KILL $(pgrep -P 1 -f '[p]erun_hpc.agent')")
        yield
    finally:
        on(cluster, None, "scancel -u alice")
        job.wait(60)
        cluster.wait_idle(nodes=[NODE])


@contextlib.contextmanager
def older_agent(cluster: Cluster) -> Iterator[None]:
    """The agent of an older installation still runs."""
    version = f"{site.PREFIX}/lib/python3.*/site-packages/perun_hpc/_version.py"
    copy = f"sed '/version/s/= .*/= \"0.0.1\"/' {version} >/tmp/old-version; mount --bind /tmp/old-version {version}"
    with idle_agent(NODE, copy, "true")(cluster):
        start_agent(cluster)
        until("an agent", lambda: "0.0.1" in on(cluster, NODE, f"{PERUN} agent status", check=False))
        on(cluster, NODE, f"umount {version}")
        yield
        on(cluster, NODE, f"{PERUN} agent stop")


def start_agent(cluster: Cluster) -> None:
    """As the hook does, without a job."""
    agent = f"{site.PREFIX}/bin/python -B -I -S {LIBEXEC}/isolated.py perun_hpc.agent"
    on(cluster, NODE, f"cd /; setsid -f {agent} </dev/null >/dev/null 2>&1")


@contextlib.contextmanager
def agent_as_root(cluster: Cluster) -> Iterator[None]:
    """No account of the service user: the agent cannot become it. Root's files stay in an archive of their own."""
    other = (
        "mkdir -p /tmp/archive; chown --reference=/shared/perun /tmp/archive; mount --bind /tmp/archive /shared/perun"
    )
    lost = f"{other}; sed -i.kept '/^perun:/d' /etc/passwd"
    with idle_agent(NODE, lost, "mv /etc/passwd.kept /etc/passwd; umount /shared/perun")(cluster):
        start_agent(cluster)
        until("an agent", lambda: "root" in on(cluster, NODE, f"{PERUN} agent status", check=False))
        yield
        on(cluster, NODE, "kill -KILL $(pgrep -P 1 -f '[p]erun_hpc.agent')")


@contextlib.contextmanager
def sensor_gone(cluster: Cluster) -> Iterator[None]:
    """A counter that could be read cannot any more."""
    agent_lives(cluster)
    zone = sorted(cluster.simulate(NODE, "values"))[-1]
    try:
        cluster.simulate(NODE, "remove", zone)
        until("no reading", lambda: "no reading" in on(cluster, NODE, f"{PERUN} agent status", check=False))
        yield
    finally:
        cluster.simulate(NODE, "restore", zone)
        until("a reading", lambda: "no reading" not in on(cluster, NODE, f"{PERUN} agent status", check=False))


@contextlib.contextmanager
def no_sensors(cluster: Cluster) -> Iterator[None]:
    """A node without any counter, and no agent that says so."""
    with idle_agent(NODE, "true", "true")(cluster):
        try:
            cluster.simulate(NODE, "remove")
            yield
        finally:
            cluster.simulate(NODE, "restore")


def archive(cluster: Cluster) -> Path:
    return cluster.shared / "perun" / cluster.name


@contextlib.contextmanager
def old_sweep(cluster: Cluster) -> Iterator[None]:
    """The collector hangs since hours."""
    pid, path = site.collector_pid(cluster), archive(cluster) / "sweep.json"
    on(cluster, None, f"kill -STOP {pid}")
    try:
        said = json.loads(path.read_text())
        text = json.dumps({**said, "began_s": said["began_s"] - 7200, "ended_s": said["ended_s"] - 7200})
        on(
            cluster,
            None,
            f"cp -p {_inside(cluster, path)} /tmp/sweep && cat >{_inside(cluster, path)} <<'X'\n{text}\nX",
        )
        yield
    finally:
        on(cluster, None, f"kill -CONT {pid}")


def _inside(cluster: Cluster, path: Path) -> str:
    return f"/shared/{path.relative_to(cluster.shared)}"


@contextlib.contextmanager
def ledger_line(cluster: Cluster) -> Iterator[None]:
    """A line of a node ledger that does not sum up."""
    path = next(one for one in sorted((archive(cluster) / "nodes" / NODE).glob("*.jsonl")) if one.stat().st_size)
    good = path.read_bytes()
    lines = [json.loads(line) for line in good.splitlines()]
    next(line for line in lines if line["total_uj"] is not None)["total_uj"] += 1_000_000
    try:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        yield
    finally:
        path.write_bytes(good)


@contextlib.contextmanager
def collector_as_root(cluster: Cluster) -> Iterator[None]:
    """A second collector was started by root, by mistake."""
    line = [PERUN, "collect", "--daemon", "--archive", "/tmp/archive", "--ledger", "/tmp/ledger.db"]
    on(cluster, None, "mkdir -p /tmp/archive")
    with cluster.popen(line, "root", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        until("a second collector", lambda: len(on(cluster, None, "pgrep -f 'perun collect --daemon'").split()) > 1)
        yield
        running.kill()


@contextlib.contextmanager
def shifted(cluster: Cluster) -> Iterator[None]:
    """What libfaketime needs beside it for Python."""
    source = Path(__file__).parents[1] / "dates/shift.c"
    line = ["gcc", "-shared", "-fPIC", "-o", str(cluster.shared / "shift.so"), str(source)]
    subprocess.run(line, check=True, timeout=60)
    yield
    (cluster.shared / "shift.so").unlink()


LINE = f"optional {PLUGIN} prefix={site.PREFIX}"
ALONE = """
import os, sys
del os.environ["LD_PRELOAD"]
from perun_hpc.cli.main import main
sys.exit(main())
"""
"""perun, whose own clock libfaketime moves, and not that of Slurm's commands: they do not answer in time with it."""
AARCH64 = "{ head -c 18; printf '\\267\\000'; tail -c +3; }"
"""A filter that makes of a program for this processor one for 64-bit ARM: the two bytes of the header that say so."""


def _break(
    what: str, how: Breaking, keys: str, names: str, host: str | None = NODE, options: tuple[str, ...] = ()
) -> Break:
    return Break(what, how, frozenset(keys.split()), names, host, options=options)


BREAKS: dict[str, Break] = {
    "munge": _break(
        "munge's socket is gone", script(NODE, "mount -t tmpfs none /run/munge", "umount /run/munge"), "munge", "munge"
    ),
    "slurmctld": _break("slurmctld is stopped", stopped("slurmctld"), "slurmctld", "slurmctld"),
    "no-prolog": _break("no Prolog in slurm.conf", slurm_conf(without="Prolog"), "prolog", "/etc/slurm/slurm.conf"),
    "no-epilog": _break("no Epilog in slurm.conf", slurm_conf(without="Epilog"), "epilog", "/etc/slurm/slurm.conf"),
    "no-alloc": _break(
        "PrologFlags=Serial", slurm_conf("PrologFlags=Serial"), "prolog-alloc", "Alloc, Contain, DeferBatch"
    ),
    "no-contain": _break(
        "PrologFlags without Contain", slurm_conf("PrologFlags=Alloc,DeferBatch"), "prolog-contain", "Contain"
    ),
    "no-deferbatch": _break(
        "PrologFlags without DeferBatch",
        slurm_conf("PrologFlags=Alloc,Contain"),
        "prolog-deferbatch",
        "DeferBatch",
        None,
    ),
    "short-timeout": _break(
        "PrologEpilogTimeout=1", slurm_conf("PrologEpilogTimeout=1"), "hook-timeout", "PrologEpilogTimeout=1", None
    ),
    "no-task-cgroup": _break(
        "TaskPlugin=task/none", slurm_conf("TaskPlugin=task/none"), "task-plugin", "TaskPlugin=", None
    ),
    "no-cores": _break(
        "ConstrainCores=no",
        cgroup_conf("ConstrainCores=yes", "ConstrainCores=no"),
        "constrain-cores",
        "cgroup.conf",
        None,
    ),
    "other-slurm-conf": _break(
        "another Prolog in one node's slurm.conf",
        rewritten("/etc/slurm/admin.conf", "sed s,/prolog,/prologue,"),
        "slurm-conf",
        "/etc/slurm/slurm.conf",
    ),
    "clock": Break(
        "the node's clock is an hour ahead",
        shifted,
        frozenset({"clock"}),
        "ahead",
        env={"LD_PRELOAD": f"/shared/shift.so {FAKETIME}", "FAKETIME": "+3600s", "FAKETIME_DONT_FAKE_MONOTONIC": "1"},
        program=(f"{site.PREFIX}/bin/python", "-c", ALONE),
    ),
    "drained": _break(
        "Slurm drained a node for its Prolog",
        script(
            None,
            "scontrol update nodename=n4 state=drain reason='Prolog error'",
            "scontrol update nodename=n4 state=resume",
        ),
        "node-drained",
        "n4",
        None,
    ),
    "strange-names": _break(
        "the policy names a partition that is not there",
        policy("monitor:\n", "partitions:\n  ghost:\n    sampling: {period: 2 s}\nmonitor:\n"),
        "policy-names",
        "ghost",
    ),
    "no-flag": _break("no line in plugstack.conf", plugstack(), "plugstack", "/etc/slurm/plugstack.conf"),
    "required": _break(
        "the plugin is required", plugstack(LINE.replace("optional", "required")), "plugin-required", "admin.conf:2"
    ),
    "order": _break(
        "a container plugin stands behind ours",
        plugstack(LINE, "optional /usr/lib/spank_pyxis.so"),
        "plugin-order",
        "admin.conf:2",
    ),
    "no-plugin": _break(
        "the plugin's file is not there", plugstack("optional /opt/none/lib/perun_spank.so"), "plugin-file", "/opt/none"
    ),
    "old-plugin": _break("a plugin for Slurm 21.08", other_plugin, "plugin-loads", "/shared/old-plugin/perun_spank.so"),
    "no-launcher": _break(
        "perun-launch cannot be executed",
        script(None, f"chmod 644 {LIBEXEC}/perun-launch", f"chmod 755 {LIBEXEC}/perun-launch"),
        "launcher",
        f"{LIBEXEC}/perun-launch",
    ),
    "broken-policy": _break(
        "a field of the policy that there is not", policy("  jobs: all\n", "  job: all\n"), "policy", "policy.yaml:4"
    ),
    "no-policy": _break(
        "no policy on the node",
        idle_agent(NODE, "mount -t tmpfs none /etc/perun", "umount /etc/perun"),
        "policy-missing archive",
        "/etc/perun/policy.yaml",
    ),
    "no-service-user": _break(
        "no account of the service user",
        idle_agent(NODE, "sed -i.kept '/^perun:/d' /etc/passwd", "mv /etc/passwd.kept /etc/passwd"),
        "service-user",
        "account perun",
    ),
    "no-reader-user": _break(
        "no account perun-parse",
        script(NODE, "sed -i.kept '/^perun-parse:/d' /etc/passwd", "mv /etc/passwd.kept /etc/passwd"),
        "reader-user",
        "perun-parse",
    ),
    "disabled": _break(
        "the file disable",
        script(NODE, "touch /etc/perun/disable", "rm /etc/perun/disable"),
        "switched-off",
        "/etc/perun/disable",
    ),
    "off": _break("perun off", script(None, f"{PERUN} off {NODE}", f"{PERUN} on {NODE}"), "switched-off", "perun.off"),
    "hook-mode": _break(
        "the Prolog's file has mode 0644",
        script(NODE, f"chmod 644 {LIBEXEC}/prolog", f"chmod 755 {LIBEXEC}/prolog"),
        "hook-file",
        f"{LIBEXEC}/prolog",
    ),
    "hook-gone": _break(
        "the Epilog's file is gone",
        script(NODE, f"mv {LIBEXEC}/epilog /tmp/", f"mv /tmp/epilog {LIBEXEC}/"),
        "hook-file",
        f"{LIBEXEC}/epilog",
    ),
    "hook-replaced": _break("the site's own Prolog alone", other_script, "hook-perun", "site-prolog.sh"),
    "hook-processor": _break(
        "the hook is a program for another processor",
        rewritten(f"{LIBEXEC}/prolog", AARCH64),
        "hook-runs",
        f"{LIBEXEC}/prolog",
    ),
    "hook-hangs": _break(
        "the hooks' file system hangs", hangs(LIBEXEC), "hook-file agent-starts launcher", f"{LIBEXEC}/prolog"
    ),
    "open-prefix": _break(
        "everybody may write into the prefix",
        script(None, f"chmod 777 {site.PREFIX}/lib", f"chmod 755 {site.PREFIX}/lib"),
        "hook-writable",
        f"{site.PREFIX}/lib",
    ),
    "no-spool": _break(
        "no spool", idle_agent(NODE, f"mv {SPOOL} {SPOOL}.away", f"mv {SPOOL}.away {SPOOL}"), "spool", SPOOL
    ),
    "spool-owner": _break(
        "the spool belongs to a user",
        idle_agent(NODE, f"chown alice {SPOOL}", f"chown perun {SPOOL}"),
        "spool",
        "alice",
    ),
    "spool-open": _break(
        "the spool has mode 0777", script(NODE, f"chmod 777 {SPOOL}", f"chmod 711 {SPOOL}"), "spool-open", SPOOL
    ),
    "spool-read-only": _break(
        "the spool is mounted read-only",
        idle_agent(NODE, f"mount --bind {SPOOL} {SPOOL} && mount -o remount,bind,ro {SPOOL}", f"umount {SPOOL}"),
        "spool",
        SPOOL,
    ),
    "spool-full": _break(
        "no space in the spool",
        idle_agent(
            NODE,
            f"mount -t tmpfs -o size=64k none {SPOOL} && chown perun {SPOOL} && chmod 711 {SPOOL}",
            f"umount {SPOOL}",
        ),
        "spool-space",
        SPOOL,
    ),
    "spool-hangs": _break("the spool's file system hangs", hangs(SPOOL), "spool", SPOOL),
    "no-agent-code": _break(
        "the agent's start file is empty", covered(f"{LIBEXEC}/isolated.py"), "agent-starts", site.PREFIX
    ),
    "agent-hangs": _break("the agent stands still", agent_stands_still, "agent-answers", "agent"),
    "agent-killed": _break(
        "the agent was killed under a job", agent_is_killed_under_a_job, "agent-answers", "unmeasured"
    ),
    "agent-old": _break("an older agent still runs", older_agent, "agent-version", "0.0.1"),
    "agent-root": _break("the agent runs as root", agent_as_root, "service-user agent-user", "runs as root"),
    "sensor-gone": _break("a counter is gone while the agent runs", sensor_gone, "agent-losses", "no reading"),
    "no-sensors": _break("a node without counters", no_sensors, "sensors", "no sensor"),
    "inbox": _break(
        "a hook's message waits",
        idle_agent(
            NODE,
            "cd /run/perun/inbox && touch -d '1 hour ago' 1-job-end-1-0.msg",
            "rm /run/perun/inbox/1-job-end-1-0.msg",
        ),
        "inbox",
        "/run/perun/inbox",
    ),
    "static": _break(
        "weeks without an idle half hour",
        idle_agent(NODE, f"touch {SPOOL}/node/2026-01-01.jsonl", f"rm {SPOOL}/node/2026-01-01.jsonl"),
        "static-power",
        "idle power",
    ),
    "archive-gone": _break(
        "the archive is not mounted",
        script(NODE, "mount -t tmpfs none /shared", "umount /shared"),
        "archive",
        "/shared/perun",
    ),
    "archive-read-only": _break(
        "the archive is mounted read-only",
        script(NODE, "mount --bind /shared /shared && mount -o remount,bind,ro /shared", "umount /shared"),
        "archive",
        "/shared/perun",
    ),
    "archive-hangs": _break("the archive's file system hangs", hangs("/shared/perun"), "archive", "/shared/perun"),
    "archive-open": _break(
        "every user may write into the archive",
        script(None, "chmod 777 /shared/perun", "chmod 755 /shared/perun"),
        "archive-open",
        "/shared/perun",
        None,
    ),
    "archive-closed": _break(
        "users cannot pass the archive",
        script(None, "chmod 750 /shared/perun", "chmod 755 /shared/perun"),
        "archive-closed",
        "/shared/perun",
        None,
    ),
    "collector-port": _break(
        "nobody listens where the policy sends hand-overs",
        policy("  archive: /shared/perun\n", "  archive: /shared/perun\n  collector: ctl:6899\n"),
        "collector-reached",
        "ctl:6899",
    ),
    "slurms-port": _break(
        "hand-overs go to the port of slurmrestd",
        policy("  archive: /shared/perun\n", "  archive: /shared/perun\n  collector: ctl:6820\n"),
        "collector-port",
        "ctl:6820",
        None,
    ),
    "collector-hangs": _break("the collector hangs for hours", old_sweep, "collector-runs", "perun collect", None),
    "damaged": _break(
        "a damaged boundary record",
        script(
            None,
            "d=/shared/perun/*/incoming; install -d -o perun $d/999999.0; touch $d/999999.0/n1.json.damaged",
            "rm -r /shared/perun/*/incoming/999999.0",
        ),
        "collector-backlog",
        "999999.0",
        None,
    ),
    "collector-root": _break("a collector runs as root", collector_as_root, "collector-user", "perun collect", None),
    "ledger": _break(
        "the ledger's directory is root's",
        script(None, "chown root /var/lib/perun; chmod 755 /var/lib/perun", "chown perun /var/lib/perun"),
        "ledger",
        "/var/lib/perun",
        None,
    ),
    "audit": _break("a line of a node ledger was changed", ledger_line, "ledger-closes", NODE, None),
    "slurmdbd": _break("slurmdbd is stopped", stopped("slurmdbd"), "slurmdbd", "slurmdbd", None),
    "no-operator": _break(
        "the service user is no operator",
        script(
            None,
            "sacctmgr -i modify user perun set adminlevel=None",
            "sacctmgr -i modify user perun set adminlevel=Operator",
        ),
        "operator",
        "perun",
        None,
    ),
    "no-wake-hook": _break("EpilogSlurmctld names nothing", gone_hook, "epilogslurmctld", GONE_HOOK, None),
    "no-wake": _break(
        "no directory for the collector's socket",
        slurm_conf(f"EpilogSlurmctld={LIBEXEC}/epilogslurmctld"),
        "wake",
        "/run/perun-collect/wake",
        None,
    ),
    "other-policy": _break(
        "another policy on one node",
        rewritten("/etc/perun/policy.yaml", "sed 's/deadline: 30 s/deadline: 31 s/'", "n4"),
        "policy-differs",
        "n4",
        None,
        ("--nodes", "n[1-4]"),
    ),
}
