"""The second disk: the guest's program, the packages to install, and what it is to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import DEVNULL

from tests.install.blocks import PAGE, blocks
from tests.vm.images import HERE, file_system

OLDER = ("upheaval",)
"""The scenarios that begin with an older package."""
OLD = "0.0.9"
ROLE = ("role",)
"""The scenarios that run the Ansible role, and see a version that does not run."""
BROKEN = "99"
CHECKOUT = HERE.parents[1]


def bring(scenario: str, only: Sequence[str], disk: Path) -> None:
    """Make the second disk for a scenario; with it go the blocks of docs/install.md that are for hosts with systemd."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        shutil.copytree(HERE / "guest", root / "guest", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(CHECKOUT / "devcluster" / "simulator.py", root / "guest" / "simulator.py")
        (root / "packages").mkdir()
        for package in packages():
            shutil.copyfile(package, root / "packages" / package.name)
        if scenario in OLDER and len(packages()) == 1:
            repacked(packages()[0], OLD, root / "packages", _older)
        if scenario in ROLE:
            shutil.copytree(CHECKOUT / "ansible", root / "ansible")
            (root / "broken").mkdir()
            repacked(packages()[-1], BROKEN, root / "broken", _broken)
        page = [one for one in blocks(PAGE.read_text()) if one.systemd is not False]
        (root / "page.json").write_text(json.dumps([[one.section, one.text] for one in page]))
        (root / "order.json").write_text(json.dumps({"scenario": scenario, "only": list(only)}))
        root.chmod(0o755)
        file_system(root, disk, "512M")


def repacked(package: Path, version: str, into: Path, change: Callable[[Path], None]) -> None:
    """The same package once more under another number, its tree changed."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "root"
        subprocess.run(["dpkg-deb", "-R", str(package), str(root)], check=True)
        control = root / "DEBIAN/control"
        control.write_text(re.sub(r"^Version: .*", f"Version: {version}-1", control.read_text(), flags=re.MULTILINE))
        change(root)
        name = f"perun-hpc_{version}-1_amd64.deb"
        subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "-b", str(root), str(into / name)], stdout=DEVNULL, check=True)


def _older(root: Path) -> None:
    """What there is to upgrade from until there are two releases."""
    (version,) = (root / "opt/perun-hpc").rglob("perun_hpc/_version.py")
    version.write_text(re.sub(r'(__version__ = )".*"', rf'\1"{OLD}"', version.read_text()))


def _broken(root: Path) -> None:
    """A version whose command ends with an error."""
    (root / "opt/perun-hpc/bin/perun").write_text('#!/bin/sh\necho "no such module" >&2\nexit 3\n')


def packages() -> list[Path]:
    """The packages, one for all distributions; `make packages` makes the newest."""
    where = Path(os.environ.get("PERUN_PACKAGES", CHECKOUT / "build" / "packages"))
    return sorted(where.glob("perun-hpc_*_amd64.deb"))
