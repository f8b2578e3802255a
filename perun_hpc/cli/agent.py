"""`perun agent`: send this node's agent a message and print its answer."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from perun_hpc.errors import AccessError, PerunError, UnavailableError
from perun_hpc.report.losses import losses
from perun_hpc.wire.client import AGENT_SOCKET, request

VERBS = {
    "status": "show what it watches and what it costs",
    "reload": "read the policy again, now",
    "stop": "take closing readings and end; running jobs are continued by the next agent",
    "flush": "stop, and wait until what was measured is handed over, before the node is switched off; exits 0",
    "release-gpus": "let go of the GPUs, so that they can be reset; they are taken again with the next job",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, text in VERBS.items():
        one = verbs.add_parser(verb, help=text, description=text)
        if verb == "flush":
            one.add_argument("--deadline", type=float, default=20.0, metavar="S", help="at most so long (default 20 s)")
    parser.add_argument(
        "--socket", default=AGENT_SOCKET, metavar="PATH", help="the agent's socket (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Exchange one message and print the answer."""
    if args.verb == "flush":
        return _flush(args.socket, args.deadline)
    reply = request(args.verb, {}, timeout_s=10.0, path=args.socket)
    if reply.verb != "ok":
        raise AccessError(f"the agent refused '{args.verb}': {reply.get('reason', 'no reason given')}")
    for line in lines(reply.fields, time.time()) if args.verb == "status" else ():
        print(line)
    return 0


def _flush(socket: str, deadline_s: float) -> int:
    """Have the agent end, and wait for the child that ships what it has; nothing keeps a node from going down."""
    until_s = time.monotonic() + deadline_s
    try:
        pid = int(request("status", {}, timeout_s=deadline_s, path=socket).fields["pid"])
        session, command = os.getsid(pid), Path(f"/proc/{pid}/cmdline").read_bytes()
        if request("stop", {}, timeout_s=deadline_s, path=socket).verb != "ok":
            raise AccessError("only root may stop it")
        while _lives(session, command):
            if time.monotonic() > until_s:
                raise UnavailableError(f"not handed over within {deadline_s:g} s: it is when the node is back")
            time.sleep(0.05)
    except (PerunError, OSError, LookupError, ValueError) as error:
        print(f"perun agent flush: {error}", file=sys.stderr)
    return 0


def _lives(session: int, command: bytes) -> bool:
    """Whether the agent or a child of it is there: they are of one session, and forked; zombies do not count."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z" and (process / "cmdline").read_bytes() == command:
                return True
        except OSError:
            continue
    return False


def lines(answer: Mapping[str, str], now_s: float) -> list[str]:
    """The status for people, one fact a line."""
    seconds = int(answer.get("uptime_ns", "0")) // 1_000_000_000
    shown = [
        f"perun agent {answer.get('version', '?')}, pid {answer.get('pid', '?')}, up {seconds} s",
        f"jobs: {answer.get('sessions') or 'none'}",
        f"sensors: {answer.get('sensors', '?')}",
        f"cost: {int(answer.get('cpu_ns', '0')) / 1e9:.2f} s CPU, {int(answer.get('rss_b', '0')) / 2**20:.1f} MiB",
    ]
    if answer.get("power_pmu"):
        shown.append(f"power PMU: {answer['power_pmu']}")
    if answer.get("uid") == "0":
        shown.append("runs as root: give its spool to the service user (chown perun /var/spool/perun), stop this agent")
    if answer.get("policy"):
        shown.append(f"policy: {answer['policy']}; the last valid one stays in force")
    return shown + losses(json.loads(answer["losses"]), now_s) if "losses" in answer else shown
