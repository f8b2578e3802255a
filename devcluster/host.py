"""Start one simulated host: a set of Linux namespaces with a root file system of its own.

A program, run as ``python3 -I -S host.py SPEC.json`` by :mod:`devcluster.cluster`; standard library only and
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


def checked(result: int, what: str) -> None:
    """Raise OSError, naming what was tried, where a call of libc failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    """Call mount(2); raises OSError naming the mount."""
    done = libc.mount(
        source.encode(), bytes(target), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )
    checked(done, f"mount {kind or 'bind'} {source} on {target}")


def bind(source: Path, target: Path, recursive: bool = False, read_only: bool = False) -> None:
    """Bind a file or directory; the target is created where it is missing."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(str(source), target, flags=MS_BIND | (MS_REC if recursive else 0))
    if read_only:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def overlay(lower: str, target: Path, store: Path | None = None) -> None:
    """Mount an overlay; writable if ``store`` names a directory for the upper layer."""
    data = f"lowerdir={lower}"
    if store is not None:
        (store / "upper").mkdir(parents=True)
        (store / "work").mkdir()
        data += f",upperdir={store}/upper,workdir={store}/work"
    target.mkdir(parents=True, exist_ok=True)
    mount("overlay", target, "overlay", 0, data)


def tmpfs(target: Path, mode: str, flags: int = MS_NOSUID | MS_NODEV) -> None:
    """Mount an empty tmpfs."""
    target.mkdir(parents=True, exist_ok=True)
    mount("tmpfs", target, "tmpfs", flags, f"mode={mode}")


def build_root(spec: dict[str, Any]) -> None:
    """Build the host's root file system below ``spec['root']`` and pivot into it."""
    root = Path(spec["root"])
    mount("", Path("/"), flags=MS_REC | MS_PRIVATE)
    tmpfs(root, "755", 0)
    borrow_machine(root)
    tmpfs(root / "run", "755")
    tmpfs(root / "tmp", "1777")
    # Devices: the machine's, with pseudo terminals and shared memory of the host's own.
    bind(Path("/dev"), root / "dev")
    mount("devpts", root / "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5")
    bind(root / "dev/pts/ptmx", root / "dev/ptmx")
    tmpfs(root / "dev/shm", "1777")
    # sysfs shows the devices of the network namespace that mounts it; read-only, it is the machine's.
    (root / "sys").mkdir()
    mount("sysfs", root / "sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for where, fake in spec["sysfs_layers"]:
        overlay(f"{fake}:{root}/sys/{where}", root / "sys" / where)
    mount_cgroups(spec, root)
    (root / "proc").mkdir()
    mount("proc", root / "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name, mode, uid, gid in spec["directories"]:
        directory = below(root, name)
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(mode)
        os.chown(directory, uid, gid)
    for name, text in spec["files"].items():
        path = below(root, name)
        path.unlink(missing_ok=True)
        path.write_text(text)
    for source, name, read_only in spec["binds"]:
        bind(Path(source), below(root, name), read_only=read_only)
    (root / ".machine").mkdir()
    os.chdir(root)
    checked(libc.pivot_root(b".", b".machine"), "pivot_root")
    os.chdir("/")
    checked(libc.umount2(b"/.machine", MNT_DETACH), "umount /.machine")
    Path("/.machine").rmdir()


def below(root: Path, path: str) -> Path:
    """An absolute path of the host as the builder sees it."""
    return root / path.lstrip("/")


def borrow_machine(root: Path) -> None:
    """Bind the machine's directories, those that a host must not change as overlays."""
    own = {"etc", "var", "usr", "run", "tmp", "home", "opt", "shared", "sys", "proc", "dev", "lost+found"}
    for path in sorted(Path("/").iterdir()):
        if path.is_symlink():
            (root / path.name).symlink_to(path.readlink())
        elif path.is_dir() and path.name not in own:
            bind(path, root / path.name, recursive=True)
    (root / ".layers").mkdir(mode=0o700)
    for name in ("etc", "var", "usr"):
        overlay(f"/{name}", root / name, root / ".layers" / name)
    for path in Path("/opt").iterdir():
        if path.is_dir() and not path.is_symlink():
            bind(path, root / "opt" / path.name, recursive=True)


def mount_cgroups(spec: dict[str, Any], root: Path) -> None:
    """Show the host its own cgroups as /sys/fs/cgroup, and Slurm a facade in front of them.

    Slurm's cgroup/v1 takes a hierarchy for mounted only if its root has a file ``release_agent``, which the kernel
    makes in real roots only. So CgroupMountpoint points to a directory of links with that one file added.
    """
    target = root / "sys/fs/cgroup"
    if spec["cgroup_version"] == 2:
        bind(Path(spec["cgroups"]["unified"]), target)
        return
    tmpfs(target, "755")
    for name, source in spec["cgroups"].items():
        bind(Path(source), target / name)
    for name, link in spec["cgroup_links"].items():
        (target / name).symlink_to(link)
    for name in [*spec["cgroups"], *spec["cgroup_links"]]:
        facade = below(root, spec["cgroup_facade"]) / name
        facade.mkdir(parents=True)
        for entry in (target / name).iterdir():
            (facade / entry.name).symlink_to(f"/sys/fs/cgroup/{name}/{entry.name}")
        if not (facade / "release_agent").exists():
            (facade / "release_agent").touch()


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
    checked(libc.unshare(flags), "unshare")
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
