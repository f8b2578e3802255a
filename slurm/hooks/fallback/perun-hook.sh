#!/bin/sh
# The slower hooks, for machines without a C compiler: link this file as PREFIX/libexec/perun/prolog, .../epilog, and copy
# slurm/hooks/isolated.py beside them.
# Same messages, same inbox, same promise as the C program: exit 0 always. Slurm gives hooks no PATH.
set -u

[ -e /etc/perun/disable ] && exit 0

# Slurm may run a link to the link in the prefix (prolog.d/50-perun-prolog): the prefix is where the first name in it lies.
path=$0
for _ in 1 2 3 4 5 6 7 8; do
  case $path in */libexec/perun/*) break ;; esac
  target=$(/usr/bin/readlink "$path") || break
  case $target in /*) path=$target ;; *) path=${path%/*}/$target ;; esac
done
case $path in
  */libexec/perun/*) ;;
  *) echo "perun ${0##*/}: link it through PREFIX/libexec/perun: no prefix is known" >&2; exit 0 ;;
esac
libexec=${path%/*}
/usr/bin/timeout -k 1 5 "${libexec%/libexec/perun}/bin/python" -I -S "$libexec/isolated.py" perun_hpc.slurm.hook "${0##*/}" </dev/null
exit 0
