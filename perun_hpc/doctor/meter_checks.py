"""What the host that reads meters outside the nodes must have: files, credentials of root's, a service that reads."""

from __future__ import annotations

from collections.abc import Iterator

from perun_hpc.doctor.facts import Facts
from perun_hpc.doctor.findings import Check, Fault, Role, Severity

CRITICAL, WARNING = Severity.CRITICAL, Severity.WARNING
METERS = frozenset({Role.METERS})
NAMED = 5


def _files(facts: Facts) -> Iterator[Fault]:
    yield from _first("perun meters", facts.meters.mistakes)


def _credentials(facts: Facts) -> Iterator[Fault]:
    for text in facts.meters.credentials:
        yield Fault("perun meters", text)


def _apart(facts: Facts) -> Iterator[Fault]:
    if Role.COMPUTE in facts.roles and facts.meters.held:
        what = "a controller's password lies on a compute node, where jobs run"
        yield Fault(facts.meters.held[0], what, {"path": " ".join(facts.meters.held)})


def _runs(facts: Facts) -> Iterator[Fault]:
    if facts.meters.unit:
        yield Fault("perun-meters.service", facts.meters.unit)
    else:
        yield from _first("perun-meters.service", facts.meters_say[0])


def _read(facts: Facts) -> Iterator[Fault]:
    yield from _first("perun meters", facts.meters_say[1])


def _first(where: str, texts: tuple[str, ...]) -> Iterator[Fault]:
    for text in texts[:NAMED]:
        yield Fault(where, text)
    if len(texts) > NAMED:
        yield Fault(where, f"{len(texts) - NAMED} more of these")


CHECKS = (
    Check("meters-files", METERS, WARNING, "meters.yaml and the pinned meters are whole and fit each other",
          ("meters",), _files, "perun meters discover; review it, then perun meters discover --write"),
    Check("meters-credentials", METERS, CRITICAL, "the credentials of controllers and PDUs are there, for root alone",
          ("meters",), _credentials, "chown root, chmod 600; the unit's LoadCredential= (docs/meters.md)"),
    Check("meters-apart", METERS, CRITICAL, "no compute node has such a credential", ("meters",), _apart,
          "run perun meters on a service host; rm {path} here, and change these passwords"),
    Check("meters-runs", METERS, WARNING, "the poller runs and says how things go", ("meters", "meters_say"), _runs,
          "systemctl enable --now perun-meters; journalctl -u perun-meters"),
    Check("meters-read", METERS, WARNING, "every meter was read in the last five of its periods",
          ("meters_say",), _read, "see that device; of another firmware: perun meters discover NODE"),
)  # fmt: skip
