"""What Slurm's accounting knows about jobs: one batched `sacct` call, parsed without trusting a job's name.

Job names, comments and working directories are whatever a user typed, line breaks included. Every call therefore uses a
fresh random delimiter and reads fields by count, never by line.
"""

from __future__ import annotations

import re
import secrets
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from perun_hpc.errors import NotFoundError, UnavailableError

FIELDS = (
    "JobIDRaw", "JobID", "JobName", "User", "UID", "GID", "Account", "Partition", "QOS", "Cluster", "Submit", "Start",
    "End", "Suspended", "State", "ExitCode", "NodeList", "NNodes", "NCPUS", "AllocTRES", "TimelimitRaw", "TotalCPU",
    "AdminComment",
)  # fmt: skip
FINAL_STATES = frozenset(
    {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE", "PREEMPTED",
     "REQUEUED", "REVOKED"}
)  # fmt: skip
LARGEST = (1 << 32) - 1
"""Slurm's job ids, array tasks and het offsets have 32 bits."""
TIMEOUT_S = 120.0
SLACK_S = 30

Runner = Callable[[Sequence[str], str | None, float], str]
"""Runs a command with a standard input and a deadline and returns its output; `UnavailableError` on any failure."""


@dataclass(frozen=True)
class SlurmJob:
    """One run of one job as slurmdbd holds it; times in epoch seconds, None where Slurm says Unknown or None."""

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


def run_command(command: Sequence[str], stdin: str | None, timeout_s: float) -> str:
    """Run a Slurm command and return its standard output; `UnavailableError` when it is absent, fails or hangs."""
    try:
        done = subprocess.run(
            list(command), input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except FileNotFoundError as error:
        raise UnavailableError(f"{command[0]}: not installed here: run it where Slurm's commands are") from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"{command[0]}: no answer within {timeout_s:.0f} s: is slurmdbd up?") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise UnavailableError(
            f"{command[0]}: {lines[-1] if lines else f'exit code {done.returncode}'}: is slurmdbd up?"
        )
    return done.stdout


def query_jobs(ids: Iterable[str | int], cluster: str | None = None, runner: Runner = run_command) -> list[SlurmJob]:
    """Ask sacct for all runs of these jobs in one call; ids that it does not know or show are absent."""
    wanted = sorted({str(i) for i in ids})
    if not wanted:
        return []
    return _sacct(["-j", ",".join(wanted)], cluster, runner)


def query_window(
    since_s: int, until_s: int, options: Sequence[str] = (), cluster: str | None = None, runner: Runner = run_command
) -> list[SlurmJob]:
    """Ask sacct for every job that was in the system between two epoch times; `options` are further sacct options."""
    times = ["-S", _slurm_time(since_s), "-E", _slurm_time(until_s)]
    return _sacct([*times, *options], cluster, runner)


def parse_sacct(text: str, delimiter: str) -> list[SlurmJob]:
    """Parse the output of `sacct --parsable --delimiter=...`; rows of one job are numbered by their start (`run`)."""
    cells = text.split(delimiter)
    width = len(FIELDS)
    jobs = [
        _job(dict(zip(FIELDS, (cells[at].lstrip("\n"), *cells[at + 1 : at + width]), strict=True)))
        for at in range(0, len(cells) - width, width)
    ]
    by_id: dict[int, list[SlurmJob]] = {}
    for job in jobs:
        by_id.setdefault(job.job_id, []).append(job)
    numbered = []
    for runs in by_id.values():
        ordered = sorted(runs, key=lambda j: (j.submit_s or 0, j.start_s or j.end_s or 1 << 62))
        numbered += [replace(job, run=number) for number, job in enumerate(ordered)]
    return numbered


CLOCK_S = 86_400
"""A node's clock may be wrong by this much: where all runs of a job id are known, what is left over is the same run."""


def pair_runs(jobs: Sequence[SlurmJob], spans: Sequence[tuple[int, int]], slack_s: int = SLACK_S) -> dict[int, int]:
    """Pair runs as Slurm knows them with (start, end) in epoch seconds as somebody else does, each at most once.

    The pairs that overlap most go first. Slurm's times are whole seconds of another host's clock: up to `slack_s`
    between two times is no difference. Returns index of the run -> index of the span.
    """
    found = []
    for index, job in enumerate(jobs):
        # A run that was requeued while its nodes were made ready has nodes, and a prolog ran there, but no start.
        first_s = job.start_s if job.start_s is not None or not job.nodelist else job.submit_s
        if first_s is not None:
            for at, (start_s, end_s) in enumerate(spans):
                last_s = job.end_s if job.end_s is not None else max(end_s, first_s)
                found.append((min(last_s, end_s) - max(first_s, start_s), -abs(first_s - start_s), index, at))
    pairs: dict[int, int] = {}
    for overlap_s, _, index, at in sorted(found, reverse=True):
        if overlap_s >= -slack_s and index not in pairs and at not in pairs.values():
            pairs[index] = at
    return pairs


def match_run(jobs: Sequence[SlurmJob], start_ns: int, end_ns: int, slack_s: int = SLACK_S) -> SlurmJob | None:
    """Return the run that overlaps the interval best (recycled ids and requeues share a job id), or None."""
    pairs = pair_runs(jobs, [(start_ns // 1_000_000_000, end_ns // 1_000_000_000)], slack_s)
    return jobs[next(iter(pairs))] if pairs else None


def job_id_arguments(text: str) -> tuple[str, str | None]:
    """Split what a user typed (`4711`, `4711_3`, `4711+1`, `4711.0`) into sacct's job id and the step, if any."""
    job, _, step = text.partition(".")
    digits = job.replace("_", "", 1) if "_" in job else job.replace("+", "", 1)
    known = digits.isascii() and digits.isdigit() and job[0].isdigit() and job[-1].isdigit()
    if not known or any(int(part[:11]) > LARGEST for part in re.split("[_+]", job)):
        raise NotFoundError(f"'{text}' is no job id: write 4711, 4711_3 (array task), 4711+1 (het component) or 4711.0")
    return job, step or None


def _sacct(selection: Sequence[str], cluster: str | None, runner: Runner) -> list[SlurmJob]:
    delimiter = f"\x1f{secrets.token_hex(8)}\x1f"
    command = ["sacct", "--allocations", "--duplicates", "--noheader", "--parsable", f"--delimiter={delimiter}"]
    command += [f"--format={','.join(FIELDS)}", *selection]
    if cluster:
        command.append(f"--clusters={cluster}")
    return parse_sacct(runner(command, None, TIMEOUT_S), delimiter)


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
        time_limit_s=int(limit) * 60 if limit.isdigit() else None,
        cpu_ns=int(_duration_s(row["TotalCPU"]) * 1e9) or None,
        admin_comment=row["AdminComment"],
    )


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def _epoch(text: str) -> int | None:
    """Convert sacct's local time to epoch seconds."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").timestamp())
    except ValueError:
        return None


def _slurm_time(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s).strftime("%Y-%m-%dT%H:%M:%S")


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
