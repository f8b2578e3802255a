"""`perun agent`: ask or tell the agent of this node."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from perun_hpc.errors import AccessError
from perun_hpc.wire.client import AGENT_SOCKET, request

VERBS = {
    "status": "what it watches, and what it costs",
    "reload": "read the policy again now",
    "stop": "take closing readings and end; running jobs are continued by the next agent",
    "release-gpus": "let go of the GPUs, so that they can be reset; they are taken again with the next job",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in VERBS.items():
        verbs.add_parser(verb, help=text, description=text)
    parser.add_argument("--socket", default=AGENT_SOCKET, metavar="PATH", help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    """Exchange one message and print the answer."""
    reply = request(args.verb, {}, timeout_s=10.0, path=args.socket)
    if reply.verb != "ok":
        raise AccessError(f"the agent refused '{args.verb}': {reply.get('reason', 'no reason given')}")
    for line in lines(reply.fields) if args.verb == "status" else ():
        print(line)
    return 0


def lines(told: Mapping[str, str]) -> list[str]:
    """The status for people, one fact a line."""
    seconds = int(told.get("uptime_ns", "0")) // 1_000_000_000
    shown = [
        f"perun agent {told.get('version', '?')}, pid {told.get('pid', '?')}, up {seconds} s",
        f"jobs: {told.get('sessions') or 'none'}",
        f"sensors: {told.get('sensors', '?')}",
        f"cost: {int(told.get('cpu_ns', '0')) / 1e9:.2f} s CPU, {int(told.get('rss_b', '0')) / 2**20:.1f} MiB",
    ]
    if told.get("uid") == "0":
        shown.append("runs as root: give its spool to the service user (chown perun /var/spool/perun), stop this agent")
    if told.get("missing"):
        shown += [f"missing: {one}" for one in told["missing"].split("\n")]
    if told.get("policy"):
        shown.append(f"policy: {told['policy']}; the last good one rules")
    return shown
