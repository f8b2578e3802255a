"""`python -m bench.reproduce [NAME ...]`: the tables of docs/method.md; all of them unless some are named."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from bench.reproduce import gpu_sensor, iriscast, pm100, specpower, wattmeter
from bench.reproduce.rows import table
from bench.reproduce.source import Unavailable

STUDIES: Mapping[str, ModuleType] = {
    "wattmeter": wattmeter,
    "gpu-sensor": gpu_sensor,
    "specpower": specpower,
    "pm100": pm100,
    "iriscast": iriscast,
}


def main(argv: Sequence[str]) -> int:
    """Print the tables; 1 where a repository's data cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m bench.reproduce", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*STUDIES, []], help=", ".join(STUDIES))
    failed = False
    for name in parser.parse_args(argv).names or STUDIES:
        study = STUDIES[name]
        data = getattr(study, "DATA", None)
        print(f"**{study.TITLE}**" + (f" ({data.about}; from\n`{data.name}` at {data.commit[:12]})" if data else ""))
        print()
        try:
            print(table(study.lines()), end="\n\n", flush=True)
        except Unavailable as error:
            failed = failed or data is not None
            print(error, end="\n\n", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
