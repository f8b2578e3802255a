"""Start one simulated host: a set of Linux namespaces with a root file system of its own.

A program, run as ``python3 -I -S host.py SPEC.json`` by :mod:`tests.slurm.cluster.cluster`; standard library only and
self-contained. It joins the host's cgroups, unshares mount, uts, ipc, net, pid and cgroup namespaces, forks the
namespaces' first process and prints that one's pid (as the outer namespace sees it) once its file systems stand.

The root is a tmpfs onto which the machine's own tree is bound; ``/usr``, ``/etc`` and ``/var`` are overlays with their
upper layers in that tmpfs, so that a test may delete ``/usr/bin/python3`` on one node and the machine never notices.
The first process reaps orphans and does nothing else; ``kill -9`` of it ends everything in the host (a crash).
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x00020000, 0x02000000, 0x04000000
CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 4096, 16384, 1 << 18, 2

libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Call mount(2); raises OSError naming the mount."""
    done = libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    _checked(done, f"mount {kind or 'bind'} {source} on {target}")


def bind(source: str, target: str, recursive: bool = False, read_only: bool = False) -> None:
    """Bind a file or directory; the target is created where it is missing."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        Path(target).touch()
    mount(source, target, flags=MS_BIND | (MS_REC if recursive else 0))
    if read_only:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def overlay(lower: str, target: str, store: str | None) -> None:
    """Mount an overlay; writable if ``store`` names a directory for the upper layer."""
    data = f"lowerdir={lower}"
    if store is not None:
        os.makedirs(f"{store}/upper")
        os.makedirs(f"{store}/work")
        os.chmod(f"{store}/upper", 0o755)
        data += f",upperdir={store}/upper,workdir={store}/work"
    os.makedirs(target, exist_ok=True)
    mount("overlay", target, "overlay", 0, data)


def tmpfs(target: str, mode: str, flags: int = MS_NOSUID | MS_NODEV) -> None:
    """Mount an empty tmpfs."""
    os.makedirs(target, exist_ok=True)
    mount("tmpfs", target, "tmpfs", flags, f"mode={mode}")


def build_root(spec: dict[str, Any]) -> None:
    """Build the host's root file system below ``spec['root']`` and pivot into it."""
    root: str = spec["root"]
    os.makedirs(root, exist_ok=True)
    mount("", "/", flags=MS_REC | MS_PRIVATE)
    tmpfs(root, "755", 0)
    own = {"etc", "var", "usr", "run", "tmp", "home", "opt", "shared", "sys", "proc", "dev", "lost+found"}
    for entry in sorted(os.listdir("/")):
        path, target = f"/{entry}", f"{root}/{entry}"
        if os.path.islink(path):
            os.symlink(os.readlink(path), target)
        elif os.path.isdir(path) and entry not in own:
            bind(path, target, recursive=True)
    os.makedirs(f"{root}/.layers", mode=0o700)
    for name in ("etc", "var", "usr"):
        overlay(f"/{name}", f"{root}/{name}", f"{root}/.layers/{name}")
    for name in os.listdir("/opt"):
        if os.path.isdir(f"/opt/{name}") and not os.path.islink(f"/opt/{name}"):
            bind(f"/opt/{name}", f"{root}/opt/{name}", recursive=True)
    tmpfs(f"{root}/run", "755")
    tmpfs(f"{root}/tmp", "1777")
    # Devices: the machine's, with pseudo terminals and shared memory of the host's own.
    bind("/dev", f"{root}/dev")
    mount("devpts", f"{root}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5")
    bind(f"{root}/dev/pts/ptmx", f"{root}/dev/ptmx")
    tmpfs(f"{root}/dev/shm", "1777")
    # sysfs shows the devices of the network namespace that mounts it; read-only, it is the machine's.
    os.makedirs(f"{root}/sys")
    mount("sysfs", f"{root}/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for where, fake in spec["sysfs_layers"]:
        overlay(f"{fake}:{root}/sys/{where}", f"{root}/sys/{where}", None)
    mount_cgroups(spec, root)
    os.makedirs(f"{root}/proc")
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for directory, mode, uid, gid in spec["directories"]:
        os.makedirs(root + directory, exist_ok=True)
        os.chmod(root + directory, mode)
        os.chown(root + directory, uid, gid)
    for path, text in spec["files"].items():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        if os.path.islink(root + path):
            os.unlink(root + path)
        Path(root + path).write_text(text)
    for source, target, read_only in spec["binds"]:
        bind(source, root + target, read_only=read_only)
    os.makedirs(f"{root}/.machine")
    os.chdir(root)
    _checked(libc.pivot_root(b".", b".machine"), "pivot_root")
    os.chdir("/")
    _checked(libc.umount2(b"/.machine", MNT_DETACH), "umount /.machine")
    os.rmdir("/.machine")


def mount_cgroups(spec: dict[str, Any], root: str) -> None:
    """Show the host its own cgroups as /sys/fs/cgroup, and Slurm a facade in front of them.

    Slurm's cgroup/v1 takes a hierarchy for mounted only if its root has a file ``release_agent``, which the kernel
    makes in real roots only. So CgroupMountpoint points to a directory of links with that one file added.
    """
    target = f"{root}/sys/fs/cgroup"
    if spec["cgroup_version"] == 2:
        mount(spec["cgroups"]["unified"], target, flags=MS_BIND)
        return
    tmpfs(target, "755")
    for name, source in spec["cgroups"].items():
        bind(source, f"{target}/{name}")
    for name, link in spec["cgroup_links"].items():
        os.symlink(link, f"{target}/{name}")
    facade = f"{root}{spec['cgroup_facade']}"
    for name in [*spec["cgroups"], *spec["cgroup_links"]]:
        os.makedirs(f"{facade}/{name}")
        for entry in os.listdir(f"{target}/{name}"):
            os.symlink(f"/sys/fs/cgroup/{name}/{entry}", f"{facade}/{name}/{entry}")
        Path(f"{facade}/{name}/release_agent").touch()


def reap() -> None:
    """Be the first process: wait for orphans for ever."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        signal.sigwait({signal.SIGCHLD})


def first_process(spec: dict[str, Any], ready: int) -> None:
    """Set the namespaces up, report on ``ready`` (``ok`` or an error text), stay."""
    try:
        os.setsid()
        os.umask(0o022)
        socket.sethostname(spec["hostname"])
        build_root(spec)
        null = os.open("/dev/null", os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.write(ready, b"ok")
        os.closerange(3, 1024)
    except BaseException as error:  # reported to the starter, which raises it
        os.write(ready, f"{type(error).__name__}: {error}".encode())
        os._exit(1)
    reap()


def main() -> int:
    """Start the host of SPEC.json; prints the pid of its first process."""
    spec: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    for tasks in spec["join"]:
        Path(tasks).write_text(str(os.getpid()))
    flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWCGROUP
    _checked(libc.unshare(flags), "unshare")
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        first_process(spec, send)
    os.close(send)
    word = b"".join(iter(lambda: os.read(receive, 4096), b""))
    if word != b"ok":
        print(word.decode() or "the first process died", file=sys.stderr)
        return 1
    print(child, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
