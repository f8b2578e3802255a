#!/bin/sh
# Runs after the files are there: installed, upgraded, or (dpkg) after another Slurm or Python came. It may be repeated.
set -eu
prefix=/opt/perun-hpc
$prefix/libexec/perun/setup
case "$1" in triggered | abort-*) exit 0 ;; esac # the code is the same as before: what runs goes on

# An agent or a collector that runs goes on with the new code; the agent's jobs are taken up where they were.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl try-restart perun-agent.service perun-collect.service ||
		echo "perun-hpc: a unit did not start again: systemctl status perun-agent perun-collect" >&2
elif [ -x $prefix/bin/python ] && $prefix/bin/perun agent stop >/dev/null 2>&1; then
	flock -w 20 /run/perun/agent.lock true || : # until it has ended
	cd / && env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 setsid -f $prefix/bin/python -I -S $prefix/libexec/perun/isolated.py perun_hpc.agent </dev/null >/dev/null 2>&1
fi
