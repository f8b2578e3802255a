"""`perun monitor`: run a program and measure it."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from perun_hpc.config.user_schema import OPTIONS
from perun_hpc.errors import UsageError

if TYPE_CHECKING:
    from perun_hpc.monitoring.spawn import SamplingProcess

SHOWN: tuple[tuple[str, str], ...] = (
    ("-n/--app-name", "NAME"),
    ("-i/--run-id", "ID"),
    ("-f/--format", "FORMAT"),
    ("--data-out", "DIR"),
    ("--sampling-period", "S"),
    ("--queue-timeout", "S"),
    ("--power-overhead", "W"),
    ("--pue", "FACTOR"),
    ("--price-factor", "PRICE"),
    ("--price-source", "TEXT"),
    ("--price-unit", "UNIT"),
    ("--emissions-factor/--emission-factor", "G"),
    ("--emissions-source", "TEXT"),
    ("--rounds", "N"),
    ("--warmup-rounds", "N"),
)
LISTS = (
    "--include-sensors",
    "--exclude-sensors",
    "--include-backends",
    "--exclude-backends",
    "--bench-metrics",
    "--region-metrics",
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
    for option, metavar in SHOWN:
        parser.add_argument(*both(option), metavar=metavar, help=_help(dest(option)))
    for option in LISTS:
        # One quoted argument holds all expressions, separated by blanks; the option may stand several times.
        parser.add_argument(*both(option), metavar="WORDS", action="append", help=_help(dest(option)))
    parser.add_argument(
        "-b", "--binary", action="store_true", help="run it without putting anything into its interpreter"
    )
    parser.add_argument("-m", "--module", action="store_true", help="PROGRAM is the name of a Python module")
    parser.add_argument(
        *both("--live-callback-files"),
        metavar="FILES",
        action="append",
        help="Python files that register live callbacks; several, with blanks in between or by themselves",
    )
    parser.add_argument("program", help="script (.py), module (with -m) or command")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")


def _help(name: str) -> str:
    """What an option does, and its default where it has one."""
    option = OPTIONS[_NAMES.get(name, name)]
    default = option.kind.show(option.default)
    return (
        f"{option.doc} (default: {default})".replace("%", "%%")
        if default.isascii() and 0 < len(default) < 20
        else option.doc
    )


def run(args: argparse.Namespace) -> int:
    """Run the program; returns its exit code."""
    if args.binary and args.module:
        raise UsageError("-b and -m contradict each other: choose one")
    if args.live_callback_files:
        args = _further_files(args)
    sampler = _sampler()
    try:
        from pathlib import Path

        from perun_hpc.cli import logs
        from perun_hpc.cli.session import Session

        names = [dest(option) for option, _ in SHOWN]
        overrides = {name: getattr(args, name) for name in [*names, "log_lvl", "log_file"]}
        overrides.update({_NAMES.get(name, name): getattr(args, name) for name in map(dest, LISTS)})
        live = tuple(file for words in args.live_callback_files or () for file in words.split())
        session = Session.load(Path(args.configuration) if args.configuration else None, overrides, live)
        logs.begin(session.settings.log_lvl, session.settings.log_file)
        return session.run_command(args.program, tuple(args.arguments), args.binary, args.module, sampler)
    finally:
        if sampler is not None:
            sampler.end()


def _further_files(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with all files of live callbacks: as with perun, words behind the first one are files, too. Only
    what registers a live callback is one, and what follows has to be a command line of `perun monitor`."""
    import copy
    import shutil

    from perun_hpc.cli.main import command_parser

    words = [args.program, *args.arguments]
    more = 0
    while more + 1 < len(words) and _registers(words[more]):
        more += 1
    for number in range(more, 0, -1):
        rest = words[number + (words[number] == "--") :]
        found = copy.copy(args)
        found.live_callback_files = [*args.live_callback_files, *words[:number]]
        try:
            command_parser("monitor").parse_args(rest, found)
        except UsageError:  # one of these words is the program
            continue
        if found.module or os.path.lexists(found.program) or shutil.which(found.program):
            return found
    return args


def _registers(file: str) -> bool:
    from pathlib import Path

    try:
        with Path(file).open(encoding="utf-8", errors="replace") as text:
            return "register_live_callback" in text.read(1 << 20)
    except OSError:
        return False


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
