"""Command line of the test cluster: ``python3 -m devcluster --name NAME up|down|status|shell|exec|...``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from .cluster import Cluster, ClusterError


def parser() -> argparse.ArgumentParser:
    """Build the parser."""
    top = argparse.ArgumentParser(prog="python3 -m devcluster", description=__doc__)
    top.add_argument("--name", default="demo", help="the cluster's name on this machine (default: demo)")
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start it; does nothing if it is up")
    down = commands.add_parser("down", help="end it and remove everything")
    down.add_argument("--keep-logs", action="store_true", help="leave the daemons' and the simulator's logs")
    down.add_argument("--keep-state", action="store_true", help="leave the state directory: the next up continues")
    commands.add_parser("status", help="print what runs, as JSON; exit code 1 if it is not up")
    for name, text in (("shell", "an interactive shell"), ("exec", "run a command after --")):
        sub = commands.add_parser(name, help=text)
        sub.add_argument("--user", default="alice", help="alice (default), bob, perun, root, slurm")
        sub.add_argument("--node", default=None, help="n1..n4 or ctl (default)")
        if name == "exec":
            sub.add_argument("argv", nargs="+", metavar="CMD")
    for name, text in (("kill-node", "crash a node"), ("start-node", "boot a crashed node")):
        commands.add_parser(name, help=text).add_argument("node")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = parser().parse_args(argv)
    cluster = Cluster(words.name)
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - begin:5.1f} s] {line}", flush=True)

    try:
        if words.command == "up":
            cluster.up(progress=say)
        elif words.command == "down":
            cluster.down(keep_logs=words.keep_logs, keep_state=words.keep_state)
        elif words.command == "status":
            status = cluster.status()
            print(json.dumps(status, indent=2))
            return 0 if status["up"] else 1
        elif words.command == "kill-node":
            cluster.kill_node(words.node)
        elif words.command == "start-node":
            cluster.start_node(words.node)
        else:
            command = ["bash"] if words.command == "shell" else words.argv
            line = cluster.command(command, words.user, words.node)
            sys.stdout.flush()
            os.execvp(line[0], line)
    except ClusterError as error:
        print(f"cluster {words.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
