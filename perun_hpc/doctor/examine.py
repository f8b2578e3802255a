"""All checks, and what comes of them on one host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from perun_hpc.doctor import meter_checks, node_checks, service_checks, slurm_checks
from perun_hpc.doctor.facts import Facts, Unread
from perun_hpc.doctor.findings import Check, Finding, Report, Severity

CHECKS: tuple[Check, ...] = (
    *slurm_checks.CHECKS, *node_checks.CHECKS, *service_checks.CHECKS, *meter_checks.CHECKS
)  # fmt: skip
QUICK: tuple[Check, ...] = tuple(check for check in CHECKS if "audit" not in check.needs)
"""Those that take seconds however large the cluster is."""
UNKNOWN = "unknown"
"""The key of the finding that something could not be looked at."""


def examine(facts: Facts, checks: Iterable[Check] = CHECKS) -> Report:
    """Make every check that the host's roles ask for."""
    findings: list[Finding] = []
    passed: list[str] = []
    skipped: list[str] = []
    unknown: dict[Unread, list[str]] = {}
    for check in checks:
        if not check.roles & facts.roles:
            continue
        missing = [facts.unread[name] for name in check.needs if name in facts.unread]
        if not missing:
            found = list(_findings(check, facts))
            findings += found
            if not found:
                passed.append(check.key)
        elif any(one.root for one in missing):
            skipped.append(check.key)
        else:
            unknown.setdefault(missing[0], []).append(check.key)
    said = {one.key for one in findings}
    for why, keys in unknown.items():
        if why.by not in said:
            what = f"could not be looked at: {why.why}"
            findings.append(
                Finding(UNKNOWN, Severity.UNKNOWN, (facts.host,), ", ".join(keys), what, "run it again, as root")
            )
    users = facts.users.get(facts.policy.service_user)
    return Report(
        facts.host,
        tuple(sorted(facts.roles)),
        facts.version,
        int(facts.now_s * 1e9),
        facts.policy.digest,
        users,
        tuple(findings),
        tuple(passed),
        tuple(skipped),
    )


def _findings(check: Check, facts: Facts) -> Iterator[Finding]:
    for fault in check.find(facts):
        hosts = () if check.cluster else (facts.host,)
        yield Finding(check.key, check.severity, hosts, fault.where, fault.what, check.remedy_for(fault))
