"""Where the ranks of a host find the rank server of its sampling process: a socket in a directory of the user's alone.

The first place that takes one is taken: $TMPDIR, $XDG_RUNTIME_DIR, /tmp, /dev/shm, and where none does an abstract
socket (written `@NAME`). Ranks that did not make it look in the same places, and enter no directory that is another
user's or open to others; both sides of a connection check who the other one is.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from perun_hpc.inject import meeting

SOCKET = "ranks"
BESIDE = ".new"
"""What the name of a socket ends in until it listens."""
_LONGEST_B = 107


def places(environ: Mapping[str, str]) -> list[str]:
    """The directories that are tried, in this order."""
    named = [environ.get("TMPDIR", ""), environ.get("XDG_RUNTIME_DIR", ""), "/tmp", "/dev/shm"]
    return list(dict.fromkeys(place for place in named if place.startswith("/")))


def make(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The address of a new rank server; `name` is what the ranks of this host share."""
    for place in places(environ):
        directory = Path(place) / name
        if len(os.fsencode(directory / (SOCKET + BESIDE))) > _LONGEST_B:
            continue
        try:
            _make(directory)
        except OSError:
            continue
        return str(directory / SOCKET)
    return f"@{name}"


def _make(directory: Path) -> None:
    """Make the directory, and see whether it takes a socket."""
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        os.close(meeting.own(str(directory)))  # of a run that was killed, or another user's
        shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
    try:
        probe = directory / (SOCKET + BESIDE)
        os.mknod(probe, stat.S_IFSOCK | 0o600)
        probe.unlink()
    except OSError:
        directory.rmdir()
        raise


def find(name: str, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """The addresses at which a rank server of this name may be, the abstract one last."""
    for place in places(environ):
        directory = Path(place) / name
        with suppress(OSError):
            os.close(meeting.own(str(directory)))
            yield str(directory / SOCKET)
    yield f"@{name}"


def remove(address: str) -> None:
    """Take away what `make` made."""
    if not address.startswith("@"):
        shutil.rmtree(Path(address).parent, ignore_errors=True)
