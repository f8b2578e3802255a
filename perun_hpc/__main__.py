"""`python -m perun_hpc`: the `perun` command."""

import sys

from perun_hpc.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
