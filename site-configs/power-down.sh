#!/bin/sh
# An example of SuspendProgram, for slurm.conf on the controller: nodes hand over what perun has measured, then they are
# switched off by the site's own program, whatever became of that. SlurmUser must be able to run a command on nodes as
# root by ssh, here by a key whose authorized_keys line has command="/opt/perun-hpc/bin/perun agent flush".
for node in $(scontrol show hostnames "$1"); do
	timeout 30 ssh -o BatchMode=yes -o ConnectTimeout=5 "root@$node" /opt/perun-hpc/bin/perun agent flush &
done </dev/null >/dev/null 2>&1
wait
exec /etc/slurm/power-off.sh "$1"
