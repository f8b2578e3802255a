#!/bin/sh
# perun 1.0.0 (Helmholtz AI) runs a program that is not Python with `perun monitor -b`, and ends with 0 whatever the program's
# exit code was: a batch script that goes on only after success, or a Slurm job that should show FAILED, never learns of it.
# Needs: python3 with venv. Exits 0 while this holds.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check "perun==1.0.0" 2>/dev/null
printf '#!/bin/sh\necho ran >>ran\nexit 7\n' >solver
chmod +x solver

code=0; ./solver || code=$?
echo "alone: exit code $code"
monitored=0; env/bin/perun monitor -b ./solver >log 2>&1 || monitored=$?
echo "under perun $(env/bin/pip list --disable-pip-version-check 2>/dev/null | awk '$1 == "perun" {print $2}') monitor -b: exit code $monitored, the program ran $(wc -l <ran) times in all"
[ "$code $monitored $(wc -l <ran)" = "7 0 2" ] || { echo "behaves otherwise now"; exit 1; }
