#!/bin/sh
# Runs before the files go. Policy, accounts, spool, ledger and archive stay.
set -eu
case "$1" in remove | 0) ;; *) exit 0 ;; esac # dpkg's word and rpm's; the rest is an upgrade
prefix=/opt/perun-hpc

# Slurm drains a node whose Prolog is not there.
named=$( (timeout 10 scontrol show config 2>/dev/null || cat /etc/slurm/*.conf 2>/dev/null) | grep -E '^ *(Pro|Epi)log.*/opt/perun-hpc/' || :)
linked=$(find /etc/slurm -lname "$prefix/*" 2>/dev/null || :)
if [ -n "$named$linked" ]; then
	echo "perun-hpc: Slurm still runs its hooks: $named $linked" >&2
	echo "perun-hpc: take the lines out of slurm.conf, say 'scontrol reconfigure', then remove the package" >&2
	exit 1
fi

if [ -d /run/systemd/system ]; then
	systemctl disable --now perun-agent.service perun-collect.service
elif $prefix/bin/perun agent stop >/dev/null 2>&1; then
	flock -w 20 /run/perun/agent.lock true || : # until it has ended
fi
rm -f $prefix/bin/python $prefix/pyvenv.cfg
[ ! -L $prefix/lib/perun/perun_spank.so ] || rm -f $prefix/lib/perun/perun_spank.so
find $prefix -depth -name __pycache__ -exec rm -r {} +
