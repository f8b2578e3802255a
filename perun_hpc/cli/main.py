"""The `perun` command: finds the subcommand, imports only that one, translates errors into exit codes.

A subcommand is a module of this package with `configure(parser)` and `run(args) -> int`. Only the module that is
asked for is imported, so that `perun monitor` never pays for the ledger nor `perun jobs` for the sensors.
"""

from __future__ import annotations

import argparse
import errno
import functools
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from perun_hpc._version import __version__
from perun_hpc.cli import logs
from perun_hpc.config import LEVEL_ALIASES, LOG_LEVELS
from perun_hpc.errors import AccessError, PerunError, UnavailableError, UsageError
from perun_hpc.extras import remedy

COMMANDS: tuple[tuple[str, str], ...] = (
    ("monitor", "run a program and measure it"),
    ("launch", "run one rank of a parallel program under the launcher"),
    ("sensors", "list this machine's sensors"),
    ("metadata", "print this machine's metadata as JSON"),
    ("export", "write a stored run in another format"),
    ("runs", "list stored runs, each beside those before it"),
    ("plot", "draw the power of a stored run over time"),
    ("showconf", "print the configuration in force"),
    ("report", "show what one job used"),
    ("watch", "show a running job's power and energy as it runs"),
    ("compare", "hold jobs or stored runs against each other: energy, time, scaling"),
    ("jobs", "list jobs with their energy"),
    ("usage", "sum energy, cost and CO2 by account, user, partition or month"),
    ("top", "list who uses most, and which jobs hold idle GPUs"),
    ("audit", "check that the ledger closes: counters, shares and records agree"),
    ("balance", "where a month's energy went: facility, nodes, jobs, idle and off, as a picture"),
    ("seal", "close a month: sums and hashes of its evidence, signed"),
    ("verify", "a sealed month's sums again, from a copy of its evidence alone"),
    ("calibrate", "fit what nodes draw at the wall, beside a meter"),
    ("collect", "take up what nodes shipped: merge traces, fill the ledger"),
    ("meters", "read meters outside the nodes: management controllers, PDU outlets"),
    ("ledger", "maintain the ledger: backup, retention, schema"),
    ("policy", "check, show and explain the site's policy"),
    ("agent", "talk to this node's agent"),
    ("doctor", "find what is wrong with the installation, and what mends it"),
    ("off", "switch nodes off, from the controller"),
    ("on", "switch nodes on again"),
)


_OF_JOBS = ("report", "watch", "jobs", "usage", "top", "audit", "collect", "ledger")
"""Commands about the jobs of a cluster."""

_PACKAGES = {"psycopg": "'psycopg[binary]'", "yaml": "PyYAML", "pynvml": "nvidia-ml-py"}
"""Where a library is called otherwise on the package index."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Of a write without a file's name: stdout's."""

_OF_A_FILE = {
    **dict.fromkeys((errno.EACCES, errno.EPERM), "do this as root or as the user whose it is"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make space there"),
    errno.EROFS: "mount it for writing",
    errno.EIO: "see the disk or the file server",
}
"""What a file may refuse a command that did not expect it, with the remedy; all else is a fault of perun's own."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help as wide as the terminal. (argparse asks shutil, for every option anew; importing it delays `monitor`.)"""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width() - 2)


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are `UsageError`s: one line, exit code 64."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Help, **options)

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UsageError(f"{self.prog}: {message} (see {self.prog} --help)")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """After --help and --version: as `argparse` does, with stdout flushed where `main` can handle its loss."""
        sys.stdout.flush()
        super().exit(status, message)


