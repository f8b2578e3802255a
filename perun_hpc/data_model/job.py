"""Which run of which job is meant, and what may be a name of a file or directory."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from perun_hpc.errors import DataError

CUT_OFF = "restart"
"""Where a record's end comes from that no hook reported: the node was restarted, or the agent gave the job up."""
_SESSION = re.compile(r"(\d+\.\d+)(?:-\d+)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}\Z")


def safe_name(text: str, what: str) -> str:
    """Return `text` if it can be a file name and nothing else; raise DataError otherwise."""
    if not _NAME.match(text):
        raise DataError(f"{what} {text[:40]!r}: letters, digits, '.', '_' and '-' only")
    return text


def run_of(place: str) -> str | None:
    """Return the run (`JOB.RESTART`) whose session a directory of this name holds; None for other names."""
    match = _SESSION.fullmatch(place)
    return match[1] if match else None


class SessionKey(NamedTuple):
    """Which run of which job: job ids are numbers, `restart_count` distinguishes the runs of a requeued job."""

    job_id: int
    restart_count: int

    @classmethod
    def of(cls, fields: Any) -> SessionKey:
        """The key that a message names; DataError if it names none."""
        job_id, restart = fields.get("job_id", ""), fields.get("restart_count") or "0"
        if not (job_id.isascii() and job_id.isdigit() and len(job_id) <= 19):
            raise DataError(f"job_id {job_id[:20]!r}: a number was expected")
        if not (restart.isascii() and restart.isdigit() and len(restart) <= 9):
            raise DataError(f"restart_count {restart[:20]!r}: a number was expected")
        return cls(int(job_id), int(restart))

    @classmethod
    def parse(cls, name: str) -> SessionKey:
        """Inverse of `name`."""
        job_id, _, restart = name.partition(".")
        return cls.of({"job_id": job_id, "restart_count": restart})

    @property
    def name(self) -> str:
        """`JOB.RESTART`, as in file names."""
        return f"{self.job_id}.{self.restart_count}"

    @property
    def owner(self) -> str:
        """The key of the session's share in the node ledger."""
        return f"job:{self.name}"
