"""File system images: one for each distribution, made once and kept, and a small one for what a run brings along."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.matrix.roots import bootstrap
from tests.vm import conf

HERE = Path(__file__).parent
SIZE = "5G"
LABEL = "perun-vm"
PACKAGES = (
    *("linux-image-amd64", "initramfs-tools", "systemd-sysv", "dbus", "udev", "kmod", "iproute2", "procps", "acl"),
    *("python3", "python3-venv", "munge", "slurmctld", "slurmd", "slurmdbd", "slurm-client"),
    *("slurm-wlm-basic-plugins", "slurm-wlm-mysql-plugin", "mariadb-server", "freeipmi-tools"),
    *("ansible-core", "python3-apt"),
)


@dataclass(frozen=True)
class Image:
    """One distribution's root file system with the kernel and initial memory disk that start it."""

    disk: Path
    kernel: Path
    initrd: Path


def directory() -> Path:
    """Where images are kept: outside git, some gigabytes."""
    return Path(os.environ.get("PERUN_VM_DIR", HERE.parents[1] / ".vm"))


def image(suite: str, say: Callable[[str], None]) -> Image:
    """The image of a distribution, made if it is not there: five minutes, and a network."""
    into = directory() / suite
    made = Image(into / "disk.ext4", into / "vmlinuz", into / "initrd")
    if not made.disk.exists():
        root = _root(suite, say)
        say(f"{suite}: making the image")
        into.mkdir(parents=True, exist_ok=True)
        _configure(root)
        _science(root)
        for target, pattern in ((made.kernel, "vmlinuz-*"), (made.initrd, "initrd.img-*")):
            (newest, *_) = sorted((root / "boot").glob(pattern), reverse=True)
            shutil.copyfile(newest, target)
        file_system(root, made.disk, SIZE)
        shutil.rmtree(root)
    return made


def file_system(root: Path, disk: Path, size: str) -> None:
    """Make an ext4 image that holds a directory; it takes no more room than its files."""
    fresh = disk.with_name(disk.name + ".new")
    fresh.unlink(missing_ok=True)
    command = ["mke2fs", "-q", "-t", "ext4", "-L", LABEL, "-E", "lazy_itable_init=1", "-d", str(root), str(fresh), size]
    subprocess.run(command, check=True)
    fresh.rename(disk)


def _root(suite: str, say: Callable[[str], None]) -> Path:
    """A root file system with Slurm and a kernel; one that was broken off is begun anew."""
    root = directory() / "roots" / suite
    if not root.exists():
        say(f"{suite}: a root file system by debootstrap, some minutes")
        half = root.with_name(f"{suite}.new")
        bootstrap(suite, half)
        shutil.copyfile("/etc/resolv.conf", half / "etc/resolv.conf")
        # Not by debootstrap's --include: of packages that exclude each other it takes both.
        with (directory() / f"{suite}.log").open("w") as log:
            _inside(half, ["apt-get", "-qq", "update"], log)
            _inside(half, ["apt-get", "-qq", "install", "-y", "--no-install-recommends", *PACKAGES], log)
        (half / "usr/sbin/policy-rc.d").unlink()
        half.rename(root)
    return root


def _configure(root: Path) -> None:
    """Write the machine's and Slurm's own configuration; of perun there is nothing."""
    for name, text in conf.files().items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    _inside(root, ["update-initramfs", "-u"])
    for user, number in conf.USERS.items():
        if f"\n{user}:" not in (root / "etc/passwd").read_text():
            _inside(root, ["useradd", "--create-home", "--uid", str(number), "--shell", "/bin/bash", user])
    for unit in conf.ENABLED:
        link = root / "etc/systemd/system/multi-user.target.wants" / f"{unit}.service"
        link.unlink(missing_ok=True)
        link.symlink_to(f"/etc/systemd/system/{unit}.service")
    for unit in conf.MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    _inside(root, ["chown", "slurm:slurm", "/etc/slurm/slurmdbd.conf"])
    (root / "etc/slurm/slurmdbd.conf").chmod(0o600)
    shutil.rmtree(root / "var/cache/apt/archives", ignore_errors=True)


def _science(root: Path) -> None:
    """The users' own Python environment: MPICH, which Slurm starts by PMI-2, and mpi4py."""
    (python,) = [path.name.removeprefix("python") for path in (root / "usr/lib").glob("python3.*")]
    wheels = root / "tmp/wheels"
    download = ["download", "-qq", "--only-binary=:all:", "--python-version", python, "-d", str(wheels)]
    subprocess.run([sys.executable, "-m", "pip", *download, "mpi4py", "mpich"], check=True)
    _inside(root, ["python3", "-m", "venv", "/opt/science"])
    names = [f"/tmp/wheels/{wheel.name}" for wheel in wheels.iterdir()]
    _inside(root, ["/opt/science/bin/pip", "install", "-q", "--no-index", *names])
    shutil.rmtree(wheels)


def _inside(root: Path, command: list[str], log: IO[str] | None = None) -> None:
    """Run a command in a root file system that has /proc for so long."""
    where = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    line = ["unshare", "--mount", "sh", "-c", script, str(root), *command]
    subprocess.run(line, env=where, stdout=log or subprocess.DEVNULL, stderr=log, check=True)
