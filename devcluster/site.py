"""perun-hpc on a test cluster, installed as docs/install.md says, and an environment for its users.

The nodes have no network beyond the cluster's own, as compute nodes often do: packages are fetched as wheels outside
and installed from a directory. Environments are kept under build/ and copied: a second installation takes seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .cluster import Cluster

CHECKOUT = Path(__file__).resolve().parents[1]
BUILD = CHECKOUT / "build"
PREFIX = "/opt/perun-hpc"
SCIENCE = "/shared/science"
"""The users' own Python environment: mpi4py and MPICH, nothing of perun."""

SLURM_CONF = (f"Prolog={PREFIX}/libexec/perun/prolog", f"Epilog={PREFIX}/libexec/perun/epilog")
PLUGSTACK = (f"optional {PREFIX}/lib/perun/perun_spank.so prefix={PREFIX}",)
COLLECTOR = [f"{PREFIX}/bin/perun", "collect", "--daemon"]


def install(cluster: Cluster, say: Callable[[str], None] = lambda _: None) -> None:
    """Install perun-hpc on a running cluster and have Slurm use it; may be repeated.

    Parameters
    ----------
    cluster
        A cluster that is up.
    say
        Called with one line per step.
    """
    say("installing perun-hpc: prefix, hooks, plugin, policy (the first time this fetches packages: a minute)")
    wheel = _own_wheel()
    _environment(cluster, PREFIX, cluster.opt, _requirements(wheel))
    _pip(cluster, PREFIX, cluster.opt, ["--no-deps", "--force-reinstall", wheel])
    subprocess.run(
        ["make", "-s", "-C", str(CHECKOUT / "slurm"), "install", f"PREFIX={PREFIX}", f"DESTDIR={cluster.state}"],
        check=True,
    )
    shutil.copyfile(CHECKOUT / "site-configs" / "demo.yaml", cluster.etc_perun / "policy.yaml")
    cluster.run(["sacctmgr", "-i", "add", "user", "perun", "account=root", "adminlevel=operator"], user="root")
    cluster.configure(SLURM_CONF, PLUGSTACK)
    cluster.reconfigure()
    cluster.restart("slurmd")  # reconfigure returns before slurmd has read the file: the first job would have no Prolog
    start_collector(cluster)
    say("making the users' own Python environment (mpi4py, MPICH)")
    _environment(cluster, SCIENCE, cluster.shared / "science", ["mpi4py", "mpich"])


def collector_pid(cluster: Cluster) -> int | None:
    """Pid, inside the controller, of the collector that runs there; None if none does."""
    done = cluster.run(["pgrep", "-u", "perun", "-f", "perun collect --daemon"], user="root")
    pids = done.stdout.split()
    return int(pids[0]) if pids else None


def start_collector(cluster: Cluster) -> None:
    """Start the collector on the controller, as the service user, unless one runs."""
    if collector_pid(cluster) is None:
        log = "/var/log/perun/collect.log"
        detached = ["setsid", "-f", "sh", "-c", f'umask 027; exec "$@" >>{log} 2>&1 </dev/null', "sh", *COLLECTOR]
        subprocess.run(cluster.command(detached, user="perun", foreground=False), check=True)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """What installations that run at once do one after the other."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / ".building").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@_alone()
def _own_wheel() -> Path:
    """Build perun-hpc's wheel from the checkout."""
    into = BUILD / "own" / str(os.getpid())
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    shutil.rmtree(BUILD / "lib", ignore_errors=True)
    for left in BUILD.glob("bdist.*"):  # of a build that was cut off, which setuptools refuses to write over
        shutil.rmtree(left, ignore_errors=True)
    _host_pip(["wheel", "--no-deps", "--no-build-isolation", "-w", str(into), str(CHECKOUT)])
    return next(into.glob("perun_hpc-*.whl"))


def _requirements(wheel: Path) -> list[str]:
    """What the site's extra of the wheel needs, from the same setup.cfg that users install from."""
    import configparser

    config = configparser.ConfigParser()
    config.read(CHECKOUT / "setup.cfg")
    lines = config["options"]["install_requires"] + config["options.extras_require"]["site"]
    return [line.strip() for line in lines.splitlines() if line.strip()]


@_alone()
def _environment(cluster: Cluster, prefix: str, path: Path, requirements: Sequence[str]) -> None:
    """Make a virtual environment at `prefix` (`path` as the machine sees it), from the kept copy if there is one."""
    if (path / "bin" / "python").is_symlink():
        return
    key = hashlib.sha256("\n".join([prefix, sys.version, *requirements]).encode()).hexdigest()[:12]
    kept = BUILD / "environments" / f"{path.name}-{key}"
    if not kept.exists():
        wheels = BUILD / "wheels" / key
        _host_pip(["download", "--only-binary=:all:", "-d", str(wheels), *requirements])
        path.mkdir(parents=True, exist_ok=True)
        cluster.run(["/usr/bin/python3", "-m", "venv", prefix], user="root", timeout=120, check=True)
        _pip(cluster, prefix, path, sorted(wheels.glob("*.whl")))
        shutil.rmtree(wheels)
        fresh = kept.with_name(kept.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(path, fresh, symlinks=True)
        fresh.rename(kept)
    else:
        shutil.copytree(kept, path, symlinks=True, dirs_exist_ok=True)


def _pip(cluster: Cluster, prefix: str, path: Path, arguments: Sequence[str | Path]) -> None:
    """Install wheels of the machine (as Path) into an environment inside the cluster, without a network."""
    box = path / ".wheels"
    box.mkdir()
    try:
        words = []
        for argument in arguments:
            if isinstance(argument, Path):
                shutil.copyfile(argument, box / argument.name)
                words.append(f"{prefix}/.wheels/{argument.name}")
            else:
                words.append(argument)
        pip = [f"{prefix}/bin/python", "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-index"]
        cluster.run([*pip, *words], user="root", timeout=300, check=True)
    finally:
        shutil.rmtree(box)


def _host_pip(arguments: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check", *arguments], check=True)
