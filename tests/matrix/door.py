"""The way into a root file system: `python -m tests.matrix.door ROOT DIRECTORY COMMAND ...`.

The command gets mount and pid namespaces of its own, with the root as a mount point to which it pivots: a cluster of
namespaces needs that, below a plain chroot the kernel lets nobody change how mounts propagate. When the command ends,
so does all that it started. The network, the cgroups and the kernel are the machine's.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from devcluster import host

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PR_SET_PDEATHSIG = 1


def build(root: Path) -> None:
    """Mount what a system needs below the root, and pivot into it."""
    host.mount("", Path("/"), flags=host.MS_REC | host.MS_PRIVATE)
    host.mount(str(root), root, flags=host.MS_BIND)
    host.mount("proc", root / "proc", "proc", host.MS_NOSUID | host.MS_NODEV | host.MS_NOEXEC)
    for name in ("sys", "dev"):
        host.bind(Path("/", name), root / name, recursive=True)
    for name, mode in (("dev/shm", "1777"), ("run", "755"), ("tmp", "1777")):
        host.tmpfs(root / name, mode)
    if CERTIFICATES.exists():  # the machine's own: there may be a proxy with a certificate of its own
        host.bind(CERTIFICATES, root / CERTIFICATES.relative_to("/"), read_only=True)
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/resolv.conf").write_text(Path("/etc/resolv.conf").read_text())
    (root / "run/lock").mkdir(mode=0o1777)
    (root / ".outside").mkdir(exist_ok=True)
    os.chdir(root)
    host.checked(host.libc.pivot_root(b".", b".outside"), "pivot_root")
    os.chdir("/")
    host.checked(host.libc.umount2(b"/.outside", host.MNT_DETACH), "umount /.outside")
    Path("/.outside").rmdir()


def first_process(root: Path, where: str, words: list[str]) -> int:
    """Be the namespace's first process: run the command, wait for orphans until it ends."""
    host.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    build(root)
    command = os.fork()
    if command == 0:
        os.chdir(where)
        os.execvp(words[0], words)
    while True:
        pid, status = os.wait()
        if pid == command:
            return os.waitstatus_to_exitcode(status)


def main() -> int:
    """Run the command; its exit code, or 128 and the signal that ended it."""
    root, where, *words = sys.argv[1:]
    host.checked(host.libc.unshare(host.CLONE_NEWNS | host.CLONE_NEWPID), "unshare")
    child = os.fork()
    if child == 0:
        code = 125
        try:
            code = first_process(Path(root), where, words)
        except OSError as error:
            print(f"{root}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(code if code >= 0 else 128 - code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
