"""`perun calibrate --meter NAME=NODES`: what nodes of a type draw at the wall, fitted beside a meter, as a proposal."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime, timedelta
from pathlib import Path

from perun_hpc.accounting.calibrating import COMPONENTS, Beside, Meter, rows_beside
from perun_hpc.archive.places import Archive
from perun_hpc.cli.where import places, present
from perun_hpc.data_model.wording import count
from perun_hpc.energy.calibration import DAY_ERROR, DAYS_S, WallModel, fit, relative_error
from perun_hpc.errors import DataError, UsageError
from perun_hpc.report.screen import style_for, table, wrapped
from perun_hpc.slurm import hostlist
from perun_hpc.slurm.times import in_order, parse_time

VALID_DAYS = 365


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--meter",
        action="append",
        required=True,
        metavar="NAME=NODES",
        help="a facility meter (or a CSV file with the columns time, kwh) and the nodes that it feeds, all of one "
        "type, as in pdu3=n[01-12]; may be given several times; NAME+NAME: their sum, as of two cords",
    )
    parser.add_argument("-S", "--since", metavar="TIME", default="", help="first day (default: 30 days ago)")
    parser.add_argument("-E", "--until", metavar="TIME", default="now", help="last day (default: today)")
    parser.add_argument("--period", type=float, default=300, metavar="S", help="least time of a row (default 300 s)")
    parser.add_argument(
        "--meter-error", type=float, default=0.01, metavar="U", help="the meter's relative error, k=1 (default 0.01)"
    )
    parser.add_argument("--together", default="", metavar="LIST", help="components to fit as one, as in cpu,dram")
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.set_defaults(ledger=None)


def run(args: argparse.Namespace) -> int:
    """Fit, and print the model with its bounds and the policy's lines."""
    now = datetime.now()
    since = parse_time(args.since, now) if args.since else now - timedelta(days=30)
    until = parse_time(args.until, now)
    days = since.strftime("%Y-%m-%d"), until.strftime("%Y-%m-%d")
    if days[0] > days[1]:
        in_order(since, until, now)
    if not 60 <= args.period <= 86_400 or not 0 <= args.meter_error < 1:
        raise UsageError("--period is from 60 to 86400 s, --meter-error from 0 to 1: correct them")
    together = frozenset(filter(None, args.together.split(",")))
    if not together <= set(COMPONENTS) or len(together) == 1:
        raise UsageError(f"--together {args.together}: name two or more of {', '.join(COMPONENTS)}")
    archive = present(places(args).archive)
    meters = [_meter(archive, text) for text in args.meter]
    beside = rows_beside(archive, meters, days, args.period, together)
    model = fit(beside.rows, args.meter_error)
    nodes = ",".join(text.partition("=")[2] for text in args.meter)
    print("\n".join(_said(model, beside, style_for(sys.stdout).plus_minus, args.meter_error)))
    lowest = min((c.value, name) for name, c in (("static", model.static_w), *model.slopes.items()))
    if lowest[0] <= 0:
        raise DataError(
            f"{lowest[1]} came out as {lowest[0]:.3g}, which cannot be: see that the meter feeds these nodes only"
        )
    print(
        "\n".join(
            _proposal(
                model,
                beside,
                nodes,
                ", ".join("+".join(path.stem for path in one.paths) for one in meters),
                args.meter_error,
            )
        )
    )
    return 0


def _meter(archive: Archive, text: str) -> Meter:
    name, _, nodes = text.partition("=")
    try:
        fed = hostlist.expand(nodes)
    except ValueError as error:
        raise UsageError(f"--meter {text}: write NAME=NODES, as in pdu3=n[01-12] ({error})") from error
    if not name or not fed:
        raise UsageError(f"--meter {text}: write NAME=NODES, as in pdu3=n[01-12]")
    parts = name.split("+")
    if not all(parts):
        raise UsageError(f"--meter {text}: write NAME=NODES, or NAME+NAME=NODES for the sum of several")
    return Meter(
        tuple(Path(one) if "/" in one or one.endswith(".csv") else archive.facility(one) for one in parts), tuple(fed)
    )


def _said(model: WallModel, beside: Beside, sign: str, gain_u: float) -> list[str]:
    first, last = (f"{datetime.fromtimestamp(at_s):%Y-%m-%d %H:%M}" for at_s in (beside.first_s, beside.last_s))
    rows = [["static", f"{model.static_w.value:.1f} W", f"{sign} {2 * model.static_w.u:.1f}", ""]]
    for name, slope in model.slopes.items():
        low, high = model.spans_w[name]
        rows.append([name, f"{slope.value:.3f}", f"{sign} {2 * slope.u:.3f}", f"{low:.0f} to {high:.0f} W"])
    lines = table(rows, ["", "a node", "bounds (k=2)", "seen from"], [False, True, True, True], style_for(sys.stdout))
    until = datetime.fromtimestamp(beside.last_s) + timedelta(days=VALID_DAYS)
    said = (
        f"RMSE {model.rmse_w:.1f} W a node, {model.unseen_rmse_w:.1f} W of times that the fit had not seen; "
        f"{count(model.rows, 'time')} between readings, {first} to {last}. The bounds have the meter's own error in "
        f"them ({gain_u:.1%}, k=1). Valid for the powers that were seen, until {until:%Y-%m-%d}, or until firmware, "
        "power supplies or fans change."
    )
    notes = [f"{n} left out: {why}" for why, n in beside.left_out.items()]
    if len(beside.settings) > 1:
        notes.append(
            f"CPUs were set in several ways ({'; '.join(beside.settings)}): fit days of one setting, if you can"
        )
    notes += [f"CPUs were set so all the time: {one}" for one in beside.settings if len(beside.settings) == 1]
    if beside.last_s - beside.first_s < DAYS_S:
        notes.append(
            f"these are less than two days: the proposal has {DAY_ERROR:.1%} more for what changes between days"
        )
    notes += [f"{name}: its power did not change, it is in the static part" for name in model.left_out]
    return [*lines, "", *wrapped(said, 0), *(line for note in notes for line in wrapped(f"{note}.", 0)), ""]


def _proposal(model: WallModel, beside: Beside, nodes: str, meters: str, gain_u: float) -> list[str]:
    error = relative_error(model, beside.rows, gain_u, beside.last_s - beside.first_s)
    slopes = {part: c.value for name, c in model.slopes.items() for part in name.split("+")}
    date = f"{datetime.fromtimestamp(beside.last_s):%Y-%m-%d}"
    return [
        "# a proposal for the policy:",
        "nodes:",
        f'  "{nodes}":',
        "    energy:",
        "      wall_model:",
        f"        static: {model.static_w.value:.2f} W",
        *(f"        {name}: {slopes[name]:.4f}" for name in COMPONENTS if name in slopes),
        f"        error: {error:.4f}",
        f'        source: "perun calibrate beside {meters}, {model.rows} times, RMSE {model.rmse_w:.1f} W"',
        f"        date: {date}",
    ]
