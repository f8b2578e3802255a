"""From root to the service user: directories are handed over, then every privilege goes."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

from perun_hpc.agent.paths import AgentPaths

DEFAULT_USER = "perun"


def service_user(name: str) -> pwd.struct_passwd | None:
    """The user to become, `perun` where `name` is nobody or root; None where that is nobody, too, or we are not root.

    The compiled policy that names it lies where the service user can write: it must not keep root.
    """
    if os.geteuid() != 0:
        return None
    for one in (name, DEFAULT_USER):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(one)
            if user.pw_uid != 0:
                return user
    return None


def make_directories(paths: AgentPaths) -> None:
    """Create what is missing of the run directory and the spool."""
    paths.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    paths.run_dir.chmod(0o755)
    paths.inbox.mkdir(mode=0o700, exist_ok=True)
    paths.private.mkdir(mode=0o700, exist_ok=True)
    make_spool(paths)


def make_spool(paths: AgentPaths) -> None:
    """Create what is missing of the spool, as far as its disk has room."""
    with contextlib.suppress(OSError):
        paths.spool.mkdir(mode=0o750, parents=True, exist_ok=True)
        paths.sessions.mkdir(mode=0o750, exist_ok=True)
        paths.node.mkdir(mode=0o750, exist_ok=True)


def hand_over(directory: Path, user: pwd.struct_passwd) -> None:
    """Give the spool to the service user; links are not followed, a file that has a second name stays whose it is."""
    for _, _, files, here in os.fwalk(directory.resolve()):
        if os.fstat(here).st_uid != user.pw_uid:
            os.fchown(here, user.pw_uid, user.pw_gid)
        for name in files:
            status = os.stat(name, dir_fd=here, follow_symlinks=False)
            if status.st_uid != user.pw_uid and status.st_nlink == 1:
                os.chown(name, user.pw_uid, user.pw_gid, dir_fd=here, follow_symlinks=False)


def become(user: pwd.struct_passwd) -> None:
    """Drop every privilege for good: groups, then all group ids, then all user ids (and with them capabilities)."""
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
