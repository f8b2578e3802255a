"""Running Slurm's commands: one way, in an environment that nobody's settings reach, with every failure as one error.

A dozen variables change what Slurm's commands print or whom they ask (`SLURM_TIME_FORMAT`, `SLURM_BITSTR_LEN`,
`SLURM_CLUSTERS`, `SACCT_FEDERATION` ...). Of `SLURM_*` only those stay that say where Slurm is and who asks.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from perun_hpc.errors import UnavailableError

if TYPE_CHECKING:
    import subprocess

TIMEOUT_S = 120.0
ARGUMENT_BYTES = 65_536
"""What one argument may hold: Linux takes 128 KiB (MAX_ARG_STRLEN), whatever `getconf ARG_MAX` says of all together."""
_WHERE_SLURM_IS = frozenset({"SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT"})
_OF_OTHERS = re.compile(r"(SLURM|SACCT|SACCTMGR|SALLOC|SBATCH|SCANCEL|SCONTROL|SINFO|SQUEUE|SRUN)_|LC_|LANG")

_NONE_KEPT = "accounting storage is disabled"
"""What sacct says, 22.05 to 26.05, where `AccountingStorageType` is accounting_storage/none."""

_NO_CLUSTER = "Could not establish a configuration source"
"""What a command says, 22.05 to 26.05, that finds neither a slurm.conf nor a slurmctld that has one."""
_ASKS_ACCOUNTS = frozenset({"sacct", "sacctmgr", "sreport"})

Runner = Callable[[Sequence[str], str | None, float], str]
"""Runs a command with a standard input and a deadline and returns its output; `UnavailableError` on any failure."""


class NoAccountsError(UnavailableError):
    """Slurm keeps no accounts on this cluster at all."""


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which Slurm's commands run: their times in epoch seconds, their words in English.

    `%s` is the only form of a time that is the same in every zone and in the hour that comes twice.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if not _OF_OTHERS.match(name) or name in _WHERE_SLURM_IS or name.startswith("SLURM_SACK_")
    }
    return {**kept, "SLURM_TIME_FORMAT": "%s", "LC_ALL": "C.UTF-8"}


def attempt(command: Sequence[str], stdin: str | None, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run a Slurm command; how it ended, whatever its exit code. `UnavailableError` when it is absent or hangs.

    One that cannot even be killed is left behind.
    """
    import subprocess  # here: many who import this call nothing

    name = command[0]
    try:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            env=environment(os.environ),
        )
        try:
            output, errors = process.communicate(stdin, timeout_s)
        except BaseException:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=1.0)
            raise
    except FileNotFoundError as error:
        raise UnavailableError(f"{name}: not installed here: run it where Slurm's commands are") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{name}: no answer within {timeout_s:.0f} s: is slurmdbd up?") from error
    except OSError as error:
        remedy = "ask for less at once" if error.errno == errno.E2BIG else "may you run it?"
        raise UnavailableError(f"{name}: {error.strerror or error}: {remedy}") from error
    except (subprocess.SubprocessError, ValueError) as error:
        # Values: a NUL in an argument, text that UTF-8 does not have.
        raise UnavailableError(f"{name}: cannot be run: {error}: check the arguments") from error
    return subprocess.CompletedProcess(list(command), process.returncode, output, errors)


def run_command(command: Sequence[str], stdin: str | None, timeout_s: float) -> str:
    """Run a Slurm command and return its standard output; `UnavailableError` when it is absent, fails or hangs."""
    name, done = command[0], attempt(command, stdin, timeout_s)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        if any(_NONE_KEPT in line for line in lines):
            raise NoAccountsError(
                f"{name}: Slurm keeps no accounts here (accounting_storage/none): look in the archive"
            )
        raise UnavailableError(failure(name, done))
    return done.stdout


def failure(name: str, done: subprocess.CompletedProcess[str]) -> str:
    """Why a command failed, in its own last words, and what to look at."""
    lines = (done.stderr or done.stdout).strip().splitlines()
    why = lines[-1].removeprefix(f"{name}: ") if lines else f"exit code {done.returncode}"
    if _NO_CLUSTER in why:
        return f"{name}: {why}: this host has Slurm's commands and belongs to no cluster: it needs a slurm.conf"
    return f"{name}: {why}: {'is slurmdbd up?' if name in _ASKS_ACCOUNTS else 'is slurmctld up?'}"


def slices(words: Iterable[str], most_b: int = ARGUMENT_BYTES) -> Iterator[str]:
    """Yield `words` joined by commas, in their order, in texts of at most `most_b` bytes (a longer word alone)."""
    held: list[str] = []
    size_b = 0
    for word in words:
        word_b = len(word.encode(errors="replace")) + 1
        if held and size_b + word_b > most_b:
            yield ",".join(held)
            held, size_b = [], 0
        held.append(word)
        size_b += word_b
    if held:
        yield ",".join(held)
