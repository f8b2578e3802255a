"""`perun usage --by account,month`: energy, CO2, cost, GPU-hours and waste from the ledger, over whole local days."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from datetime import datetime

from perun_hpc.accounting.questions import GROUPS, Filter, usage
from perun_hpc.accounting.site import load_site
from perun_hpc.cli.jobs import add_filters, words
from perun_hpc.cli.sums import sums
from perun_hpc.errors import UsageError
from perun_hpc.report.screen import style_for, wrapped
from perun_hpc.report.usage import total, usage_csv, usage_json, usage_table
from perun_hpc.slurm.times import in_order, parse_time

LOWER = (
    "CO2e and cost are at least that: they are of the energies that sensors of the nodes saw, and the site states no "
    "PUE for cooling and supply."
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_filters(parser, "the first of this month")
    parser.add_argument("--by", default="account", metavar="LIST", help=f"any of: {', '.join(GROUPS)}")
    parser.add_argument(
        "--format", choices=("table", "csv", "json"), default="table", help="how to print it (default: table)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the sums."""
    # There may be tens of thousands of lines, and no circles among them: to look for these takes a tenth of the time.
    looked = gc.isenabled()
    gc.disable()
    try:
        return _print(args)
    finally:
        if looked:
            gc.enable()


def _print(args: argparse.Namespace) -> int:
    by = words(args.by)
    unknown = [name for name in by if name not in GROUPS]
    if unknown or not by:
        raise UsageError(
            f"--by '{args.by}': unknown {', '.join(unknown) or 'nothing'}: choose from {', '.join(GROUPS)}"
        )
    since_day, until_day = days(args)
    wanted = Filter(
        cluster=args.cluster or "",
        users=words(args.user),
        accounts=words(args.account),
        partitions=words(args.partition),
        qos=words(args.qos),
    )
    site = load_site()
    with sums(args, since_day) as seen:
        rows = usage(seen.ledger, by, wanted, since_day, until_day)
    if args.format == "json":
        print(json.dumps(usage_json(rows, by), indent=1))
    elif args.format == "csv":
        print(usage_csv(rows, by), end="")
    else:
        whole = total(rows)
        priced = any(value for name, value in whole.items() if name.startswith(("co2_", "cost_")))
        price = site.settings.footprint.price or {}
        currency = str(price.get("currency") or "") if priced else None
        print(f"{since_day} to {until_day}, whole days in local time")
        print("\n".join(usage_table(rows, whole, by, style_for(sys.stdout), currency)))
        if priced and rows and not site.settings.footprint.pue:
            print("\n".join(["", *wrapped(LOWER, 0)]))
    return 0


def days(args: argparse.Namespace) -> tuple[str, str]:
    """The first and the last day asked for; by default this month so far."""
    now = datetime.now()
    since = parse_time(args.since, now) if args.since else now.replace(day=1)
    until = parse_time(args.until, now) if args.until else now
    in_order(since, until, now)
    return since.strftime("%Y-%m-%d"), until.strftime("%Y-%m-%d")
