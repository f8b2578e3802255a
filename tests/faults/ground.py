"""The ground on which faults are tried: a cluster with perun-hpc, and the means to break it."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from devcluster import Cluster, ClusterError, site
from devcluster.daemons import DATABASE_SOCKET

HERE = Path(__file__).resolve().parent
PERUN = f"{site.PREFIX}/bin/perun"
DEADLINE = ("deadline: 30 s", "deadline: 10 s")
IMAGE_B = 1 << 30


class Ground:
    """A cluster whose last two nodes are the ones that get broken.

    `archive` is the archive as the controller sees it; `later` collects what has to be tidied up after a fault whose
    recovery has been measured; `looks` what a fault itself has to see once all has recovered: when that was (monotonic
    seconds) goes in, what is to be said and what went wrong come out.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.sound, self.broken = cluster.nodes[:2], cluster.nodes[2:]
        self.later = contextlib.ExitStack()
        self.looks: list[Callable[[float], tuple[str, list[str]]]] = []

    @property
    def archive(self) -> Path:
        """The cluster's part of the archive, through the controller's own mounts."""
        return Path(f"/proc/{self.cluster.node_pid(None)}/root/shared/perun") / self.cluster.name

    @property
    def file_system(self) -> Path:
        """Where /shared is mounted; only on a ground of our own is it a file system of its own."""
        return self.cluster.shared

    def on(self, node: str | None, script: str, check: bool = True) -> str:
        """Run a shell script as root on a node (None: the controller); returns what it printed."""
        return self.cluster.run(["sh", "-c", script], user="root", node=node, check=check).stdout

    def on_broken(self, script: str, check: bool = True) -> None:
        """Run a shell script as root on every node that is to be broken."""
        for node in self.broken:
            self.on(node, script, check)

    def signal_agents(self, name: str, nodes: Sequence[str] | None = None) -> None:
        """Signal the agents themselves; their children look the same but have them as parents."""
        for node in nodes or self.broken:
            self.on(node, f"for p in $(pgrep -P 1 -f -- '[p]erun_hpc.agent'); do kill -{name} $p; done", check=False)

    def stop_agents(self, nodes: Sequence[str] | None = None) -> None:
        """End the agents in order; the next prolog starts new ones."""
        for node in nodes or self.broken:
            self.on(
                node,
                f"{PERUN} agent stop; for i in $(seq 50); do [ -S /run/perun/agent.sock ] || break; sleep 0.1; done",
                check=False,
            )

    def start_agents(self) -> None:
        """Have a job start the agents of the broken nodes, and wait until they answer."""
        self.cluster.run(["srun", f"-w{','.join(self.broken)}", "true"], check=True, timeout=120)
        self.cluster.wait_idle()
        self.on_broken(f"for i in $(seq 300); do {PERUN} agent status && break; sleep 0.1; done")

    def hooks_on_nodes(self) -> None:
        """Put what slurmd and its tasks open on every host's own disk, until the fault is tidied up."""
        cluster = self.cluster
        stage = cluster.shared / "node-disk"
        line = ["make", "-s", "-C", str(site.CHECKOUT / "slurm"), "install-node", f"PREFIX={site.PREFIX}"]
        subprocess.run([*line, f"DESTDIR={stage}"], check=True)
        for host in (None, *cluster.nodes):
            self.on(host, "cp -a /shared/node-disk/. /; cp -a /opt/perun-hpc/libexec/faults /usr/local/libexec/", False)
        self.later.callback(self.hooks_in, site.PREFIX)
        self.hooks_in("/usr/local")

    def plugstack(self, where: str) -> list[str]:
        """The plugin's line if it lies there."""
        return [line.replace(f"{site.PREFIX}/lib/", f"{where}/lib/") for line in site.PLUGSTACK]

    def hooks_in(self, where: str) -> None:
        """Have Slurm run the hooks (timed on a ground of our own) and load the plugin from there."""
        name = "faults" if (self.cluster.opt / "libexec" / "faults").exists() else "perun"
        conf = [line.replace(f"{site.PREFIX}/libexec/perun", f"{where}/libexec/{name}") for line in site.SLURM_CONF]
        self.cluster.configure(conf, self.plugstack(where))
        self.cluster.reconfigure()
        self.cluster.restart("slurmd")  # reconfigure returns before slurmd has read the file

    def restart_collector(self, environment: Sequence[str] = ()) -> None:
        """Kill the collector and start another, with other variables of the environment if told so."""
        pid = site.collector_pid(self.cluster)
        if pid is not None:
            self.on(None, f"kill -9 {pid}", check=False)
        line = ["setsid", "-f", "sh", "-c", 'exec "$@" >>/var/log/perun/collect.log 2>&1 </dev/null', "sh"]
        words = [*line, "env", *environment, *site.COLLECTOR]
        subprocess.run(self.cluster.command(words, user="perun", foreground=False), check=True)

    def sql(self, statements: str) -> str:
        """Run SQL in slurmdbd's database; returns what the client prints."""
        client = ["mariadb", "--no-defaults", f"--socket={DATABASE_SOCKET}", "-u", "root", "-N", "slurm_acct"]
        return self.cluster.run(client, user="root", cwd="/", timeout=300, input=statements, check=True).stdout

    def perun_python(self, script: str) -> str:
        """Run Python with perun-hpc as the service user on the collector's host."""
        line = [f"{site.PREFIX}/bin/python", "-I", "-c", script]
        return self.cluster.run(line, user="perun", check=True).stdout

    def record(self, job: int, restart: int) -> dict[str, Any] | None:
        """The energy record of a job run, None while there is none."""
        try:
            found: dict[str, Any] = json.loads((self._directory(job, restart) / "record.json").read_text())
        except (OSError, ValueError):
            return None
        return found

    def _directory(self, job: int, restart: int) -> Path:
        """The run's directory, under whatever name."""
        bare = self.archive / "jobs" / f"{int(job) // 1000}" / f"{job}.{restart}"
        return next(iter(bare.parent.glob(f"{bare.name}@*")), bare)

    def gaps(self, job: int, restart: int) -> set[str]:
        """Why there are gaps in a job run's boundary records, and what they note."""
        files = (self._directory(job, restart) / "boundary").glob("*.json")
        records = [json.loads(path.read_text()) for path in files]
        notes = {note for record in records for note in record.get("notes", ())}
        return {f"gap: {gap['why']}" for record in records for gap in record["gaps"]} | notes

    def audit(self) -> set[str]:
        """What `perun audit` finds."""
        done = self.cluster.run([PERUN, "audit", "--json"], user="perun", timeout=120)
        try:
            findings = json.loads(done.stdout)["findings"]
        except ValueError:
            return {f"the audit failed: {(done.stderr or done.stdout).strip()[-200:]}"}
        return {" ".join(str(value) for value in finding.values() if value is not None) for finding in findings}

    def hook_runs(self) -> dict[str, int]:
        """How many bytes each node's log of hooks has."""
        return {node: (path.stat().st_size if (path := self._hook_log(node)).exists() else 0) for node in self.broken}

    def hook_times(self, since: dict[str, int]) -> list[tuple[str, float, int]]:
        """Hook runs on broken nodes since then: name, wall time in ms, wait status."""
        found = []
        for node, offset in since.items():
            if self._hook_log(node).exists():
                for line in self._hook_log(node).read_bytes()[offset:].decode().splitlines():
                    name, begin, end, status, _ = line.split()
                    found.append((name, (int(end) - int(begin)) / 1e6, int(status)))
        return found

    def _hook_log(self, node: str) -> Path:
        return self.cluster.log_dir(node) / "perun" / "hooks"


