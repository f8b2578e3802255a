#!/bin/sh
# Run a command where other users may enter this checkout. Some tests run as other users, who may not look into /root,
# where root's checkouts lie: for the command alone (a mount namespace) an open directory with nothing but the checkout, and
# pyenv's interpreters, in it covers the closed one. Where all is open, and for others than root, the command runs as it is.
set -eu
here=$(pwd -P)
closed=
path=$(dirname "$here")
while [ "$path" != / ]; do
  case $(stat -c %A "$path") in *x | *t) ;; *) closed=$path ;; esac
  path=$(dirname "$path")
done
if [ -z "$closed" ] || [ "$(id -u)" -ne 0 ]; then
  exec "$@"
fi
echo "other users may not enter $closed: for these tests alone, an open directory stands in its place"
# shellcheck disable=SC2016  # expanded by the inner shell
exec env here="$here" closed="$closed" pyenv="${PYENV_ROOT:-$HOME/.pyenv}" unshare --mount --propagation private sh -euc '
  exec 9<"$here"
  [ ! -d "$pyenv" ] || exec 8<"$pyenv"
  mount -t tmpfs -o mode=0755 checkout "$closed"
  mkdir -p "$here"
  mount --no-canonicalize --bind /proc/self/fd/9 "$here"
  case $pyenv in "$closed"/*) [ ! -e /proc/self/fd/8 ] || { mkdir -p "$pyenv"; mount --no-canonicalize --bind /proc/self/fd/8 "$pyenv"; } ;; esac
  exec 8<&- 9<&-
  cd "$here"
  exec "$@"' sh "$@"
