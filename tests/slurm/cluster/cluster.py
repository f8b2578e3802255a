"""A real Slurm cluster on one machine: :class:`Cluster`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from . import conf, processes, simulator
from .cgroups import CgroupTree
from .processes import ProcessRef

DEFAULT_ROOT = Path("/var/lib/perun-cluster")
DAEMONS = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
HERE = Path(__file__).resolve().parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Completed: TypeAlias = "subprocess.CompletedProcess[str]"


class ClusterError(RuntimeError):
    """The cluster cannot do what was asked; the text names the log to read."""


class Cluster:
    """Four Slurm nodes ``n1``..``n4`` and a controller ``ctl``, each a host in namespaces of its own.

    Parameters
    ----------
    name
        Names the cluster on this machine: letters, digits and ``-``, at most 20.
    root
        Directory of all clusters' states; default ``$PERUN_CLUSTER_ROOT`` or ``/var/lib/perun-cluster``.
    nodes
        Number of nodes.
    extra_slurm_conf, plugstack
        The administrator's lines, see :meth:`configure`; None leaves what is there.

    Notes
    -----
    The object holds no state of its own: several objects, also in several processes, may speak to one cluster.
    """

    def __init__(
        self,
        name: str,
        root: Path | str | None = None,
        *,
        nodes: int = 4,
        extra_slurm_conf: Sequence[str] | None = None,
        plugstack: Sequence[str] | None = None,
    ) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,19}", name):
            raise ValueError(f"cluster name {name!r}: use up to 20 letters, digits and '-'")
        self.name = name
        base = Path(root or os.environ.get("PERUN_CLUSTER_ROOT") or DEFAULT_ROOT).resolve()
        self.state = base / name
        suffix = "" if base == DEFAULT_ROOT else f"-{uuid.uuid5(uuid.NAMESPACE_URL, str(base)).hex[:6]}"
        self.tag = f"perun-{name}{suffix}"
        """Name of the cluster's cgroups, unique on the machine."""
        self.nodes = [f"n{i}" for i in range(1, nodes + 1)]
        self.hosts = [conf.CONTROLLER, *self.nodes]
        self.live = Path("/dev/shm") / self.tag
        self.cgroups = CgroupTree(self.tag)
        self._extra_slurm_conf = extra_slurm_conf
        self._plugstack = plugstack

    # ------------------------------------------------------------------------------------------------- where things are

    @property
    def shared(self) -> Path:
        """The machine's path of the nodes' ``/shared``."""
        return self.state / "shared"

    @property
    def home(self) -> Path:
        """The machine's path of the nodes' ``/home``."""
        return self.state / "home"

    @property
    def opt(self) -> Path:
        """The machine's path of the nodes' ``/opt/perun-hpc``."""
        return self.state / "opt" / "perun-hpc"

    @property
    def etc_perun(self) -> Path:
        """The machine's path of the nodes' ``/etc/perun``."""
        return self.state / "etc" / "perun"

    @property
    def etc_slurm(self) -> Path:
        """The machine's path of the nodes' ``/etc/slurm``."""
        return self.state / "etc" / "slurm"

    def log_dir(self, host: str) -> Path:
        """The machine's path of a host's ``/var/log``."""
        return self.state / "log" / host

    def spool_dir(self, host: str) -> Path:
        """The machine's path of a host's ``/var/spool``."""
        return self.state / "spool" / host

    def host_path(self, host: str, path: str) -> Path:
        """The machine's path of any file of a running host, by /proc (its symbolic links are not resolved)."""
        return Path(f"/proc/{self.node_pid(host)}/root{path}")

    @property
    def served(self) -> simulator.ServedLog:
        """The log of every energy value that the simulator served."""
        return simulator.ServedLog(self.state / "simulator")

    # ---------------------------------------------------------------------------------------------------- up and down

    def up(self, progress: Callable[[str], None] | None = None, timeout: float = 90.0) -> None:
        """Bring the cluster up until all nodes are idle; at once if it is up already.

        Raises
        ------
        ClusterError
            If a daemon does not come up within ``timeout`` seconds.
        """
        say = progress or (lambda _: None)
        if os.geteuid() != 0:
            raise ClusterError("the cluster needs root: it makes namespaces and cgroups")
        with self._lock():
            if self.is_up():
                self.configure(self._extra_slurm_conf, self._plugstack)
                say(f"cluster {self.name} is up already")
                return
            if self._leftovers():
                say("cleaning up after a cluster that did not end well")
                self._end_everything()
            deadline = time.monotonic() + timeout
            try:
                self._start(say, deadline)
            except BaseException:
                self._end_everything()
                raise

    def down(self, keep_logs: bool = False, keep_state: bool = False) -> None:
        """End every process of the cluster and remove its cgroups, mounts and files.

        Parameters
        ----------
        keep_logs
            Leave ``<state>/log`` and the simulator's logs.
        keep_state
            Leave the whole state directory (homes, database, spools): the next ``up`` continues from there.
        """
        with self._lock():
            if keep_state and self.is_up():
                self._stop_daemons()
            self._end_everything()
            if not keep_state:
                for entry in list(self.state.iterdir()) if self.state.exists() else []:
                    if keep_logs and entry.name in ("log", "simulator"):
                        continue
                    shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
                with contextlib.suppress(OSError):
                    self.state.rmdir()
            self._lock_file.unlink()
        with contextlib.suppress(OSError):
            self.state.parent.rmdir()

    def is_up(self) -> bool:
        """Whether all hosts, the simulator and the controller's daemons run."""
        record = self._record()
        hosts = record.get("hosts", {})
        if set(hosts) != set(self.hosts) or "simulator" not in record:
            return False
        running = [ProcessRef(*pair) for pair in (*hosts.values(), record["simulator"])]
        return all(map(processes.alive, running)) and all(
            self.daemon_pid(daemon, conf.CONTROLLER) is not None for daemon in DAEMONS[:4]
        )

    def status(self) -> dict[str, Any]:
        """Tell what runs: hosts' first processes, node states as Slurm sees them, directories."""
        up = self.is_up()
        return {
            "name": self.name,
            "up": up,
            "hosts": {host: pair[0] for host, pair in self._record().get("hosts", {}).items()},
            "states": self.states() if up else {},
            "state_dir": str(self.state),
            "cgroup": self.tag,
        }

    # ------------------------------------------------------------------------------------------------ using the cluster

    def command(
        self,
        argv: Sequence[str],
        user: str = "root",
        node: str | int | None = None,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        foreground: bool = True,
    ) -> list[str]:
        """Return the command line that runs ``argv`` inside a host, for subprocess and friends.

        The environment is a login's (PATH, HOME, USER, LOGNAME, SHELL, LANG) plus ``env``; ``cwd`` defaults to the home.
        With ``foreground`` the command is killed when the process started with this line is.
        """
        host = self._host(node)
        if user == "root":
            home, shell = "/root", "/bin/bash"
            identity = ["setpriv"]
        else:
            who = conf.users()[user]
            home, shell = who.home, who.shell
            identity = ["setpriv", f"--reuid={who.uid}", f"--regid={who.uid}", "--init-groups"]
        if foreground:
            identity.append("--pdeathsig=KILL")
        variables = {
            "PATH": PATH,
            "HOME": home,
            "USER": user,
            "LOGNAME": user,
            "SHELL": shell,
            "LANG": "C.UTF-8",
            "TERM": os.environ.get("TERM", "dumb"),
            **(env or {}),
        }
        where = cwd or (home if user in ("root", "alice", "bob") else "/")
        join = " ".join(str(path) for path in self.cgroups.join_files(host))
        return [
            *("/bin/sh", "-c", f'for f in {join}; do echo $$ >"$f"; done; exec "$@"', "sh"),
            *("nsenter", "-t", str(self.node_pid(host)), "-m", "-u", "-i", "-n", "-p", "-C", "--"),
            *identity,
            *("env", "-i", "-C", where, *(f"{key}={value}" for key, value in variables.items())),
            *argv,
        ]

    def run(
        self,
        argv: Sequence[str],
        user: str = "alice",
        node: str | int | None = None,
        timeout: float | None = 60.0,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        input: str | None = None,
        check: bool = False,
    ) -> Completed:
        """Run a command in a host (default: the controller, which is the login node too) and wait for it.

        Raises
        ------
        subprocess.TimeoutExpired
            After ``timeout`` seconds; the command is killed.
        ClusterError
            If ``check`` and the command failed.
        """
        line = self.command(argv, user, node, env, cwd)
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout, input=input or "", check=False)
        done.args = list(argv)
        if check and done.returncode != 0:
            raise ClusterError(f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def popen(self, argv: Sequence[str], user: str = "alice", node: str | int | None = None, **more: Any) -> Any:
        """Start a command in a host; ``env`` and ``cwd`` as in :meth:`run`, the rest goes to subprocess.Popen."""
        line = self.command(argv, user, node, more.pop("env", None), more.pop("cwd", None))
        return subprocess.Popen(line, **more)

    def states(self) -> dict[str, str]:
        """State of every node as sinfo says it: ``idle``, ``mix``, ``alloc``, ``down*``, ``drain``, ..."""
        done = self.run(["sinfo", "-h", "-N", "-p", "main", "-o", "%N %t"], user="root", timeout=15, check=True)
        return dict(line.split()[:2] for line in done.stdout.splitlines())

    def wait_idle(self, timeout: float = 60.0, nodes: Sequence[str] | None = None) -> None:
        """Wait until nodes (default: all) are idle."""
        self._wait(
            lambda: self._idle(set(nodes or self.nodes)), time.monotonic() + timeout, "all nodes idle", period_s=0.05
        )

    def wait_job(self, job: str | int, timeout: float = 60.0) -> str:
        """Wait until a job has left the queue; its final state as scontrol tells it."""
        deadline = time.monotonic() + timeout
        while True:
            done = self.run(["squeue", "-h", "-a", "-t", "all", "-j", str(job), "-o", "%T"], user="root", timeout=15)
            states = set(done.stdout.split())
            if not states & {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "STOPPED"}:
                return ",".join(sorted(states)) or "UNKNOWN"
            if time.monotonic() > deadline:
                raise ClusterError(f"job {job} is still {states} after {timeout} s")
            time.sleep(0.1)

    # ------------------------------------------------------------------------------------------------ the administrator

    def configure(self, slurm_conf: Sequence[str] | None = None, plugstack: Sequence[str] | None = None) -> None:
        """Write the administrator's lines: the whole of admin.conf and of plugstack.conf.d/admin.conf; None keeps them.

        Running daemons read slurm.conf's lines at :meth:`reconfigure` (EpilogSlurmctld: ``restart('slurmctld')``);
        plugstack.conf is read by every srun, sbatch and slurmstepd.
        """
        (self.etc_slurm / "plugstack.conf.d").mkdir(parents=True, exist_ok=True)
        for path, lines in (
            (self.etc_slurm / "admin.conf", slurm_conf),
            (self.etc_slurm / "plugstack.conf.d" / "admin.conf", plugstack),
        ):
            if lines is not None or not path.exists():
                text = "".join(f"{line}\n" for line in ("# the administrator's lines", *(lines or ())))
                path.write_text(text)

    def reconfigure(self) -> None:
        """Have all daemons read slurm.conf again (``scontrol reconfigure``)."""
        self.run(["scontrol", "reconfigure"], user="root", check=True)

    def restart(self, daemon: str, *nodes: str | int, kill: bool = False, timeout: float = 30.0) -> None:
        """Stop and start one daemon; ``slurmd`` on the given nodes (default: all). ``kill`` crashes it first.

        After slurmctld the daemons are told to reconfigure: without that 22.05 shows all nodes as unknown for 5 s.
        """
        hosts = [self._host(node) for node in nodes] or (self.nodes if daemon == "slurmd" else [conf.CONTROLLER])
        for host in hosts:
            self.stop(daemon, host, kill=kill, timeout=timeout)
        for host in hosts:
            self.start(daemon, host, timeout=timeout)
        if daemon == "slurmctld":
            self.reconfigure()

    def stop(self, daemon: str, node: str | int | None = None, kill: bool = False, timeout: float = 30.0) -> None:
        """Stop one daemon of a host (default: the controller) and wait for its end."""
        host = self._host(node)
        pid = self.daemon_pid(daemon, host)
        if pid is not None:
            process = processes.reference(pid)
            if not processes.kill(process, 9 if kill else 15, timeout):
                raise ClusterError(f"{daemon} on {host} does not end; see {self.log_dir(host)}")

    def start(self, daemon: str, node: str | int | None = None, timeout: float = 30.0) -> None:
        """Start one daemon of a host (default: the controller) and wait until it answers."""
        host = self._host(node)
        deadline = time.monotonic() + timeout
        getattr(self, f"_start_{daemon}")(host)
        self._wait(lambda: self._answers(daemon, host), deadline, f"{daemon} on {host}")

    def daemon_pid(self, daemon: str, node: str | int | None = None) -> int | None:
        """The machine's pid of a host's daemon, None if it does not run."""
        wanted = daemon[:15]
        for pid in sorted(self.cgroups.processes(self._host(node))):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == wanted and processes.start_ticks(pid) is not None:
                    return pid
        return None

    def node_pid(self, node: str | int | None) -> int:
        """The machine's pid of a host's first process.

        Raises
        ------
        ClusterError
            If the host does not run.
        """
        host = self._host(node)
        pair = self._record().get("hosts", {}).get(host)
        if pair is None or not processes.alive(ProcessRef(*pair)):
            raise ClusterError(f"host {host} of cluster {self.name} does not run: start it with 'up'")
        return int(pair[0])

    def kill_node(self, node: str | int) -> None:
        """Crash a node: kill -9 of its first process; the kernel ends everything in it."""
        host = self._host(node)
        processes.kill(ProcessRef(*self._record()["hosts"][host]))
        self.cgroups.kill(host)

    def start_node(self, node: str | int, timeout: float = 60.0, wait: bool = True) -> None:
        """Boot a node after :meth:`kill_node`: new boot id, counters and /tmp anew, /var/spool as it was."""
        host = self._host(node)
        self.cgroups.kill(host)
        self.cgroups.remove(host, keep_parent=True)
        self.simulate(host, "power_cycle")
        self._boot([host])
        self._connect([host])
        self._start_slurmd(host)
        if wait:
            self.wait_idle(timeout, [host])

    # -------------------------------------------------------------------------------------------------- the simulator

    def simulate(self, node: str | int, do: str, zone: str | None = None, **values: int) -> dict[str, int | None]:
        """Turn a knob of a node's simulated counters; returns the values served afterwards (None: removed).

        ``do``: ``values`` (nothing), ``freeze``, ``thaw``, ``set`` (``value_uj=``; 0 is a reset), ``remove``, ``restore``,
        ``mode`` (``mode=``), ``power_cycle``. ``zone`` None means all four.
        """
        control = self.live / "control"
        return simulator.send(control, {"node": self._host(node), "do": do, "zone": zone, **values})

    # ------------------------------------------------------------------------------------------------------- starting

    def _start(self, say: Callable[[str], None], deadline: float) -> None:
        fresh = self._write_state()
        say("starting hosts " + " ".join(self.hosts))
        for host in self.hosts:
            self.cgroups.create(host)
        self._start_simulator(deadline)
        self._boot(self.hosts)
        self._connect(self.nodes, bridge=True)
        ctl = conf.CONTROLLER
        say("starting munge and MariaDB")
        self._start_munged(ctl)
        if fresh:
            self._create_database()
        self._start_mariadbd(ctl)
        self._wait(lambda: self._answers("munged", ctl), deadline, "munged")
        self._wait(lambda: self._answers("mariadbd", ctl), deadline, "MariaDB")
        say("starting slurmdbd")
        self._start_slurmdbd(ctl)
        self._wait(lambda: self._answers("slurmdbd", ctl), deadline, "slurmdbd")
        if fresh:
            say("creating accounts and users")
            self._create_accounts()
        say("starting slurmctld and slurmd")
        self._start_slurmctld(ctl)
        self._wait(lambda: self._answers("slurmctld", ctl), deadline, "slurmctld")
        for host in self.nodes:
            self._start_slurmd(host)
        self._wait(lambda: self._idle(set(self.nodes)), deadline, "all nodes idle", period_s=0.05)
        say(f"cluster {self.name} is up: {len(self.nodes)} nodes idle")

    def _write_state(self) -> bool:
        """Create the state directory; True if there is no database yet."""
        users = conf.users()
        slurm, munge, mysql, perun = (users[name].uid for name in ("slurm", "munge", "mysql", "perun"))
        layout: list[tuple[str, int, int]] = [
            ("etc/slurm", 0o755, 0),
            ("etc/perun", 0o755, 0),
            ("opt/perun-hpc", 0o755, 0),
            ("home", 0o755, 0),
            ("shared", 0o755, 0),
            ("shared/perun", 0o755, perun),
            ("munge/etc", 0o700, munge),
            ("munge/lib", 0o711, munge),
            ("munge/log", 0o700, munge),
            ("munge/run", 0o755, munge),
            ("mysql", 0o750, mysql),
            ("simulator", 0o755, 0),
            ("sysfs", 0o755, 0),
        ]
        layout += [(f"home/{user.name}", 0o700, user.uid) for user in conf.ORDINARY]
        for host in self.hosts:
            layout += [
                (f"hosts/{host}/root", 0o755, 0),
                (f"log/{host}", 0o755, 0),
                (f"log/{host}/slurm", 0o755, slurm),
                (f"log/{host}/mysql", 0o750, mysql),
                (f"log/{host}/perun", 0o755, perun),
                (f"spool/{host}", 0o755, 0),
                (f"spool/{host}/slurmd", 0o755, 0),
                (f"spool/{host}/slurmctld", 0o700, slurm),
                (f"spool/{host}/perun", 0o755, perun),
            ]
        self.state.mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o755)
        for name, mode, owner in layout:
            path = self.state / name
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)
            os.chown(path, owner, owner)
        key = self.state / "munge/etc/munge.key"
        if not key.exists():
            key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        os.chown(key, munge, munge)
        version = self.cgroups.hierarchies.version
        dbd = self.etc_slurm / "slurmdbd.conf"
        dbd.write_text(conf.slurmdbd())
        dbd.chmod(0o600)
        os.chown(dbd, slurm, slurm)
        memory_mb = max(500, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // len(self.nodes) // 2)
        (self.etc_slurm / "slurm.conf").write_text(conf.slurm(self.name, self.nodes, memory_mb))
        (self.etc_slurm / "cgroup.conf").write_text(conf.cgroup(version))
        (self.etc_slurm / "plugstack.conf").write_text("include /etc/slurm/plugstack.conf.d/*\n")
        self.configure(self._extra_slurm_conf, self._plugstack)
        return not (self.state / "mysql/mysql").exists()

    def _host_spec(self, host: str) -> dict[str, Any]:
        state, live = self.state, self.live
        users = conf.users()
        directories = [
            ("/run/slurm", 0o755, users["slurm"].uid, users["slurm"].uid),
            ("/run/mysqld", 0o755, users["mysql"].uid, users["mysql"].uid),
            ("/run/lock", 0o1777, 0, 0),
            ("/var/lib/perun", 0o755, users["perun"].uid, users["perun"].uid),
        ]
        boot_id = str(uuid.uuid4())
        files = {
            "/etc/hostname": f"{host}\n",
            "/etc/machine-id": f"{uuid.uuid5(uuid.NAMESPACE_DNS, f'{host}.{self.tag}').hex}\n",
            "/etc/hosts": conf.hosts(self.nodes),
            "/etc/resolv.conf": "",
            "/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\n",
            "/etc/passwd": conf.passwd(Path("/etc/passwd").read_text()),
            "/etc/group": conf.group(Path("/etc/group").read_text()),
            "/run/boot_id": f"{boot_id}\n",
        }
        binds: list[tuple[str, str, bool]] = [
            (str(state / "etc/slurm"), "/etc/slurm", False),
            (str(state / "etc/perun"), "/etc/perun", False),
            (str(state / "opt/perun-hpc"), "/opt/perun-hpc", False),
            (str(state / "home"), "/home", False),
            (str(state / "shared"), "/shared", False),
            (str(state / "log" / host), "/var/log", False),
            (str(state / "spool" / host), "/var/spool", False),
            (str(state / "munge/run"), "/run/munge", False),
            (str(state / "hosts" / host / "boot_id"), "/proc/sys/kernel/random/boot_id", True),
        ]
        (state / "hosts" / host / "boot_id").write_text(f"{boot_id}\n")
        layers: list[tuple[str, str]] = []
        if host == conf.CONTROLLER:
            binds.append((str(state / "mysql"), "/var/lib/mysql", False))
        else:
            layers = [("class", str(state / "sysfs/class")), ("devices/virtual", str(state / "sysfs/virtual"))]
            binds += [
                (str(live / host / "powercap"), "/sys/devices/virtual/powercap", True),
                (str(state / "sysfs/class/powercap"), "/sys/class/powercap", True),
                (str(live / host / "stat"), "/proc/stat", True),
            ]
        hierarchies = self.cgroups.hierarchies
        return {
            "hostname": host,
            "root": str(state / "hosts" / host / "root"),
            "join": [str(path) for path in self.cgroups.join_files(host)],
            "cgroup_version": hierarchies.version,
            "cgroups": {name: str(path) for name, path in self.cgroups.directories(host).items()},
            "cgroup_links": hierarchies.links,
            "cgroup_facade": conf.CGROUP_FACADE,
            "directories": directories,
            "files": files,
            "binds": binds,
            "sysfs_layers": layers,
        }

    def _boot(self, hosts: Sequence[str]) -> None:
        """Start hosts' namespaces and record their first processes."""
        starters: dict[str, subprocess.Popen[str]] = {}
        for host in hosts:
            for name, directory in self.cgroups.directories(host).items():
                if host != conf.CONTROLLER and name != "unified":
                    self._make_slurm_cgroup(directory / f"slurm_{host}")
            spec = self.state / "hosts" / host / "spec.json"
            spec.write_text(json.dumps(self._host_spec(host)))
            line = [sys.executable, "-I", "-S", str(HERE / "host.py"), str(spec)]
            starters[host] = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")
        errors = []
        for host, starter in starters.items():
            output, error = starter.communicate(timeout=30)
            if starter.returncode != 0:
                errors.append(f"{host}: {error.strip()}")
                continue
            self._remember("hosts", host, processes.reference(int(output)))
        if errors:
            raise ClusterError("cannot start hosts: " + "; ".join(errors))

    @staticmethod
    def _make_slurm_cgroup(directory: Path) -> None:
        """Make the directory that Slurm would make: here it reaches it through a link, see host.py."""
        directory.mkdir(exist_ok=True)
        if (directory / "cpuset.cpus").exists():
            for name in ("cpuset.cpus", "cpuset.mems"):
                processes.write_text(directory / name, (directory.parent / name).read_text())

    def _connect(self, nodes: Sequence[str], bridge: bool = False) -> None:
        """Connect nodes to the bridge, which lives in the controller's network namespace."""
        batch = []
        if bridge:
            batch += [
                "link set lo up",
                "link add br0 type bridge forward_delay 0",
                f"addr add {conf.NETWORK}.254/24 dev br0",
                "link set br0 up",
            ]
        for node in nodes:
            pid = self.node_pid(node)
            batch += [
                f"link add v{pid} type veth peer name eth0 netns {pid}",
                f"link set v{pid} master br0 up",
            ]
        self._ip(conf.CONTROLLER, batch)
        for node in nodes:
            address = f"{conf.NETWORK}.{self.nodes.index(node) + 1}/24"
            self._ip(node, ["link set lo up", f"addr add {address} dev eth0", "link set eth0 up"])

    def _ip(self, host: str, batch: Sequence[str]) -> None:
        line = ["nsenter", "-t", str(self.node_pid(host)), "-n", "ip", "-batch", "-"]
        done = subprocess.run(line, input="\n".join(batch) + "\n", text=True, capture_output=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"network of {host}: {done.stderr.strip()}")

    def _start_simulator(self, deadline: float) -> None:
        shutil.rmtree(self.live, ignore_errors=True)
        self.live.mkdir(mode=0o755)
        sysfs = self.state / "sysfs"
        shutil.rmtree(sysfs, ignore_errors=True)
        simulator.class_directory(sysfs / "class/powercap")
        (sysfs / "virtual/powercap").mkdir(parents=True)
        logs = self.state / "simulator"
        for old in logs.iterdir():
            old.unlink()
        config = {
            "seed": uuid.uuid4().hex,
            "nodes": {node: str(self.cgroups.cpuacct(node)) for node in self.nodes},
            "live_dir": str(self.live),
            "log_dir": str(logs),
            "control": str(self.live / "control"),
            "ready": str(self.live / "ready"),
            "pid_file": str(self.live / "pid"),
            "period_s": 0.02,
        }
        path = logs / "config.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        with (logs / "simulator.log").open("w") as log:
            line = [sys.executable, "-I", "-S", str(HERE / "simulator.py"), str(path)]
            subprocess.run(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", check=True)
        self._wait((self.live / "ready").exists, deadline, "the simulator")
        pid = int((self.live / "pid").read_text())
        record = self._record()
        record["simulator"] = list(processes.reference(pid))
        self._write_record(record)

    # -------------------------------------------------------------------------------------------------------- daemons

    def _daemon(self, host: str, argv: Sequence[str], user: str = "root") -> None:
        """Start a program that goes to the background by itself."""
        line = self.command(argv, user, host, cwd="/", foreground=False)
        log = self.state / "log" / host / "start.log"
        with log.open("a") as output:
            done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
        if done.returncode != 0:
            tail = log.read_text()[-2000:]
            raise ClusterError(f"{argv[0]} on {host}: exit code {done.returncode}\n{tail}")

    def _start_munged(self, host: str) -> None:
        base = self.state / "munge"
        line = [
            "munged",
            *("--key-file", str(base / "etc/munge.key"), "--socket", "/run/munge/munge.socket.2"),
            *("--pid-file", "/run/munge/munged.pid", "--log-file", str(base / "log/munged.log")),
            *("--seed-file", str(base / "lib/munge.seed"), "--num-threads", "4", "--force"),
        ]
        self._daemon(host, line, user="munge")

    def _create_database(self) -> None:
        line = [
            *("mariadb-install-db", "--no-defaults", "--user=mysql", "--datadir=/var/lib/mysql"),
            *("--auth-root-authentication-method=normal", "--skip-name-resolve", "--skip-test-db"),
            *("--innodb-flush-method=nosync", "--innodb-log-file-size=16M", "--innodb-buffer-pool-size=32M"),
        ]
        self.run(line, user="root", node=conf.CONTROLLER, cwd="/", check=True)

    def _start_mariadbd(self, host: str) -> None:
        self._daemon(host, ["setsid", "-f", "sh", "-c", 'exec "$@" >/dev/null 2>&1 </dev/null', "sh", *conf.mariadb()])

    def _start_slurmdbd(self, host: str) -> None:
        grant = (
            "CREATE USER IF NOT EXISTS slurm@localhost; CREATE DATABASE IF NOT EXISTS slurm_acct; "
            "GRANT ALL ON slurm_acct.* TO slurm@localhost;"
        )
        line = ["mariadb", "--no-defaults", "--socket=/run/mysqld/mysqld.sock", "-u", "root", "-e", grant]
        self.run(line, user="root", node=host, check=True)
        self._daemon(host, ["slurmdbd"], user="slurm")

    def _create_accounts(self) -> None:
        done = self.run(["sacctmgr", "-i"], user="root", input=conf.accounts(self.name))
        shown = self.run(["sacctmgr", "-nP", "show", "assoc", "format=user,account"], user="root", check=True)
        if "bob|biology" not in shown.stdout or "alice|physics" not in shown.stdout:
            raise ClusterError(f"sacctmgr did not create the accounts: {done.stdout}{done.stderr}")

    def _start_slurmctld(self, host: str) -> None:
        self._daemon(host, ["slurmctld"])

    def _start_slurmd(self, host: str) -> None:
        self._daemon(host, ["slurmd"])

    def _answers(self, daemon: str, host: str) -> bool:
        """Whether a daemon does its work."""
        if daemon == "mariadbd":
            line = ["mariadb-admin", "--no-defaults", "--socket=/run/mysqld/mysqld.sock", "-u", "root", "ping"]
            return self.run(line, user="root", node=host).returncode == 0
        if daemon == "munged":
            return (self.state / "munge/run/munge.socket.2").exists()
        if daemon == "slurmdbd":
            return self.run(["sacctmgr", "-n", "show", "cluster"], user="root", node=host).returncode == 0
        if daemon == "slurmctld":
            return "is UP" in self.run(["scontrol", "ping"], user="root", node=host).stdout
        return self.daemon_pid(daemon, host) is not None

    def _idle(self, nodes: set[str]) -> bool:
        states = self.states()
        return all(states.get(node) in ("idle", "plnd") for node in nodes)

    # --------------------------------------------------------------------------------------------------------- ending

    def _stop_daemons(self) -> None:
        """Stop in order, so that the state on disk is whole."""
        for host in self.nodes:
            self.stop("slurmd", host)
        for daemon in ("slurmctld", "slurmdbd", "mariadbd", "munged"):
            self.stop(daemon)

    def _leftovers(self) -> bool:
        mounts = self.cgroups.hierarchies.mounts.values()
        return bool(self._record()) or self.live.exists() or any((point / self.tag).exists() for point in mounts)

    def _end_everything(self) -> None:
        """End all processes of the cluster and remove cgroups and live files; the state directory stays."""
        record = self._record()
        recorded = [ProcessRef(*pair) for pair in record.get("hosts", {}).values()]
        if "simulator" in record:
            recorded.append(ProcessRef(*record["simulator"]))
        for process in recorded:
            if processes.alive(process):
                os.kill(process.pid, 9)
        for process in recorded:
            processes.wait_gone(process, 10)
        self.cgroups.kill()
        self.cgroups.remove()
        shutil.rmtree(self.live, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            (self.state / "cluster.json").unlink()

    # -------------------------------------------------------------------------------------------------------- records

    def _host(self, node: str | int | None) -> str:
        host = conf.CONTROLLER if node is None else f"n{node}" if isinstance(node, int) else node
        if host not in self.hosts:
            raise ValueError(f"no host {host} in cluster {self.name}: {' '.join(self.hosts)}")
        return host

    @property
    def _lock_file(self) -> Path:
        return self.state.parent / f".{self.name}.lock"

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Let one process at a time start or end the cluster."""
        lock = self._locked()
        while lock is None:  # its holder has removed the file meanwhile
            lock = self._locked()
        try:
            yield
        finally:
            os.close(lock)

    def _locked(self) -> int | None:
        self._lock_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            return None
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.fstat(lock).st_nlink:
            return lock
        os.close(lock)
        return None

    def _record(self) -> dict[str, Any]:
        try:
            record: dict[str, Any] = json.loads((self.state / "cluster.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return record

    def _write_record(self, record: dict[str, Any]) -> None:
        fresh = self.state / "cluster.json.new"
        fresh.write_text(json.dumps(record))
        fresh.replace(self.state / "cluster.json")

    def _remember(self, kind: str, name: str, process: ProcessRef) -> None:
        record = self._record()
        record.setdefault(kind, {})[name] = list(process)
        self._write_record(record)

    def _wait(self, done: Callable[[], bool], deadline: float, what: str, period_s: float = 0.02) -> None:
        while True:
            with contextlib.suppress(ClusterError, subprocess.TimeoutExpired):
                if done():
                    return
            if time.monotonic() > deadline:
                raise ClusterError(f"waited in vain for {what}; see {self.state / 'log'}")
            time.sleep(period_s)
