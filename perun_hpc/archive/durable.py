"""Many new files made durable at once: by one call where the file system keeps that word, else each, side by side."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from perun_hpc.files import sync_directory, sync_file

_LIBC = ctypes.CDLL(None, use_errno=True)
_WHOLE = frozenset({
    0xEF53,  # ext4
    0x58465342,  # XFS
    0x9123683E,  # Btrfs
    0x2FC12FC1,  # ZFS
    0x01021994,  # tmpfs, which keeps nothing anyway
    0x6969,  # NFS: data by COMMIT, names by the server itself
    0x00C36400,  # CephFS
})  # fmt: skip
"""Types of file systems (statfs(2)) whose syncfs(2) returns once names and data are on the disk. Others' may only write
pages out, as Lustre's does."""
_THREADS = 16
"""As many wait for a disk at once; each of them for one file and its directory."""
_STATFS_B = 256


def sync_new(top: Path, files: Sequence[Path]) -> None:
    """Make files, their names and those of their directories, which lie in `top`, durable.

    Raises
    ------
    OSError
        Where one of them is not.
    """
    if not files:
        return
    if keeps_its_word(top):
        sync_whole(top)
    else:
        sync_each(top, files)


def keeps_its_word(path: Path) -> bool:
    """Whether syncfs makes durable what was written to the file system that a directory is on."""
    answer = ctypes.create_string_buffer(_STATFS_B)
    if _LIBC.statfs(os.fsencode(path), answer) != 0:
        return False
    return ctypes.c_long.from_buffer(answer).value & 0xFFFFFFFF in _WHOLE


def sync_whole(top: Path, _: Sequence[Path] = ()) -> None:
    """Make everything durable that was written to the file system of `top`; OSError where that fails."""
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _LIBC.syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(top))
    finally:
        os.close(fd)


def sync_each(top: Path, files: Sequence[Path]) -> None:
    """Make each of the files durable, with its directory, then the names of all up to `top`; OSError as `sync_new`."""
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(_sync_one, files))  # the first error comes out
    above = {place for path in files for place in path.parent.parents if place == top or top in place.parents}
    for directory in sorted(above, key=lambda place: -len(place.parts)):
        sync_directory(directory)


def _sync_one(path: Path) -> None:
    sync_file(path)
    sync_directory(path.parent)
