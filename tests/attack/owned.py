"""Who owns the agent's user id: what it can do on a node by that alone, and what it can make root's helper do.

Run by root on the node: `owned.py PID` with the agent's pid. It starts a helper as the agent does, becomes the service
user, tries everything, and prints how often it tried and what came of it that must not.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from perun_hpc.agent.base import privilege
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.sources import root_helper
from perun_hpc.process import child
from perun_hpc.process.clock import MACHINE

PATHS = AgentPaths(Path("/run/perun"), Path("/var/spool/perun"))
POLICY = Path("/etc/perun/policy.yaml")
MESSAGE = "00000000000000000001-job-end-7-0.msg"
"""A message's name; what lies under it is a link to a file of root's."""
WORDS = (
    *(
        f"drop {name}"
        for name in ("../victim", "/run/perun/victim", "..", ".", f"{MESSAGE}/../../victim", f"{MESSAGE}\n")
    ),
    *(f"drop {name}" for name in ("../hook.conf", "../agent.sock", "", "*", "x" * 60_000)),
    *(
        f"hook {rest}"
        for rest in ("500 /tmp/evil.yaml", "500\npolicy=/tmp/evil.yaml", "99999999999", "-1", "", "\u0665\u0665")
    ),
    *(
        f"sensors {name}"
        for name in ("../../etc", "/etc/shadow", "file", "ipmi", "powercap /etc", "", "powercap\0hwmon")
    ),
    *(
        "list /etc",
        "list ..",
        "read /etc/shadow",
        "open /etc/shadow",
        "exec id",
        "chmod 666 /etc/shadow",
        "become root",
    ),
    *("LIST", " list", "list\n", "\0list", "-", "hookdrop"),
)


def by_uid_alone(pid: int) -> dict[str, Callable[[], object]]:
    """Ways to the agent's descriptors, to root's files, and back to root."""
    libc = ctypes.CDLL(None, use_errno=True)

    def called(name: str, *arguments: int) -> None:
        if getattr(libc, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)

    def take_descriptor() -> None:
        held = os.pidfd_open(pid)
        called("syscall", 438, held, 3, 0)  # pidfd_getfd(2)

    places = ("/run/perun/hook.conf", "/run/perun/inbox/x.msg", "/run/perun/x", "/etc/perun/policy.yaml", "/etc/shadow")
    counters = [str(path) for path in Path("/sys/class/powercap").glob("*/energy_uj")]
    return {
        "pidfd_getfd": take_descriptor,
        "descriptors": lambda: os.listdir(f"/proc/{pid}/fd"),  # noqa: PTH208
        "memory": lambda: Path(f"/proc/{pid}/mem").open("r+b"),
        "ptrace": lambda: called("ptrace", 16, pid, 0, 0),
        "setuid": lambda: os.setuid(0),
        "inbox": lambda: os.listdir("/run/perun/inbox"),  # noqa: PTH208
        **{f"write {place}": partial(os.open, place, os.O_WRONLY | os.O_CREAT) for place in places},
        **{f"read {place}": partial(os.open, place, os.O_RDONLY) for place in counters},
        "chown": lambda: os.chown("/run/perun/hook.conf", os.getuid(), -1),
    }


def main(pid: int) -> None:
    """Try it all."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    found, finding = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    life = partial(root_helper._live, theirs, finding, PATHS, POLICY, MACHINE)
    child.start("root helper", life, (theirs.fileno(), finding.fileno()))
    theirs.close()
    finding.close()
    privilege.become(pwd.getpwnam("perun"))
    tried, bad = 0, []
    for name, work in by_uid_alone(pid).items():
        tried += 1
        with contextlib.suppress(OSError):
            work()
            bad.append(name)
    for words in WORDS:
        tried += 1
        ours.send(words.encode())
    ours.settimeout(30)
    ours.send(b"list")
    answers = list(iter(partial(ours.recv, root_helper.MAX_B), b"end"))
    bad += [f"list: {one[:80]!r}" for one in answers if b"root:" in one or one.startswith(MESSAGE.encode())]
    found.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        bad.append(f"sensors: {found.recv(4096)[:80]!r}")
    print(json.dumps({"n": tried, "bad": bad}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
