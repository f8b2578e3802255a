"""Every property with twenty times the examples: `python -m tests.soak properties`. See `tests.examples`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.examples import DEEP

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 3600
"""Of one property."""


def main(arguments: list[str]) -> int:
    """Run them and print a row of the table; 1 if one does not hold."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "hypothesis", "--hypothesis-profile=deep"]
    command += [f"--timeout={TIMEOUT_S}", *(arguments or ["tests"])]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    last = done.stdout.splitlines()[-1].strip("= ") if done.stdout else "pytest said nothing"
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    result = "one does not hold" if done.returncode else "all hold"
    print(f"| properties | {last} | each with {DEEP} times the examples of `make test` | {result} |", flush=True)
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
