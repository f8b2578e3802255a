"""A node and a collector whose archive root may not enter, as with NFS's root_squash, to be run in a mount namespace.

`python -m tests.root_squash DIRECTORY` has the service user mount a FUSE file system that is that user's alone, runs an
agent of root's and a collector, and prints what they and `perun doctor` found as JSON.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path

from perun_hpc.archive.places import Archive
from perun_hpc.doctor import look
from tests.flow.agent_node import FakeNode
from tests.without_lists import as_user

SERVICE = pwd.getpwnam("daemon")
"""A user whom every host has stands for the service user."""


def mount_for(user: pwd.struct_passwd, source: Path, target: Path, device: Path) -> None:
    os.mknod(device, 0o20666, os.makedev(10, 229))
    device.chmod(0o666)
    subprocess.run(["mount", "--bind", device, "/dev/fuse"], check=True)
    ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    subprocess.run(["setpriv", *ids, "bindfs", "--no-allow-other", source, target], check=True)


def scenario(base: Path) -> dict[str, object]:
    base.chmod(0o755)
    node = FakeNode(base, f"collect: {{ledger: 'sqlite:///{base}/ledger/db', deadline: 1 s}}\n")
    for name in ("spool", "behind", "ledger"):
        (base / name).mkdir(exist_ok=True)
    for path in (node.spool, base / "behind", base / "ledger", node.archive):
        os.chown(path, SERVICE.pw_uid, SERVICE.pw_gid)
        path.chmod(0o711)
    mount_for(SERVICE, base / "behind", node.archive, base / "fuse")
    root_enters = os.access(node.archive, os.X_OK)
    node.start()
    try:
        node.begin(1, exclusive="1")
        node.serve(3_000_000)
        node.end(1)
        arrived = Archive(base / "behind", "test").base / "incoming" / "1.0" / "n1.json"
        until_s = time.monotonic() + 30
        while not arrived.exists() and time.monotonic() < until_s:
            time.sleep(0.05)
    finally:
        node.stop()
    os.environ["PERUN_POLICY"] = str(node.policy)
    place = look.places({"archive": str(node.archive)}, SERVICE)["archive"]
    return {
        "root_enters": root_enters,
        "swept": as_user(SERVICE.pw_uid, "collect", "--no-slurm", "--cluster", "test"),
        "service": as_user(SERVICE.pw_uid, "report", "1", "--cluster", "test"),
        "root": as_user(0, "report", "1", "--cluster", "test"),
        "doctor": [place.problem, place.writes],
    }


if __name__ == "__main__":
    found = scenario(Path(sys.argv[1]))
    subprocess.run(["umount", Path(sys.argv[1]) / "archive"], check=True)  # which ends the file system's process
    print(json.dumps(found))
