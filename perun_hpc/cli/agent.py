"""`perun agent`: send this node's agent a message and print its answer."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping

from perun_hpc.errors import AccessError
from perun_hpc.report.losses import losses
from perun_hpc.wire.client import AGENT_SOCKET, request

VERBS = {
    "status": "show what it watches and what it costs",
    "reload": "read the policy again, now",
    "stop": "take closing readings and end; running jobs are continued by the next agent",
    "release-gpus": "let go of the GPUs, so that they can be reset; they are taken again with the next job",
}


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
