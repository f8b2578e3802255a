"""Texts of the cluster's configuration files, and who its users are.

``slurm.conf`` ends with ``Include /etc/slurm/admin.conf`` and ``plugstack.conf`` includes ``plugstack.conf.d/*``: there
"the administrator" of a test or of the demo adds perun's lines (:meth:`Cluster.configure`).
"""

from __future__ import annotations

import pwd
from dataclasses import dataclass

CONTROLLER = "ctl"
NETWORK = "10.77.0"
CGROUP_FACADE = "/run/slurm-cgroup"
CPUS_PER_NODE = 4


@dataclass(frozen=True)
class User:
    """One user of the cluster; the group has the same name and number."""

    name: str
    uid: int
    home: str
    shell: str = "/usr/sbin/nologin"


ORDINARY = (
    User("alice", 2001, "/home/alice", "/bin/bash"),
    User("bob", 2002, "/home/bob", "/bin/bash"),
)
ACCOUNTS = {"alice": ("physics", "biology"), "bob": ("biology",)}
"""Accounts of the users, the default one first."""


def users() -> dict[str, User]:
    """All users that the cluster adds; daemons keep the numbers that the machine's packages gave them."""
    daemons = (
        User("perun", 991, "/var/lib/perun"),
        User("perun-parse", 990, "/nonexistent"),
        User("slurm", 64030, "/nonexistent"),
        User("munge", 992, "/nonexistent"),
        User("mysql", 993, "/nonexistent"),
    )
    found: dict[str, User] = {}
    for user in (*daemons, *ORDINARY):
        try:
            number = pwd.getpwnam(user.name).pw_uid if user.name in ("slurm", "munge", "mysql") else user.uid
        except KeyError:
            number = user.uid
        found[user.name] = User(user.name, number, user.home, user.shell)
    return found


def _present(machine: str, bare: bool) -> list[User]:
    """The users that a cluster adds; to a bare one those alone that neither the machine nor the software brings."""
    known = {line.partition(":")[0] for line in machine.splitlines()} if bare else set()
    return [
        user for user in users().values() if user.name not in known and not (bare and user.name.startswith("perun"))
    ]


def passwd(machine: str, bare: bool = False) -> str:
    """The cluster's /etc/passwd: the machine's system users and ours."""
    ours = _present(machine, bare)
    lines = _without(machine, {u.name for u in ours}, {u.uid for u in ours})
    lines += [f"{u.name}:x:{u.uid}:{u.uid}:{u.name} of the test cluster:{u.home}:{u.shell}" for u in ours]
    return "\n".join(lines) + "\n"


def group(machine: str, bare: bool = False) -> str:
    """The cluster's /etc/group."""
    ours = _present(machine, bare)
    lines = _without(machine, {u.name for u in ours}, {u.uid for u in ours})
    lines += [f"{u.name}:x:{u.uid}:" for u in ours]
    return "\n".join(lines) + "\n"


def _without(machine: str, names: set[str], numbers: set[int]) -> list[str]:
    kept = []
    for line in machine.splitlines():
        fields = line.split(":")
        if len(fields) < 3 or fields[0] in names or int(fields[2]) in numbers or 1000 <= int(fields[2]) < 60000:
            continue
        kept.append(line)
    return kept


def hosts(nodes: list[str]) -> str:
    """/etc/hosts of every host."""
    lines = ["127.0.0.1 localhost", f"{NETWORK}.254 {CONTROLLER}"]
    return "\n".join(lines + [f"{NETWORK}.{i} {n}" for i, n in enumerate(nodes, 1)]) + "\n"


def slurm(cluster: str, nodes: list[str], memory_mb: int, auth: str, bare: bool = False) -> str:
    """slurm.conf; what perun needs from an administrator is left to admin.conf, on a bare cluster its flags, too."""
    flags = "" if bare else "PrologFlags=Alloc,Contain,DeferBatch\n"
    return f"""\
ClusterName={cluster}
SlurmctldHost={CONTROLLER}
SlurmUser=slurm
AuthType=auth/{auth}
AuthInfo=cred_expire=10
CredType=cred/{auth}
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurm/slurmctld.pid
SlurmdPidFile=/run/slurm/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
SlurmctldDebug=info
SlurmdDebug=info
DebugFlags=NO_CONF_HASH
MpiDefault=pmi2
{flags}ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup
JobAcctGatherType=jobacct_gather/cgroup
JobAcctGatherFrequency=task=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=1
SlurmdTimeout=10
SlurmctldTimeout=30
InactiveLimit=0
KillWait=5
MessageTimeout=20
MinJobAge=600
ReturnToService=2
JobRequeue=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={CONTROLLER}
AccountingStorageEnforce=associations
AccountingStoreFlags=job_comment
NodeName={",".join(nodes)} Sockets=2 CoresPerSocket={CPUS_PER_NODE // 2} ThreadsPerCore=1 \
RealMemory={memory_mb} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=ALL Default=NO MaxTime=10 State=UP
Include /etc/slurm/admin.conf
"""


def slurmdbd(auth: str) -> str:
    """slurmdbd.conf."""
    return f"""\
DbdHost={CONTROLLER}
AuthType=auth/{auth}
SlurmUser=slurm
PidFile=/run/slurm/slurmdbd.pid
LogFile=/var/log/slurm/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct
"""


def cgroup(version: int) -> str:
    """cgroup.conf; the package's documentation says how cores are constrained."""
    if version == 2:
        return "CgroupPlugin=cgroup/v2\nIgnoreSystemd=yes\nConstrainCores=yes\n"
    return f"CgroupPlugin=cgroup/v1\nCgroupMountpoint={CGROUP_FACADE}\nCgroupAutomount=no\nConstrainCores=yes\n"


def accounts(cluster: str) -> str:
    """Lines for sacctmgr's standard input that create the accounts and users."""
    lines = [f"add cluster {cluster}"]
    for account in sorted({name for names in ACCOUNTS.values() for name in names}):
        lines.append(f"add account {account} Description={account} Organization=science")
    for user, names in ACCOUNTS.items():
        lines.append(f"add user {user} Account={','.join(names)} DefaultAccount={names[0]}")
    return "\n".join(lines) + "\n"
