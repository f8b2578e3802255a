#!/bin/sh
# Installs, upgrades and removes the package in a root file system that may be thrown away: scenario.sh INSTALL UPGRADE REMOVE,
# each a command. Without a network. Prints what holds; ends with 1 at the first that does not.
# shellcheck disable=SC2086,SC2046 # words of commands
set -eu
install=$1 upgrade=$2 remove=$3
prefix=/opt/perun-hpc

holds() { # WHAT COMMAND...
	what=$1
	shift
	if "$@" >/tmp/said 2>&1; then
		echo "    yes  $what"
	else
		echo "    NO   $what" && cat /tmp/said && exit 1
	fi
}
# What is a run's own, or of a `make matrix` that uses the root below this layer, is left out.
OTHERS="/tmp /run /srv /var/log /var/cache /var/lib/dpkg /var/lib/rpm /var/lib/perun-cluster"
everything() { find / -xdev \( -path /packages $(printf -- '-o -path %s ' $OTHERS) \) -prune -o -print | sort; }
same() { [ "$1" = "$2" ] || { echo "$1" && false; }; }
agent() { perun agent status | sed -nE 's/.*pid ([0-9]+),.*/\1/p'; }
answers() { for _ in $(seq 100); do [ -z "$(agent 2>/dev/null)" ] || return 0; sleep 0.1; done; false; }
mentions() { grep -q -e "$1" "$2"; }

everything >/tmp/before
echo "  installation: $install"
holds "it installs without a network" $install
holds "the command runs, by $(readlink $prefix/bin/python)" perun --version
holds "its packages are importable" $prefix/bin/python -c 'import numpy, zarr, psycopg, yaml, psutil, numcodecs.blosc, pynvml'
holds "two accounts, 820 and 821" same "$(id -u perun) $(id -u perun-parse)" "820 821"
holds "spool and ledger's directory" same "$(stat -c '%n %a %U' /var/spool/perun /var/lib/perun | tr '\n' ' ')" \
	"/var/spool/perun 711 perun /var/lib/perun 711 perun "
holds "the policy is valid" perun policy check
holds "systemd knows the units" systemd-analyze verify --man=no /usr/lib/systemd/system/perun-agent.service /usr/lib/systemd/system/perun-collect.service
holds "manual pages" test -s /usr/share/man/man1/perun-report.1
if command -v srun >/dev/null; then
	mkdir -p /etc/slurm
	printf 'ClusterName=c\nSlurmctldHost=localhost\n' >/etc/slurm/slurm.conf
	cat /usr/share/doc/perun-hpc/plugstack.conf.perun >/etc/slurm/plugstack.conf
	srun --help >/tmp/help
	holds "$(srun --version) knows --perun by $(readlink $prefix/lib/perun/perun_spank.so)" mentions --perun /tmp/help
	rm /etc/slurm/plugstack.conf
fi
$install >/dev/null 2>&1 || :
holds "its scripts may run again" $prefix/libexec/perun/setup

echo "  upgrade: $upgrade"
setsid -f $prefix/bin/python -I -S $prefix/libexec/perun/isolated.py perun_hpc.agent </dev/null >/dev/null 2>&1
holds "an agent runs" answers
old=$(agent)
echo '# ours' >>/etc/perun/policy.yaml
touch /var/lib/perun/ledger.db /var/spool/perun/record
(while [ ! -e /tmp/over ]; do env -i SLURM_JOB_ID=1 SLURM_SCRIPT_CONTEXT=prolog_slurmd $prefix/libexec/perun/prolog || echo "exit code $?" >>/tmp/hooks; done) 2>/dev/null &
holds "it upgrades" $upgrade
touch /tmp/over
wait $!
holds "the hook was there all the time" same "$(cat /tmp/hooks 2>/dev/null)" ""
holds "an agent of the new code runs" answers
holds "it is another one" test "$old" != "$(agent)"
holds "policy, ledger and spool are there" mentions ours /etc/perun/policy.yaml
holds "policy, ledger and spool are there" ls /var/lib/perun/ledger.db /var/spool/perun/record

echo "  removal: $remove"
mkdir -p /etc/slurm
echo "Prolog=$prefix/libexec/perun/prolog" >>/etc/slurm/slurm.conf
if $remove >/tmp/refused 2>&1; then exit 1; fi
holds "not while slurm.conf names the hooks, and it says so" mentions "take them out of slurm.conf" /tmp/refused
holds "all is still there" perun --version
rm -r /etc/slurm
holds "it goes" $remove
holds "no agent is left" same "$(grep -lsz perun_hpc.agent /proc/[0-9]*/cmdline || :)" ""
# In a distribution of rpm's the package `filesystem` has these directories, so nfpm leaves them to it.
rmdir -p /usr/share/fish/vendor_completions.d /usr/share/zsh/site-functions 2>/dev/null || :
everything >/tmp/after
holds "data is left and nothing else" same "$(comm -13 /tmp/before /tmp/after | grep -vE '^/(etc/perun|var/spool/perun|var/lib/perun)(/|$)|^/etc/(passwd|group|shadow|gshadow|subuid|subgid)-?$' || :)" ""
