"""Who coordinates which of Slurm's accounts, and who administers all of them, by slurmdbd."""

from __future__ import annotations

from perun_hpc.slurm.command import TIMEOUT_S, Runner, run_command

_ASK = ("sacctmgr", "--noheader", "--parsable2", "show", "account", "withcoord", "format=account,coordinators")
_ASK_LEVEL = ("sacctmgr", "--noheader", "--parsable2", "show", "user", "format=user,adminlevel")
_SEE_ALL = frozenset({"Operator", "Administrator"})


def coordinators(runner: Runner = run_command) -> dict[str, frozenset[str]]:
    """Return account -> names of its coordinators; who coordinates an account does so for those below it (sacctmgr(1)).

    Raises
    ------
    UnavailableError
        When slurmdbd does not answer, or Slurm keeps no accounts.
    """
    found: dict[str, frozenset[str]] = {}
    for line in runner(_ASK, None, TIMEOUT_S).splitlines():
        account, _, names = line.partition("|")
        found[account] = frozenset(name for name in names.split(",") if name)
    return found


def administrators(runner: Runner = run_command) -> frozenset[str]:
    """Return the names of Slurm's operators and administrators (`AdminLevel`), who may see every job.

    Raises
    ------
    UnavailableError
        When slurmdbd does not answer, or Slurm keeps no accounts.
    """
    rows = (line.split("|") for line in runner(_ASK_LEVEL, None, TIMEOUT_S).splitlines())
    return frozenset(row[0] for row in rows if len(row) > 1 and row[1] in _SEE_ALL)
