"""Looking at files in children with a deadline: a file system that hangs holds up a child, never the doctor.

A child that cannot even be killed is left behind; it dies when its file system answers again.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import pwd
import select
import stat
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from perun_hpc.agent.base import privilege
from perun_hpc.archive.access import has_lists
from perun_hpc.data_model import codec
from perun_hpc.doctor.facts import Place
from perun_hpc.errors import PerunError, UnavailableError
from perun_hpc.process import child
from perun_hpc.slurm import conf

PATIENCE_S = 1.0
MOST_B = 8 << 20
HEAD_B = 64 * 1024
LINKS = 40
"""As many as the kernel follows."""
NETWORK = (
    "nfs", "nfs4", "lustre", "gpfs", "beegfs", "beegfs_nodev", "ceph", "cifs", "smb3", "glusterfs", "afs", "9p",
    "panfs", "orangefs", "pvfs2", "wekafs", "virtiofs", "fuse", "fuse.sshfs", "fuse.glusterfs",
    "fuse.ceph", "fuse.juicefs",
)  # fmt: skip
"""Kinds of file systems whose files are another machine's, as /proc/self/mountinfo names them."""


class Look:
    """One question to a child, on its way."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._began_s = time.monotonic()
        self._fd, writing = os.pipe()
        self._child = child.start("perun doctor", partial(_tell, writing, work), keep=(writing,))
        os.close(writing)

    def answer(self, patience_s: float = PATIENCE_S) -> Any:
        """What the child found; `UnavailableError` where it said nothing within that time since it began."""
        said = b""
        until_s = self._began_s + patience_s
        try:
            while len(said) < MOST_B:
                if not select.select([self._fd], [], [], max(0.0, until_s - time.monotonic()))[0]:
                    raise UnavailableError(f"no answer within {patience_s:.0f} s: its file system hangs")
                piece = os.read(self._fd, 1 << 16)
                if not piece:
                    break
                said += piece
        finally:
            os.close(self._fd)
            self._child.kill()
        try:
            value = json.loads(said)
        except ValueError as error:
            raise UnavailableError("the process that looked has died") from error
        if "error" in value:
            raise UnavailableError(value["error"])
        return value["found"]


def _tell(fd: int, work: Callable[[], Any]) -> None:
    """The child's life."""
    try:
        value = {"found": work()}
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        value = {"error": f"{where}{error.strerror or error}"}
    except PerunError as error:
        value = {"error": str(error)}
    text = json.dumps(value).encode()
    while text:
        text = text[os.write(fd, text) :]


def places(
    paths: Mapping[str, str], user: pwd.struct_passwd | None, patience_s: float = PATIENCE_S
) -> dict[str, Place]:
    """Look at several places at once, by the names that they are given; each within the deadline."""
    looks = {name: Look(partial(_place, path, user)) for name, path in paths.items()}
    return {name: _place_of(looks[name], paths[name], patience_s) for name in paths}


def matching(pattern: str, user: pwd.struct_passwd | None, patience_s: float = PATIENCE_S) -> tuple[Place, ...]:
    """Look at every file that a pattern of Slurm's names; the pattern itself where it names none."""
    try:
        found = Look(lambda: sorted(glob.glob(pattern)) or [pattern]).answer(patience_s)  # noqa: PTH207 - not a Path
    except UnavailableError as error:
        return (Place(pattern, problem=str(error)),)
    return tuple(places({path: path for path in found}, user, patience_s).values())


def texts(pattern: str, patience_s: float = PATIENCE_S) -> list[tuple[str, str]]:
    """Path and text of every file that a pattern names; `UnavailableError` where that hangs."""
    found = Look(partial(conf.texts, pattern)).answer(patience_s)
    return [(path, text) for path, text in found]


def as_user(user: pwd.struct_passwd, work: Callable[[], Any]) -> Callable[[], Any]:
    """The same work as another user, with all groups; for a child of root's."""

    def become_and_work() -> Any:
        if os.geteuid() == 0:
            os.initgroups(user.pw_name, user.pw_gid)
            os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
            os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
        return work()

    return become_and_work


def _place_of(look: Look, path: str, patience_s: float) -> Place:
    try:
        return codec.decode(Place, look.answer(patience_s))
    except UnavailableError as error:
        return Place(path, problem=str(error))


def _place(path: str, user: pwd.struct_passwd | None) -> Any:
    """The child's work: everything that checks ask of a place."""
    try:
        status = os.stat(path)  # noqa: PTH116 - it follows links, whatever they are
    except FileNotFoundError:
        return codec.encode(Place(path, problem="it is not there", missing=True))
    except PermissionError:
        if user is None or os.geteuid() != 0:
            raise
        privilege.become(user)  # root_squash: root is nobody there
        status = os.stat(path)  # noqa: PTH116
    real = os.path.realpath(path)
    kind, flags = _file_system(real), os.statvfs(path)
    regular = stat.S_ISREG(status.st_mode)
    head = b""
    if regular:
        with contextlib.suppress(PermissionError), open(path, "rb") as file:  # noqa: PTH123 - any path
            head = file.read(HEAD_B)
    runs = bool(status.st_mode & 0o111) and not flags.f_flag & os.ST_NOEXEC
    found = Place(
        path,
        kind="directory" if stat.S_ISDIR(status.st_mode) else "file" if regular else "other",
        real=real,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        owner=_name(status.st_uid),
        runs=runs,
        elf=head.startswith(b"\x7fELF"),
        head=head.decode(errors="replace") if head.startswith(b"#!") else "",
        open_to=_open_on_the_way(path),
        network=kind if kind in NETWORK else "",
        lists=has_lists(Path(path)),
        free_b=flags.f_bavail * flags.f_frsize,
        size_b=flags.f_blocks * flags.f_frsize,
        free_files=flags.f_favail / flags.f_files if flags.f_files else None,
        writes=_writes(path, user),
    )
    return codec.encode(found)


def _writes(path: str, user: pwd.struct_passwd | None) -> bool | None:
    """Whether the service user can write there; asked as that user, last, since there is no way back."""
    if user is None or os.geteuid() not in (0, user.pw_uid):
        return None
    if os.geteuid() == 0:
        privilege.become(user)
    return os.access(path, os.W_OK | os.X_OK)


def _open_on_the_way(path: str) -> str:
    """The first directory, from the root down, or the file itself that somebody beside root can write; else nothing.

    Links on the way are followed one by one: who can change one decides what lies behind it.
    """
    left, at, links = list(Path(path).parts[1:]), Path("/"), 0
    while True:
        status = at.lstat()
        link = stat.S_ISLNK(status.st_mode)
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
        if status.st_uid != 0 or (status.st_mode & 0o022 and not sticky and not link):
            return str(at)
        if link and links < LINKS:
            links += 1
            left = [*at.readlink().parts, *left]
            at = at.parent
        if not left:
            return ""
        step = left.pop(0)
        at = Path("/") if step == "/" else at.parent if step == ".." else at / step


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _file_system(path: str) -> str:
    """The kind of the file system on which a path lies, by the longest mount point above it."""
    best, kind = "", ""
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split()[4].encode().decode("unicode_escape")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, rest.split()[0]
    return kind
