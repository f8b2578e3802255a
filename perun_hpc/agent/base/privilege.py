"""From root to the service user: directories are handed over, then every privilege goes.

What the kernel refuses of it is returned, by name and why, and the process goes on: a job is measured all the same.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
from collections.abc import Collection, Iterable
from functools import partial
from pathlib import Path

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.process import confine

DEFAULT_USER = "perun"
ROOTS = (confine.CHOWN, confine.DAC_OVERRIDE, confine.DAC_READ_SEARCH, confine.FOWNER)
"""Capabilities of an agent that stays root: files of whoever owns spool and archive."""


def service_user(spool: Path) -> pwd.struct_passwd | None:
    """The user to become: the spool's owner, `perun` while that is root; None where there is none, or we are not root.

    Only root can have given the spool away, so that its owner is root's word; no file that the service user can write
    is asked.
    """
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError, OSError):
        owner = spool.stat().st_uid
        return pwd.getpwuid(owner) if owner != 0 else pwd.getpwnam(DEFAULT_USER)
    return None


def make_directories(paths: AgentPaths) -> None:
    """Create what is missing of the run directory and the spool."""
    paths.run_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    paths.run_dir.chmod(0o755)
    paths.inbox.mkdir(mode=0o700, exist_ok=True)
    paths.private.mkdir(mode=0o700, exist_ok=True)
    make_spool(paths)


def make_spool(paths: AgentPaths) -> None:
    """Create what is missing of the spool, as far as its disk has space."""
    with contextlib.suppress(OSError):
        paths.spool.mkdir(mode=0o750, parents=True, exist_ok=True)
        paths.sessions.mkdir(mode=0o750, exist_ok=True)
        paths.node.mkdir(mode=0o750, exist_ok=True)


def sees_processes(mounts: Path) -> int | None:
    """The group that /proc is mounted for (`gid=`); None without one."""
    gid = None
    with contextlib.suppress(OSError, ValueError):
        for line in mounts.read_text(errors="replace").splitlines():
            fields, _, kind = line.partition(" - ")
            if fields.split()[4:5] == ["/proc"] and kind.startswith("proc "):
                options = dict(word.partition("=")[::2] for word in kind.split()[2].split(","))
                gid = int(options["gid"]) if options.get("gid", "0").isdigit() and "gid" in options else None
    return gid or None


def hand_over(directory: Path, user: pwd.struct_passwd) -> None:
    """Give the spool to the service user; links are not followed, a file that has a second name stays whose it is."""
    for _, _, files, here in os.fwalk(directory.resolve()):
        if os.fstat(here).st_uid != user.pw_uid:
            os.fchown(here, user.pw_uid, user.pw_gid)
        for name in files:
            with contextlib.suppress(FileNotFoundError):
                _give(name, here, user)


def _give(name: str, directory: int, user: pwd.struct_passwd) -> None:
    """Change the owner of the very file that was looked at: its name may be another one's a moment later."""
    fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    try:
        status = os.fstat(fd)
        if status.st_uid != user.pw_uid and status.st_nlink == 1 and stat.S_ISREG(status.st_mode):
            os.chown(f"/proc/self/fd/{fd}", user.pw_uid, user.pw_gid)
    finally:
        os.close(fd)


def refuse_calls(calls: Iterable[str] = confine.KERNEL) -> dict[str, str]:
    """Let this process and its children gain no privileges by a program, and refuse them system calls."""
    return confine.attempt(
        {"no new privileges": confine.gain_nothing, "fewer system calls": partial(confine.deny, tuple(calls))}
    )


def keep_to(places: Iterable[Path], calls: Iterable[str]) -> dict[str, str]:
    """What a child that stays root keeps: root's uid, without a capability, and the files in these places to write.

    Besides these system calls it is refused those that would give another of root's files away.
    """
    refused = keep_capabilities() | refuse_calls((*confine.KERNEL, *confine.ATTRIBUTES, *calls))
    return refused | confine.attempt({"places to write": partial(confine.write_only, tuple(places))})


def what_children_lack() -> dict[str, str]:
    """What `keep_to` will be refused on this kernel, for whoever has a log."""
    return confine.attempt({"places to write": confine.check_write_only})


def keep_capabilities(keep: Collection[int] = ()) -> dict[str, str]:
    """Give up, as root, every capability but these for good; root's files remain root's."""
    return confine.attempt(
        {
            "bounded capabilities": partial(confine.bound_capabilities, keep),
            "fewer capabilities": partial(confine.hold_capabilities, keep),
        }
    )


def become(user: pwd.struct_passwd, mounts: Path = Path("/proc/self/mountinfo")) -> dict[str, str]:
    """Drop every privilege for good: groups, then all group ids, then all user ids (and with them capabilities).

    One group may stay: the one that /proc shows all processes to (hidepid with gid=), where the site has put the user
    into it.
    """
    refused = confine.attempt({"bounded capabilities": partial(confine.bound_capabilities, ())})
    os.setgroups([gid for gid in os.getgrouplist(user.pw_name, user.pw_gid) if gid == sees_processes(mounts)])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    return refused | confine.attempt({"fewer capabilities": partial(confine.hold_capabilities, ())})
