"""Reading sacct: names that try to break out, times, matching runs."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.errors import NotFoundError, UnavailableError
from perun_hpc.slurm.job_ids import job_id_arguments
from perun_hpc.slurm.sacct import FIELDS, ROWS_AT_ONCE, match_run, parse_sacct, query_jobs, unended
from tests.accounting_data import NS, START_S, slurm_job

ROW = {
    "JobIDRaw": "9", "JobID": "8+1", "JobName": "x", "User": "alice", "UID": "2001", "GID": "2001",
    "Account": "physics", "Partition": "main", "QOS": "normal", "Cluster": "c", "Submit": "2026-11-22T14:00:00",
    "Start": "2026-11-22T14:00:01", "End": "2026-11-22T14:01:41", "Suspended": "00:00:10",
    "State": "CANCELLED by 2001", "ExitCode": "0:15", "NodeList": "n[1-2]", "NNodes": "2", "NCPUS": "8",
    "AllocTRES": "billing=8,cpu=8,gres/gpu:a100=2,gres/gpu=2,node=2", "TimelimitRaw": "10", "TotalCPU": "01:02.500",
    "AdminComment": "",
}  # fmt: skip


def output(rows: Sequence[dict[str, str]], delimiter: str) -> str:
    return "".join("".join(row[name] + delimiter for name in FIELDS) + "\n" for row in rows)


def test_a_row() -> None:
    (job,) = parse_sacct(output([ROW], "|+|"), "|+|")
    assert (job.job_id, job.het, job.array) == (9, (8, 1), (None, None))
    assert (job.state, job.exit_code, job.exit_signal, job.gpus, job.suspended_s) == ("CANCELLED", 0, 15, 2, 10)
    assert job.cpu_ns == 62_500_000_000
    assert job.end_s is not None and job.start_s is not None and job.end_s - job.start_s == 100
    assert job.time_limit_s == 600


@pytest.mark.parametrize("limit", ["UNLIMITED", "Partition_Limit", "", "525600"])
def test_a_job_without_a_limit_asked_for_none(limit: str) -> None:
    (job,) = parse_sacct(output([{**ROW, "TimelimitRaw": limit}], "|+|"), "|+|")
    assert job.time_limit_s is None


@given(st.text(alphabet=st.characters(exclude_characters="\x1f"), max_size=40))
def test_no_job_name_breaks_the_table(name: str) -> None:
    rows = [{**ROW, "JobName": name, "JobIDRaw": "1"}, {**ROW, "JobIDRaw": "2"}]
    jobs = parse_sacct(output(rows, "\x1fab\x1f"), "\x1fab\x1f")
    assert [(j.job_id, j.name) for j in jobs] == [(1, name), (2, "x")]


def test_one_call_with_a_delimiter_nobody_can_know() -> None:
    seen: list[list[str]] = []

    def runner(command: Sequence[str], _: str | None, __: float) -> str:
        seen.append(list(command))
        delimiter = next(w for w in command if w.startswith("--delimiter=")).removeprefix("--delimiter=")
        return output([ROW], delimiter)

    assert query_jobs([9, 9, 8], "c", runner)[0].name == "x"
    assert query_jobs([9], "c", runner)
    assert len(seen) == 2
    assert "8,9" in seen[0]
    assert seen[0][5] != seen[1][5]


def test_runs_are_numbered_and_found_by_time() -> None:
    first = {**ROW, "Start": "2026-11-22T14:00:01", "End": "2026-11-22T14:00:10", "State": "REQUEUED"}
    second = {**ROW, "Submit": "2026-11-22T14:02:00", "Start": "2026-11-22T14:03:00", "End": "2026-11-22T14:05:00"}
    jobs = parse_sacct(output([second, first], "|"), "|")
    assert [(j.run, j.state) for j in jobs] == [(0, "REQUEUED"), (1, "CANCELLED")]
    at_s = jobs[1].start_s
    assert at_s is not None
    found = match_run(jobs, at_s * NS, (at_s + 100) * NS)
    assert found is not None and found.run == 1


def test_another_run_of_a_recycled_id_is_not_taken() -> None:
    assert match_run([slurm_job()], (START_S + 9999) * NS, (START_S + 10000) * NS) is None


def test_unknown_times() -> None:
    (job,) = parse_sacct(output([{**ROW, "Start": "Unknown", "End": "Unknown", "NodeList": "None assigned"}], "|"), "|")
    assert (job.start_s, job.end_s, job.nodelist) == (None, None, "")


def test_a_command_that_is_not_there() -> None:
    from perun_hpc.slurm.sacct import run_command

    with pytest.raises(UnavailableError, match="not installed"):
        run_command(["/nonexistent/sacct"], None, 1)
    with pytest.raises(UnavailableError, match="no answer"):
        run_command(["sleep", "5"], None, 0.05)


@pytest.mark.parametrize(
    ("text", "job", "step"),
    [("4711", "4711", None), ("4711_3", "4711_3", None), ("4711+1", "4711+1", None), ("4711.0", "4711", "0"),
     ("4711_3.batch", "4711_3", "batch")],
)  # fmt: skip
def test_job_ids(text: str, job: str, step: str | None) -> None:
    assert job_id_arguments(text) == (job, step)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "-1",
        "4711;rm",
        "4711_",
        "_3",
        "4711+1+2",
        "0",
        "00",
        "0_1",
        "0+1",
        "0.0",
        "4711_[1-3]",
        "４",
        "4294967296",
        "1_" + "9" * 30,
        "9" * 5000,
    ],
)
def test_what_is_no_job_id(text: str) -> None:
    with pytest.raises(NotFoundError):
        job_id_arguments(text)


def test_a_long_answer_is_taken_apart_piece_by_piece_and_others_members_are_left_out():
    count = 2 * ROWS_AT_ONCE + 3
    rows = [{**ROW, "JobIDRaw": str(n), "JobID": f"1_{n}", "JobName": "\n" if n % 2 else "x"} for n in range(1, count)]
    jobs = parse_sacct(output(rows, "\x1fab\x1f"), "\x1fab\x1f")
    assert [(job.job_id, job.name) for job in jobs] == [(n, "\n" if n % 2 else "x") for n in range(1, count)]

    def runner(command, stdin, timeout_s):
        (delimiter,) = (word.partition("=")[2] for word in command if word.startswith("--delimiter="))
        return output(rows, delimiter)

    assert {job.job_id for job in query_jobs([1], None, runner)} == set(range(1, count))
    assert [job.job_id for job in query_jobs([1, 7], None, runner, members=False)] == [1, 7]


def test_an_array_has_not_ended_while_sacct_knows_no_end_of_one_of_its_tasks():
    asked = []

    def runner(command, stdin, timeout_s):
        asked.append(command[command.index("-j") + 1])
        return "1_1|1700000000\n1_2|1700000001\n2_7|1700000000\n2_[8-9%2]|Unknown\n3_1|Unknown\n"

    assert unended([1, 2, 3], "c", runner) == {2, 3}
    assert asked == ["1,2,3"]
