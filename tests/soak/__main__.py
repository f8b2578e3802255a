"""The long runs, one table row each: `python -m tests.soak [NAME ...]`."""

from __future__ import annotations

import importlib
import sys

SUITES = ("sampler", "store_kill", "store_agents", "histories", "power", "properties", "month", "ledger")


def main(names: list[str]) -> int:
    """Run the named suites (default: all) at full length; 1 if one found a fault."""
    unknown = [name for name in names if name not in SUITES]
    if unknown:
        print(f"no suite {unknown[0]}: there are {', '.join(SUITES)}", file=sys.stderr)
        return 64
    print("| suite | size | checked | result |\n|---|---|---|---|", flush=True)
    codes = [importlib.import_module(f"tests.soak.{name}").main([]) for name in names or SUITES]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
