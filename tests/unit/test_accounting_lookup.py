"""Who finds which record: the owner's directory, the ledger for those who may, sacct for the rest, and no leak."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from perun_hpc.accounting import array_line, comment
from perun_hpc.accounting.found import Places
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.lookup import find, listed_by_slurm
from perun_hpc.accounting.questions import Filter, jobs
from perun_hpc.accounting.selection import select
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.archive.places import Archive, Run
from perun_hpc.data_model.record import EnergyRecord, to_json
from perun_hpc.errors import DataError, NotFoundError, UnavailableError
from perun_hpc.report.job import job_report
from perun_hpc.report.listing import jobs_csv, jobs_listing
from perun_hpc.report.screen import Style
from perun_hpc.slurm.sacct import SlurmJob
from tests.accounting_data import START_S, boundary, parsed, slurm_job


def record(job_id: int = 4711, **slurm: object) -> EnergyRecord:
    return add_slurm(sum_boundaries([parsed(boundary(job_id))]), slurm_job(job_id, **slurm))


def publish(archive: Archive, made: EnergyRecord) -> None:
    directory = archive.job(Run(made.job_id, made.restart_count))
    directory.mkdir(parents=True)
    (directory / "record.json").write_text(to_json(made))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path, "c")


def slurm(*rows: SlurmJob) -> object:
    def sacct(ids: Iterable[str]) -> list[SlurmJob]:
        wanted = list(ids)
        return [r for r in rows if any(i in (str(r.job_id), r.shown_id, r.shown_id.split("_")[0]) for i in wanted)]

    return sacct


def places(archive: Archive, sacct: object = None, ledger: str | None = None) -> Places:
    return Places(archive, ledger, sacct, due_s=START_S + 200)  # type: ignore[arg-type]


def test_ones_own_directory_needs_neither_slurm_nor_ledger(archive: Archive) -> None:
    publish(archive, record())
    (found,) = find("4711", places(archive))
    assert (found.record, found.source) == (record(), "the job's directory")


def test_an_old_run_is_found_in_the_directory_named_after_its_submission(archive: Archive) -> None:
    made = record()
    publish(archive, made)
    bare = archive.job(Run(4711, 0))
    bare.rename(archive.job(Run(4711, 0, made.submit_s)))
    (found,) = find("4711", places(archive, slurm(slurm_job())))
    assert (found.record, found.source) == (made, "the job's directory")


def test_what_the_ledger_knows_is_not_asked_of_slurm_unless_another_run_may_follow(archive: Archive) -> None:
    url = str(archive.root / "ledger.db")
    ledger = open_ledger(url, create=True)
    ledger.put([record(), record(4712, state="REQUEUED"), record(4713, shown_id="4713_1")])
    ledger.close()
    asked: list[str] = []

    def sacct(ids: Iterable[str]) -> list[SlurmJob]:
        asked.extend(ids)
        return []

    for job in ("4711", "4712", "4713"):
        assert [f.source for f in find(job, places(archive, sacct, url))] == ["the ledger"]
    assert asked == ["4712", "4713"]


def test_the_line_in_slurms_accounting(archive: Archive) -> None:
    made = record()
    (found,) = find("4711", places(archive, slurm(slurm_job(admin_comment=comment.encode(made)))))
    assert found.source == "Slurm's accounting (AdminComment)"
    assert (found.record.energy_uj, found.record.u_uj, found.record.provenance) == (
        made.energy_uj,
        made.u_uj,
        "measured",
    )
    assert [(c.component, c.energy_uj, c.provenance) for c in found.record.components] == [
        ("cpu", made.energy_uj, "measured")
    ]


def test_where_an_array_has_one_line_its_task_says_so_and_shows_no_energy_of_its_own(archive: Archive) -> None:
    line = array_line.encode([[record(), record()]])
    (found,) = find("4711", places(archive, slurm(slurm_job(shown_id="4711_2", admin_comment=line))))
    assert (found.source, found.record.energy_uj) == ("Slurm's accounting (AdminComment)", None)
    assert found.record.missing == (
        f"of this task alone nothing is kept here: its array used {2 * (record().energy_uj or 0) / 1e6:.0f} J "
        f"({4 * record().u_uj / 1e6:.0f} J, k=2), of 2 of its 2 tasks",
    )
    (found,) = find("4711", places(archive, slurm(slurm_job(shown_id="4711_2", admin_comment=line[:-1]))))
    assert found.record.energy_uj is None and "does not know the form" in found.record.missing[0]


def test_what_the_line_knows_is_on_the_screen() -> None:
    job = slurm_job(nodelist="n[1-2]", num_nodes=2)
    nodes = [parsed(boundary(node=n, nodelist="n[1-2]")) for n in ("n1", "n2")]
    line = comment.encode(add_slurm(sum_boundaries(nodes), job))
    text = " ".join("\n".join(job_report(comment.decode(line, job, "c"), "AdminComment", Style())).split())
    assert "100 % of the job's time, 2 of 2 nodes" in text
    assert "100 % ██████████ measured" in text
    assert "in the job's own record" in text
    lost = comment.encode(add_slurm(sum_boundaries(nodes[:1]), job))
    assert comment.decode(lost, job, "c").missing == ("1 of 2 nodes did not report",)


def test_the_ledger_for_those_who_may(archive: Archive, tmp_path: Path) -> None:
    url = str(tmp_path / "l.db")
    ledger = open_ledger(url, create=True)
    ledger.put([record()])
    ledger.close()
    (found,) = find("4711", places(archive, slurm(slurm_job()), url))
    assert found.source == "the ledger"
    (tmp_path / "l.db").chmod(0)


def test_what_is_hidden_and_what_is_not_there_sound_the_same(archive: Archive) -> None:
    publish(archive, record(4711))
    hidden = archive.job(Run(4711, 0)) / "record.json"
    hidden.unlink()
    hidden.mkdir()  # not readable as a file, whoever asks; root included
    words = []
    for number in ("4711", "9999"):
        with pytest.raises(NotFoundError) as told:
            find(number, places(archive, slurm()))
        words.append(str(told.value).replace(number, "N"))
    assert words[0] == words[1]


def test_slurm_away_and_nothing_of_ones_own(archive: Archive) -> None:
    def away(_: Iterable[str]) -> list[SlurmJob]:
        raise UnavailableError("sacct: is slurmdbd up?")

    with pytest.raises(UnavailableError):
        find("4711", places(archive, away))
    publish(archive, replace(record(), state=""))
    assert find("4711", places(archive, away))[0].record.energy_uj == 8_000_000_000


def test_an_array_by_its_id_and_by_a_task(archive: Archive) -> None:
    rows = [slurm_job(10, shown_id="10_1"), slurm_job(11, shown_id="10_2")]
    publish(archive, record(10, shown_id="10_1"))
    publish(archive, record(11, shown_id="10_2"))
    assert [f.record.display_id for f in find("10", places(archive, slurm(*rows)))] == ["10_1", "10_2"]
    assert [f.record.job_id for f in find("10_2", places(archive, slurm(*rows)))] == [11]


def test_the_runs_of_a_requeued_job(archive: Archive) -> None:
    first = replace(record(), state="REQUEUED", end_ns=(START_S + 4) * 10**9)
    publish(archive, first)
    second = slurm_job(start_s=START_S + 15, end_s=None, state="RUNNING", run=1)
    rows = [slurm_job(end_s=START_S + 4, state="REQUEUED"), second]
    found = listed_by_slurm(rows, places(archive))
    assert [(f.record.status, f.record.state) for f in found] == [("complete", "REQUEUED"), ("running", "RUNNING")]


def test_pending_running_and_unmeasured(archive: Archive) -> None:
    for job, status, word in (
        (slurm_job(state="PENDING", start_s=None, end_s=None, nodelist=""), "pending", "not started"),
        (slurm_job(state="RUNNING", end_s=None), "running", "still runs"),
        (slurm_job(), "missing", "no energy record"),
    ):
        (found,) = find("4711", places(archive, slurm(job)))
        assert found.record.status == status and word in found.record.missing[0]
        assert found.record.energy_uj is None


def test_a_record_on_its_way_and_one_that_never_comes(archive: Archive) -> None:
    rows = [slurm_job(1, end_s=START_S + 199), slurm_job(2, end_s=START_S + 201)]
    never = slurm_job(3, start_s=None, end_s=START_S + 300, state="CANCELLED", nodelist="")
    found = listed_by_slurm([*rows, never], places(archive))
    assert [f.record.status for f in found] == ["missing", "awaited", "missing"]
    assert found[2].record.missing == ("the job never ran",)
    assert found[1].record.missing == ("its energy record is on the way: the collector sweeps every 60 s",)
    lines = jobs_listing([f.record for f in found], Style(), START_S + 400)
    assert [line.split()[-1] for line in lines[1:]] == ["missing", "yet", "ran"]
    later = slurm_job(4, start_s=START_S + 500, end_s=START_S + 600)
    waits = slurm_job(5, start_s=None, end_s=None, state="PENDING", nodelist="")
    found = listed_by_slurm([waits, later, never], places(archive))
    assert [f.record.job_id for f in found] == [3, 4, 5]
    assert lines[3].split()[-4:] == ["-", "-", "never", "ran"]


def test_a_job_that_runs_and_one_of_which_slurm_has_not_told_all(archive: Archive) -> None:
    begun = slurm_job(2, state="PENDING", end_s=None, qos="Unknown", name="allocation", num_nodes=0)
    found = listed_by_slurm([slurm_job(1, state="RUNNING", end_s=None), begun], places(archive))
    lines = jobs_listing([f.record for f in found], Style(), START_S + 130)
    assert "00:02:10" in lines[1]
    shown = "\n".join(job_report(found[1].record, "x", Style()))
    assert not any(word in shown for word in ("Unknown", "allocation", "0 nodes", "still runs", "exit"))
    assert "the job starts" in shown and "Pending" in shown and "Running" not in shown


def test_the_line_survives_lower_case_and_not_a_cut() -> None:
    line = comment.encode(record())
    assert line == line.lower() and not set(line) & set("\"'` ,;|\\")
    assert comment.decode(line, slurm_job(), "c").energy_uj == 8_000_000_000
    for broken in (line[:-1], line.replace("8000000000", "9000000000"), "perun9:x", line.replace("e=", "f=")):
        with pytest.raises(DataError):
            comment.decode(broken, slurm_job(), "c")


def test_a_run_in_its_first_minute_is_not_taken_for_the_one_before(archive: Archive) -> None:
    """A job that had ended well was requeued: what its new run uses nobody has told yet, but Slurm knows of it."""
    publish(archive, record())
    rows = [slurm_job(), slurm_job(submit_s=START_S + 120, start_s=START_S + 130, end_s=None, state="RUNNING", run=1)]
    where = Places(archive, None, slurm(*rows), due_s=START_S - 700.0)  # type: ignore[arg-type]
    found = find("4711", where)
    assert [(f.record.status, f.record.state) for f in found] == [("complete", "COMPLETED"), ("running", "RUNNING")]
    assert found[0].record.energy_uj == 8_000_000_000
    report = "\n".join(job_report(found[-1].record, "x", Style(), [found[0].record]))
    assert "RUNNING" in report and "this is run 2" in report


def test_a_run_that_has_only_begun_does_not_say_that_nothing_comes_before_its_end(archive: Archive) -> None:
    row = slurm_job(state="RUNNING", start_s=START_S, end_s=None)
    places_now = Places(archive, None, slurm(row), due_s=START_S - 700.0)  # type: ignore[arg-type]
    (found,) = find("4711", places_now)
    assert found.record.status == "running"
    assert found.record.missing == ("the job still runs: no figure of it is here yet; perun watch 4711 asks its nodes",)


def test_a_job_that_waits_is_pending_wherever_it_is_shown(archive: Archive) -> None:
    row = slurm_job(state="PENDING", start_s=None, end_s=None, nodelist="")
    (found,) = find("4711", places(archive, slurm(row)))
    (_, line, total) = jobs_listing([found.record], Style(), START_S + 400, total=True)
    assert line.split()[-1] == "pending" and "running" not in line
    assert "1 job " in f"{total} " and "1 jobs" not in total
    assert "pending" in jobs_csv([found.record]) and "running" not in jobs_csv([found.record])


def damage(archive: Archive, job_id: int) -> None:
    (archive.job(Run(job_id, 0)) / "record.json").write_text('{"schema": ')


def test_a_damaged_record_costs_itself_alone(archive: Archive) -> None:
    for job_id in (4711, 4712):
        publish(archive, record(job_id))
    damage(archive, 4711)
    told: list[tuple[str, str]] = []
    where = replace(places(archive), tell=lambda job, why: told.append((job, why)))
    chosen = select(["4711-4712"], "", where, {}, START_S + 1000.0)
    assert [runs[0].record.job_id for runs in chosen.objects] == [4712]
    assert chosen.absent == () and [job for job, _ in told] == ["4711"] and "not JSON" in told[0][1]
    assert [f.record.job_id for f in select(["4712", "4711"], "", where, {}, 0.0).objects[0]] == [4712]
    for ask in (lambda: find("4711", where), lambda: select(["4711"], "", where, {}, 0.0)):
        with pytest.raises(DataError, match=r"record\.json: not JSON"):
            ask()


def test_of_a_job_with_a_damaged_record_there_is_what_slurm_says(archive: Archive) -> None:
    publish(archive, record())
    damage(archive, 4711)
    row = slurm_job()
    for (found,) in (find("4711", places(archive, slurm(row))), listed_by_slurm([row], places(archive))):
        assert (found.record.status, found.record.energy_uj, found.record.name) == ("missing", None, row.name)
        assert "damaged" in found.record.missing[0]


def test_a_damaged_row_of_the_ledger_costs_itself_alone(archive: Archive) -> None:
    url = str(archive.root / "ledger.db")
    ledger = open_ledger(url, create=True)
    ledger.put([record(), record(4712)])
    with ledger.write() as connection:
        connection.execute("UPDATE record SET body = '[]' WHERE job = (SELECT id FROM job WHERE job_id = 4711)")
    told: list[str] = []
    assert [r.job_id for r in jobs(ledger, Filter(), 9, told.append)] == [4712]
    assert len(told) == 1 and told[0].startswith("ledger row")
    with pytest.raises(DataError):
        jobs(ledger, Filter(), 9)
    ledger.close()
    found = select(["4711-4712"], "", places(archive, ledger=url), {}, 0.0)
    assert [runs[0].record.job_id for runs in found.objects] == [4712]
