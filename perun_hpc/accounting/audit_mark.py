"""How the last `perun audit` of a cluster went, left in the archive for those who watch the site."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass

from perun_hpc.archive.places import Archive
from perun_hpc.data_model import codec
from perun_hpc.files import write_new

SCHEMA = "perun.audit/1"


@dataclass(frozen=True)
class Audit:
    """When it was (epoch seconds), the local days that it compared, and how much did not close."""

    at_s: float
    since_day: str
    until_day: str
    findings: int


def note_audit(archive: Archive, audit: Audit) -> None:
    """Leave word of an audit; one of somebody who may not write there is not worth failing for."""
    with contextlib.suppress(OSError):
        write_new(archive.audit, json.dumps({"schema": SCHEMA, **codec.encode(audit)}).encode(), durable=False)


def last_audit(archive: Archive) -> Audit | None:
    """What is known of the last audit; None where nothing is, or it cannot be read."""
    try:
        value = json.loads(archive.audit.read_bytes())
        return codec.decode(Audit, value) if value.pop("schema") == SCHEMA else None
    except (OSError, *codec.MISFITS, AttributeError, RecursionError):
        return None
