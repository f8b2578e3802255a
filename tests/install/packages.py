"""`make package-test`: the packages in root file systems of their own, installed, upgraded and removed for real.

The .deb in Debian's releases; the .rpm by Debian's rpm in a root where that is the only database of packages, since no
public root of an rpm distribution is made as easily. `python -m tests.install.packages [RELEASE ...]`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devcluster.host import overlay
from tests.matrix import roots
from tests.matrix.roots import RELEASES, Release

WORK = roots.CHECKOUT / "build" / "package" / "roots"
PACKAGES = roots.CHECKOUT / "build" / "packages"
NEXT = PACKAGES.with_name("packages-2")
"""The same once more as the next release, to upgrade to."""
NFPM = roots.CHECKOUT / "build" / "tools" / "bin" / "nfpm"
NEEDED = ("python3", "systemd", "slurm-client", "rpm")
BASE = """\
name: base
arch: all
version: "1"
description: What a real root's own packages provide.
provides: [/bin/sh, shadow-utils]
"""
RPM = "rpm --force-debian"
FILES = {"deb": "perun-hpc_*_amd64.deb", "rpm": "perun-hpc-*.x86_64.rpm"}
"""Packages for other machines lie beside them."""
KINDS = {
    "deb": ("dpkg --install {old}", "dpkg --install {new}", "dpkg --remove perun-hpc"),
    "rpm": (f"{RPM} --install {{old}}", f"{RPM} --upgrade {{new}}", f"{RPM} --erase perun-hpc"),
}


def layer(release: Release) -> Path:
    """What the trial needs above a release's root; kept."""
    kept = WORK / release.name
    if not kept.exists():
        roots.make(release, print)
        fresh = kept.with_name(f"{release.name}.new")
        with mounted(release, fresh) as root:
            inside(root, "apt-get -qq update && apt-get -qq install -y --no-install-recommends " + " ".join(NEEDED))
        fresh.rename(kept)
    return kept


@contextmanager
def mounted(release: Release, store: Path, *above: Path) -> Iterator[Path]:
    """A root with layers above it, all that changes going to `store`."""
    shutil.rmtree(store, ignore_errors=True)
    target = WORK / "root"
    overlay(":".join(map(str, [*above, roots.directory(release)])), target, store)
    try:
        yield target
    finally:
        subprocess.run(["umount", target], check=True)


def inside(root: Path, command: str, *more: str) -> int:
    """Run a shell's command inside a root, by the door of `make matrix`."""
    door = [sys.executable, "-m", "tests.matrix.door", str(root), "/", *more, "sh", "-c", command]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    return subprocess.run(door, cwd=roots.CHECKOUT, env=environment, stdin=subprocess.DEVNULL, check=False).returncode


def trial(release: Release, kind: str) -> bool:
    """One package's life above a release's root; whether all holds."""
    print(f"{release.title}, {kind}", flush=True)
    changed = WORK / "trial"
    with mounted(release, changed, layer(release) / "upper") as root:
        good = lived(root, kind)
    shutil.rmtree(changed)
    return good


def lived(root: Path, kind: str) -> bool:
    """Run the scenario inside a root; whether all holds."""
    place = root / "packages"
    place.mkdir()
    for package in (*PACKAGES.glob(FILES[kind]), *NEXT.glob(FILES[kind])):
        shutil.copy(package, place)
    shutil.copy(Path(__file__).with_name("scenario.sh"), place)
    old, new = (next(place.glob(f"perun-hpc*-{number}[._]*.{kind}")).name for number in (1, 2))
    if kind == "rpm":
        (place / "base.yaml").write_text(BASE)
        make = [NFPM, "package", "-f", "base.yaml", "-p", "rpm", "-t", "base.rpm"]
        subprocess.run(make, cwd=place, check=True, stdout=subprocess.DEVNULL)
        inside(root, f"{RPM} --install /packages/base.rpm")
    commands = (word.format(old=f"/packages/{old}", new=f"/packages/{new}") for word in KINDS[kind])
    return inside(root, f"sh /packages/scenario.sh {shlex.join(commands)}", "unshare", "--net") == 0


def prepare() -> None:
    """The packages, unless they are there, and a second release of them to upgrade to."""
    if not list(PACKAGES.glob("*-1_amd64.deb")):
        subprocess.run(["make", "packages"], cwd=roots.CHECKOUT, check=True)
    again = {**os.environ, "RELEASE": "2", "TREE": "kept"}
    build = [sys.executable, "package/build.py", str(NFPM)]
    subprocess.run(build, cwd=roots.CHECKOUT, env=again, check=True, stdout=subprocess.DEVNULL)


def main(names: list[str]) -> int:
    """Try all releases, or those named; 1 where something does not hold."""
    prepare()
    chosen = [one for one in RELEASES if one.name in names or not names]
    good = [trial(one, "deb") for one in chosen]
    good += [trial(RELEASES[0], "rpm")] if RELEASES[0] in chosen else []
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
