#!/bin/sh
# Makes what perun-hpc needs on this host: accounts, directories, the Python that runs it, the plugin for this host's Slurm.
# The package runs it; run it again after another Slurm or Python was installed. PATH says where Slurm is; a Python in another
# place than the system's directories is named by PYTHON=/opt/python3.12/bin/python3.12.
set -eu
prefix=/opt/perun-hpc
say() { echo "perun-hpc: $*" >&2; }

# The same numbers on every host (/usr/lib/sysusers.d/perun-hpc.conf has them too); an account that is there stays as it is.
account() {
	getent passwd "$1" >/dev/null && return
	useradd --system --user-group --no-create-home --home-dir "$3" --shell /usr/sbin/nologin --uid "$2" "$1" && return
	say "no account $1 (is the number $2 taken?): make it with a number that is free on every host, and run $prefix/libexec/perun/setup"
}
account perun 820 /var/lib/perun
account perun-parse 821 /nonexistent
# Whose the spool is, the agent runs as: one that is not root's stays as it is. An account of the site's may have another group.
for directory in /var/spool/perun /var/lib/perun; do
	[ "$(stat -c %u $directory 2>/dev/null || echo 0)" -ne 0 ] || install -d -o perun -g "$(id -g perun)" -m 0711 $directory
done

# Of the Pythons for which there are packages here, the oldest; one that was chosen before and still runs stays. PATH is not
# asked: who installs may have a Python of their own in it (pyenv, conda), which the service users cannot run.
if [ -n "${PYTHON:-}" ] || ! $prefix/bin/python -I -c 'import perun_hpc, numpy' 2>/dev/null; then
	rm -f $prefix/bin/python
	for packages in "$prefix"/lib/python3.*/; do
		python=${PYTHON:-$(PATH=/usr/bin:/usr/local/bin command -v "$(basename "$packages")")} || continue
		ln -s "$python" $prefix/bin/python
		printf 'home = %s\ninclude-system-site-packages = false\n' "$(dirname "$python")" >$prefix/pyvenv.cfg
		break
	done
fi
if [ -x $prefix/bin/python ]; then
	nice -n 19 $prefix/bin/python -I -m compileall -q -j 0 "$($prefix/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || :
else
	say "no Python of" $prefix/lib/python3.* "on this host: install one, and run $prefix/libexec/perun/setup"
fi

# The plugin must be of this Slurm's major release. One that an administrator has compiled is a file, no link, and stays.
plugin=$prefix/lib/perun/perun_spank.so
# srun names its version only where it finds a slurm.conf, which this host may not have yet.
conf=$(mktemp)
printf 'ClusterName=any\nSlurmctldHost=localhost\n' >"$conf"
release=$({ SLURM_CONF=$conf srun --version || slurmd -V; } 2>/dev/null | sed -nE 's/^slurm[^ ]* ([0-9]+\.[0-9]+).*/\1/p')
rm -f "$conf"
if [ -n "$release" ] && { [ -L $plugin ] || [ ! -e $plugin ]; }; then
	if [ -e $prefix/lib/perun/slurm-"$release"/perun_spank.so ]; then
		ln -sfn slurm-"$release"/perun_spank.so $plugin.new && mv -fT $plugin.new $plugin
	else
		rm -f $plugin
		say "no plugin for Slurm $release in this package, so srun will not know --perun: compile it, docs/install.md says how"
	fi
fi
