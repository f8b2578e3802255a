"""The root file systems: which Debian, where they lie, how they are made and filled."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SCRIPTS = Path("/usr/share/debootstrap/scripts")
PROJECT = "/srv/perun-hpc"
"""Where the copy of the checkout lies inside a root."""
KEPT = (".venv", "build", "slurm/build")
"""What was built there, and stays when the checkout is copied anew."""
SHOWN = ("slurmctld", "python3", "mariadb-server", "munge", "openmpi-bin")
"""Packages whose versions the table names."""
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "http_proxy", "https_proxy", "no_proxy")


@dataclass(frozen=True)
class Release:
    """A release of Debian: the name of its suite, and what people call it."""

    name: str
    title: str


RELEASES = (Release("bookworm", "Debian 12"), Release("trixie", "Debian 13"), Release("forky", "Debian forky"))
"""From the oldest Slurm to the newest."""


class RootError(RuntimeError):
    """A root cannot be made or entered."""


def directory(release: Release) -> Path:
    """Where a release's root lies."""
    return Path(os.environ.get("PERUN_ROOTS") or CHECKOUT / ".matrix").resolve() / release.name


def project(release: Release) -> Path:
    """Where the copy of the checkout lies, as the machine sees it."""
    return directory(release) / PROJECT.lstrip("/")


def is_made(release: Release) -> bool:
    """Whether its root is there and whole."""
    return (directory(release) / "etc/perun-matrix").exists()


def make(release: Release, say: Callable[[str], None]) -> Path:
    """Make a release's root unless it is there; some minutes, mostly for downloads.

    Raises
    ------
    RootError
        Where debootstrap fails, as it does without a network.
    """
    root = directory(release)
    if is_made(release):
        return root
    say(f"{release.name}: making {root}")
    fresh = root.with_name(f"{root.name}.new")
    bootstrap(release.name, fresh)
    (fresh / "etc/perun-matrix").write_text("made by python -m tests.matrix; it may be removed\n")
    shutil.rmtree(root, ignore_errors=True)
    fresh.rename(root)
    return root


def bootstrap(suite: str, into: Path) -> None:
    """Make a small root file system of a release of Debian, where no daemon starts by being installed.

    Raises
    ------
    RootError
        Where debootstrap fails, as it does without a network.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.parent.mkdir(parents=True, exist_ok=True)
    # In namespaces of its own: whatever ends it, no process and no mount is left.
    alone = ["unshare", "--mount-proc", "--pid", "--fork", "--kill-child"]
    words = ["debootstrap", "--variant=minbase", "--include=ca-certificates,make", suite, str(into)]
    if not (SCRIPTS / suite).exists():  # an older debootstrap does not know newer names; "" is its own mirror
        words += ["", str(SCRIPTS / "sid")]
    if shutil.which(words[0]) is None:
        raise RootError(f"{words[0]} is not here: install the package of that name")
    done = subprocess.run([*alone, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stdout + done.stderr).strip().splitlines()[-3:]
        raise RootError(f"debootstrap of {suite} failed, is there a network? {' / '.join(last)}")
    # No daemon starts by being installed, and nothing waits for the disk: a root that breaks is made anew.
    (into / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (into / "usr/sbin/policy-rc.d").chmod(0o755)
    (into / "etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
    # A mirror may be a copy of some day, whose lists are out of date by its own word; they are signed all the same.
    (into / "etc/apt/apt.conf.d/90copy").write_text('Acquire::Check-Valid-Until "false";\n')


def fill(release: Release) -> None:
    """Copy the checkout's files into the root, as git knows them or would; what was built there stays."""
    into = project(release)
    into.mkdir(parents=True, exist_ok=True)
    listed = ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, check=True, text=True).stdout.split("\0")
    present = {name for name in names if name and os.path.lexists(CHECKOUT / name)}
    for where, directories, files in os.walk(into):
        place = Path(where).relative_to(into)
        directories[:] = [name for name in directories if str(place / name) not in KEPT]
        for name in files:
            if str(place / name) not in present:
                (into / place / name).unlink()
    for name in present:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, into / name, follow_symlinks=False)


def install(release: Release) -> None:
    """Install Debian's packages in a root that is filled, and Python's: from the network, what is missing.

    Raises
    ------
    RootError
        Where one of them cannot be had or installed.
    """
    _make(release, "system", ".venv/.installed")


def build(release: Release) -> None:
    """Build the C parts in a root.

    Raises
    ------
    RootError
        Where that fails.
    """
    _make(release, "build")


def _make(release: Release, *targets: str) -> None:
    if run(release, ["make", "-s", *targets]).returncode != 0:
        raise RootError(f"make {' '.join(targets)} failed in {directory(release)}: what it said stands above")


def versions(release: Release) -> dict[str, str]:
    """The versions of what matters in a root, by Debian's names of the packages, without Debian's own suffixes."""
    shown = run(release, ["dpkg-query", "-Wf", "${Package} ${Version}\\n", *SHOWN], capture=True).stdout
    pairs = (line.split() for line in shown.splitlines())
    return {name: re.sub(r"^\d+:|[-+~].*", "", version) for name, version in pairs}


def run(
    release: Release, words: Sequence[str], more: Mapping[str, str] | None = None, capture: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command inside a root, in the project's copy, as root; what it prints is shown, or captured."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "USER": "root",
        "LANG": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        # A directory of its own has the cluster take cgroups of its own, beside those of a cluster outside.
        "PERUN_CLUSTER_ROOT": f"/var/lib/perun-cluster/{release.name}",
        **(more or {}),
    }
    door = [sys.executable, "-m", "tests.matrix.door", str(directory(release)), PROJECT, *words]
    stdout = subprocess.PIPE if capture else None
    return subprocess.run(
        door, cwd=CHECKOUT, env=environment, stdin=subprocess.DEVNULL, stdout=stdout, text=True, check=False
    )
