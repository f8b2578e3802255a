"""`perun agent`: send this node's agent a message and print its answer."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from perun_hpc.errors import AccessError
from perun_hpc.report.quantities import duration
from perun_hpc.report.screen import printable
from perun_hpc.wire.client import AGENT_SOCKET, request

VERBS = {
    "status": "show what it watches and what it costs",
    "reload": "read the policy again, now",
    "stop": "take closing readings and end; running jobs are continued by the next agent",
    "release-gpus": "let go of the GPUs, so that they can be reset; they are taken again with the next job",
}

KINDS = {
    "shipping": "shipping fails {since}: {why}",
    "not-shipped": "not shipped {since}: {what}: {why}; it waits in the spool and is tried again",
    "set-aside": "set aside {since}: {what}: failed to be shipped several times; {why}",
    "not-written": "not written {since}: {what}: {why}; it waits in memory until the spool takes it",
    "not-read": "not read {since}: {what}: the root helper is gone, {why}",
    "no-reading": "no reading {since}: {what}: {why}; records of this time have gaps",
    "not-moving": "not moving {since}: {what}: {why}; its energy is missing, not zero",
    "not-there": "not there: {what}: {why}",
    "not-confined": "not confined: {what}: {why}; the agent measures all the same",
}
"""What is said of a kind of loss; the oldest of several gives time and reason."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in VERBS.items():
        verbs.add_parser(verb, help=text, description=text)
    parser.add_argument(
        "--socket", default=AGENT_SOCKET, metavar="PATH", help="the agent's socket (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Exchange one message and print the answer."""
    reply = request(args.verb, {}, timeout_s=10.0, path=args.socket)
    if reply.verb != "ok":
        raise AccessError(f"the agent refused '{args.verb}': {reply.get('reason', 'no reason given')}")
    for line in lines(reply.fields, time.time()) if args.verb == "status" else ():
        print(line)
    return 0


def lines(answer: Mapping[str, str], now_s: float) -> list[str]:
    """The status for people, one fact a line."""
    seconds = int(answer.get("uptime_ns", "0")) // 1_000_000_000
    shown = [
        f"perun agent {answer.get('version', '?')}, pid {answer.get('pid', '?')}, up {seconds} s",
        f"jobs: {answer.get('sessions') or 'none'}",
        f"sensors: {answer.get('sensors', '?')}",
        f"cost: {int(answer.get('cpu_ns', '0')) / 1e9:.2f} s CPU, {int(answer.get('rss_b', '0')) / 2**20:.1f} MiB",
    ]
    if answer.get("uid") == "0":
        shown.append("runs as root: give its spool to the service user (chown perun /var/spool/perun), stop this agent")
    if answer.get("policy"):
        shown.append(f"policy: {answer['policy']}; the last valid one stays in force")
    return shown + losses(json.loads(answer["losses"]), now_s) if "losses" in answer else shown


def losses(entries: Sequence[Mapping[str, Any]], now_s: float) -> list[str]:
    """What the agent could not do, one kind a line: what, since when, why, and what becomes of it."""
    lines = []
    for one in entries:
        names, count = one["names"], int(one["count"])
        what = printable(", ".join(names) + (f" and {count - len(names)} more" if count > len(names) else ""))
        since_s = int(one["since_ns"]) // 1_000_000_000
        since = f"since {datetime.fromtimestamp(since_s):%Y-%m-%d %H:%M:%S} ({duration(max(0, now_s - since_s))})"
        form = KINDS.get(one["kind"], "{kind}: {what}, {since}: {why}")
        lines.append(form.format(kind=printable(one["kind"]), what=what, since=since, why=printable(one["why"])))
    return lines or ["losses: none"]
