"""What a check is, what it finds, and how serious that is."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perun_hpc.doctor.facts import Facts


class Role(enum.StrEnum):
    """What a host is for."""

    CONTROLLER = "controller"
    COMPUTE = "compute"
    COLLECTOR = "collector"
    METERS = "meters"
    LOGIN = "login"


ANY = frozenset(Role) - {Role.METERS}
"""Every host of Slurm's: meters are read by one that need not know of it."""


class Severity(enum.IntEnum):
    """How serious a finding is; the numbers are the exit codes of monitoring plugins (Nagios and those after it)."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def said(self) -> str:
        """Of a finding, in words; one that is no fault is a note."""
        return "note" if self is Severity.OK else self.name.lower()


def worst(severities: Iterable[Severity]) -> Severity:
    """The one that counts: critical before warning before unknown."""
    order = (Severity.OK, Severity.UNKNOWN, Severity.WARNING, Severity.CRITICAL)
    return max(severities, key=order.index, default=Severity.OK)


@dataclass(frozen=True)
class Fault:
    """What a check found: the file or daemon, what is wrong, what the remedy names, and which of its causes it is."""

    where: str
    what: str
    names: Mapping[str, str] = field(default_factory=dict)
    cause: str = ""


@dataclass(frozen=True)
class Check:
    """One thing that is looked at.

    Attributes
    ----------
    key : the name by which a monitoring system knows it.
    roles : the hosts on which it is looked at.
    severity : of what it finds.
    looks_at : what is in order, in words.
    needs : the facts without which it cannot say anything.
    find : returns what is wrong.
    remedy : what mends it, with the names of `Fault.names` in braces; by `Fault.cause` where causes differ.
    cluster : its findings are of the whole cluster, the same from every host.
    """

    key: str
    roles: frozenset[Role]
    severity: Severity
    looks_at: str
    needs: tuple[str, ...]
    find: Callable[[Facts], Iterable[Fault]]
    remedy: str | Mapping[str, str]
    cluster: bool = False

    def remedy_for(self, fault: Fault) -> str:
        """What mends this very fault."""
        text = self.remedy if isinstance(self.remedy, str) else self.remedy[fault.cause]
        return text.format_map(fault.names)


@dataclass(frozen=True)
class Finding:
    """One line for an administrator; `hosts` is empty where it is of the whole cluster."""

    key: str
    severity: Severity
    hosts: tuple[str, ...]
    where: str
    what: str
    remedy: str


@dataclass(frozen=True)
class Report:
    """What came of a host's checks.

    Attributes
    ----------
    passed : keys of the checks that found nothing.
    skipped : keys of those that root must make.
    """

    host: str
    roles: tuple[str, ...]
    version: str
    time_ns: int
    policy: str
    service_uid: int | None
    findings: tuple[Finding, ...]
    passed: tuple[str, ...]
    skipped: tuple[str, ...]

    @property
    def status(self) -> Severity:
        """The worst of the findings."""
        return worst(one.severity for one in self.findings)
