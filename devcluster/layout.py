"""Where a cluster's files lie on the machine, and what each of its hosts sees of them."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import conf, daemons
from .cgroups import CgroupTree

DEFAULT_ROOT = Path("/var/lib/perun-cluster")


class Layout:
    """The names and directories of one cluster.

    Parameters
    ----------
    name
        Names the cluster on this machine: letters, digits and ``-``, at most 20.
    root
        Directory of all clusters' states; default ``$PERUN_CLUSTER_ROOT`` or ``/var/lib/perun-cluster``.
    nodes
        Number of nodes.
    auth
        How its parts know each other: ``munge``, or Slurm's own ``slurm`` (23.11 on).
    bare
        Whether the hosts have never seen the software under test: no accounts, directories or settings of its own, and
        a root file system of each host's own to install it in.
    """

    def __init__(
        self, name: str, root: Path | str | None = None, nodes: int = 4, auth: str = "munge", bare: bool = False
    ) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,19}", name):
            raise ValueError(f"cluster name {name!r}: use up to 20 lower-case letters, digits and '-'")
        self.name = name
        self.auth = auth
        self.bare = bare
        base = Path(root or os.environ.get("PERUN_CLUSTER_ROOT") or DEFAULT_ROOT).resolve()
        self.state = base / name
        suffix = "" if base == DEFAULT_ROOT else f"-{uuid.uuid5(uuid.NAMESPACE_URL, str(base)).hex[:6]}"
        self.tag = f"perun-{name}{suffix}"
        """Name of the cluster's cgroups and of its directory in /dev/shm, unique on the machine."""
        self.live = Path("/dev/shm") / self.tag
        """Files that the simulator rewrites all the time: they lie in memory."""
        self.nodes = [f"n{i}" for i in range(1, nodes + 1)]
        self.hosts = [conf.CONTROLLER, *self.nodes]

    @property
    def controllers(self) -> list[str]:
        """The controller's daemons in the order of their start."""
        return [name for name in daemons.CONTROLLERS if name != "munged" or self.auth == "munge"]

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
        """The machine's path of a host's ``/var/spool``; it survives the node's crash."""
        return self.state / "spool" / host

    def address(self, node: str) -> str:
        """A node's address with its prefix length."""
        return f"{conf.NETWORK}.{self.nodes.index(node) + 1}/24"

    def create(self, cgroup_version: int) -> None:
        """Create the state directory and all configuration but the administrator's."""
        self.state.mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o755)
        for name, mode, owner in self._directories():
            path = self.state / name
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(mode)
            os.chown(path, owner, owner)
        users = conf.users()
        key = self.state / ("munge/etc/munge.key" if self.auth == "munge" else "etc/slurm/slurm.key")
        if not key.exists():
            key.write_bytes(os.urandom(128))
        self._private(key, 0o600, users[self.auth].uid)
        dbd = self.etc_slurm / "slurmdbd.conf"
        dbd.write_text(conf.slurmdbd(self.auth))
        self._private(dbd, 0o600, users["slurm"].uid)
        memory_mb = max(500, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20 // len(self.nodes) // 2)
        (self.etc_slurm / "slurm.conf").write_text(conf.slurm(self.name, self.nodes, memory_mb, self.auth, self.bare))
        (self.etc_slurm / "cgroup.conf").write_text(conf.cgroup(cgroup_version))
        (self.etc_slurm / "plugstack.conf").write_text("include /etc/slurm/plugstack.conf.d/*\n")

    def configure(self, slurm_conf: Sequence[str] | None = None, plugstack: Sequence[str] | None = None) -> None:
        """Write the administrator's lines: the whole of admin.conf and of plugstack.conf.d/admin.conf; None keeps them.

        Running daemons read slurm.conf's lines at :meth:`Cluster.reconfigure` (EpilogSlurmctld:
        ``restart('slurmctld')``); plugstack.conf is read by every srun, sbatch and slurmstepd.
        """
        (self.etc_slurm / "plugstack.conf.d").mkdir(parents=True, exist_ok=True)
        for path, lines in (
            (self.etc_slurm / "admin.conf", slurm_conf),
            (self.etc_slurm / "plugstack.conf.d" / "admin.conf", plugstack),
        ):
            if lines is not None or not path.exists():
                text = "".join(f"{line}\n" for line in ("# the administrator's lines", *(lines or ())))
                fresh = path.parent.parent / f".{path.name}.new"  # not beside it: plugstack.conf includes all there
                fresh.write_text(text)
                fresh.replace(path)

    def host_spec(self, host: str, cgroups: CgroupTree) -> dict[str, Any]:
        """What host.py needs to know to build a host; a new boot id each time."""
        users = conf.users()
        slurm, mysql, perun = (users[name].uid for name in ("slurm", "mysql", "perun"))
        # slurmd, which is root, has its socket for auth/slurm there, and takes no directory of another's for that.
        run_owner = 0 if self.auth == "slurm" and host != conf.CONTROLLER else slurm
        own = self.state / "hosts" / host
        boot_id = uuid.uuid4()
        binds: list[tuple[str, str, bool]] = [
            (str(self.etc_slurm), "/etc/slurm", False),
            (str(self.home), "/home", False),
            (str(self.shared), "/shared", False),
            (str(self.log_dir(host)), "/var/log", False),
            (str(self.spool_dir(host)), "/var/spool", False),
            (str(self.state / "munge/run"), "/run/munge", False),
            (str(own / "boot_id"), "/proc/sys/kernel/random/boot_id", True),
        ]
        if not self.bare:
            binds += [(str(self.etc_perun), "/etc/perun", False), (str(self.opt), "/opt/perun-hpc", False)]
        (own / "boot_id").write_text(f"{boot_id}\n")
        layers: list[tuple[str, str]] = []
        if host == conf.CONTROLLER:
            binds += [
                (str(self.state / "mysql"), "/var/lib/mysql", False),
                (str(self.state / "munge/etc"), "/etc/munge", False),
                (str(self.state / "munge/lib"), "/var/lib/munge", False),
            ]
        else:
            sysfs = self.state / "sysfs"
            layers = [("class", str(sysfs / "class")), ("devices/virtual", str(sysfs / "virtual"))]
            binds += [
                (str(self.live / host / "powercap"), "/sys/devices/virtual/powercap", True),
                (str(sysfs / "class/powercap"), "/sys/class/powercap", True),
                (str(self.live / host / "stat"), "/proc/stat", True),
            ]
            for file in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/physical_package_id"):
                package = int(file.parents[1].name.removeprefix("cpu")) % 2  # as the simulator has it
                binds.append((str(sysfs / f"package-{package}"), str(file), True))
        return {
            "hostname": host,
            "root": str(own / "root"),
            "join": [str(path) for path in cgroups.join_files(host)],
            "cgroup_version": cgroups.hierarchies.version,
            "cgroups": {name: str(path) for name, path in cgroups.directories(host).items()},
            "cgroup_links": cgroups.hierarchies.links,
            "cgroup_facade": conf.CGROUP_FACADE,
            "directories": [
                ("/run/slurm", 0o755, run_owner, run_owner),
                ("/run/slurmctld", 0o755, slurm, slurm),
                ("/run/slurmdbd", 0o755, slurm, slurm),
                ("/run/mysqld", 0o755, mysql, mysql),
                ("/run/lock", 0o1777, 0, 0),
                *([] if self.bare else [("/var/lib/perun", 0o711, perun, perun)]),
            ],
            "files": {
                "/etc/hostname": f"{host}\n",
                "/etc/machine-id": f"{uuid.uuid5(uuid.NAMESPACE_DNS, f'{host}.{self.tag}').hex}\n",
                "/etc/hosts": conf.hosts(self.nodes),
                "/etc/resolv.conf": "",
                "/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\n",
                "/etc/passwd": conf.passwd(Path("/etc/passwd").read_text(), self.bare),
                "/etc/group": conf.group(Path("/etc/group").read_text(), self.bare),
            },
            "binds": binds,
            "sysfs_layers": layers,
        }

    def _directories(self) -> list[tuple[str, int, int]]:
        """All directories of the state: path, mode, owner."""
        users = conf.users()
        slurm, munge, mysql, perun = (users[name].uid for name in ("slurm", "munge", "mysql", "perun"))
        found = [
            ("etc/slurm", 0o755, 0),
            ("etc/perun", 0o755, 0),
            ("opt/perun-hpc", 0o755, 0),
            ("home", 0o755, 0),
            ("shared", 0o755, 0),
            *([] if self.bare else [("shared/perun", 0o711, perun)]),
            ("munge/etc", 0o700, munge),
            ("munge/lib", 0o711, munge),
            ("munge/run", 0o755, munge),
            ("mysql", 0o750, mysql),
            ("simulator", 0o755, 0),
            ("sysfs", 0o755, 0),
            *((f"home/{user.name}", 0o700, user.uid) for user in conf.ORDINARY),
        ]
        for host in self.hosts:
            found += [
                (f"hosts/{host}/root", 0o755, 0),
                (f"log/{host}", 0o755, 0),
                (f"log/{host}/slurm", 0o755, slurm),
                (f"log/{host}/munge", 0o700, munge),
                (f"log/{host}/mysql", 0o750, mysql),
                (f"spool/{host}", 0o755, 0),
                (f"spool/{host}/slurmd", 0o755, 0),
                (f"spool/{host}/slurmctld", 0o700, slurm),
            ]
            if not self.bare:
                found += [(f"log/{host}/perun", 0o755, perun), (f"spool/{host}/perun", 0o711, perun)]
        return found

    @staticmethod
    def _private(path: Path, mode: int, owner: int) -> None:
        path.chmod(mode)
        os.chown(path, owner, owner)
