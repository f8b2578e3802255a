"""`perun launch`: become a rank of a flagged step, for launchers that the Slurm plugin does not see.

What `perun-launch` does in C: register with the node's agent, put the launcher into the environment, become the
command under the same process id. Whatever goes wrong, the command runs as without us.
"""

from __future__ import annotations

import argparse
import os
import sys


def configure(parser: argparse.ArgumentParser) -> None:
    """The command is all there is."""
    parser.usage = "perun launch COMMAND [ARGS ...]"
    parser.add_argument("program", help="the command to run in this process")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")


def run(args: argparse.Namespace) -> int:
    """Never returns where the command can be executed."""
    from perun_hpc.errors import NotFoundError
    from perun_hpc.monitoring.application import injected
    from perun_hpc.monitoring.enrol import enrol, task

    command = [args.program, *args.arguments]
    environ = dict(os.environ)
    rank = enrol(command)
    if rank is None and os.environ.get("SLURM_LOCALID", "0") == "0":
        print("perun: no agent takes this rank: it runs without measurement", file=sys.stderr, flush=True)
    # A task that no agent takes still takes its part in what the ranks of a host do together.
    known = rank if rank is not None else task(environ)
    if known is not None:
        environ = injected(environ, known, os.getpid())
    _restore_signals()
    try:
        os.execvpe(command[0], command, environ)
    except OSError as error:
        raise NotFoundError(f"cannot run {command[0]}: {error.strerror}; check the path") from error


def _restore_signals() -> None:
    """Python ignores these two; what it becomes expects them as they were."""
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
