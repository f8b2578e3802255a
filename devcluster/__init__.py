"""A real four-node Slurm cluster on one machine, for the demo and the tests.

    python3 -m devcluster --name NAME up | down | status | shell | exec [--user U] [--node N] -- CMD

Every host (the controller ``ctl``, which is the login node too, and ``n1`` to ``n4``) lives in mount, uts, ipc, net,
pid and cgroup namespaces of its own: own host name, address, process ids, /dev/shm, /run, /tmp, /sys, boot id, machine
id, cgroups and /proc/stat. munge, MariaDB, slurmdbd, slurmctld and slurmd are Debian's. The machine's own network,
users, /etc, /var and /usr stay as they are: a host sees them through overlays whose upper layers vanish with it.
Clusters of different names share nothing; all of one lies in its state directory, in ``/dev/shm/perun-NAME`` and in the
cgroups ``perun-NAME``. Root is needed, and cgroup version 1 or a hybrid; version 2 alone is provided for but untested.

Shared by all hosts: /home, /shared (a stand-in for a parallel file system; /shared/perun belongs to ``perun``),
/opt/perun-hpc, /etc/perun, /etc/slurm. A node's own: /var/spool and /var/log, which survive its crash, and the rest,
which does not. Users alice (accounts physics, biology) and bob (biology), service user perun (uid 991), and perun-parse
(990), who reads what ranks hand over.

Decisions, measured on a machine with two cores
    *Four CPUs per node, cores constrained.* With ``SlurmdParameters=config_overrides`` Slurm takes four CPUs in two
    sockets for granted, and task/cgroup maps its CPUs onto the machine's modulo their number: jobs of 1, 1 and 2 cores
    share a node in cpusets ``0``, ``1`` and ``0-1``. So three jobs of different size fit on a node and cpusets are
    real, but a cpuset names at most as many CPUs as the machine has (a job's true core count is in
    SLURM_JOB_CPUS_PER_NODE), and one-core jobs on different nodes all sit on CPU 0. Against ConstrainCores=no:
    ``srun -N4 hostname`` 0.24 s instead of 0.20, MPI hello on 8 ranks 1.1 instead of 0.9, four one-core loops 2.9
    instead of 2.0.
    *cgroup paths.* Inside a node they read as on real hardware, ``/sys/fs/cgroup/cpuacct/slurm_n1/uid_U/job_J/step_S``
    (Debian builds Slurm with multiple-slurmd, hence ``slurm_n1``), because each host has a cgroup namespace whose root
    is its own parent; that parent's ``cpuacct.usage_percpu`` is the node's whole CPU time. Slurm itself looks through a
    facade, see :func:`host.mount_cgroups`.
    *A crashed node* is noticed after 16 to 30 s (SlurmdTimeout=10); ``scontrol update nodename=n4 state=down reason=x``
    is quicker. A requeued job starts after 10 to 15 s (cred_expire=10).

Brought up on a busy machine in 5.5 s with a fresh database and in 1.8 s with a kept one; up when it is up: 0.1 s; down:
0.2 s. The simulator costs 2 % of a core.
"""

from .cluster import Cluster, ClusterError
from .simulator import ServedLog

__all__ = ["Cluster", "ClusterError", "ServedLog"]
