"""The error tree and the one table of exit codes.

    PerunError                      exit 70, a fault of perun itself
    +-- UsageError                  exit 64, the command line or an option is wrong
    +-- ConfigError                 exit 78, a policy or configuration file is wrong
    +-- NotFoundError               exit 66, a job, file or store does not exist
    +-- AccessError                 exit 77, permission is missing; the message names the remedy
    +-- UnavailableError            exit 69, a service (agent, Slurm, ledger) does not answer
    +-- DataError                   exit 65, a store, record or message is damaged

The numbers are those of BSD's sysexits.h. The code of a monitored application always wins over these.
Every message says what, where and the remedy, in one line.
"""

from __future__ import annotations


class PerunError(Exception):
    """Base of all errors that perun raises on purpose; its text is fit to be shown to a user."""

    exit_code = 70


class UsageError(PerunError):
    """The command line or an option is wrong."""

    exit_code = 64


class DataError(PerunError):
    """A store, record or message is damaged."""

    exit_code = 65


class NotFoundError(PerunError):
    """A job, file or store does not exist."""

    exit_code = 66


class UnavailableError(PerunError):
    """A service (agent, Slurm, ledger) does not answer."""

    exit_code = 69


class AccessError(PerunError):
    """A permission is missing."""

    exit_code = 77


class ConfigError(PerunError):
    """A policy or configuration file is wrong."""

    exit_code = 78
