#!/bin/bash
#SBATCH --job-name=plain
#SBATCH --nodes=2
#SBATCH --ntasks=2
#SBATCH --output=plain.out
# An ordinary batch job: nothing in it knows of perun.
# shellcheck disable=SC2016  # expanded by the inner shell, on each node
srun sh -c 'end=$(($(date +%s) + 6)); n=0; while [ "$(date +%s)" -lt "$end" ]; do n=$((n + 1)); done; echo "$(hostname) counted to $n"'
