"""What a process takes from itself for good, and from every child after it: privileges, system calls, places to write.

By prctl(2), capset(2), a list of system calls that are refused with EPERM (seccomp(2)), and Landlock. Nothing of it can
be undone. Each function raises OSError where the kernel refuses; what could be taken is taken all the same.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

try:
    import ctypes
except ImportError:  # a Python that was built without libffi
    _LIBC = None
else:
    _LIBC = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 22, 23, 24, 38
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522

CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER = 0, 1, 2, 3
"""Numbers of capabilities (linux/capability.h)."""

KERNEL = (
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"),
    *("mount", "umount2", "pivot_root", "chroot", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick"),
    *("mount_setattr", "unshare", "setns", "open_by_handle_at"),
    *("init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff"),
    *("acct", "bpf", "userfaultfd", "perf_event_open", "io_uring_setup"),
)
"""What no process of the agent's needs: others' memory, mounts, namespaces, modules, programs in the kernel."""
EXECUTE = ("execve", "execveat")
NETWORK = ("socket", "connect")
"""Without them a process has the sockets that it was given."""
ATTRIBUTES = (
    *("chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "lchown", "fchown", "fchownat"),
    *("setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr"),
    *("removexattrat", "file_setattr"),
)
"""Whose a file is and who may do what with it."""
OTHERS = (
    *("fork", "vfork", "clone", "kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"),
    *("prlimit64", "setpriority", "ioprio_set"),
    *("sched_setaffinity", "sched_setparam", "sched_setscheduler", "sched_setattr"),
)
"""New processes, and what can be done to others of the same user."""

_SAME = {
    **{"pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430},
    **{"fsconfig": 431, "fsmount": 432, "fspick": 433, "clone3": 435, "pidfd_getfd": 438, "mount_setattr": 442},
    **{"fchmodat2": 452, "setxattrat": 463, "removexattrat": 466, "file_setattr": 469},
}
"""Numbers that all architectures share."""
NUMBERS: dict[str, dict[str, int]] = {
    "x86_64": {
        **_SAME,
        **{"socket": 41, "connect": 42, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "kill": 62, "ptrace": 101},
        **{"rt_sigqueueinfo": 129, "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144},
        **{"pivot_root": 155, "chroot": 161, "acct": 163, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168},
        **{"reboot": 169, "init_module": 175, "delete_module": 176, "tkill": 200, "sched_setaffinity": 203},
        **{"tgkill": 234, "kexec_load": 246, "ioprio_set": 251, "unshare": 272, "rt_tgsigqueueinfo": 297},
        **{"perf_event_open": 298, "prlimit64": 302, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310},
        **{"process_vm_writev": 311, "finit_module": 313, "sched_setattr": 314, "kexec_file_load": 320, "bpf": 321},
        **{"execveat": 322, "userfaultfd": 323, "chmod": 90, "fchmod": 91, "chown": 92, "fchown": 93, "lchown": 94},
        **{"setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198},
        **{"fremovexattr": 199, "fchownat": 260, "fchmodat": 268},
    },
    "aarch64": {
        **_SAME,
        **{"ioprio_set": 30, "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "acct": 89, "unshare": 97},
        **{"kexec_load": 104, "init_module": 105, "delete_module": 106, "ptrace": 117, "sched_setparam": 118},
        **{"sched_setscheduler": 119, "sched_setaffinity": 122, "kill": 129, "tkill": 130, "tgkill": 131},
        **{"rt_sigqueueinfo": 138, "setpriority": 140, "reboot": 142, "socket": 198, "connect": 203, "clone": 220},
        **{"execve": 221, "swapon": 224, "swapoff": 225, "rt_tgsigqueueinfo": 240, "perf_event_open": 241},
        **{"prlimit64": 261, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270},
        **{"process_vm_writev": 271, "finit_module": 273, "sched_setattr": 274, "bpf": 280, "execveat": 281},
        **{"userfaultfd": 282, "kexec_file_load": 294, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7},
        **{"removexattr": 14, "lremovexattr": 15, "fremovexattr": 16, "fchmod": 52, "fchmodat": 53, "fchownat": 54},
        **{"fchown": 55},
    },
}
"""System calls by their names (asm/unistd_64.h, asm-generic/unistd.h)."""
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_WRITES = (1 << 1) | (0x1FF << 4)
"""Write a file; remove directories and files; make directories, files, devices, sockets, pipes, links (Linux 5.13)."""
_LANDLOCK_TRUNCATE = 1 << 14
"""Since the third version of Landlock, Linux 6.2."""
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (sched.h)."""


def attempt(steps: Mapping[str, Callable[[], object]]) -> dict[str, str]:
    """Do what the process can do without, by its names; those that failed, and why: that ends nothing."""
    refused = {}
    for name, step in steps.items():
        try:
            step()
        except OSError as error:
            refused[name] = error.strerror or str(error)
        except Exception as error:
            refused[name] = f"a fault of perun: {type(error).__name__}: {error}"
    return refused


