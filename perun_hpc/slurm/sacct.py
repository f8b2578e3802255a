"""What Slurm's accounting knows about jobs: batched `sacct` calls, parsed without trusting a job's name.

Job names, comments and working directories are whatever a user typed, line breaks included. Every call therefore uses a
fresh random delimiter and reads fields by count, never by line. Times go both ways in epoch seconds: local ones have no
offset, and an hour comes twice each autumn.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache

from perun_hpc.errors import UnavailableError
from perun_hpc.slurm.command import TIMEOUT_S, Runner, run_command, slices
from perun_hpc.slurm.hostlist import expand
from perun_hpc.slurm.states import FINAL_STATES, WASTED_STATES

FIELDS = (
    "JobIDRaw", "JobID", "JobName", "User", "UID", "GID", "Account", "Partition", "QOS", "Cluster", "Submit", "Start",
    "End", "Suspended", "State", "ExitCode", "NodeList", "NNodes", "NCPUS", "AllocTRES", "TimelimitRaw", "TotalCPU",
    "AdminComment",
)  # fmt: skip
IDENTITY = ("SLUID", "OriginalSLUID")
"""Names of a run that no other run ever had; where `sacct --helpformat` lists them (25.11 on)."""
CONSUMED = "ConsumedEnergyRaw"
"""Slurm's own figure of a run's energy, in J; asked for by who compares it."""
RESIZING = "RESIZING"
"""State of the first part of a run whose allocation was changed; the next row of that job goes on with the run."""
A_YEAR = 365 * 24 * 60
"""Minutes that Slurm (seen with 22.05) at times shows of a job without a limit instead of UNLIMITED."""
SLACK_S = 30
ROWS_AT_ONCE = 4096
_MEMORY = re.compile(r"mem=(\d{1,12}(?:\.\d{1,6})?)([KMGTP])", re.ASCII)


@dataclass(frozen=True)
class SlurmJob:
    """One run of one job as slurmdbd holds it; times in epoch seconds, None where Slurm says Unknown or None.

    `sluids` are the names that Slurm gave this run alone: none before 25.11, several where it was resized. `mem_b` is
    the memory of all its nodes together; None where Slurm does not give memory out. `consumed_j` is `CONSUMED` where
    that was asked for; None where sacct has a blank.
    """

    job_id: int
    shown_id: str
    name: str
    user: str
    uid: int | None
    gid: int | None
    account: str
    partition: str
    qos: str
    cluster: str
    submit_s: int | None
    start_s: int | None
    end_s: int | None
    suspended_s: int
    state: str
    exit_code: int | None
    exit_signal: int | None
    nodelist: str
    num_nodes: int
    cpus: int
    gpus: int
    time_limit_s: int | None
    cpu_ns: int | None
    admin_comment: str
    run: int = 0
    sluids: tuple[str, ...] = ()
    mem_b: int | None = None
    consumed_j: int | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more of this run can come."""
        return self.state in FINAL_STATES

    @property
    def ran(self) -> bool:
        """Whether it had nodes for a time.

        22.05 may give a start, that of its end, to what was cancelled while it waited; a job whose Prolog failed at
        once has nodes, and ends in the second in which it started.
        """
        if self.start_s is None or not self.num_nodes or not self.nodelist:
            return False
        return self.state not in WASTED_STATES or self.end_s is None or self.end_s > self.start_s

    @property
    def array(self) -> tuple[int | None, int | None]:
        """(array job id, task id) or (None, None)."""
        head, mark, task = self.shown_id.partition("_")
        return (int(head), int(task)) if mark and head.isdigit() and task.isdigit() else (None, None)

    @property
    def het(self) -> tuple[int | None, int | None]:
        """(leader's job id, offset) or (None, None)."""
        head, mark, offset = self.shown_id.partition("+")
        return (int(head), int(offset)) if mark and head.isdigit() and offset.isdigit() else (None, None)


