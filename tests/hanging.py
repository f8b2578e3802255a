"""A mounted file system that answers nothing, as that of a file server that is gone.

    python3 hanging.py PLACE

mounts one, prints a line and takes it away when its standard input ends. Standard library only: nodes run it as a text.
"""

from __future__ import annotations

import ctypes
import os
import sys

libc = ctypes.CDLL(None, use_errno=True)
MNT_DETACH = 2


def mount(place: str) -> int:
    """Mount it; the descriptor that `unmount` wants. Root's to do, OSError where the kernel refuses."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"hangs", place.encode(), b"fuse", ctypes.c_ulong(0), options):
        number = ctypes.get_errno()
        os.close(device)
        raise OSError(number, f"no FUSE file system on {place}: {os.strerror(number)}")
    return device


def unmount(place: str, device: int) -> None:
    """Take it away: whatever waits for an answer gets an error."""
    libc.umount2(place.encode(), MNT_DETACH)
    os.close(device)


if __name__ == "__main__":
    held = mount(sys.argv[1])
    print("hangs", flush=True)
    sys.stdin.read()
    unmount(sys.argv[1], held)
