#!/bin/sh
# Slurm 22.05.8 expands a node expression with three brackets in an order of its own: `scontrol show hostnames` lets the middle
# bracket vary slowest, the first one next, the last one fastest. Two brackets are expanded from the left, as nested loops
# would. Whoever expands such an expression by loops and goes by a node's place in the list names another node.
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
  for nodes in 'a[1-2]b[1-2]' 'a[1-2]b[1-2]c[1-2]'; do
    echo "$nodes: $("$scontrol" show hostnames "$nodes" | tr '\n' ' ')"
  done
} | sed 's/ *$//' | tee seen
cat >expected <<'TEXT'
slurm-wlm 22.05.8
a[1-2]b[1-2]: a1b1 a1b2 a2b1 a2b2
a[1-2]b[1-2]c[1-2]: a1b1c1 a1b1c2 a2b1c1 a2b1c2 a1b2c1 a1b2c2 a2b2c1 a2b2c2
TEXT
cmp -s seen expected || { echo "behaves otherwise now"; exit 1; }
