"""`perun doctor`: what is wrong with the installation on this host or on all, where, and what mends it.

The first line is a summary, the exit code that of a monitoring plugin: 0 ok, 1 warning, 2 critical, 3 unknown.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from perun_hpc.cli.wake import WAKE
from perun_hpc.data_model.codec import encode
from perun_hpc.data_model.wording import count
from perun_hpc.doctor import cluster
from perun_hpc.doctor.examine import CHECKS, QUICK, examine
from perun_hpc.doctor.facts import Node
from perun_hpc.doctor.findings import Finding, Report, Role, Severity, worst
from perun_hpc.doctor.gather import Gatherer
from perun_hpc.errors import NotFoundError, UnavailableError, UsageError
from perun_hpc.report.screen import Style, printable, style_for
from perun_hpc.slurm.hostlist import stated

SCHEMA = "perun.doctor/1"
NAMED = 6
"""Hosts that a line names, and kinds of findings that the summary does."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = "Exit code: 0 all is well, 1 a warning, 2 something critical, 3 unknown, as of a monitoring plugin."
    roles = ", ".join(Role)
    parser.add_argument(
        "--role",
        action="append",
        choices=[*Role],
        metavar="ROLE",
        help=f"what this host is for: {roles} (default: found)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--nodes", metavar="NODES", help="ask these nodes, too, as Slurm writes them: n[01-04],n9")
    which.add_argument("--all", action="store_true", help="ask all nodes, too, and compare them")
    parser.add_argument(
        "--via",
        default="",
        type=_command,
        metavar="COMMAND",
        help="reach nodes by this, as 'ssh {node}' (default: a short job on each)",
    )
    parser.add_argument("--quick", action="store_true", help="leave perun audit out, which reads a day of all nodes")
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
    parser.add_argument("-v", "--verbose", action="store_true", help="name every check, also those that find nothing")


def _command(text: str) -> str:
    try:
        shlex.split(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {str(error).lower()}: write it as a shell would read it") from error
    return text


def run(args: argparse.Namespace) -> int:
    """Look, print, and return the exit code of a monitoring plugin."""
    facts = Gatherer(WAKE, [Role(name) for name in args.role or ()], audit=not args.quick).facts()
    own = examine(facts, QUICK if args.quick else CHECKS)
    reports, findings = [own], list(own.findings)
    if args.all or args.nodes:
        if "nodes" in facts.unread:
            raise UnavailableError(f"the nodes are not known: {facts.unread['nodes'].why}")
        there = {one.name: one for one in facts.nodes}
        names = list(there) if args.all else _stated(args.nodes, there)
        for said in cluster.ask([there[name] for name in names if name != facts.node], args.via):
            if isinstance(said, Finding):
                findings.append(said)
            else:
                reports.append(said)
                findings += said.findings
        findings += cluster.compare(reports)
    findings = cluster.merged(findings)
    status = worst(one.severity for one in findings)
    if args.json:
        found = {"schema": SCHEMA, "status": status.name.lower(), "findings": encode(tuple(findings))}
        print(json.dumps({**found, "reports": encode(tuple(reports))}, indent=1))
        return int(status)
    style = style_for(sys.stdout)
    print(summary(status, findings, reports))
    for one in findings:
        print(line(one, style))
    if args.verbose:
        for text in _each(reports):
            print(text)
    return int(status)


def _stated(text: str, there: Mapping[str, Node]) -> list[str]:
    try:
        names = list(stated(text))
    except ValueError as error:
        raise UsageError(f"--nodes: {error}") from error
    lost = [name for name in names if name not in there]
    if lost:
        raise NotFoundError(f"--nodes: {lost[0]} is no node of this cluster: see sinfo -N")
    return names


def summary(status: Severity, findings: Sequence[Finding], reports: Sequence[Report]) -> str:
    """The first line, as monitoring systems show it."""
    own = reports[0]
    where = f"{own.host} ({', '.join(own.roles)})"
    if len(reports) > 1:
        where += f" and {count(len(reports) - 1, 'node')}"
    made = sum(len(one.passed) + len({f.key for f in one.findings}) for one in reports)
    rest = sum(len(one.skipped) for one in reports)
    more = f"; {rest} more need root" if rest else ""
    if not findings:
        return f"PERUN {status.name} - {count(made, 'check')} on {where}{more}"
    sorts = Counter(one.severity for one in findings)
    numbers = ", ".join(f"{number} {one.said}" for one, number in sorts.items())
    keys = list(dict.fromkeys(one.key for one in findings))
    named = ", ".join(keys[:NAMED]) + (" ..." if len(keys) > NAMED else "")
    return f"PERUN {status.name} - {numbers} of {count(made, 'check')} on {where}: {named}{more}"


def line(finding: Finding, style: Style) -> str:
    """One finding: how serious, its key, where, what, and what mends it."""
    more = len(finding.hosts) - NAMED
    hosts = " ".join(finding.hosts[:NAMED]) + (f" and {more} more" if more > 0 else "")
    place = f"{hosts} {finding.where}".strip()
    head = style.warn(f"{finding.severity.said.upper():<8}")
    return f"{head} {finding.key}: {printable(place)}: {printable(finding.what)} -> {printable(finding.remedy)}"


def _each(reports: Sequence[Report]) -> Iterator[str]:
    """Every check of every host that found nothing, or could not be made."""
    words = {check.key: check.looks_at for check in CHECKS}
    for one in reports:
        for key in one.passed:
            yield f"{'OK':<8} {key}: {one.host} {words[key]}"
        for key in one.skipped:
            yield f"{'-':<8} {key}: {one.host} needs root: {words[key]}"
