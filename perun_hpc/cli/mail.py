"""`perun report --mail SUBJECT`: what stands below the mail that Slurm sends at a job's end (`libexec/perun/mail`)."""

from __future__ import annotations

import re
import time

from perun_hpc.accounting.found import Places
from perun_hpc.accounting.lookup import find
from perun_hpc.accounting.selection import whole_objects
from perun_hpc.errors import NotFoundError, UnavailableError
from perun_hpc.report.job import WAITING
from perun_hpc.report.screen import Style
from perun_hpc.report.selected import report_lines
from perun_hpc.slurm.mail import job_of

NOT_YET = 75
"""The exit code of what may be better in a moment: EX_TEMPFAIL of sysexits.h."""
_COMMAND = re.compile("^(?=[~.])", re.MULTILINE)
"""Where a line begins that mailers may take for a command of theirs: some run `~!` also out of a pipe."""


def below(subject: str, places: Places) -> int:
    """Print the report of the job that a mail is about, in ASCII: a mail does not name its encoding.

    Returns
    -------
    0, or `NOT_YET` while a record is on its way, or Slurm does not answer.
    """
    job = job_of(subject)
    if job is None:
        raise NotFoundError(f"'{subject}' is no subject of Slurm's mails: set MailProg to libexec/perun/mail")
    try:
        found = find(job, places)
    except UnavailableError:
        return NOT_YET
    lines = [f"What this job used is not known here. Ask on the cluster: perun report {job}"]
    if any(f.record.energy_uj is not None for f in found):
        lines = report_lines(whole_objects(found), None, Style(unicode=False), time.time())
    text = "\n".join(lines).encode("ascii", "backslashreplace").decode()
    print(_COMMAND.sub(" ", text))  # a function's name, which a user chose, begins a line
    return NOT_YET if any(f.record.status in WAITING for f in found) else 0
