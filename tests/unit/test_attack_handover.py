"""What the agent does as root with a spool in which the service user has planted something."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from perun_hpc.agent.privilege import DEFAULT_USER, hand_over, service_user

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
    chosen = service_user(tmp_path)
    assert chosen is None or chosen.pw_name == DEFAULT_USER
