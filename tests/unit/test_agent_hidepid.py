"""The one group that the agent keeps: the one that /proc shows all processes to, where the site has put it there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perun_hpc.agent.base import privilege

LINES = {
    "gid": ("23 28 0:21 / /proc rw,relatime shared:12 - proc proc rw,gid=4242,hidepid=invisible", 4242),
    "no gid": ("23 28 0:21 / /proc rw,relatime - proc proc rw,hidepid=2", None),
    "plain": ("23 28 0:21 / /proc rw,relatime - proc proc rw", None),
    "root's": ("23 28 0:21 / /proc rw,relatime - proc proc rw,gid=0,hidepid=2", None),
    "another mount": (
        "24 28 0:21 / /chroot/proc rw - proc proc rw,gid=7\n25 28 0:22 / /tmp rw - tmpfs proc rw,gid=8",
        None,
    ),
    "the upper one": ("23 28 0:21 / /proc rw - proc proc rw,gid=7\n40 23 0:50 / /proc rw - proc proc rw,gid=9", 9),
    "odd": ("\n - \n23 28 - proc proc\n23 28 0:21 / /proc rw - proc proc rw,gid=x", None),
}


@pytest.mark.parametrize("name", LINES)
def test_the_group_that_sees_all_processes(tmp_path: Path, name: str) -> None:
    text, gid = LINES[name]
    (tmp_path / "mountinfo").write_text(text + "\n")
    assert privilege.sees_processes(tmp_path / "mountinfo") == gid


def test_without_a_list_of_mounts_there_is_no_such_group(tmp_path: Path) -> None:
    assert privilege.sees_processes(tmp_path / "none") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("member", [True, False])
def test_the_agent_keeps_that_group_alone_and_only_if_its_user_is_in_it(tmp_path: Path, member: bool) -> None:
    """/etc/group is a file of the test's own, in a mount namespace."""
    (tmp_path / "group").write_text(
        f"root:x:0:\nnogroup:x:65534:\nseers:x:4242:{'nobody' if member else ''}\ndisk:x:4243:nobody\n"
    )
    code = (
        "import json, os, pathlib, pwd; from perun_hpc.agent.base import privilege\n"
        "privilege.become(pwd.getpwnam('nobody'))\n"
        "print(json.dumps([os.getgroups(), os.getresuid(), pathlib.Path('/proc/1/cgroup').exists()]))"
    )
    steps = f"mount --bind {tmp_path}/group /etc/group && mount -t proc -o hidepid=2,gid=4242 proc /proc"
    # Below a PID namespace of its own /proc is of that one, and nobody else's is mounted anew.
    line = ["unshare", "--pid", "--fork", "-m", "sh", "-c", f'{steps} && "$@"', "sh", sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    groups, uids, sees_root = json.loads(done.stdout)
    assert (groups, uids, sees_root) == ([4242] if member else [], [65534] * 3, member)
