#!/bin/sh
# Slurm 22.05.8 counts a blank inside the brackets of a node expression as a digit of the number's width: `n[1-2, 4]` is n1, n2
# and n04, where whoever wrote it meant n4. There is no warning; a blank before the first number widens the whole range.
# Needs: Debian 12, apt-get (packages are unpacked in a temporary folder, not installed). Exits 0 while this holds.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
chmod 755 .
version=$(apt-cache madison slurm-client | awk '$3 ~ /^22\.05\.8-/ {print $3; exit}')
[ -n "$version" ] || { echo "no slurm-client 22.05.8 to be had: apt-get update?"; exit 2; }
apt-get -qq download "slurm-client=$version" "slurm-wlm-basic-plugins=$version" libmunge2 2>/dev/null
for package in *.deb; do dpkg -x "$package" root; done
lib=$(dirname "$(find root -name 'libslurmfull.so' | head -n 1)")
cat >slurm.conf <<CONF
ClusterName=any
SlurmctldHost=localhost
PluginDir=$dir/$lib
NodeName=localhost
PartitionName=any Nodes=localhost
CONF
machine=$(uname -m)
export LD_LIBRARY_PATH="$dir/$lib:$dir/root/usr/lib/$machine-linux-gnu" SLURM_CONF="$dir/slurm.conf"
scontrol="$dir/root/usr/bin/scontrol"
{
  "$scontrol" --version
  for nodes in 'n[1-2,4]' 'n[1-2, 4]' 'n[ 1-3]'; do
    echo "$nodes: $("$scontrol" show hostnames "$nodes" | tr '\n' ' ')"
  done
} | sed 's/ *$//' | tee seen
cat >expected <<'TEXT'
slurm-wlm 22.05.8
n[1-2,4]: n1 n2 n4
n[1-2, 4]: n1 n2 n04
n[ 1-3]: n01 n02 n03
TEXT
cmp -s seen expected || { echo "behaves otherwise now"; exit 1; }