@contextlib.contextmanager
def hanging(cluster: Cluster, node: str, place: str) -> Iterator[None]:
    """A file system that never answers, mounted on a node."""
    line = ["/usr/bin/python3", "-I", "-S", "-c", (HERE.parent / "hanging.py").read_text(), place]
    with cluster.popen(line, "root", node, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        if not holder.stdout.readline():
            raise ClusterError(f"no file system that hangs on {node}")
        yield
        holder.stdin.close()


def teller() -> Callable[[str], None]:
    """What prints a line behind the seconds since now."""
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - begin:6.1f} s] {text}", flush=True)

    return say


@contextlib.contextmanager
def repeated(work: Callable[[], object], period_s: float) -> Iterator[None]:
    """Do something again and again, beside what runs meanwhile."""
    over = threading.Event()

    def body() -> None:
        while not over.is_set():
            with contextlib.suppress(ClusterError, subprocess.SubprocessError, OSError):
                work()
            over.wait(period_s)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def own_ground(name: str, keep: bool, say: Callable[[str], None]) -> Iterator[Ground]:
    """Bring up a cluster for faults only: /shared is a file system of its own, the hooks are timed."""
    cluster = Cluster(name)
    image = cluster.state.parent / f"{name}-shared.img"
    if not (keep and cluster.is_up()):
        _remove(cluster, image)
        image.parent.mkdir(parents=True, exist_ok=True)
        with image.open("wb") as file:
            file.truncate(IMAGE_B)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        cluster.shared.mkdir(parents=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(cluster.shared)], check=True)
        cluster.up(progress=say)
    install(cluster, say)
    try:
        yield Ground(cluster)
    finally:
        if not keep:
            _remove(cluster, image)


def install(cluster: Cluster, say: Callable[[str], None]) -> None:
    """Install perun-hpc with a wrapper around each hook and a collector that does not wait long."""
    site.install(cluster, say)
    policy = cluster.etc_perun / "policy.yaml"
    assert DEADLINE[0] in policy.read_text()
    policy.write_text(policy.read_text().replace(*DEADLINE))
    wrappers = cluster.opt / "libexec" / "faults"
    wrappers.mkdir(parents=True, exist_ok=True)
    compiler = [
        "cc",
        "-static",
        "-O2",
        "-Wall",
        "-Werror",
        "-o",
        str(wrappers / "prolog.new"),
        str(HERE / "timed_hook.c"),
    ]
    subprocess.run(compiler, check=True)
    (wrappers / "prolog.new").replace(wrappers / "prolog")
    shutil.copy(wrappers / "prolog", wrappers / "epilog.new")
    (wrappers / "epilog.new").replace(wrappers / "epilog")
    Ground(cluster).hooks_in(site.PREFIX)
    Ground(cluster).restart_collector()
    for _ in range(20):  # slurmd reads its new configuration a moment later
        cluster.run(["srun", "-N4", "true"], check=True)
        cluster.wait_idle()
        if all((cluster.log_dir(node) / "perun" / "hooks").exists() for node in cluster.nodes):
            return
        time.sleep(0.5)
    raise ClusterError("the hooks were never run")


def _remove(cluster: Cluster, image: Path) -> None:
    """Take everything away, a file system that somebody left behind frozen included."""
    subprocess.run(["fsfreeze", "-u", str(cluster.shared)], check=False, capture_output=True)
    cluster.down(keep_state=True)
    subprocess.run(["umount", str(cluster.shared)], check=False, capture_output=True)
    cluster.down()
    image.unlink(missing_ok=True)
