"""Run every kind of job and print the table; 1 where something does not fit."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from devcluster import Cluster, site
from tests.figures.ground import switched_on
from tests.figures.measure import measure
from tests.figures.table import markdown, sreport_troubles, troubles

PAGE = Path(__file__).resolve().parents[2] / "docs" / "figures.md"
MARK = "<!-- below: python -m tests.figures --write -->\n"


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    top = argparse.ArgumentParser(prog="python -m tests.figures", description=__doc__)
    top.add_argument("names", nargs="*", metavar="KIND", help="which kinds (default: all)")
    top.add_argument("--cluster", default="figures", metavar="NAME", help="the cluster's name on this machine")
    top.add_argument("--keep", action="store_true", help="leave the cluster up, use it if it is up")
    top.add_argument("--write", action="store_true", help="write the table into docs/figures.md")
    return top


def main() -> int:
    """Try the kinds."""
    words = parser().parse_args()
    cluster = Cluster(words.cluster)
    cluster.up()
    try:
        site.install(cluster)
        with switched_on(cluster, profiles=True):
            rows = measure(cluster, words.names)
    finally:
        if not words.keep:
            cluster.down()
    text = markdown(rows)
    print(text)
    if words.write:
        head, _, _ = PAGE.read_text().partition(MARK)
        PAGE.write_text(head + MARK + text)
    found = [one for row in rows for one in troubles(row)] + sreport_troubles(rows)
    for one in found:
        print(f"does not fit: {one}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
