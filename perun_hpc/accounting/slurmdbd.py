"""Writing perun's line into slurmdbd's AdminComment: in batched sessions, checked afterwards, at a bounded rate.

One `sacctmgr` session takes many commands on its standard input. What a command costs depends on Slurm: 0.27 s in
22.05, of waiting, because both ends send in small pieces and wait for delayed acknowledgements, so that many sessions
at once cost no more than one (`python -m bench comments`); about 10 ms in 26.05, where one session is quick enough for
any rate. So the first few commands are timed, and as many sessions take the others as it needs to leave half of the
time to records; what all of them cannot do in that time is for the next flush. sacctmgr's own words are not parsed:
what counts is what sacct shows afterwards.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from perun_hpc.accounting import array_line
from perun_hpc.accounting.comment import encode, is_ours
from perun_hpc.accounting.ledger import Due, Ledger
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import UnavailableError
from perun_hpc.slurm.command import TIMEOUT_S, Runner, run_command
from perun_hpc.slurm.sacct import SlurmJob, by_id, match_run, unended

log = logging.getLogger(__name__)

TIMED = 8
"""So many commands go first, in one session, and are timed."""
MAX_SESSIONS = 32
"""slurmdbd has a hundred threads, one a connection, and each has a connection to the database."""
SHARE = 0.5
"""Of the time between two flushes that one may take."""
ARRAY_S = 600
"""So often it is looked whether an array has ended."""
FIRST_RETRY_S, LAST_RETRY_S = 5, 3600
MAX_TRIES = 30
"""With doubling pauses up to an hour: about a day of a slurmdbd that is down."""


@dataclass(frozen=True)
class Flushed:
    """What one flush did; `kept` are jobs whose comment is another tool's."""

    written: int = 0
    postponed: int = 0
    kept: int = 0
    dropped: int = 0

    def __str__(self) -> str:
        return (
            f"{self.written} written, {self.postponed} later, {self.kept} left to other tools, {self.dropped} dropped"
        )


@dataclass(frozen=True)
class Dbd:
    """How slurmdbd is reached: sacct for many ids at once, sacctmgr with commands on its standard input; a clock."""

    sacct: Callable[[Iterable[int]], list[SlurmJob]]
    run: Runner = run_command
    clock_s: Callable[[], float] = time.monotonic
    unended: Callable[[Iterable[int], str], set[int]] = unended


@dataclass(frozen=True)
class _Line:
    """What slurmdbd is to hold of a job that is due."""

    due: Due
    text: str


def flush(
    ledger: Ledger, cluster: str, dbd: Dbd, overwrite: bool, per_s: float, seconds: float, arrays: bool = False
) -> Flushed:
    """Write what is due.

    Parameters
    ----------
    overwrite
        Whether another tool's comment may be replaced.
    per_s, seconds
        At most `per_s * seconds` jobs are written; the rest stays queued. `seconds` is since the last flush.
    arrays
        Whether an array gets one line, on the job that has its id, once all of its tasks have ended.
    """
    due = ledger.due(cluster, max(1, int(per_s * seconds)))
    if not due:
        return Flushed()
    try:
        wanted = _of_arrays(ledger, cluster, dbd, due) if arrays else [_Line(one, encode(one.record)) for one in due]
        due = [one.due for one in wanted]
        rows = by_id(dbd.sacct([d.record.job_id for d in due])) if due else {}
        lines, done, later, kept, dropped = _plan(wanted, rows, overwrite)
        if lines:
            sent = dict(list(lines.items())[: _sessions(list(lines.values()), dbd, seconds)])
            after = by_id(dbd.sacct([d.record.job_id for d in due if d.job in sent]))
            for one in (one for one in wanted if one.due.job in sent):
                run = _run_of(one.due.record, after)
                held = run is not None and run.admin_comment == one.text
                (done if held else later).append(one.due)
    except UnavailableError as error:
        log.warning("%s", error)
        done, later, kept, dropped = [], list(due), [], []
    given_up = [d for d in later if d.tries >= MAX_TRIES]
    for entry in given_up:
        log.warning("job %s: slurmdbd does not take its line: given up", entry.record.display_id)
    later = [d for d in later if d.tries < MAX_TRIES]
    ledger.settle([d.job for d in (*done, *kept, *dropped, *given_up)])
    ledger.postpone([(d.job, min(FIRST_RETRY_S * 2**d.tries, LAST_RETRY_S)) for d in later])
    return Flushed(len(done), len(later), len(kept), len(dropped) + len(given_up))