def query_jobs(
    ids: Iterable[str | int],
    cluster: str | None = None,
    runner: Runner = run_command,
    extra: Sequence[str] = (),
    members: bool = True,
) -> list[SlurmJob]:
    """Ask sacct for all runs of these jobs, in as few calls as its command line holds; unknown ids are absent.

    `extra` are further fields that this sacct has, see `identity_fields`. sacct answers an array's or a het job's id by
    all of its members, which may be a hundred thousand; without `members` only the job that has that id itself is kept.
    """
    rows: list[SlurmJob] = []
    asked = sorted({str(i) for i in ids})
    only = None if members else frozenset(asked)
    for wanted in slices(asked):
        rows += _sacct(["-j", wanted], cluster, runner, extra, only)
    # An array's task comes with its leader's id and with its own.
    return _runs(dict.fromkeys(rows))


def query_between(
    since_s: int,
    until_s: int,
    options: Sequence[str] = (),
    cluster: str | None = None,
    runner: Runner = run_command,
    extra: Sequence[str] = (),
) -> list[SlurmJob]:
    """Ask sacct for every job that was in the system between two epoch times; `options` are further sacct options."""
    return _runs(_sacct(["-S", f"uts{since_s}", "-E", f"uts{until_s}", *options], cluster, runner, extra))


def unended(arrays: Iterable[int], cluster: str | None = None, runner: Runner = run_command) -> set[int]:
    """Return which of these arrays have a task that has not ended, as far as Slurm's accounting says."""
    found: set[int] = set()
    for wanted in slices(sorted({str(one) for one in arrays})):
        command = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,End", "-j", wanted]
        for line in runner([*command, *([f"--clusters={cluster}"] if cluster else [])], None, TIMEOUT_S).splitlines():
            shown, _, end = line.partition("|")
            array = shown.partition("_")[0]
            if _epoch(end) is None and array.isdigit():
                found.add(int(array))
    return found


@cache
def identity_fields(runner: Runner = run_command) -> tuple[str, ...]:
    """Return those fields of `IDENTITY` that the sacct of this host has; asked once."""
    known = set(runner(["sacct", "--helpformat"], None, TIMEOUT_S).split())
    return tuple(name for name in IDENTITY if name in known)


def parse_sacct(text: str, delimiter: str, extra: Sequence[str] = ()) -> list[SlurmJob]:
    """Parse the output of `sacct --parsable --delimiter=...`: one value per run, numbered by their start (`run`).

    Raises
    ------
    UnavailableError
        When it is not what sacct answers.
    """
    return _runs(_rows(text, delimiter, extra))


def _rows(text: str, delimiter: str, extra: Sequence[str], only: Collection[str] | None = None) -> list[SlurmJob]:
    """The jobs of an answer; with `only` those of these ids."""
    names = (*FIELDS, *extra)
    try:
        return [
            _job(dict(zip(names, cells, strict=True)))
            for cells in _cells(text, delimiter, len(names))
            if only is None or cells[0] in only
        ]
    except ValueError as error:
        raise UnavailableError(f"sacct: its answer cannot be read ({error}): is it Slurm's own sacct?") from error


def _cells(text: str, delimiter: str, width: int) -> Iterator[list[str]]:
    """The fields of each row, of some rows at a time: taken apart, an answer needs many times its own memory."""
    most = width * ROWS_AT_ONCE
    while text:
        *cells, text = text.split(delimiter, most)
        if len(cells) < most:
            text = ""
        for at in range(0, len(cells) - width + 1, width):
            yield [cells[at].lstrip("\n"), *cells[at + 1 : at + width]]


def _runs(rows: Iterable[SlurmJob]) -> list[SlurmJob]:
    """Return the runs that sacct's rows name, numbered by their start."""
    by_id: dict[int, list[SlurmJob]] = {}
    for row in rows:
        by_id.setdefault(row.job_id, []).append(row)
    runs = []
    for of_one in by_id.values():
        ordered = sorted(of_one, key=lambda j: (j.submit_s or 0, j.start_s or j.end_s or 1 << 62))
        number, ended_s = -1, None
        for job in _whole_runs(ordered):
            # A run that is requeued is submitted anew as it ends; days later the id has come again.
            again = job.submit_s is not None and ended_s is not None and job.submit_s - ended_s > CLOCK_S
            number, ended_s = 0 if again else number + 1, job.end_s
            runs.append(replace(job, run=number))
    return runs


