"""What the agent does as root with a spool in which the service user has planted something."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from perun_hpc.agent.base.privilege import DEFAULT_USER, hand_over, service_user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    (tmp_path / "etc/deep").mkdir(parents=True)
    for name in ("etc/shadow", "etc/deep/key"):
        (tmp_path / name).write_text("root's")
    return tmp_path / "etc"


def owners(tree: Path) -> set[int]:
    return {path.lstat().st_uid for path in (tree, *tree.rglob("*"))}


def test_links_in_the_spool_give_nothing_away(tmp_path: Path, victim: Path) -> None:
    spool = tmp_path / "spool"
    (spool / "sessions/1.0").mkdir(parents=True)
    (spool / "sessions/1.0/session.json").write_text("{}")
    (spool / "sessions/2.0").symlink_to(victim)
    (spool / "state.json").symlink_to(victim / "shadow")
    os.link(victim / "shadow", spool / "sessions/1.0/hard")
    hand_over(spool, pwd.getpwnam("nobody"))
    assert owners(victim) == {0}
    assert (spool / "sessions/1.0/session.json").stat().st_uid == pwd.getpwnam("nobody").pw_uid


SWAP = """
import os, pathlib, pwd, sys
from perun_hpc.agent.base.privilege import hand_over
path, target = map(pathlib.Path, sys.argv[1:])
def swap(event, values):
    if event == "os.chown" and not path.is_symlink():  # it was looked at, and its owner changes next
        path.unlink()
        path.symlink_to(target)
        print("swapped")
sys.addaudithook(swap)
hand_over(path.parent, pwd.getpwnam("nobody"))
"""


def test_a_link_that_takes_a_files_place_meanwhile_gives_nothing_away(tmp_path: Path, victim: Path) -> None:
    """What was looked at is what is given, though its name is another file's by then."""
    (tmp_path / "spool").mkdir()
    os.chown(tmp_path / "spool", pwd.getpwnam("nobody").pw_uid, 0)
    (tmp_path / "spool/file").write_text("")
    command = [sys.executable, "-c", SWAP, tmp_path / "spool/file", victim / "shadow"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "swapped\n"
    assert owners(victim) == {0}


def test_pipes_and_devices_in_the_spool_are_not_given_away(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    os.mkfifo(spool / "policy.json")
    hand_over(spool, pwd.getpwnam("nobody"))
    assert (spool / "policy.json").lstat().st_uid == 0


def test_the_agent_becomes_whom_root_gave_the_spool_to(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    assert service_user(tmp_path / "absent") is None
    os.chown(tmp_path, nobody.pw_uid, nobody.pw_gid)
    assert service_user(tmp_path) == nobody


def test_a_spool_of_roots_is_for_the_default_user(tmp_path: Path) -> None:
    there = next((user for user in pwd.getpwall() if user.pw_name == DEFAULT_USER), None)
    assert service_user(tmp_path) == there
