"""Build the packages: `python3 package/build.py NFPM` makes build/packages/perun-hpc*.deb and *.rpm.

One package holds everything for every distribution: the Python packages for each Python that they bring, the plugin for
each Slurm. The network is used here, never at installation: what is fetched from a Python index has the digests of
requirements.lock, what comes from Debian (Slurm's headers, nothing else) Debian's signature.

A tree is made in build/package/root-ARCH, which package/nfpm.yaml describes. Of the environment: ARCH (amd64, arm64),
RELEASE (1), SLURM_INCLUDE (where slurm/spank.h of a Slurm of your own is, /usr/include), TREE (kept: the one of the
last time).
"""

from __future__ import annotations

import filecmp
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
WORK = CHECKOUT / "build" / "package"
ARCH = os.environ.get("ARCH") or "amd64"
ROOT = WORK / f"root-{ARCH}"
PREFIX = ROOT / "opt" / "perun-hpc"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SLURMS = {"bookworm": "22.05", "trixie": "24.11", "forky": "26.05"}
"""Debian's releases and the Slurm of each; a plugin for the Slurm of this machine is made, too."""

BETWEEN = ("23.02", "23.11", "24.05", "25.05", "25.11")
"""Slurm's other releases: their plugin is compiled with another one's headers; docs/matrix.md says why it may be."""

ARCHITECTURES = {"amd64": ("x86_64", "x86_64-linux-gnu-gcc"), "arm64": ("aarch64", "aarch64-linux-gnu-gcc")}
"""nfpm's name: the machine's own name, the C compiler on another machine."""

GLIBC = (2, 34)
"""The newest symbols that the plugin may need: RHEL 9's glibc. Wheels are of manylinux_2_28, hooks are static."""

DIFFERS = re.compile(r"[^/]+\.dist-info/.*|numpy/__config__\.py|contourpy/util/_build_config\.py")
"""What differs between the wheels of one release for several Pythons, beside compiled modules, whose names differ."""

COMMAND = """\
#!/opt/perun-hpc/bin/python
import sys

from perun_hpc.cli.main import main

sys.exit(main())
"""


def main(nfpm: str) -> int:
    """Make the tree and both packages."""
    machine, cross = ARCHITECTURES[ARCH]
    if os.environ.get("TREE") != "kept":
        shutil.rmtree(ROOT, ignore_errors=True)
        WORK.mkdir(parents=True, exist_ok=True)
        compiler = "cc" if native() == ARCH else cross
        environment(machine, compiler)
        c_parts(ARCH, compiler)
        files()
    release = os.environ.get("RELEASE") or "1"
    packages = CHECKOUT / "build" / ("packages" if release == "1" else f"packages-{release}")
    packages.mkdir(exist_ok=True)
    metadata = {
        "ARCH": ARCH,
        "VERSION": version(),
        "RELEASE": release,
        "SOURCE_DATE_EPOCH": said("git", "-C", str(CHECKOUT), "log", "-1", "--format=%ct"),
    }
    for kind in ("deb", "rpm"):
        command = [nfpm, "package", "-f", "package/nfpm.yaml", "-p", kind, "-t", str(packages)]
        subprocess.run(command, cwd=CHECKOUT, env={**os.environ, **metadata}, check=True)
    return 0


def environment(machine: str, compiler: str) -> None:
    """Lay the locked packages of all Pythons and perun-hpc into one directory: compiled modules are named after theirs.

    Raises
    ------
    SystemExit
        If two wheels of one package differ in a file that matters.
    """
    site = PREFIX / "lib" / "site-packages"
    lock = re.sub(r"^setuptools==.*(?:\\\n.*)*\n", "", (CHECKOUT / "requirements.lock").read_text(), flags=re.MULTILINE)
    (WORK / "requirements.lock").write_text(lock)  # setuptools only builds
    for python in PYTHONS:
        tree = WORK / "wheels" / machine / python
        shutil.rmtree(tree, ignore_errors=True)
        platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (28, 17)]
        platforms.append(f"--platform=manylinux2014_{machine}")
        pip("--require-hashes", "--only-binary=:all:", f"--python-version={python}", *platforms, "-r",
            str(WORK / "requirements.lock"), tree=tree)  # fmt: skip
        shutil.rmtree(tree / "bin", ignore_errors=True)
        for path in sorted(tree.rglob("*")):
            name = path.relative_to(tree)
            target = site / name
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif not target.exists():
                shutil.copyfile(path, target)
            elif not filecmp.cmp(path, target, shallow=False) and not DIFFERS.fullmatch(str(name)):
                sys.exit(f"{name} is another one for Python {python}: the Pythons cannot share a directory any more")
        link = PREFIX / "lib" / f"python{python}" / "site-packages"
        link.parent.mkdir(parents=True)
        link.symlink_to("../site-packages")
    os.environ.update(CC=compiler, RUN="" if native() == ARCH else f"qemu-{machine}-static")  # for the C parts
    pip("--no-deps", "--no-build-isolation", str(CHECKOUT), tree=WORK / "own")
    for part in ("backend/perun-sample", "inject/perun-pack.so", "inject/mark.abi3.so"):
        if not (WORK / "own" / "perun_hpc" / part).exists():
            sys.exit(f"{part} was not compiled")
    shutil.rmtree(WORK / "own" / "bin")
    shutil.copytree(WORK / "own", site, dirs_exist_ok=True)
    shutil.rmtree(WORK / "own")


def pip(*arguments: str, tree: Path) -> None:
    """Install into a directory; nothing is compiled, which is done where the Python is."""
    command = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", "install", "--no-compile"]
    subprocess.run([*command, "--root-user-action=ignore", f"--target={tree}", *arguments], check=True)


