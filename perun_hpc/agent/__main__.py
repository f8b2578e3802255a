"""Start the node's agent: `python -I -S PREFIX/libexec/perun/isolated.py perun_hpc.agent`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from perun_hpc.agent.daemon import Options, run

USAGE = "usage: python -I -m perun_hpc.agent [--run-dir DIR] [--spool DIR] [--root DIR] [--policy FILE] [--foreground]"


def options(words: list[str], environment: dict[str, str]) -> Options | None:
    """What the command line says; None if it is wrong. (argparse costs 6 ms of a prolog's time.)"""
    given = {"--policy": environment.get("PERUN_POLICY", "/etc/perun/policy.yaml")}
    given.update({"--run-dir": "/run/perun", "--spool": "/var/spool/perun", "--root": "/"})
    foreground = False
    rest = iter(words)
    for word in rest:
        value = next(rest, None) if word in given else None
        if word == "--foreground":
            foreground = True
        elif value is not None:
            given[word] = value
        else:
            return None
    paths = {name: Path(value) for name, value in given.items()}
    return Options(paths["--run-dir"], paths["--spool"], paths["--root"], paths["--policy"], foreground)


if __name__ == "__main__":
    chosen = options(sys.argv[1:], dict(os.environ))
    if chosen is None:
        print(USAGE, file=sys.stderr)
        sys.exit(64)
    sys.exit(run(chosen))
