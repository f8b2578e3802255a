"""From root to the service user: directories are handed over, then every privilege goes."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

from perun_hpc.agent.paths import AgentPaths


def service_user(name: str) -> pwd.struct_passwd | None:
    """The user to become; None where this process cannot change users or there is no such user."""
    if os.geteuid() != 0:
        return None
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return None
    return user if user.pw_uid != 0 else None


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
    """Give the spool to the service user; links are not followed."""
    for where, _, files in os.walk(directory):
        if Path(where).stat().st_uid == user.pw_uid and not files:
            continue
        for path in (Path(where), *(Path(where) / name for name in files)):
            if path.lstat().st_uid != user.pw_uid:
                os.lchown(path, user.pw_uid, user.pw_gid)


def become(user: pwd.struct_passwd) -> None:
    """Drop every privilege for good: groups, then all group ids, then all user ids (and with them capabilities)."""
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
