"""What the agent does as root with a spool in which the service user has planted something."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from perun_hpc.agent.privilege import hand_over, service_user

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


def test_no_policy_keeps_root() -> None:
    chosen = service_user("root")
    assert chosen is None or chosen.pw_uid != 0
    nobody = service_user("nobody")
    assert nobody is not None and nobody.pw_name == "nobody"
