"""Slurm's mails: whose they are, by the subject that slurmctld gives its MailProg."""

from __future__ import annotations

import re

# `Slurm Job_id=4711 Name=x Ended, ...`, `Slurm Array Task Job_id=4711_3 (4713) ...`, `Slurm Array Summary Job_id=4711_*
# ...`: slurmctld's agent.c. The name is the user's: nothing behind the id counts.
_SUBJECT = re.compile(r"Slurm (?:Array (?:Task|Summary) )?Job_id=(\d{1,10}(?:_(?:\d{1,10}|\*))?)(?= |$)", re.ASCII)


def job_of(subject: str) -> str | None:
    """Return the id of the job, task or whole array (`4711`) that a mail of this subject is about; None of others."""
    match = _SUBJECT.match(subject)
    return match[1].removesuffix("_*") if match else None
