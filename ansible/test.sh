#!/bin/bash
# Runs the role on this machine's own file system with a throw-away layer above it: `make ansible-test`. What it installs, writes
# and removes is seen by nobody else and gone at the end. systemd's tasks are left out there; scontrol only notes what it is asked.
#   ansible/test.sh DIRECTORY      that has perun-hpc_*.deb, and ansible-playbook in tools/bin
set -euo pipefail
work=$(realpath "$1")
if [ "${2:-}" != inside ]; then
	exec unshare -m bash "$0" "$work" inside
fi

mount -t tmpfs tmpfs "$work/layer"
mkdir "$work"/layer/{upper,work,root}
root=$work/layer/root
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/layer/upper,workdir=$work/layer/work" "$root"
for at in proc sys dev; do mount --rbind /$at "$root/$at"; done
mount --bind "$PWD" "$root$PWD"

mkdir -p "$root/etc/slurm" "$root/tmp/role"
echo "ClusterName=x" >"$root/etc/slurm/slurm.conf"
printf '#!/bin/sh\necho "$*" >>/tmp/role/scontrol\n' >"$root/usr/bin/scontrol"
printf 'store:\n  archive: /shared/perun\n' >"$root/tmp/role/policy.yaml"
printf 'stores: {}\n' >"$root/tmp/role/wrong.yaml"
package=$(find "$work" -maxdepth 1 -name "perun-hpc_*_$(dpkg --print-architecture).deb" | sort | tail -1)
cat >"$root/tmp/role/inventory.yml" <<END
all:
  vars: {ansible_connection: local, ansible_python_interpreter: /usr/bin/python3, perun_hpc_manage_slurm_conf: true,
    perun_hpc_package: $package, perun_hpc_policy: /tmp/role/policy.yaml}
  children: {slurm_compute: {hosts: {n01: {}}}, slurm_controller: {hosts: {n01: {}}}, perun_collector: {hosts: {n01: {}}}}
END
# A version whose command ends with an error.
dpkg-deb -R "$package" "$work/layer/broken"
sed -i 's/^Version:.*/Version: 99-1/' "$work/layer/broken/DEBIAN/control"
printf '#!/bin/sh\necho "no such module" >&2; exit 3\n' >"$work/layer/broken/opt/perun-hpc/bin/perun"
dpkg-deb -Znone -b "$work/layer/broken" "$root/tmp/role/broken.deb" >/dev/null

inside() { chroot "$root" env -C "$PWD" ANSIBLE_NOCOLOR=1 ANSIBLE_HOME=/tmp/role PATH="$work/tools/bin:/usr/sbin:/usr/bin:/sbin:/bin" "$@"; }
failures=0
# what, wanted: "changed=N failed=N" or a pattern of the output; the rest are arguments of ansible-playbook
try() {
	local what=$1 wanted=$2 said
	shift 2
	said=$(inside ansible-playbook -i /tmp/role/inventory.yml ansible/perun.yml "$@" 2>&1) || :
	if grep -Eq -- "$wanted" <<<"$said"; then
		echo "passed: $what"
	else
		echo "FAILED: $what: not '$wanted' in"; tail -30 <<<"$said" | cut -c1-400; failures=$((failures + 1))
	fi
}
holds() {
	local what=$1
	shift
	if "$@" >/dev/null 2>&1; then echo "passed: $what"; else echo "FAILED: $what: $*"; failures=$((failures + 1)); fi
}

try "what a first run would do" "changed=1[0-9] .*failed=0" --check
holds "it did nothing" test ! -e "$root/opt/perun-hpc"
try "a first run" "changed=[5-9] .*failed=0"
holds "the command runs" inside perun policy check
holds "Slurm was told once" grep -qx reconfigure "$root/tmp/role/scontrol"
holds "slurm.conf has the hooks" grep -q ^Prolog=/opt/perun-hpc/libexec/perun/prolog "$root/etc/slurm/slurm.conf"
try "a second run changes nothing" "changed=0 .*failed=0"
try "nor would it" "changed=0 .*failed=0" --check
try "a wrong policy is refused" "failed to validate" -e perun_hpc_policy=/tmp/role/wrong.yaml
holds "the one before stays" grep -q /shared/perun "$root/etc/perun/policy.yaml"
try "a version that does not run goes back" "does not run on n01 .no such module.*version before is back" \
	-e perun_hpc_package=/tmp/role/broken.deb -e "perun_hpc_previous=$package"
holds "the one before runs" inside perun policy check
try "removed" "changed=[3-6] .*failed=0" -e perun_hpc_state=absent
holds "slurm.conf is as it was" test "$(cat "$root/etc/slurm/slurm.conf")" = "ClusterName=x"
holds "nothing is left but data" test ! -e "$root/opt/perun-hpc"
holds "the policy is" test -e "$root/etc/perun/policy.yaml"
try "removed once more" "changed=0 .*failed=0" -e perun_hpc_state=absent
exit "$((failures > 0))"
