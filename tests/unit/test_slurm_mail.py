"""What stands below Slurm's mails: the report of the job that the subject names, and of no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from perun_hpc.accounting import comment
from perun_hpc.accounting.found import Places
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.archive.places import Archive, Run
from perun_hpc.cli.mail import NOT_YET, below
from perun_hpc.data_model.record import to_json
from perun_hpc.errors import NotFoundError, UnavailableError
from perun_hpc.slurm.mail import job_of
from perun_hpc.slurm.sacct import SlurmJob
from tests.accounting_data import NS, START_S, boundary, parsed, slurm_job

SUBJECT = "Slurm Job_id=4711 Name=stencil Ended, Run time 00:01:40, COMPLETED, ExitCode 0"


@pytest.mark.parametrize(
    ("subject", "job"),
    [
        (SUBJECT, "4711"),
        ("Slurm Array Task Job_id=4711_3 (4714) Name=x Failed, Run time 00:00:02, FAILED, ExitCode 1", "4711_3"),
        ("Slurm Array Summary Job_id=4711_* (4720) Name=x Ended, COMPLETED, ExitCode [0-0]", "4711"),
        ("Slurm Job_id=1 Name=Job_id=2 Ended", "1"),
        ("Re: Slurm Job_id=1 Name=x", None),
        ("Slurm Job_id=1x Name=x", None),
        ("Name=Slurm Job_id=2 Ended", None),
        ("", None),
    ],
)
def test_the_subject_names_the_job_whatever_its_name_is(subject: str, job: str | None) -> None:
    assert job_of(subject) == job


@pytest.fixture
def places(tmp_path: Path) -> Callable[..., Places]:
    def make(*rows: SlurmJob, due_s: float = START_S + 1000.0) -> Places:
        def sacct(ids: Iterable[str]) -> list[SlurmJob]:
            return list(rows)

        return Places(Archive(tmp_path, "c"), None, sacct, due_s=due_s)

    return make


def test_what_slurmuser_may_see_stands_in_the_mail_in_ascii(
    places: Callable[..., Places], capsys: pytest.CaptureFixture[str]
) -> None:
    row = slurm_job(name="größe\x1b[31m")
    line = comment.encode(add_slurm(sum_boundaries([parsed(boundary())]), row))
    assert below(SUBJECT, places(replace(row, admin_comment=line))) == 0
    text = capsys.readouterr().out
    assert "8.00 kJ +- 0.16 kJ (k=2)" in text
    assert text.isascii() and "\x1b" not in text


@pytest.mark.parametrize("name", ["~!touch /tmp/x", ".", "~.", "~r /etc/passwd"])
def test_no_line_is_a_command_to_a_mailer_whatever_a_function_is_called(
    places: Callable[..., Places], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    region = {"step_id": 0, "name": name, "calls": 2, "rank": 0, "time_ns": NS, "energy_uj": 1000, "u_uj": 1}
    record = add_slurm(sum_boundaries([parsed(boundary(regions=[region]))]), slurm_job())
    home = Archive(tmp_path, "c").job(Run(4711, 0))
    home.mkdir(parents=True)
    (home / "record.json").write_text(to_json(record))
    assert below(SUBJECT, places(due_s=START_S + 10**6)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith(f" {name}") for line in lines)
    assert not any(line.startswith(("~", ".")) for line in lines)


def test_while_the_record_is_on_its_way_there_may_be_more_in_a_moment(
    places: Callable[..., Places], capsys: pytest.CaptureFixture[str]
) -> None:
    assert below(SUBJECT, places(slurm_job(), due_s=START_S)) == NOT_YET
    assert capsys.readouterr().out == "What this job used is not known here. Ask on the cluster: perun report 4711\n"


def test_while_slurm_does_not_answer_too(places: Callable[..., Places]) -> None:
    def silent(ids: Iterable[str]) -> list[SlurmJob]:
        raise UnavailableError("sacct: no answer")

    assert below(SUBJECT, replace(places(), sacct=silent)) == NOT_YET


def test_another_subject_is_nobodys(places: Callable[..., Places]) -> None:
    with pytest.raises(NotFoundError, match="no subject of Slurm's"):
        below("hello", places())
