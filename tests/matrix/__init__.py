"""The cluster's tests on every Slurm that Debian carries, each in a root file system of its own.

    python -m tests.matrix [RELEASE ...] [--tests PATH ...]
    python -m tests.matrix --short
    python -m tests.matrix [RELEASE ...] --enter COMMAND

The roots are made by debootstrap and kept below `.matrix/`, or where `$PERUN_ROOTS` says.
"""
