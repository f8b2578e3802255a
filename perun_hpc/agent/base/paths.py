"""Where the agent keeps things: every file name of the run directory, the spool and the archive is decided here."""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.data_model.job import safe_name

BOUNDARY = "boundary.json"
PROGRESS = "progress.json"
RANKS = "ranks"
"""What a session's ranks handed over, a directory."""
ASIDE = "session.json"
"""What is known of a session of which no record could be made."""


def free_name(directory: Path, name: str, taken: Collection[str] = ()) -> str:
    """Return `name`, or `name-1`, `name-2` and so on: the first that is neither taken nor in the directory."""
    names = itertools.chain((name,), (f"{name}-{number}" for number in itertools.count(1)))
    return next(one for one in names if one not in taken and not os.path.lexists(directory / one))


@dataclass(frozen=True)
class AgentPaths:
    """The directories that the agent was given and the names inside them."""

    run_dir: Path
    spool: Path
    root: Path = Path("/")

    @property
    def socket(self) -> Path:
        """The socket that everybody talks to."""
        return self.run_dir / "agent.sock"

    @property
    def lock(self) -> Path:
        """Held (flock) by the one agent of the node."""
        return self.run_dir / "agent.lock"

    @property
    def inbox(self) -> Path:
        """Messages of hooks that could not be delivered in time, one packet per file."""
        return self.run_dir / "inbox"

    @property
    def hook_conf(self) -> Path:
        """What the hooks read: their deadline."""
        return self.run_dir / "hook.conf"

    @property
    def slurm_figures(self) -> Path:
        """What Slurm's own commands show, for the energy plugin; root's."""
        return self.run_dir / "slurm.figures"

    @property
    def private(self) -> Path:
        """The agent's own directory in memory; unlike the run directory it is the service user's."""
        return self.run_dir / "agent"

    @property
    def policy(self) -> Path:
        """The compiled policy, last good one."""
        return self.private / "policy.json"

    @property
    def policy_kept(self) -> Path:
        """Its copy that survives a reboot."""
        return self.spool / "policy.json"

    @property
    def log(self) -> Path:
        """The agent's log, bounded."""
        return self.spool / "agent.log"

    @property
    def sessions(self) -> Path:
        """One directory per job run that this node has not handed over yet."""
        return self.spool / "sessions"

    @property
    def set_aside(self) -> Path:
        """Sessions that could not be shipped again and again through a fault of their own; an administrator looks."""
        return self.spool / "set-aside"

    @property
    def node(self) -> Path:
        """The node ledger's directory."""
        return self.spool / "node"

    @property
    def state(self) -> Path:
        """Everything that the next agent needs: last readings and live sessions."""
        return self.node / "state.json"

    @property
    def undelivered(self) -> Path:
        """What could not be shipped when it was last tried: what, why, since when, whose."""
        return self.node / "undelivered.json"

    @property
    def learnt(self) -> Path:
        """What the node has learnt of itself, waiting to be shipped."""
        return self.node / "learnt.json"

    @property
    def learnt_given(self) -> Path:
        """What the archive kept of that from before this spool, waiting for the agent."""
        return self.node / "learnt.given.json"

    @property
    def learnt_machine(self) -> Path:
        """What machine this is, for whoever asks the archive."""
        return self.node / "learnt.machine"

    @property
    def learnt_asked(self) -> Path:
        """Is there once the archive has been asked for it."""
        return self.node / "learnt.asked"

    def ledger(self, day: str) -> Path:
        """The node ledger of one day (`YYYY-MM-DD`)."""
        return self.node / f"{day}.jsonl"

    def session(self, name: str) -> Path:
        """The directory of one session, by the session's `place`."""
        return self.sessions / safe_name(name, "session")

    def curve(self, name: str) -> Path:
        """The energy of a session with flagged steps, point by point."""
        return self.session(name) / "curve.bin"

    def steps(self, name: str) -> Path:
        """The journal of a session's flagged steps and their ranks."""
        return self.session(name) / "steps.jsonl"

    def uses(self, name: str) -> Path:
        """The journal of what a session's steps used."""
        return self.session(name) / "uses.jsonl"

    def boundary(self, name: str) -> Path:
        """The sealed boundary record of one session, waiting to be shipped."""
        return self.session(name) / BOUNDARY

    def progress(self, name: str) -> Path:
        """What is known so far of a session that goes on, waiting to be shipped."""
        return self.session(name) / PROGRESS
