#!/bin/sh
# cover.sh OPTIONS "PLACE..." COMMAND...: run a command where an empty tmpfs lies over some directories, in a mount namespace of
# its own. Where this checkout is below one of them it is seen there still. OPTIONS as of mount, or `full`: without a free inode.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd -P)
# shellcheck disable=SC2016  # expanded by the inner shell
exec env here="$here" options="$1" places="$2" unshare --mount --propagation private sh -euc '
  shift 2
  was=$(pwd -P)
  exec 9<"$here"
  for place in $places; do
    mount -t tmpfs -o mode=1777 tmpfs "$place"
    case $here in "$place"/*) mkdir -p "$here"; mount --no-canonicalize --bind /proc/self/fd/9 "$here" ;; esac
    now=$options
    [ "$now" != full ] || now=nr_inodes=$(find "$place" -xdev | wc -l)
    mount -o "remount,$now" "$place"
  done
  exec 9<&-
  cd "$was" 2>/dev/null || :
  unset here options places was
  exec "$@"' sh "$@"