def _whole_runs(rows: Sequence[SlurmJob]) -> list[SlurmJob]:
    """Join the rows of one job that are parts of one run: a resized run has one for each of its allocations.

    22.05 says of the later part that it was submitted when the size changed and started with the first one; newer ones
    that it started then.
    """
    runs: list[SlurmJob] = []
    for row in rows:
        if runs and runs[-1].state == RESIZING and row.num_nodes and row.nodelist:
            row = _joined(runs.pop(), row)
        runs.append(row)
    return runs


def _joined(first: SlurmJob, rest: SlurmJob) -> SlurmJob:
    """Return the run of which `first` is the part before a change of its size: all the nodes that it ever had."""
    nodelist, num_nodes = _together(first, rest)
    starts = [s for s in (first.start_s, rest.start_s) if s is not None]
    return replace(
        rest,
        submit_s=first.submit_s,
        start_s=min(starts, default=None),
        suspended_s=max(first.suspended_s, rest.suspended_s),
        nodelist=nodelist,
        num_nodes=num_nodes,
        cpus=max(first.cpus, rest.cpus),
        gpus=max(first.gpus, rest.gpus),
        mem_b=max(first.mem_b or 0, rest.mem_b or 0) or None,
        admin_comment=rest.admin_comment or first.admin_comment,
        consumed_j=None,  # of a resized run sacct does not say which part's nodes it is of
        sluids=tuple(dict.fromkeys((*first.sluids, *rest.sluids))),
    )


def _together(first: SlurmJob, rest: SlurmJob) -> tuple[str, int]:
    """Return the nodes of two parts as a list and their number; the larger part's list where it holds the other's."""
    try:
        before, after = set(expand(first.nodelist)), set(expand(rest.nodelist))
    except ValueError:
        return rest.nodelist, max(first.num_nodes, rest.num_nodes)
    if after <= before:
        return first.nodelist, len(before)
    if before <= after:
        return rest.nodelist, len(after)
    return f"{first.nodelist},{rest.nodelist}", len(before | after)


CLOCK_S = 86_400
"""A node's clock may be wrong by this much: where all runs of a job id are known, what is left over is the same run."""


def pair_runs(
    jobs: Sequence[SlurmJob],
    spans: Sequence[tuple[int, int]],
    slack_s: int = SLACK_S,
    sluids: Sequence[str | None] = (),
) -> dict[int, int]:
    """Pair runs as Slurm knows them with (start, end) in epoch seconds as somebody else does, each at most once.

    The pairs that overlap most go first. Slurm's times are whole seconds of another host's clock: up to `slack_s`
    between two times is no difference. `sluids` are Slurm's own names of the spans' runs, where they are known: they
    decide. Returns index of the run -> index of the span.
    """
    found = []
    named = [*sluids, *[None] * (len(spans) - len(sluids))]
    for index, job in enumerate(jobs):
        # A run that was requeued while its nodes were made ready has nodes, and a prolog ran there, but no start.
        first_s = job.start_s if job.start_s is not None else job.submit_s
        if first_s is not None and job.nodelist:
            for at, (start_s, end_s) in enumerate(spans):
                if named[at] and job.sluids and named[at] not in job.sluids:
                    continue
                last_s = job.end_s if job.end_s is not None else max(end_s, first_s)
                found.append((min(last_s, end_s) - max(first_s, start_s), -abs(first_s - start_s), index, at))
    pairs: dict[int, int] = {}
    for overlap_s, _, index, at in sorted(found, reverse=True):
        if overlap_s >= -slack_s and index not in pairs and at not in pairs.values():
            pairs[index] = at
    return pairs


