"""The C parts, built with the sanitizers for run-time directories of a test's own."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.wire.message import Message, decode

SLURM = Path(__file__).resolve().parents[2] / "slurm"

JOB = {
    "SLURM_JOB_ID": "4711",
    "SLURM_JOB_UID": "2001",
    "SLURM_JOB_USER": "alice",
    "SLURM_JOB_RESTART_COUNT": "1",
    "SLURM_NODELIST": "n[1-2]",
    "SLURMD_NODENAME": "n1",
}
"""What slurmd gives to a prolog."""


@dataclass(frozen=True)
class Sandbox:
    """An installation prefix and the directories ``run``, ``etc`` and ``spool`` that its programs were built for."""

    root: Path

    @property
    def built(self) -> Path:
        return self.root / "build"

    @property
    def prefix(self) -> Path:
        return self.root / "prefix"

    @property
    def libexec(self) -> Path:
        return self.prefix / "libexec" / "perun"

    @property
    def run_dir(self) -> Path:
        return self.root / "run"

    @property
    def inbox(self) -> Path:
        return self.run_dir / "inbox"

    def start(self, name: str, **env: str) -> subprocess.Popen[str]:
        """Start a hook."""
        return subprocess.Popen(
            [str(self.libexec / name)],
            env={**JOB, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, name: str, **env: str) -> str:
        """Run a hook to its end, which must be exit 0; returns what it wrote to stderr."""
        process = self.start(name, **env)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        assert out == ""
        return err

    def listen(self) -> socket.socket:
        """Listen in the agent's place."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self.run_dir / "agent.sock"))
        listener.listen(8)
        listener.settimeout(20)
        return listener

    def kept(self) -> list[Message]:
        """The inbox, in order."""
        return [decode(path.read_bytes()) for path in sorted(self.inbox.glob("*.msg"))]


def build(root: Path) -> None:
    """Build everything with the sanitizers into ``root/build``."""
    paths = " ".join(
        f'-DPERUN_{name}_DIR=\\"{root}/{directory}\\"'
        for name, directory in (("RUN", "run"), ("ETC", "etc"), ("SPOOL", "spool"))
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    subprocess.run(
        ["make", "-s", "-C", str(SLURM), "sanitized", f"BUILD={root}/build", f"PATHS={paths}"],
        check=True,
        env=environment,
    )


def furnish(root: Path) -> Sandbox:
    """Install the programs and make empty run-time directories."""
    sandbox = Sandbox(root)
    sandbox.libexec.mkdir(parents=True)
    for name in ("prolog", "epilog", "epilogslurmctld", "perun-launch"):
        os.link(root / "build" / name, sandbox.libexec / name)
    (sandbox.prefix / "bin").mkdir()
    for name in ("run", "etc", "spool"):
        (root / name).mkdir()
    (sandbox.run_dir / "hook.conf").write_text("deadline_ms=400\n")
    return sandbox