def c_parts(arch: str, compiler: str) -> None:
    """Compile hooks and launcher, and the plugin for every Slurm."""
    lib = PREFIX / "lib" / "perun"
    found = headers(arch)
    for release in sorted({*found, *BETWEEN}):
        build = WORK / "c" / arch / release
        include = found.get(release) or found["24.11"]
        year, month = map(int, release.split("."))
        own = "" if release in found else f" -DPERUN_SLURM_VERSION=0x{year:02x}{month:02x}00"
        run = "" if arch == native() else f"qemu-{ARCHITECTURES[arch][0]}-static"
        make = ["make", "-s", "-C", str(CHECKOUT / "slurm"), "install", f"BUILD={build}", f"CC={compiler}"]
        subprocess.run([*make, f"RUN={run}", f"CFLAGS=-I{include}{own}", f"DESTDIR={ROOT}"], check=True)
        (lib / f"slurm-{release}").mkdir()
        plugin = (lib / "perun_spank.so").rename(lib / f"slurm-{release}" / "perun_spank.so")
        needed = max(
            tuple(map(int, found)) for found in re.findall(r"GLIBC_(\d+)\.(\d+)", said("objdump", "-T", str(plugin)))
        )
        if needed > GLIBC:
            sys.exit(f"{plugin} needs glibc {needed}: build on an older distribution")


def headers(arch: str) -> dict[str, str]:
    """Directories of slurm/spank.h by Slurm's release: Debian's, and this machine's own."""
    targets = ("Created-By: Packages", "Origin: Debian", "Label: Debian", "Component: main")
    mirror = said("apt-get", "indextargets", "--format", "$(REPO_URI)", *targets).split("\n")[0]
    lists = WORK / "apt"
    (lists / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (lists / "sources.list").write_text(
        "".join(f"deb {mirror} {name} main\n" for name in SLURMS),
    )
    options = {
        "Dir::Etc::SourceList": lists / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": lists / "lists",
        "Dir::Cache": lists / "cache",
        "APT::Architecture": arch,
        "APT::Sandbox::User": "root",
    }
    apt = ["apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items())]
    subprocess.run([*apt, "update"], check=True)
    found = {}
    for name, release in SLURMS.items():
        into = WORK / "headers" / arch / release
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True)
        subprocess.run([*apt, "download", f"libslurm-dev/{name}"], cwd=into, check=True)
        (package,) = into.glob("libslurm-dev_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(into)], check=True)
        found[release] = str(into / "usr" / "include")
    own = Path(os.environ.get("SLURM_INCLUDE") or "/usr/include")
    if (own / "slurm" / "slurm_version.h").exists() and arch == native():
        text = (own / "slurm" / "slurm_version.h").read_text()
        number = int(re.findall(r"define SLURM_VERSION_NUMBER (0x[0-9a-fA-F]+)", text)[0], 16)
        found[f"{number >> 16}.{number >> 8 & 0xFF:02}"] = str(own)
    return found


def files() -> None:
    """Lay out everything else: the command, manual pages, completions, units, accounts, directories, documentation."""
    command = PREFIX / "bin" / "perun"
    command.parent.mkdir()
    command.write_text(COMMAND)
    command.chmod(0o755)
    shutil.copyfile(CHECKOUT / "package" / "setup.sh", PREFIX / "libexec" / "perun" / "setup")
    (PREFIX / "libexec" / "perun" / "setup").chmod(0o755)
    subprocess.run([sys.executable, CHECKOUT / "package" / "manual.py", ROOT], cwd=CHECKOUT, check=True)
    (PREFIX / "share" / "bin").mkdir(parents=True)
    (PREFIX / "share" / "bin" / "perun").symlink_to("../../bin/perun")
    (ROOT / "usr" / "bin").mkdir(parents=True)
    (ROOT / "usr" / "bin" / "perun").symlink_to("/opt/perun-hpc/bin/perun")
    systemd = CHECKOUT / "slurm" / "systemd"
    doc = "usr/share/doc/perun-hpc"
    for source, target in (
        (systemd / "perun-agent.service", "usr/lib/systemd/system"),
        (systemd / "perun-collect.service", "usr/lib/systemd/system"),
        (systemd / "perun-meters.service", "usr/lib/systemd/system"),
        (systemd / "perun-meters.sysusers.conf", doc),
        (systemd / "perun-hpc.sysusers.conf", "usr/lib/sysusers.d/perun-hpc.conf"),
        (systemd / "perun-hpc.tmpfiles.conf", "usr/lib/tmpfiles.d/perun-hpc.conf"),
        (CHECKOUT / "package" / "modulefile", "opt/perun-hpc/share/modulefiles/perun-hpc"),
        (CHECKOUT / "LICENSE", f"{doc}/copyright"),
        (CHECKOUT / "CHANGELOG.md", doc),
        *((path, doc) for path in sorted((CHECKOUT / "docs").glob("*.md"))),
        *((path, doc) for path in sorted((CHECKOUT / "slurm" / "conf").iterdir())),
        *(
            (path, f"{doc}/{path.parent.relative_to(CHECKOUT)}")
            for path in sorted((CHECKOUT / "site-configs").rglob("*.*"))
        ),
    ):
        renamed = target.endswith((".conf", "copyright", "modulefiles/perun-hpc"))
        path = ROOT / target / ("" if renamed else source.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)


def version() -> str:
    """The version, from the place that states it."""
    (found,) = re.findall(r'__version__ = "(.+)"', (CHECKOUT / "perun_hpc" / "_version.py").read_text())
    return str(found)


def native() -> str:
    """This machine's architecture, by nfpm's name."""
    return next((name for name, (machine, _) in ARCHITECTURES.items() if machine == os.uname().machine), "")


def said(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
