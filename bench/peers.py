"""The peers, each in an environment of its own under `.bench/`, installed when a bench first asks for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.result import Skipped

ENVIRONMENTS = Path(__file__).parents[1] / ".bench"

PEERS: Mapping[str, tuple[str, ...]] = {
    "perun": ("perun==1.0.0",),
    "codecarbon": ("codecarbon==3.3.2",),
    "h5py": ("h5py==3.16.0", "numpy"),
}


def python(peer: str) -> Path:
    """The interpreter of a peer's environment.

    Raises
    ------
    Skipped
        where it cannot be installed.
    """
    home = ENVIRONMENTS / peer
    interpreter, done = home / "bin" / "python", home / ".installed"
    wanted = " ".join(PEERS[peer])
    if done.exists() and done.read_text() == wanted:
        return interpreter
    print(f"bench: installing {wanted} into {home}", file=sys.stderr)
    shutil.rmtree(home, ignore_errors=True)
    _call(f"peer {peer}", [sys.executable, "-m", "venv", str(home)])
    _call(f"peer {peer}", [str(interpreter), "-m", "pip", "install", "-q", *PEERS[peer]])
    done.write_text(wanted)
    return interpreter


def sh5util() -> Path:
    """Slurm's merge tool for HDF5 profiles, from the Debian package."""
    found = shutil.which("sh5util")
    if found is None:
        if os.geteuid() != 0:
            raise Skipped("sh5util is not installed (Debian: slurm-wlm-hdf5-plugin) and installing it needs root")
        apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600", "install", "-y", "--no-install-recommends"]
        _call("sh5util", [*apt, "slurm-wlm-hdf5-plugin"])
        found = shutil.which("sh5util")
    if found is None:
        raise Skipped("slurm-wlm-hdf5-plugin brought no sh5util")
    return Path(found)


def _call(what: str, command: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise Skipped(f"{what} cannot be installed: {last}")
