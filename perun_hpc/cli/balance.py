"""`perun balance MONTH`: where a month's energy went, from the facility's meter to jobs, idle nodes and those off."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from perun_hpc.accounting import facility, node_events
from perun_hpc.accounting.balance import Balance, draw_up
from perun_hpc.accounting.month import days_of
from perun_hpc.accounting.node_events import Slurm
from perun_hpc.accounting.site import load_site
from perun_hpc.accounting.verify import day_bounds
from perun_hpc.cli.verify import check_month
from perun_hpc.cli.where import places, present
from perun_hpc.errors import AccessError, UnavailableError, UsageError
from perun_hpc.report.balance import lines
from perun_hpc.report.screen import style_for


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("month", metavar="MONTH", help="as in 2026-11; of one that goes on, what there is so far")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw it: .html, .svg, .png or .pdf")
    parser.add_argument(
        "--no-slurm", action="store_true", help="do not ask Slurm which nodes were off; a sealed month says it"
    )
    parser.add_argument("--json", action="store_true", help="print edges, node-hours and findings as JSON")
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.set_defaults(ledger=None)


def run(args: argparse.Namespace) -> int:
    """Draw the balance up; 1 where something does not close."""
    month, archive = check_month(args.month), present(places(args).archive)
    from perun_hpc.report.sankey import SUFFIXES, write

    if args.picture is not None and args.picture.suffix not in SUFFIXES:
        raise UsageError(f"--picture {args.picture}: its name must end in one of {', '.join(SUFFIXES)}")
    bounds = [day_bounds(day) for day in days_of(month)]
    span = float(bounds[0][0]), min(float(bounds[-1][1]), time.time())
    if span[1] <= span[0]:
        raise UsageError(f"{month} has not begun: it begins at {datetime.fromtimestamp(span[0]):%Y-%m-%d %H:%M}")
    slurm = node_events.read(archive, month) or _ask(span, args.cluster, args.no_slurm)
    settings = load_site().settings
    halls = [one.name for one in facility.declared(settings.sensors.files)]
    made = draw_up(archive, month, span, slurm, settings.facility.meters, halls)
    if args.picture is not None:
        try:
            write(made, args.picture)
        except OSError as error:
            why = error.strerror or error
            raise AccessError(f"{args.picture} cannot be written: {why}; choose another place") from error
    if args.json:
        print(json.dumps(_json(made), indent=1))
    else:
        print("\n".join(lines(made, style_for(sys.stdout))))
    return 1 if made.findings else 0


def _ask(span: tuple[float, float], cluster: str | None, no_slurm: bool) -> Slurm:
    if no_slurm:
        return Slurm(why="Slurm was not asked which nodes were off")
    try:
        return node_events.ask(int(span[0]), int(span[1]), cluster)
    except UnavailableError as error:
        return Slurm(why=f"which nodes were off is not known: {error}")


def _json(made: Balance) -> dict[str, object]:
    edges = [{"from": one.source, "to": one.target, **asdict(one.amount)} for one in made.edges]
    nodes = {
        name: {part: getattr(one, f"{part}_s") for part in ("observed", "off", "boot", "unobserved", "odd")}
        for name, one in made.nodes.items()
    }
    return {
        "schema": "perun.balance/1", "cluster": made.cluster, "month": made.month, "span_s": made.span, "edges": edges,
        "node_seconds": {**asdict(made.hours), "observed_share": made.hours.observed}, "nodes": nodes,
        "meters": made.sources, "notes": made.notes, "findings": made.findings,
    }  # fmt: skip
