#!/bin/sh
# Runs before the files go. Policy, accounts, spool, ledger and archive stay.
set -eu
case "$1" in remove | 0) ;; *) exit 0 ;; esac # dpkg's word and rpm's; the rest is an upgrade
prefix=/opt/perun-hpc

# Slurm drains a node whose Prolog is not there: by its own name, by a link in a directory of hooks, in a script of the site's.
conf=$(timeout 10 scontrol show config 2>/dev/null || cat /etc/slurm/*.conf 2>/dev/null || :)
named=$(printf '%s\n' "$conf" | grep -Ei "^ *(Pro|Epi)log.*$prefix/" || :)
hooks=$(printf '%s\n' "$conf" | sed -nE 's/^ *(Pro|Epi)log(Slurmctld)?(\[[0-9]+\])? *= *//Ip')
# shellcheck disable=SC2086 # hooks may be patterns
linked=$({
	timeout 10 find /etc/slurm -lname "$prefix/*"
	[ -z "$hooks" ] || timeout 10 find $hooks -maxdepth 0 -lname "$prefix/*"
	[ -z "$hooks" ] || timeout 10 grep -lF "$prefix/libexec/perun/" $hooks
} 2>/dev/null </dev/null | sort -u || :)
if [ -n "$named$linked" ]; then
	echo "perun-hpc: Slurm still runs its hooks: $named $linked" >&2
	echo "perun-hpc: take them out of slurm.conf and its hooks, say 'scontrol reconfigure', then remove the package" >&2
	exit 1
fi

if [ -d /run/systemd/system ]; then
	systemctl disable --now perun-agent.service perun-collect.service
elif [ -e /run/perun/agent.lock ]; then
	for _ in 1 2 3; do # an agent may be too busy to answer at once; the lock is free when it has ended
		flock -n /run/perun/agent.lock true && break
		$prefix/bin/perun agent stop >/dev/null 2>&1 || :
		flock -w 20 /run/perun/agent.lock true && break
	done || echo "perun-hpc: its agent does not end: kill it (perun agent status names its pid)" >&2
fi
rm -f $prefix/bin/python $prefix/pyvenv.cfg
[ ! -L $prefix/lib/perun/perun_spank.so ] || rm -f $prefix/lib/perun/perun_spank.so
find $prefix -depth -name __pycache__ -exec rm -r {} +
