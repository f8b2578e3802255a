"""What the image's machine is like before perun: one host that is controller, database and node of a Slurm cluster."""

from __future__ import annotations

NODE = "n1"
CLUSTER = "vm"
ADDRESS = "10.78.0.1"
USERS = {"alice": 2001, "bob": 2002}
MOUNT = "/perun-vm"
"""Where the guest sees what the run brought along."""
ENABLED = ("dummy-network", "perun-vm")
"""The units written here; Debian's packages have enabled their own."""
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer", "dpkg-db-backup.timer")

SLURM = f"""\
ClusterName={CLUSTER}
SlurmctldHost={NODE}
SlurmUser=slurm
AuthType=auth/munge
AuthInfo=cred_expire=10
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/lib/slurm/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd.log
ProctrackType=proctrack/cgroup
TaskPlugin=task/cgroup,task/affinity
JobAcctGatherType=jobacct_gather/cgroup
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_interval=5
MinJobAge=3600
ReturnToService=2
JobRequeue=1
KillWait=10
MpiDefault=pmi2
SlurmdTimeout=120
MessageTimeout=60
BatchStartTimeout=20
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={NODE}
AccountingStorageEnforce=associations
AccountingStoreFlags=job_comment
NodeName={NODE} CPUs=2 Boards=1 SocketsPerBoard=1 CoresPerSocket=2 ThreadsPerCore=1 RealMemory=1500 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""

SLURMDBD = f"""\
DbdHost={NODE}
AuthType=auth/munge
SlurmUser=slurm
PidFile=/run/slurmdbd/slurmdbd.pid
LogFile=/var/log/slurm/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct
"""

NETWORK_UNIT = f"""\
[Unit]
Description=An address without a network
DefaultDependencies=no
Before=network-pre.target munge.service slurmdbd.service slurmctld.service slurmd.service
Wants=network-pre.target
After=systemd-modules-load.service systemd-udevd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'ip link add lan0 type dummy && ip addr add {ADDRESS}/24 dev lan0 && ip link set lan0 up && \
ip route add default via 10.78.0.254 dev lan0'

[Install]
WantedBy=multi-user.target
"""

RUN_UNIT = f"""\
[Unit]
Description=What the run brought along
After=slurmd.service

[Service]
Type=simple
ExecStart=/bin/sh -c 'mkdir -p {MOUNT}; mountpoint -q {MOUNT} || mount -o ro /dev/vdb {MOUNT}; cd {MOUNT}; \
exec python3 -m guest'
StandardOutput=journal+console
StandardError=journal+console

[Install]
WantedBy=multi-user.target
"""


def files() -> dict[str, str]:
    """The texts of the files, by their names below the root."""
    return {
        "etc/hostname": f"{NODE}\n",
        "etc/hosts": f"127.0.0.1 localhost\n{ADDRESS} {NODE}\n",
        "etc/fstab": "/dev/vda / ext4 defaults,noatime 0 1\n",
        "etc/slurm/slurm.conf": SLURM,
        "etc/slurm/slurmdbd.conf": SLURMDBD,
        "etc/slurm/cgroup.conf": "CgroupPlugin=cgroup/v2\nConstrainCores=yes\n",
        # A slurmstepd that cannot reach slurmctld any more does not end by SIGTERM: systemd's 90 s of every reboot.
        "etc/systemd/system.conf.d/perun-vm.conf": "[Manager]\nDefaultTimeoutStopSec=15s\n",
        "etc/modules-load.d/perun-vm.conf": "dummy\n",
        "etc/systemd/system/dummy-network.service": NETWORK_UNIT,
        "etc/systemd/system/perun-vm.service": RUN_UNIT,
        # slurmdbd asks for it; the default of MariaDB 11.8 can end it.
        "etc/mysql/mariadb.conf.d/90-slurm.cnf": "[mariadbd]\nloose-innodb-snapshot-isolation=OFF\n"
        "innodb-lock-wait-timeout=900\n",
        # A small memory disk: under emulation it is unpacked byte by byte.
        "etc/initramfs-tools/conf.d/perun-vm": "MODULES=list\nCOMPRESS=gzip\n",
        "etc/initramfs-tools/modules": "virtio_pci\nvirtio_blk\next4\n",
    }
