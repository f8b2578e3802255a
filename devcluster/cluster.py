"""A real Slurm cluster on one machine: :class:`Cluster`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from . import boot, conf, daemons, processes, simulator
from .cgroups import CgroupTree
from .layout import Layout
from .processes import ProcessRef

HERE = Path(__file__).resolve().parent
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/perun-hpc/bin"
"""A login's, with the commands of the software under test last, as a site's profile would have it."""

Completed: TypeAlias = "subprocess.CompletedProcess[str]"


class ClusterError(RuntimeError):
    """The cluster cannot do what was asked; the text names the log to read."""


class Cluster(Layout):
    """Four Slurm nodes ``n1``..``n4`` and a controller ``ctl``, each a host in namespaces of its own.

    Parameters
    ----------
    name, root, nodes, auth, bare
        See :class:`Layout`.
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
        auth: str = "munge",
        bare: bool = False,
        extra_slurm_conf: Sequence[str] | None = None,
        plugstack: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, root, nodes, auth, bare)
        self.cgroups = CgroupTree(self.tag)
        self._extra_slurm_conf = extra_slurm_conf
        self._plugstack = plugstack

    @property
    def served(self) -> simulator.ServedLog:
        """The log of every energy value that the simulator served."""
        return simulator.ServedLog(self.state / "simulator")

    # ---------------------------------------------------------------------------------------------------- up and down

    def up(self, progress: Callable[[str], None] | None = None, timeout: float = 240.0) -> None:
        """Bring the cluster up until all nodes are usable; at once if it is up already.

        Nodes and daemons that have ended are started again. If the controller's host or the simulator has ended (a
        crash of the machine), what is left is removed first, the state directory too.

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
            deadline = time.monotonic() + timeout
            if self._stands():
                self.configure(self._extra_slurm_conf, self._plugstack)
                self._repair(say, deadline)
                return
            if self._leftovers():
                say("cleaning up after a cluster that did not end well: it starts afresh")
                self._end_everything()
                self._remove_state()
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
                self._remove_state(("log", "simulator") if keep_logs else ())
            self._lock_file.unlink()
        with contextlib.suppress(OSError):
            self.state.parent.rmdir()

    def is_up(self) -> bool:
        """Whether all hosts, the simulator and all daemons run."""
        return self._stands() and not self._missing()

    def _stands(self) -> bool:
        """Whether the controller's host and the simulator run: then the rest can be repaired."""
        record = self._record()
        pairs = [record.get("simulator"), record.get("hosts", {}).get(conf.CONTROLLER)]
        return all(pair is not None and processes.alive(ProcessRef(*pair)) for pair in pairs)

    def _missing(self) -> list[tuple[str, str]]:
        """What does not run: (host, daemon), or (host, "") for a whole host."""
        pairs = self._record().get("hosts", {})
        missing: list[tuple[str, str]] = []
        for host in self.hosts:
            if host not in pairs or not processes.alive(ProcessRef(*pairs[host])):
                missing.append((host, ""))
                continue
            wanted = self.controllers if host == conf.CONTROLLER else ("slurmd",)
            missing += [(host, daemon) for daemon in wanted if self.daemon_pid(daemon, host) is None]
        return missing

    def _repair(self, say: Callable[[str], None], deadline: float) -> None:
        """Boot what hosts have crashed and start what daemons have ended."""
        for host, daemon in self._missing():
            say(f"starting {daemon} on {host}" if daemon else f"booting {host}")
            if daemon:
                self.start(daemon, host)
            else:
                self.start_node(host, wait=False)
        self._wait(self._usable, deadline, "all nodes", period_s=0.05)

    def status(self) -> dict[str, Any]:
        """Say what runs: hosts' first processes, node states as Slurm sees them, directories."""
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

        The environment is a login's (PATH, HOME, USER, LOGNAME, SHELL, LANG) plus ``env``; ``cwd`` defaults to the
        home. With ``foreground`` the command is killed when the process started with this line is.
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
        done = self.run(["sinfo", "-h", "-N", "-p", "main", "-o", "%N %t"], user="root", timeout=60, check=True)
        return dict(line.split()[:2] for line in done.stdout.splitlines())

    def wait_idle(self, timeout: float = 180.0, nodes: Sequence[str] | None = None) -> None:
        """Wait until nodes (default: all) are idle; else the error has all that Slurm says of them."""
        wanted = set(nodes or self.nodes)
        try:
            self._wait(lambda: self._idle(wanted), time.monotonic() + timeout, "all nodes idle", period_s=0.05)
        except ClusterError as error:
            shown = self.run(["scontrol", "--oneliner", "show", "node"], user="root", timeout=15).stdout
            raise ClusterError(f"{error}\n{shown}") from error

    def wait_job(self, job: str | int, timeout: float = 180.0) -> str:
        """Wait until a job has left the queue; its final state as scontrol shows it."""
        deadline = time.monotonic() + timeout
        while True:
            done = self.run(["squeue", "-h", "-a", "-t", "all", "-j", str(job), "-o", "%T"], user="root", timeout=60)
            states = set(done.stdout.split())
            if not states & {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "STOPPED"}:
                return ",".join(sorted(states)) or "UNKNOWN"
            if time.monotonic() > deadline:
                raise ClusterError(f"job {job} is still {states} after {timeout} s")
            time.sleep(0.1)

    # ------------------------------------------------------------------------------------------------ the administrator

    def reconfigure(self) -> None:
        """Have all daemons read slurm.conf again (``scontrol reconfigure``)."""
        self.run(["scontrol", "reconfigure"], user="root", check=True)

    def restart(self, daemon: str, *nodes: str | int, kill: bool = False, timeout: float = 90.0) -> None:
        """Stop and start one daemon; ``slurmd`` on the given nodes (default: all). ``kill`` crashes it first.

        After slurmctld the daemons are made to reconfigure: without that 22.05 shows all nodes as unknown for 5 s.
        """
        hosts = [self._host(node) for node in nodes] or (self.nodes if daemon == "slurmd" else [conf.CONTROLLER])
        for host in hosts:
            self.stop(daemon, host, kill=kill, timeout=timeout)
        for host in hosts:
            self.start(daemon, host, timeout=timeout)
        if daemon == "slurmctld":
            self.reconfigure()

    def stop(self, daemon: str, node: str | int | None = None, kill: bool = False, timeout: float = 90.0) -> None:
        """Stop one daemon of a host (default: the controller) and wait for its end."""
        host = self._host(node)
        pid = self.daemon_pid(daemon, host)
        if pid is not None:
            process, deadline = processes.reference(pid), time.monotonic() + timeout
            while not processes.kill(process, 9 if kill else 15, 5):  # slurmd 24.11 that reconfigures may miss one
                if time.monotonic() > deadline:
                    raise ClusterError(f"{daemon} on {host} does not end; see {self.log_dir(host)}")

    def start(self, daemon: str, node: str | int | None = None, timeout: float = 90.0) -> None:
        """Start one daemon of a host (default: the controller) and wait until it answers."""
        host = self._host(node)
        deadline = time.monotonic() + timeout
        self._launch(daemon, host)
        self._wait_daemon(daemon, deadline, host)

    def daemon_pid(self, daemon: str, node: str | int | None = None) -> int | None:
        """The machine's pid of a host's daemon, None if it does not run."""
        found = processes.named(daemon, self.cgroups.processes(self._host(node)))
        # slurmctld and slurmd fork helpers of the same name.
        return next((pid for pid, parent in found.items() if parent not in found), None)

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

    def start_node(self, node: str | int, timeout: float = 180.0, wait: bool = True) -> None:
        """Boot a node after :meth:`kill_node`: new boot id, counters and /tmp anew, /var/spool as it was."""
        host = self._host(node)
        self.cgroups.kill(host)
        self.cgroups.remove(host, keep_parent=True)
        self.simulate(host, "power_cycle")
        self._boot([host])
        boot.connect(self, self.node_pid(None), {host: self.node_pid(host)})
        self._launch("slurmd", host)
        if wait:
            self.wait_idle(timeout, [host])

    # -------------------------------------------------------------------------------------------------- the simulator

    def simulate(self, node: str | int, do: str, zone: str | None = None, **values: int) -> dict[str, int | None]:
        """Turn a knob of a node's simulated counters; returns the values served afterwards (None: removed).

        ``do``: ``values`` (nothing), ``freeze``, ``thaw``, ``set`` (``value_uj=``; 0 is a reset), ``remove``,
        ``restore``, ``mode`` (``mode=``), ``power_cycle``, ``stat_jumps`` and ``stat_steady`` (of /proc/stat). ``zone``
        None means all four.
        """
        control = self.live / "control"
        return simulator.send(control, {"node": self._host(node), "do": do, "zone": zone, **values})

    # ------------------------------------------------------------------------------------------------------- starting

    def _start(self, say: Callable[[str], None], deadline: float) -> None:
        self.create(self.cgroups.hierarchies.version)
        self.configure(self._extra_slurm_conf, self._plugstack)
        fresh = not (self.state / "mysql/mysql").exists()
        say("starting hosts " + " ".join(self.hosts))
        for host in self.hosts:
            self.cgroups.create(host)
        self._start_simulator(deadline)
        self._boot(self.hosts)
        controller = self.node_pid(None)
        boot.make_bridge(controller)
        boot.connect(self, controller, {node: self.node_pid(node) for node in self.nodes})
        say("starting munge and MariaDB" if "munged" in self.controllers else "starting MariaDB")
        if "munged" in self.controllers:
            self._launch("munged", conf.CONTROLLER)
        if fresh:
            self.run(daemons.INSTALL_DATABASE, user="root", cwd="/", check=True)
        self._launch("mariadbd", conf.CONTROLLER)
        for name in ("munged", "mariadbd"):
            if name in self.controllers:
                self._wait_daemon(name, deadline)
        say("starting slurmdbd")
        self.run(daemons.PREPARE_DATABASE, user="root", cwd="/", check=True)
        self._launch("slurmdbd", conf.CONTROLLER)
        self._wait_daemon("slurmdbd", deadline)
        if fresh:
            say("creating accounts and users")
            self._create_accounts()
        say("starting slurmctld and slurmd")
        self._launch("slurmctld", conf.CONTROLLER)
        self._wait_daemon("slurmctld", deadline)
        for host in self.nodes:
            self._launch("slurmd", host)
        self._wait(self._usable, deadline, "all nodes", period_s=0.05)
        say(f"cluster {self.name} is up: {len(self.nodes)} nodes")

    def _boot(self, hosts: Sequence[str]) -> None:
        """Start hosts' namespaces and record their first processes."""
        try:
            pids = boot.start_hosts(self, self.cgroups, hosts)
        except OSError as error:
            raise ClusterError(str(error)) from error
        record = self._record()
        record.setdefault("hosts", {}).update({host: list(processes.reference(pid)) for host, pid in pids.items()})
        self._write_record(record)

    def _start_simulator(self, deadline: float) -> None:
        shutil.rmtree(self.live, ignore_errors=True)
        self.live.mkdir(mode=0o755)
        sysfs = self.state / "sysfs"
        shutil.rmtree(sysfs, ignore_errors=True)
        simulator.class_directory(sysfs / "class/powercap")
        (sysfs / "virtual/powercap").mkdir(parents=True)
        for package in (0, 1):
            (sysfs / f"package-{package}").write_text(f"{package}\n")
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

    # -------------------------------------------------------------------------------------------------------- daemons

    def _launch(self, name: str, host: str) -> None:
        """Start a daemon, which goes to the background by itself."""
        what = daemons.daemon(name)
        line = self.command(what.start, what.user, host, cwd="/", foreground=False)
        log = self.log_dir(host) / "start.log"
        with log.open("a") as output:
            done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False)
        if done.returncode != 0:
            raise ClusterError(f"{name} on {host}: exit code {done.returncode}\n{log.read_text()[-2000:]}")

    def _works(self, name: str, host: str) -> bool:
        """Whether a daemon does its work."""
        what = daemons.daemon(name)
        done = self.run(what.question, user="root", node=host, timeout=15)
        return done.returncode == 0 and what.answer in done.stdout

    def _wait_daemon(self, name: str, deadline: float, host: str = conf.CONTROLLER) -> None:
        self._wait(lambda: self._works(name, host), deadline, f"{name} on {host}")

    def _create_accounts(self) -> None:
        done = self.run(["sacctmgr", "-i"], user="root", input=conf.accounts(self.name))
        shown = self.run(["sacctmgr", "-nP", "show", "assoc", "format=user,account"], user="root", check=True)
        if "bob|biology" not in shown.stdout or "alice|physics" not in shown.stdout:
            raise ClusterError(f"sacctmgr did not create the accounts: {done.stdout}{done.stderr}")

    def _usable(self) -> bool:
        """Whether all nodes take jobs; jobs of a kept state may be on them."""
        states = self.states()
        return all(states.get(node) in ("idle", "plnd", "mix", "alloc", "comp") for node in self.nodes)

    def _idle(self, nodes: set[str]) -> bool:
        states = self.states()
        return all(states.get(node) in ("idle", "plnd") for node in nodes)

    # --------------------------------------------------------------------------------------------------------- ending

    def _stop_daemons(self) -> None:
        """Stop in order, so that the state on disk is whole."""
        for host in self.nodes:
            self.stop("slurmd", host)
        for daemon in reversed(self.controllers):
            self.stop(daemon)

    def _leftovers(self) -> bool:
        mounts = self.cgroups.hierarchies.mounts.values()
        return bool(self._record()) or self.live.exists() or any((point / self.tag).exists() for point in mounts)

    def _remove_state(self, keep: Sequence[str] = ()) -> None:
        """Remove the state directory but the entries named."""
        for entry in list(self.state.iterdir()) if self.state.exists() else []:
            if entry.name not in keep:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        with contextlib.suppress(OSError):
            self.state.rmdir()

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

    def _wait(self, done: Callable[[], bool], deadline: float, what: str, period_s: float = 0.02) -> None:
        while True:
            with contextlib.suppress(ClusterError, subprocess.TimeoutExpired):
                if done():
                    return
            if time.monotonic() > deadline:
                raise ClusterError(f"waited in vain for {what}; see {self.state / 'log'}")
            time.sleep(period_s)