@functools.cache
def _width() -> int:
    """Columns of the terminal, by $COLUMNS or by itself; 80 where there is none."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isascii() and columns.isdigit() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def _overview() -> str:
    width = max(len(name) for name, _ in COMMANDS)
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `perun ARGS` and return its exit code (see `perun_hpc.errors` for the table)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    code = 0
    _take_what_stdout_is()
    try:
        code = _dispatch(arguments)
        # Here and not at the interpreter's exit, where nobody could handle that the reader went away.
        sys.stdout.flush()
        return code
    except PerunError as error:
        print(f"perun: {(isinstance(error, UnavailableError) and _no_slurm(arguments)) or error}", file=sys.stderr)
        logs.failure(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "perun_hpc") or missing in sys.stdlib_module_names:
            raise
        print(f"perun: {_remedy(missing, arguments)}", file=sys.stderr)
        return UnavailableError.exit_code
    except BrokenPipeError:
        _end_stdout()  # the reader (head, less) went away
        return code
    except OSError as error:
        if error.filename is not None and error.errno in _OF_A_FILE:
            said = f"{os.fsdecode(error.filename)}: {error.strerror}: {_OF_A_FILE[error.errno]}"
        elif error.filename is None and error.errno in _FULL:
            _end_stdout()
            said = f"the output cannot be written: {error.strerror}; write it to another place"
        else:
            raise
        print(f"perun: {said}", file=sys.stderr)
        logs.failure(said)
        return AccessError.exit_code
    except KeyboardInterrupt:
        return 130


def _take_what_stdout_is() -> None:
    """A stdout that is closed takes everything, one of an encoding that has not all characters gets them escaped."""
    if sys.stdout is None:
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8")
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _end_stdout() -> None:
    """Point stdout elsewhere, so that the interpreter's final flush is silent."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _remedy(missing: str, arguments: Sequence[str]) -> str:
    """What to do about a library that is not there; on a machine without Slurm the jobs are what is not there."""
    return (
        _no_slurm(arguments)
        or f"this needs {missing}, which is not installed: {remedy(_PACKAGES.get(missing, missing))}"
    )


def _no_slurm(arguments: Sequence[str]) -> str:
    """One line where a command about a cluster's jobs is called where no cluster is; empty elsewhere."""
    command = next((word for word in arguments if word in _OF_JOBS), "")
    if not command:
        return ""
    from perun_hpc.cli.slurm_here import slurm_here

    if slurm_here():
        return ""
    return f"no Slurm here, whose jobs perun {command} is about: perun runs shows what perun monitor measured"


def overall_parser() -> argparse.ArgumentParser:
    """What stands before the command."""
    parser = _Parser(
        prog="perun",
        usage="perun [-h] [--version] [-c FILE] [-l LEVEL] [--log-file FILE] COMMAND ...",
        description="Performance and energy of programs and Slurm jobs.",
        epilog="commands:\n" + _overview(),
    )
    parser.add_argument("--version", action="version", version=f"perun {__version__}")
    parser.add_argument("-c", "--configuration", metavar="FILE", help="configuration file (default: ./.perun.ini)")
    levels = ", ".join(LOG_LEVELS)
    parser.add_argument("-l", "--log-lvl", "--log_lvl", dest="log_lvl", metavar="LEVEL", help=f"log level: {levels}")
    parser.add_argument(
        "--log-file", "--log_file", dest="log_file", metavar="FILE", help="write the log there instead of to stderr"
    )
    return parser


def command_parser(name: str, **options: Any) -> argparse.ArgumentParser:
    """The parser of one command, whose module alone is imported; `options` are argparse's."""
    module = importlib.import_module(f"perun_hpc.cli.{name}")
    command = _Parser(prog=f"perun {name}", description=dict(COMMANDS)[name], **options)
    module.configure(command)
    command.set_defaults(run=module.run)
    return command


def _dispatch(arguments: list[str]) -> int:
    parser = overall_parser()
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    names = dict(COMMANDS)
    if options.command not in names:
        import difflib

        near = difflib.get_close_matches(options.command, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see perun --help"
        raise UsageError(f"unknown command '{options.command}': {hint}")
    options.log_lvl = LEVEL_ALIASES.get(options.log_lvl, options.log_lvl)
    if options.log_lvl is not None and options.log_lvl not in LOG_LEVELS:
        raise UsageError(f"--log-lvl {options.log_lvl}: must be one of {', '.join(LOG_LEVELS)}")
    command = command_parser(options.command)
    logs.begin(options.log_lvl, options.log_file)
    logs.note("DEBUG", f"perun {__version__}, Python {sys.version.split()[0]}: {' '.join(arguments)}")
    for name in ("configuration", "log_lvl", "log_file"):
        command.set_defaults(**{name: getattr(options, name)})
    words = command.parse_args(options.rest)
    code: int = words.run(words)
    return code


if __name__ == "__main__":
    sys.exit(main())