def command(record: EnergyRecord, text: str) -> str:
    """Return sacctmgr's command for a record's line.

    A member of an array or het job goes by the job id that it has itself, for which slurmdbd has an index: looked for
    by its task, each of an array of 100,000 costs the database 0.1 s. The one that has the array's own id goes by its
    task, since a bare array or het leader's id would hit every member.
    """
    shared = record.job_id in (record.array_job_id, record.het_job_id)
    where = f"jobid={record.display_id if shared else record.job_id} cluster={record.cluster}"
    return f'modify job where {where} set AdminComment="{text}"'


def _of_arrays(ledger: Ledger, cluster: str, dbd: Dbd, due: Sequence[Due]) -> list[_Line]:
    """Return the lines of what is due, of arrays that have ended one each; whatever else is of arrays leaves the queue.

    A task's record of an array that has its line already has the array queued again.
    """
    lines, of_arrays = [], dict[int, list[Due]]()
    for one in due:
        array = one.record.array_job_id
        if array is None:
            lines.append(_Line(one, encode(one.record)))
        else:
            of_arrays.setdefault(array, []).append(one)
    if not of_arrays:
        return lines
    heads = {one.record.job_id: one for those in of_arrays.values() for one in those if _heads(one.record)}
    ledger.queue_arrays(cluster, list(of_arrays))
    ledger.settle([one.job for those in of_arrays.values() for one in those if not _heads(one.record)])
    running = dbd.unended(list(heads), cluster) if heads else set()
    ledger.postpone([(heads[array].job, ARRAY_S) for array in running if array in heads], tried=False)
    ended = [one for array, one in heads.items() if array not in running]
    return [*lines, *(_Line(one, array_line.encode(ledger.array_runs(cluster, one.record.job_id))) for one in ended)]


def _heads(record: EnergyRecord) -> bool:
    """Whether a task's own id is its array's: Slurm gives it to the last that starts."""
    return record.job_id == record.array_job_id


def _plan(
    wanted: Sequence[_Line], rows: dict[int, list[SlurmJob]], overwrite: bool
) -> tuple[dict[int, str], list[Due], list[Due], list[Due], list[Due]]:
    """Sort what is due into commands, done, later, kept and dropped."""
    lines: dict[int, str] = {}
    done: list[Due] = []
    later: list[Due] = []
    kept: list[Due] = []
    dropped: list[Due] = []
    for one in wanted:
        entry = one.due
        runs = rows.get(entry.record.job_id, [])
        run = _run_of(entry.record, rows)
        if run is None or run.end_s is None or not entry.record.state:
            later.append(entry)
        elif run.admin_comment == one.text:
            done.append(entry)
        elif run != max(runs, key=lambda r: (r.submit_s or 0, r.run)):
            # sacctmgr only reaches the newest run of a requeued job.
            dropped.append(entry)
        elif run.admin_comment and not is_ours(run.admin_comment) and not overwrite:
            kept.append(entry)
        else:
            lines[entry.job] = command(entry.record, one.text)
    return lines, done, later, kept, dropped


def _sessions(lines: Sequence[str], dbd: Dbd, seconds: float) -> int:
    """Send the lines; how many of them were sent, or are to be sent after a pause."""
    first, rest = lines[:TIMED], lines[TIMED:]
    begin_s = dbd.clock_s()
    _session(first, dbd)
    spent_s = dbd.clock_s() - begin_s
    if spent_s >= TIMEOUT_S:
        return len(lines)  # it hangs: the others wait for their next time, not for as long once more
    each_s, time_s = spent_s / len(first), max(SHARE * seconds, 1.0)
    if each_s * len(rest) > time_s * MAX_SESSIONS:
        rest = rest[: max(MAX_SESSIONS, int(time_s * MAX_SESSIONS / each_s))]
    count = min(max(1, math.ceil(each_s * len(rest) / time_s)), MAX_SESSIONS, len(rest))
    if not count:
        return len(first)
    shares = [rest[i::count] for i in range(count)]
    with ThreadPoolExecutor(count) as pool:
        for outcome in [pool.submit(_session, share, dbd) for share in shares]:
            outcome.result()
    return len(first) + len(rest)


def _session(lines: Sequence[str], dbd: Dbd) -> None:
    try:
        dbd.run(["sacctmgr", "--immediate", "--quiet"], "\n".join(lines) + "\n", TIMEOUT_S + len(lines))
    except UnavailableError as error:
        # sacctmgr exits non-zero when any one command had no effect; what took effect shows afterwards.
        log.info("%s", error)


def _run_of(record: EnergyRecord, rows: dict[int, list[SlurmJob]]) -> SlurmJob | None:
    return match_run(rows.get(record.job_id, []), record.start_ns, record.end_ns, sluid=record.sluid)
