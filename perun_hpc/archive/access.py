"""Who may read a job's directory beside the service user: POSIX access control lists, without a helper program."""

from __future__ import annotations

import errno
import grp
import logging
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from perun_hpc.errors import AccessError

log = logging.getLogger(__name__)
_NAME = "system.posix_acl_access"
# linux/posix_acl_xattr.h: version, then (tag, permissions, id) in the order of the tags.
_VERSION = struct.pack("<I", 2)
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32
_NOBODY = 0xFFFFFFFF
_READ, _SEARCH = 4, 1


NO_LISTS = "this file system has no access control lists"


class NoListsError(AccessError):
    """The file system has none: what lies there stays closed to all but its owner and group."""


def has_lists(path: Path) -> bool | None:
    """Whether a file system has such lists, as whoever may pass to `path` can see; None where nobody can say."""
    try:
        os.getxattr(path, _NAME)
    except OSError as error:
        return {errno.ENODATA: True, errno.EOPNOTSUPP: False}.get(error.errno or 0)
    return True


def readable_by(path: Path, uids: Iterable[int], gids: Iterable[int] = (), passing: Iterable[int] = ()) -> None:
    """Let these users and groups read a file, or list and pass a directory; nobody else but its owner.

    The users `passing` may pass a directory and see nothing of it.

    Raises
    ------
    NoListsError
        Where the file system has no access control lists.
    AccessError
        Where the caller does not own `path`.
    """
    mode = path.stat().st_mode
    allowed = _READ | (_SEARCH if path.is_dir() else 0)
    entries = [(_USER_OBJ, mode >> 6 & 7, _NOBODY)]
    users = {**dict.fromkeys(passing, allowed & _SEARCH), **dict.fromkeys(uids, allowed)}
    entries += [(_USER, users[uid], uid) for uid in sorted(users)]
    entries += [(_GROUP_OBJ, 0, _NOBODY)]
    entries += [(_GROUP, allowed, gid) for gid in sorted(set(gids))]
    entries += [(_MASK, allowed, _NOBODY), (_OTHER, 0, _NOBODY)]
    _set(path, entries)


def listable_by(directory: Path, gids: Iterable[int]) -> None:
    """Let these groups list a directory that everybody may pass; errors as of `readable_by`."""
    entries = [(_USER_OBJ, directory.stat().st_mode >> 6 & 7, _NOBODY), (_GROUP_OBJ, _SEARCH, _NOBODY)]
    entries += [(_GROUP, _READ | _SEARCH, gid) for gid in sorted(set(gids))]
    entries += [(_MASK, _READ | _SEARCH, _NOBODY), (_OTHER, _SEARCH, _NOBODY)]
    _set(directory, entries)


def _set(path: Path, entries: Iterable[tuple[int, int, int]]) -> None:
    value = _VERSION + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        if os.getxattr(path, _NAME) == value:
            return
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise AccessError(f"{path}: {error.strerror}: the collector must own the archive") from error
    try:
        os.setxattr(path, _NAME, value)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise NoListsError(f"{path}: {NO_LISTS}: docs/sites.md says what users then see") from error
        raise AccessError(f"{path}: cannot set an access control list ({error.strerror}): see its owner") from error


def groups(names: Iterable[str]) -> tuple[int, ...]:
    """The ids of groups that the policy names; one that is not known here is named in the log."""
    gids = []
    for name in names:
        try:
            gids.append(grp.getgrnam(name).gr_gid)
        except KeyError:
            log.warning("privacy.readers: no group '%s' here", name)
    return tuple(gids)


def tree_readable_by(root: Path, private: str, uids: Iterable[int], gids: Iterable[int] = ()) -> None:
    """Do the same for a directory and all below it, except the entry `private` of the directory itself."""
    users, groups = tuple(uids), tuple(gids)
    for directory, names, files in os.walk(root):
        here = Path(directory)
        if here == root and private in names:
            names.remove(private)
        for path in (here, *(here / name for name in files if not name.startswith("."))):
            readable_by(path, users, groups)