def die_with_parent(signal: int) -> None:
    """Be sent a signal when the parent dies; a change of user takes that back (prctl(2))."""
    _prctl(_PR_SET_PDEATHSIG, signal)


def gain_nothing() -> None:
    """No program that is executed gives privileges any more: no set-user-ID bit, no capability of a file."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def bound_capabilities(keep: Collection[int]) -> None:
    """Let no process from here on come by other capabilities than these, whatever it executes. Needs CAP_SETPCAP."""
    refused: OSError | None = None
    for number in range(64):
        try:
            if _prctl(_PR_CAPBSET_READ, number) and number not in keep:
                _prctl(_PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == errno.EINVAL:  # beyond the last one
                break
            refused = error
    if refused:
        raise refused


def hold_capabilities(keep: Collection[int]) -> None:
    """Give up every capability but those of these that the process has."""
    libc = _libc()
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    held = ctypes.create_string_buffer(24)
    _checked(libc.capget(header, held))
    wanted = sum(1 << number for number in keep)
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    effective, permitted, _, effective_high, permitted_high, _ = struct.unpack("=6I", held.raw[:24])
    left = (effective & low, permitted & low, 0, effective_high & high, permitted_high & high, 0)
    _checked(libc.capset(header, ctypes.create_string_buffer(struct.pack("=6I", *left))))


def deny(calls: Iterable[str]) -> None:
    """Refuse these system calls from here on, and those of other architectures; needs `gain_nothing` before."""
    _libc()
    made = program(os.uname().machine, calls)
    instructions = ctypes.create_string_buffer(made)
    head = ctypes.create_string_buffer(struct.pack("@HP", len(made) // 8, ctypes.addressof(instructions)))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(head))


def check_write_only() -> int:
    """Which version of Landlock the kernel has; OSError where it has none."""
    return _checked(_libc().syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def write_only(places: Iterable[Path]) -> None:
    """Write, make and remove files only in these places, what lies below them included (Landlock, linux/landlock.h).

    Reading, executing and descriptors that are open stay as they are; needs `gain_nothing` before. OSError where the
    kernel has no Landlock.
    """
    libc = _libc()
    writes = _LANDLOCK_WRITES | (_LANDLOCK_TRUNCATE if check_write_only() >= 3 else 0)
    ruleset = _checked(libc.syscall(_LANDLOCK_CREATE, struct.pack("=Q", writes), ctypes.c_size_t(8), 0))
    try:
        for place in places:
            fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
            try:
                allowed = writes if place.is_dir() else writes & ((1 << 1) | _LANDLOCK_TRUNCATE)
                _checked(libc.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", allowed, fd), 0))
            finally:
                os.close(fd)
        _checked(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0))
    finally:
        os.close(ruleset)


def perf_event_open(attr: bytes, pid: int, cpu: int, leader: int, flags: int) -> int:
    """A descriptor of an event of a process or cgroup (-1: of all) on a CPU, in the group of `leader` (-1: it leads
    one); before `deny`.

    OSError as perf_event_open(2) says.
    """
    numbers = NUMBERS.get(os.uname().machine)
    if numbers is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    buffer = ctypes.create_string_buffer(attr, len(attr)) if _LIBC is not None else None
    return _checked(_libc().syscall(numbers["perf_event_open"], buffer, pid, cpu, leader, ctypes.c_ulong(flags)))


def program(machine: str, calls: Iterable[str]) -> bytes:
    """A list of refused calls as a program of the kernel's filter machine (linux/filter.h, linux/seccomp.h).

    OSError where the calls of that machine are not known here.
    """
    if machine not in NUMBERS:
        raise OSError(errno.ENOSYS, f"no list of the system calls of {machine} here")
    numbers = NUMBERS[machine]
    load, equal, at_least, any_of, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, refuse = (answer, 0, 0, 0x7FFF0000), (answer, 0, 0, 0x00050000 | errno.EPERM)
    lines = [(load, 0, 0, 4), (equal, 1, 0, _AUDIT_ARCH[machine]), refuse, (load, 0, 0, 0)]
    if machine == "x86_64":
        lines += [(at_least, 0, 1, _X32), refuse]
    for name in calls:
        if name in numbers:  # newer architectures have no fork(2)
            lines += [(equal, 0, 1, numbers[name]), refuse]
    # A new namespace by clone(2), whose flags are its first argument; those of clone3(2) lie in memory, and whoever
    # hears that there is no such call takes the older one.
    lines += [(equal, 0, 1, numbers["clone3"]), (answer, 0, 0, 0x00050000 | errno.ENOSYS)]
    lines += [(equal, 0, 3, numbers["clone"]), (load, 0, 0, 16), (any_of, 0, 1, _NEW_NAMESPACES), refuse, allow]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def _prctl(option: int, value: int, more: int = 0) -> int:
    libc = _libc()
    return _checked(libc.prctl(option, *(ctypes.c_ulong(one) for one in (value, more, 0, 0))))


def _libc() -> ctypes.CDLL:
    if _LIBC is None:
        raise OSError(errno.ENOSYS, "this Python has no ctypes")
    return _LIBC


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
