"""`perun monitor`: run a program and measure it."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from perun_hpc.errors import UsageError

if TYPE_CHECKING:
    from perun_hpc.monitoring.spawn import SamplingProcess

OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("-n/--app-name", "NAME", "name under which runs are kept (default: the program's)"),
    ("-i/--run-id", "ID", "name of this run (default: its start; SLURM: the job id)"),
    ("-f/--format", "FORMAT", "text, json, hdf5, pickle, csv, bench or zarr"),
    ("--data-out", "DIR", "where runs are kept (default: ./perun_results)"),
    ("--sampling-period", "S", "seconds between readings"),
    ("--queue-timeout", "S", "how long to wait for the sampling process to start, and for other ranks' data"),
    ("--power-overhead", "W", "constant power of each host that no sensor sees"),
    ("--pue", "FACTOR", "power usage effectiveness of the site"),
    ("--price-factor", "PRICE", "price of a kWh; without one no cost is shown"),
    ("--price-source", "TEXT", "who states that price, and when"),
    ("--price-unit", "UNIT", "currency of that price"),
    (
        "--emissions-factor/--emission-factor",
        "G",
        "CO2 per kWh in g, or a country's three letters; without one none is shown",
    ),
    ("--emissions-source", "TEXT", "who states that figure, and when"),
    ("--rounds", "N", "how many times to run the program"),
    ("--warmup-rounds", "N", "how many times to run it before that, unmeasured"),
)
LISTS: tuple[tuple[str, str], ...] = (
    ("--include-sensors", "only sensors whose id starts with one of these expressions"),
    ("--exclude-sensors", "no sensors whose id starts with one of these expressions"),
    ("--include-backends", "only backends whose name starts with one of these expressions"),
    ("--exclude-backends", "no backends whose name starts with one of these expressions"),
    ("--bench-metrics", "metrics of the table and of the format bench"),
    ("--region-metrics", "metrics of the table of regions"),
)
_NAMES = {"bench_metrics": "metrics"}


def both(option: str) -> list[str]:
    """An option with dashes, and the same with underscores."""
    result = []
    for name in option.split("/"):
        result.append(name)
        if "-" in name[2:]:
            result.append("--" + name[2:].replace("-", "_"))
    return result


def dest(option: str) -> str:
    """Where argparse puts an option: named after its first long spelling."""
    return next(name for name in both(option) if name.startswith("--"))[2:].replace("-", "_")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options and the program."""
    parser.usage = "perun monitor [options] PROGRAM [ARGS ...]"
    for option, metavar, text in OPTIONS:
        parser.add_argument(*both(option), metavar=metavar, help=text)
    for option, text in LISTS:
        # One quoted argument holds all expressions, separated by blanks; the option may stand several times.
        parser.add_argument(*both(option), metavar="WORDS", action="append", help=text)
    parser.add_argument(
        "-b", "--binary", action="store_true", help="run it without putting anything into its interpreter"
    )
    parser.add_argument("-m", "--module", action="store_true", help="PROGRAM is the name of a Python module")
    parser.add_argument(
        *both("--live-callback-files"),
        metavar="FILES",
        action="append",
        help="Python files that register live callbacks",
    )
    parser.add_argument("program", help="script (.py), module (with -m) or command")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")


def run(args: argparse.Namespace) -> int:
    """Run the program; returns its exit code."""
    if args.binary and args.module:
        raise UsageError("-b and -m contradict each other: choose one")
    sampler = _sampler()
    try:
        from pathlib import Path

        from perun_hpc.cli import logs
        from perun_hpc.cli.session import Session

        names = [dest(option) for option, _, _ in OPTIONS]
        overrides = {name: getattr(args, name) for name in [*names, "log_lvl", "log_file"]}
        overrides.update(
            {_NAMES.get(name, name): getattr(args, name) for name in (dest(option) for option, _ in LISTS)}
        )
        live = tuple(file for words in args.live_callback_files or () for file in words.split())
        session = Session.load(Path(args.configuration) if args.configuration else None, overrides, live)
        logs.begin(session.settings.log_lvl, session.settings.log_file)
        return session.run_command(args.program, tuple(args.arguments), args.binary, args.module, sampler)
    finally:
        if sampler is not None:
            sampler.end()


def _sampler() -> SamplingProcess | None:
    """A sampling process that gets ready while this one does; None where ranks have to agree first who samples, or an
    agent may do it."""
    from perun_hpc.comm import place_from

    if place_from(os.environ).source != "alone":
        return None
    from perun_hpc.monitoring.spawn import SamplingProcess

    try:
        return SamplingProcess()
    except OSError:
        return None  # the monitor tries again, and says what is wrong
