"""`perun runs`: what `perun monitor` measured, run by run, each beside those before it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.cli import progress
from perun_hpc.errors import NotFoundError, UsageError
from perun_hpc.report.screen import style_for, table

if TYPE_CHECKING:
    from perun_hpc.config.user_schema import UserSettings
    from perun_hpc.data_model.data import DataNode

SHOWN = 20
NAME = 40
"""Columns of an application's name at most."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("app", metavar="APP", nargs="?", help="one application's (default: all)")
    parser.add_argument(
        "-N", "--number", metavar="N", default=str(SHOWN), help=f"how many, the newest ones (default: {SHOWN}; 0: all)"
    )
    parser.add_argument("--data-out", "--data_out", dest="data_out", metavar="DIR", help="where runs are kept")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table, or JSON."""
    from perun_hpc.config.user import load, settings
    from perun_hpc.monitoring import runs

    if not (args.number.isascii() and args.number.isdigit()):
        raise UsageError(f"-N {args.number}: write a number, 0 for all")
    configuration = Path(args.configuration) if args.configuration else None
    chosen = settings(load(configuration, {"data_out": args.data_out}))
    places = runs.directories(Path(chosen.data_out), args.app)
    found = [one for place in progress.each(places, "reading runs") if (one := runs.whole(place)) is not None]
    if not found:
        what = f"run of {args.app}" if args.app else "run"
        raise NotFoundError(f"no {what} in {chosen.data_out}: check --data-out, or run perun monitor first")
    listed = found[: int(args.number) or None]
    if args.json:
        print(json.dumps([_entry(*one, found) for one in listed], indent=1))
    else:
        print(_table(listed, found, chosen))
    return 0


def _earlier(directory: Path, found: Sequence[tuple[Path, DataNode]]) -> list[DataNode]:
    """The runs of the same application before that in `directory`, the newest first."""
    place = next(place for place, (where, _) in enumerate(found) if where == directory)
    return [tree for where, tree in found[place + 1 :] if where.parent == directory.parent and _ended(tree)]


def _ended(tree: DataNode) -> bool:
    return tree.metadata.get("status") != "RUNNING"


def _entry(directory: Path, tree: DataNode, found: Sequence[tuple[Path, DataNode]]) -> dict[str, Any]:
    from perun_hpc.data_model.data import MetricType
    from perun_hpc.report.formats import history

    energy = history.energy(tree)
    change = history.change(tree, _earlier(directory, found))
    return {
        "app": tree.metadata.get("app"),
        "id": tree.id,
        "path": str(directory),
        "execution_dt": tree.metadata.get("execution_dt"),
        "status": tree.metadata.get("status"),
        "rounds": len(tree.nodes),
        "runtime_s": tree.value(MetricType.RUNTIME),
        "energy_j": None if energy is None else energy.mean,
        "energy_std_j": None if energy is None else energy.std,
        "uncertainty_j": None if energy is None else history.doubt(tree),
        "provenance": history.provenance(tree),
        "change": None if change is None else change.fraction,
        "change_within_uncertainty": None if change is None else change.within,
    }


def _table(
    listed: Sequence[tuple[Path, DataNode]], found: Sequence[tuple[Path, DataNode]], chosen: UserSettings
) -> str:
    from perun_hpc.data_model.data import MetricType
    from perun_hpc.report.formats import history
    from perun_hpc.report.formats.figures import at_most, quantity

    joules = partial(quantity, MetricType.ENERGY, settings=chosen)
    style = style_for(sys.stdout)
    head = ("APP", "RUN", "ROUNDS", "RUNTIME", "ENERGY", f"{style.plus_minus} (k=2)", "PROVENANCE", "CHANGE", "")
    rows = []
    for directory, tree in listed:
        energy, runtime = history.energy(tree), tree.value(MetricType.RUNTIME)
        doubt = history.doubt(tree)
        change = history.change(tree, _earlier(directory, found))
        most = None if energy is None else at_most(energy.mean, doubt)
        status = str(tree.metadata.get("status", ""))
        rows.append(
            (
                str(tree.metadata.get("app", "")),
                tree.id,
                str(len(tree.nodes)),
                "-" if runtime is None else quantity(MetricType.RUNTIME, runtime, chosen),
                "-" if energy is None else "<" * (most is not None) + joules(most or energy.mean),
                "-" if energy is None or doubt is None or most is not None else joules(2 * doubt),
                history.provenance(tree) or "-",
                "-" if change is None else f"{100 * change.fraction:+.1f} %{' =' if change.within else ''}",
                "" if status == "PROCESSING" else status,
            )
        )
    lines = table(rows, head, (False, False, True, True, True, True, False, True, False), style, widest=NAME)
    totals = []
    for app in dict.fromkeys(directory.parent for directory, _ in listed):
        if ended := [tree for where, tree in found if where.parent == app and _ended(tree)]:
            totals.append(history.total(ended, chosen))
    less = ["<: at most, since the bound exceeds the figure."] if any(row[4].startswith("<") for row in rows) else []
    legend = (
        "Energy of a round, with its PUE where one was set; change, without it, against the five runs before, = where"
        " it is within the uncertainties."
    )
    return "\n".join([*lines, "", *totals, legend, *less])