def match_run(
    jobs: Sequence[SlurmJob], start_ns: int, end_ns: int, slack_s: int = SLACK_S, sluid: str | None = None
) -> SlurmJob | None:
    """Return the run that overlaps the interval best (recycled ids and requeues share a job id), or None.

    Where Slurm's own name of the run is known, a run of another name is none of them.
    """
    pairs = pair_runs(jobs, [(start_ns // 1_000_000_000, end_ns // 1_000_000_000)], slack_s, [sluid])
    return jobs[next(iter(pairs))] if pairs else None


def by_id(jobs: Iterable[SlurmJob]) -> dict[int, list[SlurmJob]]:
    """Return the runs of each job id, in their order."""
    found: dict[int, list[SlurmJob]] = {}
    for job in jobs:
        found.setdefault(job.job_id, []).append(job)
    return found


def nodes_of(jobs: Iterable[SlurmJob]) -> frozenset[str] | None:
    """Return the nodes that the runs of a job had; None where Slurm does not name the nodes of each run that ran."""
    nodes: set[str] = set()
    for job in jobs:
        if not job.nodelist and job.start_s is not None and job.num_nodes:
            return None
        try:
            nodes.update(expand(job.nodelist) if job.nodelist else ())
        except ValueError:
            return None
    return frozenset(nodes) or None


def is_one_of(node: str, given: frozenset[str]) -> bool:
    """Whether a node is one of those that Slurm names, which may be the first part of its own name."""
    return not given.isdisjoint((node, node.partition(".")[0]))


def _sacct(
    selection: Sequence[str],
    cluster: str | None,
    runner: Runner,
    extra: Sequence[str],
    only: Collection[str] | None = None,
) -> list[SlurmJob]:
    delimiter = f"\x1f{os.urandom(8).hex()}\x1f"
    command = ["sacct", "--allocations", "--duplicates", "--noheader", "--parsable", f"--delimiter={delimiter}"]
    command += [f"--format={','.join((*FIELDS, *extra))}", *selection]
    if cluster:
        command.append(f"--clusters={cluster}")
    return _rows(runner(command, None, TIMEOUT_S), delimiter, extra, only)


def _job(row: dict[str, str]) -> SlurmJob:
    code, _, signal = row["ExitCode"].partition(":")
    limit = row["TimelimitRaw"]
    return SlurmJob(
        job_id=int(row["JobIDRaw"]),
        shown_id=row["JobID"],
        name=row["JobName"],
        user=row["User"],
        uid=_number(row["UID"]),
        gid=_number(row["GID"]),
        account=row["Account"],
        partition=row["Partition"],
        qos=row["QOS"],
        cluster=row["Cluster"],
        submit_s=_epoch(row["Submit"]),
        start_s=_epoch(row["Start"]),
        end_s=_epoch(row["End"]),
        suspended_s=int(_duration_s(row["Suspended"])),
        state=row["State"].split(" ")[0].rstrip("+"),
        exit_code=_number(code),
        exit_signal=_number(signal),
        nodelist="" if row["NodeList"] == "None assigned" else row["NodeList"],
        num_nodes=_number(row["NNodes"]) or 0,
        cpus=_number(row["NCPUS"]) or 0,
        gpus=_gpus(row["AllocTRES"]),
        time_limit_s=int(limit) * 60 if limit.isdigit() and int(limit) != A_YEAR else None,
        cpu_ns=int(_duration_s(row["TotalCPU"]) * 1e9) or None,
        admin_comment=row["AdminComment"],
        sluids=tuple(dict.fromkeys(value for name in IDENTITY if (value := row.get(name, "")))),
        mem_b=_memory_b(row["AllocTRES"]),
        consumed_j=_number(row.get(CONSUMED, "")),
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _epoch(text: str) -> int | None:
    """Convert sacct's time to epoch seconds; local times are what a sacct gives that somebody wrapped."""
    if text.isascii() and text.isdigit():
        return int(text) or None
    try:
        return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").timestamp())
    except ValueError:
        return None


def _duration_s(text: str) -> float:
    """Convert `[DD-][HH:]MM:SS[.mmm]` to seconds; anything else is 0."""
    days, mark, rest = text.rpartition("-")
    try:
        total = 0.0
        for part in rest.split(":"):
            total = total * 60 + float(part)
        return total + (int(days) * 86400 if mark else 0)
    except ValueError:
        return 0.0


def _gpus(tres: str) -> int:
    """Return `gres/gpu=N` of a TRES string (typed entries such as gres/gpu:a100 repeat it)."""
    for entry in tres.split(","):
        key, _, value = entry.partition("=")
        if key == "gres/gpu" and value.isdigit():
            return int(value)
    return 0


def _memory_b(tres: str) -> int | None:
    """Return `mem=4G` of a TRES string in bytes; None without memory, as where Slurm does not give it out."""
    for entry in tres.split(","):
        match = _MEMORY.fullmatch(entry)
        if match:
            return int(float(match[1]) * (1 << 10 * ("KMGTP".index(match[2]) + 1))) or None
    return None
