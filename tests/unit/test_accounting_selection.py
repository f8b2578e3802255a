"""Which jobs `perun report` means: by id, range, name, or the own one that started last; and nobody else's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from perun_hpc.accounting.found import Places
from perun_hpc.accounting.lookup import find_each
from perun_hpc.accounting.selection import Selection, own_jobs, select
from perun_hpc.archive.places import Archive
from perun_hpc.errors import NotFoundError, UnavailableError, UsageError
from perun_hpc.slurm.command import NoAccountsError
from perun_hpc.slurm.sacct import SlurmJob
from tests.accounting_data import START_S, slurm_job

NOW_S = START_S + 1000.0


class Slurm:
    """A sacct that knows some rows and remembers what it was asked."""

    def __init__(self, *rows: SlurmJob) -> None:
        self.rows = rows
        self.asked: list[list[str]] = []
        self.spans: list[tuple[int, Sequence[str]]] = []

    def jobs(self, ids: Iterable[str]) -> list[SlurmJob]:
        wanted = list(ids)
        self.asked.append(wanted)
        return [r for r in self.rows if set(wanted) & {str(r.job_id), r.shown_id, r.shown_id.split("_")[0]}]

    def between(self, since_s: int, until_s: int, options: Sequence[str]) -> list[SlurmJob]:
        self.spans.append((until_s - since_s, options))
        return [r for r in self.rows if (r.end_s or until_s) >= since_s]


def chosen(
    tmp_path: Path, slurm: Slurm, *words: str, name: str = "", environ: dict[str, str] | None = None
) -> Selection:
    places = Places(Archive(tmp_path, "c"), None, slurm.jobs, due_s=START_S + 200, between=slurm.between)
    return select(words, name, places, environ or {}, NOW_S)


def shown(selection: Selection) -> list[list[str]]:
    return [[f.record.display_id for f in runs] for runs in selection.objects]


ARRAY = [slurm_job(20 + task, shown_id=f"20_{task}", start_s=START_S + 5) for task in (1, 2, 3)]


def test_several_jobs_cost_one_question(tmp_path: Path) -> None:
    slurm = Slurm(slurm_job(10), slurm_job(11), slurm_job(13))
    selection = chosen(tmp_path, slurm, "10-13")
    assert (shown(selection), selection.absent) == ([["10"], ["11"], ["13"]], ("12",))
    assert slurm.asked == [["10", "11", "12", "13"]]


def test_an_array_is_one_object_by_its_id_and_by_those_of_its_tasks(tmp_path: Path) -> None:
    slurm = Slurm(slurm_job(10), *ARRAY)
    assert shown(chosen(tmp_path, slurm, "20")) == [["20_1", "20_2", "20_3"]]
    assert shown(chosen(tmp_path, slurm, "20_[1-2]", "10")) == [["20_1", "20_2"], ["10"]]
    assert shown(chosen(tmp_path, slurm, "20_2")) == [["20_2"]]


def test_each_row_of_slurms_answers_for_its_own_job_and_the_waiting_rest_for_its_arrays_tasks(tmp_path: Path) -> None:
    waits = {"start_s": None, "end_s": None, "state": "PENDING", "nodelist": "", "num_nodes": 0}
    het = [slurm_job(50 + part, shown_id=f"50+{part}") for part in (0, 1)]
    rows = [slurm_job(10), *ARRAY, slurm_job(20, shown_id="20_[5-9]", **waits), *het]
    found = find_each(
        ["20", "20_7", "20_2", "50+1", "50", "10", "9"], Places(Archive(tmp_path, "c"), None, lambda ids: rows, 0)
    )
    said = {job: [f.record.display_id for f in runs] for job, runs in found.items()}
    assert said == {
        "20": ["20_1", "20_2", "20_3", "20"], "20_7": ["20"], "20_2": ["20_2"], "50+1": ["50+1"],
        "50": ["50+0", "50+1"], "10": ["10"], "9": [],
    }  # fmt: skip


def test_a_job_named_on_its_own_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="job 12: unknown"):
        chosen(tmp_path, Slurm(slurm_job(10)), "10", "12")


def test_without_an_id_it_is_the_job_one_is_in_else_the_last_that_started(tmp_path: Path) -> None:
    waiting = slurm_job(30, start_s=None, end_s=None, state="PENDING", nodelist="", num_nodes=0)
    slurm = Slurm(slurm_job(10), *ARRAY, waiting)
    assert shown(chosen(tmp_path, slurm)) == [["20_1", "20_2", "20_3"]]
    assert shown(chosen(tmp_path, slurm, environ={"SLURM_JOB_ID": "10"})) == [["10"]]
    assert shown(chosen(tmp_path, slurm, "last", environ={"SLURM_JOB_ID": "10"})) == [["20_1", "20_2", "20_3"]]
    own = {"SLURM_JOB_ID": "10", "SLURM_CLUSTER_NAME": "C"}
    assert shown(chosen(tmp_path, slurm, environ=own)) == [["10"]]
    # Asked about another cluster than the one on which the job runs: its id means another job there.
    assert shown(chosen(tmp_path, slurm, environ={**own, "SLURM_CLUSTER_NAME": "other"})) == [["20_1", "20_2", "20_3"]]
    assert all(options == [f"--user={os.getuid()}"] for _, options in slurm.spans)


def test_a_name_is_taken_as_it_is(tmp_path: Path) -> None:
    slurm = Slurm(slurm_job(10, name="a,b"), slurm_job(11, name="a"), slurm_job(12, name="b"))
    assert shown(chosen(tmp_path, slurm, name="a,b")) == [["10"]]
    assert shown(chosen(tmp_path, slurm, name="a")) == [["11"]]
    with pytest.raises(NotFoundError, match="named 'c'"):
        chosen(tmp_path, slurm, name="c")
    with pytest.raises(UsageError):
        chosen(tmp_path, slurm, "10", name="a")


def test_a_job_of_last_month_is_found_by_a_second_look(tmp_path: Path) -> None:
    past_s = int(NOW_S) - 10 * 86_400
    slurm = Slurm(slurm_job(10, submit_s=past_s, start_s=past_s, end_s=past_s + 100))
    assert shown(chosen(tmp_path, slurm)) == [["10"]]
    assert [round(span_s / 86_400) for span_s, _ in slurm.spans] == [1, 30]


def test_own_jobs_come_newest_first_and_an_array_once(tmp_path: Path) -> None:
    slurm = Slurm(slurm_job(10), *ARRAY, slurm_job(40, start_s=START_S + 50))
    places = Places(Archive(tmp_path, "c"), None, slurm.jobs, due_s=0.0, between=slurm.between)
    assert own_jobs(places, 2001, NOW_S) == ["40", "20", "10"]


def test_without_accounts_jobs_have_no_names(tmp_path: Path) -> None:
    def none(since_s: int, until_s: int, options: Sequence[str]) -> list[SlurmJob]:
        raise NoAccountsError("none kept")

    places = Places(Archive(tmp_path, "c"), None, None, due_s=0.0, between=none)
    with pytest.raises(NotFoundError, match="no names here"):
        own_jobs(places, 2001, NOW_S, "a")
    with pytest.raises(NotFoundError, match="within a year"):
        own_jobs(places, 2001, NOW_S)


def test_while_slurm_does_not_answer_nothing_is_called_unknown(tmp_path: Path) -> None:
    def silent(ids: Iterable[str]) -> list[SlurmJob]:
        raise UnavailableError("sacct: no answer")

    places = Places(Archive(tmp_path, "c"), None, silent, due_s=0.0)
    with pytest.raises(UnavailableError):
        select(["10-12"], "", places, {}, NOW_S)
