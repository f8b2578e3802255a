"""Who coordinates which of Slurm's accounts, by slurmdbd."""

from __future__ import annotations

from perun_hpc.slurm.command import TIMEOUT_S, Runner, run_command

_ASK = ("sacctmgr", "--noheader", "--parsable2", "show", "account", "withcoord", "format=account,coordinators")


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
