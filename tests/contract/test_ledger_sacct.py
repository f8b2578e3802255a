"""perun's commands beside a `sacct` on PATH: many jobs, anybody's environment, resized runs, jobs that never ran."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.collect import BATCH, COMPLETE_S, SLICE_ROWS, Collector, Slurm, Summary, Tools
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.places import Archive
from perun_hpc.cli.main import main
from perun_hpc.errors import UnavailableError
from perun_hpc.slurm.sacct import SlurmJob, identity_fields, query_between, query_jobs
from tests.accounting_data import START_S, boundary, put_incoming, slurm_job
from tests.fake_slurm import ROW, install

MANY = 15_000
FIRST_ID = 900_000_000
"""Ids as a cluster of some years has: 15,000 of them exceed what Linux takes as one argument (128 KiB)."""
DAY_S = 86_400
DEADLINE_S = 900


class Site:
    """An archive, a ledger, a collector with a clock that the tests turn, and a `sacct` that is a program."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.bin = root / "bin"
        self.bin.mkdir()
        self.archive = root / "archive"
        (self.archive / "c").mkdir(parents=True)
        self.ledger = root / "ledger.db"
        self.now = START_S + 2000.0
        self._patch = monkeypatch
        self._capsys = capsys
        monkeypatch.setenv("PERUN_POLICY", str(root / "none.yaml"))
        monkeypatch.setenv("PATH", str(self.bin), prepend=":")
        identity_fields.cache_clear()

    def environ(self, **values: str) -> None:
        """Set variables, the time zone among them."""
        for name, value in values.items():
            self._patch.setenv(name, value)
        time.tzset()

    def slurm(self, *rows: Mapping[str, Any], most_s: int = 1 << 40, has: tuple[str, ...] = ()) -> None:
        """Have sacct know these rows, as changes of `ROW` that began at `START_S`."""
        times = {"Submit": START_S - 5, "Start": START_S, "End": START_S + 100}
        install(self.bin, [{**ROW, **times, **row} for row in rows], most_s, has)

    def collect(self) -> Summary:
        """One sweep."""
        ledger = open_ledger(str(self.ledger), create=True, clock=lambda: self.now)
        slurm = Slurm(
            jobs=lambda ids: query_jobs(ids, "c", extra=identity_fields()),
            between=lambda since, until: query_between(since, until, ("--allusers",), "c", extra=identity_fields()),
        )
        try:
            return Collector(Archive(self.archive, "c"), ledger, Tools(lambda: self.now, slurm), DEADLINE_S).sweep()
        finally:
            ledger.close()

    def run(self, *words: str) -> str:
        """What `perun WORDS` prints; without the ledger unless `--ledger` is among them."""
        ledger = [] if "--ledger" in words else ["--ledger", "/nonexistent"]
        self._capsys.readouterr()
        self.code = main([*words, "--archive", str(self.archive), *ledger])
        return self._capsys.readouterr().out

    def jobs(self, *words: str) -> list[dict[str, Any]]:
        """What `perun jobs` lists of alice's jobs."""
        found: list[dict[str, Any]] = json.loads(
            self.run("jobs", "-u", "alice", "-S", "2026-10-01", "-E", "2026-11-30", "--format", "json", *words)
        )
        return found

    def record(self, job: str) -> dict[str, Any]:
        """The one record that `perun report` finds."""
        found = json.loads(self.run("report", job, "--json"))
        assert isinstance(found, dict), f"{len(found)} records"
        return found

    def missing(self) -> int:
        """How many records say that nobody reported their job."""
        ledger = open_ledger(str(self.ledger))
        try:
            with ledger.read() as connection:
                query = "SELECT COUNT(*) FROM job WHERE status = 'missing'"
                return int(connection.value(query))
        finally:
            ledger.close()

    def asked(self) -> list[dict[str, str]]:
        """The options of every call of sacct."""
        return [json.loads(line) for line in (self.bin / "sacct.log").read_text().splitlines()]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    yield Site(tmp_path, monkeypatch, capsys)
    monkeypatch.undo()
    time.tzset()


def test_15000_unreported_jobs_are_compared_whatever_a_command_line_holds(site: Site) -> None:
    put_incoming(site.archive, boundary(4711))
    unreported = [{"JobIDRaw": str(FIRST_ID + n), "JobID": str(FIRST_ID + n)} for n in range(MANY)]
    site.slurm({}, *unreported)
    summary = site.collect()
    assert (summary.stored, summary.missing, summary.failed) == (1, MANY, 0)
    assert site.missing() == MANY
    assert all(len(options.get("-j", "")) < 128 * 1024 for options in site.asked())


def test_a_late_node_completes_what_was_missing_of_an_id_that_came_again(site: Site) -> None:
    first_s = START_S - 400 * DAY_S
    put_incoming(site.archive, boundary(4700))
    site.slurm({"JobIDRaw": "4700", "JobID": "4700"}, {"Submit": first_s, "Start": first_s, "End": first_s + 100}, {})
    assert site.collect().missing == 1
    put_incoming(site.archive, boundary(4711))
    site.collect()
    ledger = open_ledger(str(site.ledger))
    try:
        (record,) = ledger.members("c", "4711")
    finally:
        ledger.close()
    assert (record.restart_count, record.energy_uj, record.revision) == (0, 8_000_000_000, 2)


def test_weeks_without_slurmdbd_are_caught_up_in_slices_that_sacct_can_answer(site: Site) -> None:
    put_incoming(site.archive, boundary(4711))
    late = []
    for day in range(21):
        at_s, job = START_S + day * DAY_S + 200, str(FIRST_ID + day)
        late.append({"JobIDRaw": job, "JobID": job, "Submit": at_s, "Start": at_s, "End": at_s + 60})
    site.slurm({}, *late, most_s=25_000)
    site.now = START_S + 22.0 * DAY_S
    assert site.collect().missing == len(late)
    asked = len(site.asked())
    site.now += 60
    assert site.collect().missing == 0
    assert len(site.asked()) == asked + 1  # the time span of every other sweep


def test_a_job_that_ends_while_a_year_is_compared_waits_for_one_day_of_it(site: Site) -> None:
    put_incoming(site.archive, boundary(4711))
    site.slurm({})
    site.collect()
    site.now += 365.0 * DAY_S
    put_incoming(site.archive, boundary(4712, nodelist="n[1-2]", start_s=site.now - 200))  # waits, and holds nothing up
    asked: list[int] = []

    def between(since_s: int, until_s: int) -> list[SlurmJob]:
        asked.append(until_s - since_s)
        if len(asked) == 3:
            put_incoming(site.archive, boundary(4713, start_s=site.now - 300))
        return []

    def collect() -> Summary:
        ledger = open_ledger(str(site.ledger), clock=lambda: site.now)
        try:
            tools = Tools(lambda: site.now, Slurm(jobs=lambda ids: [], between=between))
            return Collector(Archive(site.archive, "c"), ledger, tools, DEADLINE_S).sweep()
        finally:
            ledger.close()

    assert (collect().stored, len(asked)) == (0, 3)
    assert collect().stored == 1
    assert sum(asked) == 365 * DAY_S
    assert len(asked) < 375


def test_slices_of_a_busy_site_are_as_long_as_their_answers_are_not_too_many_and_each_is_kept(site: Site) -> None:
    """500,000 jobs a day at first, a tenth of it later; the collector dies amid an answer."""
    put_incoming(site.archive, boundary(4711))
    site.slurm({})
    site.collect()
    began_s = int(site.now) - DEADLINE_S
    site.now += 2.0 * DAY_S
    calm_s, told, died = began_s + DAY_S // 2, [], []

    def between(since_s: int, until_s: int) -> list[SlurmJob]:
        ends = [at for at in range(since_s, until_s) if at < calm_s or at % 10 == 0]
        told.append((since_s, until_s, 6 * len(ends)))
        if len(told) == 5 and not died:
            died.append(since_s)
            raise KeyboardInterrupt
        # Six a second, as one row each and its weight: the answer's length is what counts here.
        return [slurm_job(at, start_s=at - 9, end_s=at) for at in ends for _ in range(6)]

    def collect() -> Summary:
        ledger = open_ledger(str(site.ledger), clock=lambda: site.now)
        try:
            tools = Tools(lambda: site.now, Slurm(lambda ids: [], between), expects=lambda job: False)
            return Collector(Archive(site.archive, "c"), ledger, tools, DEADLINE_S).sweep()
        finally:
            ledger.close()

    with pytest.raises(KeyboardInterrupt):
        collect()
    assert collect().failed == 0
    spans = [one[:2] for one in told]
    assert spans[5][0] == died[0]  # what was compared before is not asked for again
    assert [after[0] for after in spans[5:]] == [spans[5][0], *(before[1] for before in spans[5:-1])]
    assert spans[-1][1] == began_s + 2 * DAY_S
    assert max(rows for _, _, rows in told) < 2.2 * SLICE_ROWS
    assert max(until - since for since, until in spans) > 4 * 3600


@pytest.mark.parametrize("reports", [True, False])
def test_records_of_weeks_without_sacct_are_completed_over_sweeps_between_which_new_ones_are_taken(
    tmp_path: Path, reports: bool
) -> None:
    """A question takes longer than a sweep completes for; each is of a batch of records."""
    now_s, count, next_id = [START_S + 1000.0], 4 * BATCH, [10 * BATCH]
    known = {n: slurm_job(n) for n in range(1, count + 1)}
    archive = Archive(tmp_path, "c")
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True, clock=lambda: now_s[0])
    for number in known:
        put_incoming(tmp_path, boundary(number))

    def jobs(ids: Iterable[int]) -> list[SlurmJob]:
        found = [known[one] for one in ids if one in known]
        if found:
            now_s[0] += COMPLETE_S + 1
            if reports:
                next_id[0] += 1
                put_incoming(tmp_path, boundary(next_id[0], start_s=now_s[0] - 200))
        return found

    def sweep(slurm: Slurm | None) -> Summary:
        tools = Tools(lambda: now_s[0], slurm, expects=lambda job: False)
        return Collector(archive, ledger, tools, DEADLINE_S).sweep()

    assert sweep(None).stored == count
    taken = []
    while any(state == "" for state in _states(ledger, list(known))):
        taken.append(sweep(Slurm(jobs, lambda since_s, until_s: [])))
    assert sum(one.completed for one in taken) == count
    if reports:  # what came while one sweep completed is stored by the next, before that completes any more
        assert len(taken) >= 4 and [one.stored for one in taken] == [0, *[1] * (len(taken) - 1)]
    else:
        assert len(taken) == 1
    ledger.close()


def _states(ledger: Ledger, jobs: list[int]) -> list[str]:
    return [one.state for one in ledger.load(jobs)]


def test_what_was_compared_before_sacct_failed_is_kept(site: Site) -> None:
    put_incoming(site.archive, boundary(4711))
    site.slurm({})
    site.collect()
    compared_s = int(site.now) - DEADLINE_S
    site.slurm({}, most_s=-1)
    site.now += DAY_S
    assert "DBD_GET_JOBS_COND" in " ".join(site.collect().notes)
    site.slurm({})
    site.collect()
    assert [options["-S"] for options in site.asked() if "-S" in options][-1] >= f"uts{compared_s}"
    assert {options["-S"] for options in site.asked() if "-S" in options} >= {f"uts{compared_s}"}


NO_ANSWER = f"""#!{sys.executable} -IS
import sys
delimiter = next(word for word in sys.argv if word.startswith("--delimiter=")).partition("=")[2]
print(delimiter.join(["a message of the day"] * 30))
"""


@pytest.mark.parametrize("what", ["not a program", NO_ANSWER])
def test_a_sacct_that_cannot_be_run_costs_no_record(site: Site, what: str) -> None:
    put_incoming(site.archive, boundary(4711))
    (site.bin / "sacct").write_text(what)
    (site.bin / "sacct").chmod(0o755)
    site.environ(PATH=str(site.bin))
    summary = site.collect()
    assert summary.stored == 1
    assert any("sacct" in note for note in summary.notes)


FORMATS = ("%s", "relative", "%d.%m.%Y %H:%M", "standard")


@pytest.mark.parametrize("form", FORMATS)
def test_nobodys_time_format_changes_what_is_known_of_a_job(site: Site, form: str) -> None:
    put_incoming(site.archive, boundary(4711))
    site.slurm({})
    site.environ(SLURM_TIME_FORMAT=form, SLURM_BITSTR_LEN="1", SACCT_FEDERATION="1", SLURM_CLUSTERS="other")
    site.collect()
    ours = site.record("4711")
    assert (ours["state"], ours["submit_s"], ours["name"]) == ("COMPLETED", START_S - 5, "stencil")
    (job,) = site.jobs()
    assert (job["start_ns"], job["end_ns"], job["energy_uj"]) == (
        START_S * 10**9, (START_S + 100) * 10**9, 8_000_000_000
    )  # fmt: skip


def test_what_sacct_alone_knows_has_its_times_in_any_format(site: Site) -> None:
    site.slurm({"JobIDRaw": "5", "JobID": "5"})
    site.environ(SLURM_TIME_FORMAT="relative")
    (job,) = site.jobs()
    assert (job["start_ns"], job["end_ns"]) == (START_S * 10**9, (START_S + 100) * 10**9)


BERLIN_TWICE_S = 1_792_890_600
"""2026-10-25 02:10:00 in Berlin, the second time: 01:10 UTC."""


@pytest.mark.parametrize("at_s", [BERLIN_TWICE_S - 3600, BERLIN_TWICE_S])
def test_a_job_in_the_hour_that_comes_twice_has_its_state_and_name(site: Site, at_s: int) -> None:
    site.environ(TZ="Europe/Berlin")
    put_incoming(site.archive, boundary(4711, start_s=at_s))
    site.slurm({"Submit": at_s - 5, "Start": at_s, "End": at_s + 100})
    site.now = at_s + 2000.0
    site.collect()
    record = site.record("4711")
    assert (record["state"], record["name"], record["submit_s"]) == ("COMPLETED", "stencil", at_s - 5)
    assert [job["energy_uj"] for job in site.jobs()] == [8_000_000_000]


def test_time_spans_are_asked_for_without_a_zone(site: Site) -> None:
    """A job that ended in the second 02:10 is compared in the sweep after, not an hour late."""
    site.environ(TZ="Europe/Berlin")
    put_incoming(site.archive, boundary(4711, start_s=BERLIN_TWICE_S - 7200))
    site.slurm({"JobIDRaw": "5", "JobID": "5", "Submit": BERLIN_TWICE_S, "Start": BERLIN_TWICE_S,
                "End": BERLIN_TWICE_S + 60})  # fmt: skip
    site.now = BERLIN_TWICE_S + 120.0 + DEADLINE_S
    assert site.collect().missing == 1


RESIZED = (
    {"State": "RESIZING", "End": START_S + 50, "NodeList": "n[1-2]", "NNodes": "2", "NCPUS": "8"},
    {"State": "COMPLETED", "Submit": START_S + 50, "NodeList": "n1"},
)
"""As 22.05 shows a job of two nodes that gave one back after half of its time: the same start, another submission."""
RESIZED_LATER = (RESIZED[0], {**RESIZED[1], "Submit": START_S - 5, "Start": START_S + 50})


@pytest.mark.parametrize("rows", [RESIZED, RESIZED_LATER])
def test_a_resized_job_is_one_run_with_all_its_nodes(site: Site, rows: tuple[dict[str, Any], ...]) -> None:
    put_incoming(site.archive, boundary(4711, node="n1", nodelist="n[1-2]"))
    put_incoming(site.archive, boundary(4711, node="n2", nodelist="n[1-2]", seconds=50))
    site.slurm(*rows)
    site.collect()
    record = site.record("4711")
    assert (record["state"], record["name"], record["energy_uj"]) == ("COMPLETED", "stencil", 16_000_000_000)
    assert (record["nodelist"], record["num_nodes"], record["submit_s"]) == ("n[1-2]", 2, START_S - 5)
    assert "2 nodes n[1-2]" in site.run("report", "4711")
    assert [job["energy_uj"] for job in site.jobs()] == [16_000_000_000]
    assert site.missing() == 0


def test_three_sizes_are_still_one_run_and_a_requeue_is_another(site: Site) -> None:
    sizes = [
        {"State": "RESIZING", "End": START_S + 20, "NodeList": "n[1-3]", "NNodes": "3"},
        {"State": "RESIZING", "Submit": START_S + 20, "End": START_S + 40, "NodeList": "n[1-2]", "NNodes": "2"},
        {"State": "REQUEUED", "Submit": START_S + 40, "End": START_S + 60},
        {"State": "COMPLETED", "Submit": START_S + 70, "Start": START_S + 80, "End": START_S + 90, "NodeList": "n4"},
    ]
    site.slurm(*sizes)
    shown = [(job["state"], job["nodelist"], job["num_nodes"], job["restart_count"]) for job in site.jobs()]
    assert shown == [("REQUEUED", "n[1-3]", 3, 0), ("COMPLETED", "n4", 1, 1)]


NEVER_RAN = {
    "cancelled while pending": {"State": "CANCELLED by 0", "Start": "None", "NodeList": "None assigned"},
    "cancelled while pending, with a start": {
        "State": "CANCELLED by 0", "Start": START_S + 100, "NodeList": "None assigned", "ExitCode": "0:0"
    },
    "its Prolog failed": {"State": "FAILED", "End": START_S, "ExitCode": "1:0"},
}  # fmt: skip


@pytest.mark.parametrize("row", NEVER_RAN.values(), ids=NEVER_RAN.keys())
def test_a_job_that_never_ran_is_neither_awaited_nor_missing(site: Site, row: dict[str, Any]) -> None:
    put_incoming(site.archive, boundary(1))
    site.slurm({"JobIDRaw": "1", "JobID": "1"}, row)
    assert site.collect().missing == 0
    (listed,) = [job for job in site.jobs() if job["job_id"] == 4711]
    assert (listed["status"], listed["start_ns"], listed["energy_uj"]) == ("missing", 0, None)
    assert "never ran" in site.run("report", "4711")
    assert "never ran" in site.run("jobs", "-u", "alice", "-S", "2026-10-01", "-E", "2026-11-30")
    days = ("-S", "2026-11-22", "-E", "2026-11-22")
    findings = json.loads(site.run("audit", *days, "--ledger", str(site.ledger), "--json"))["findings"]
    assert [f for f in findings if "4711" in f["where"]] == []


def test_the_first_job_of_all_is_known_to_sacct_though_its_hook_came_a_second_late(site: Site) -> None:
    put_incoming(site.archive, boundary(4711, start_s=START_S + 2))
    site.slurm({})
    site.collect()
    days = ("-S", "2026-11-22", "-E", "2026-11-22")
    findings = json.loads(site.run("audit", *days, "--ledger", str(site.ledger), "--json"))["findings"]
    assert [f for f in findings if "4711" in f["where"]] == []


def test_a_job_that_ended_a_moment_ago_may_still_get_its_record(site: Site) -> None:
    """Until the collector gives it up it is on the way: the ledger closes all the same."""
    now_s = int(time.time())
    site.now = float(now_s)
    put_incoming(site.archive, boundary(1, start_s=now_s - 4000))

    def row(job: int, start_s: int) -> dict[str, Any]:
        times = {"Submit": start_s, "Start": start_s, "End": start_s + 100}
        return {"JobIDRaw": str(job), "JobID": str(job), **times}

    site.slurm(row(1, now_s - 4000))
    site.collect()
    site.slurm(row(1, now_s - 4000), row(5, now_s - 3900), row(6, now_s - 110))
    days = ("-S", f"{datetime.fromtimestamp(now_s - 86_400):%Y-%m-%d}")
    said = json.loads(site.run("audit", *days, "--ledger", str(site.ledger), "--json"))
    assert [f["where"] for f in said["findings"] if f["where"].startswith("job")] == ["job 5"]
    assert "records on the way of 1 job that ended lately: 6" in said["lost"]


def test_a_job_that_failed_within_its_second_second_ran(site: Site) -> None:
    put_incoming(site.archive, boundary(1))
    site.slurm({"JobIDRaw": "1", "JobID": "1"}, {"State": "FAILED", "End": START_S + 1, "ExitCode": "1:0"})
    assert site.collect().missing == 1


def test_the_record_of_an_agent_that_came_late_gets_its_name(site: Site) -> None:
    """A failed Prolog: the Epilog alone told of the job, to an agent that was started an hour after."""
    put_incoming(site.archive, boundary(4711, start_s=START_S + 3600, seconds=0))
    site.slurm({"State": "FAILED", "End": START_S, "ExitCode": "1:0"})
    site.now = START_S + 3600.0
    site.collect()
    assert site.record("4711")["state"] == ""
    site.now += 700
    assert site.collect().completed == 1
    assert (site.record("4711")["state"], site.record("4711")["name"]) == ("FAILED", "stencil")


SLUIDS = ("SLUID", "OriginalSLUID")


def test_runs_that_only_slurms_own_names_tell_apart_are_two(site: Site) -> None:
    """A requeued job whose restart count and submit time stay: of each run its node reported."""
    again_s = START_S + 110
    put_incoming(site.archive, boundary(4711, sluid="S1AAA"))
    site.slurm(
        {"State": "REQUEUED", "SLUID": "S1AAA", "OriginalSLUID": "S1AAA"},
        {"Start": again_s, "End": again_s + 100, "SLUID": "S2BBB", "OriginalSLUID": "S2BBB"},
        has=SLUIDS,
    )
    site.now = START_S + 300.0
    site.collect()
    put_incoming(site.archive, boundary(4711, start_s=again_s, sluid="S2BBB"))
    site.collect()
    ledger = open_ledger(str(site.ledger))
    stored = ledger.members("c", "4711")
    ledger.close()
    assert [(r.sluid, r.state, r.energy_uj) for r in stored] == [
        ("S1AAA", "REQUEUED", 8_000_000_000), ("S2BBB", "COMPLETED", 8_000_000_000)
    ]  # fmt: skip
    assert site.missing() == 0


def test_a_run_is_found_by_its_own_name_where_a_nodes_clock_points_at_another(site: Site) -> None:
    """The node's clock is late by the pause between the runs: its record lies over the other run's times."""
    again_s = START_S + 110
    put_incoming(site.archive, boundary(4711, start_s=again_s, sluid="S1AAA"))
    site.slurm(
        {"State": "NODE_FAIL", "SLUID": "S1AAA"},
        {"State": "FAILED", "Start": again_s, "End": again_s + 100, "SLUID": "S2BBB"},
        has=SLUIDS,
    )
    site.collect()
    for asked in (lambda: site.jobs("--limit", "10"), lambda: json.loads(site.run("report", "4711", "--json"))):
        known = {job["state"]: job["energy_uj"] for job in asked()}
        assert known == {"NODE_FAIL": 8_000_000_000, "FAILED": None}


def test_two_such_runs_of_one_node_wait_together(site: Site) -> None:
    """Neither replaces the other in the archive, though they began within a minute and are named alike."""
    site.slurm()
    delivery, session = ArchiveDelivery(site.archive), site.archive.parent / "spool" / "4711.0"
    session.mkdir(parents=True)
    delivery.session(session, boundary(4711, seconds=20, sluid="S1AAA"))
    delivery.session(session, boundary(4711, start_s=START_S + 30, seconds=20, sluid="S2BBB"))
    assert site.collect().stored == 2
    ledger = open_ledger(str(site.ledger))
    stored = [(r.sluid, r.energy_uj) for r in ledger.members("c", "4711")]
    ledger.close()
    assert stored == [("S1AAA", 8_000_000_000), ("S2BBB", 8_000_000_000)]


def test_a_user_whom_the_host_does_not_know_is_no_silent_database(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (site.bin / "sacct").write_text("#!/bin/sh\necho 'sacct: error: Invalid user id: alcie' >&2\nexit 1\n")
    (site.bin / "sacct").chmod(0o755)
    assert main(["jobs", "-u", "alcie", "--archive", str(site.archive), "--ledger", "/nonexistent"]) == 66
    assert capsys.readouterr().err == "perun: -u alcie: no such user on this host: correct the name\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["jobs", "-S", "now", "-E", "now-1day"], "exchange them"),
        (["jobs", "-S", "now+1day"], "lies in the future"),
        (["jobs", "--limit", "-1"], "'-1' is no number from 1 on"),
        (["top", "-n", "0"], "'0' is no number from 1 on"),
        (["audit", "-S", "now+2days"], "lies in the future"),
        (["audit", "-S", "today", "-E", "yesterday"], "exchange them"),
    ],
)
def test_a_span_or_a_number_that_cannot_be_is_one_line_and_asks_nobody(
    site: Site, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    (site.bin / "sacct").write_text("#!/bin/sh\nexit 3\n")
    (site.bin / "sacct").chmod(0o755)
    open_ledger(str(site.ledger), create=True).close()
    assert main([*words, "--archive", str(site.archive), "--ledger", str(site.ledger)]) == 64
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


NO_ACCOUNTS = f"#!{sys.executable} -IS\nimport sys\nsys.exit('Slurm accounting storage is disabled')\n"


def without_accounts(site: Site) -> None:
    (site.bin / "sacct").write_text(NO_ACCOUNTS)
    (site.bin / "sacct").chmod(0o755)


def test_without_slurm_accounting_an_owner_has_report_and_jobs(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    without_accounts(site)
    mine = {"uid": os.getuid(), "user": "me"}
    put_incoming(site.archive, boundary(1, **mine))
    put_incoming(site.archive, boundary(2, uid=os.getuid() + 1))
    put_incoming(site.archive, boundary(3, start_s=START_S + 3600, **mine))
    assert main(["collect", "--once", "--archive", str(site.archive), "--ledger", str(site.ledger)]) == 0
    said = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and "account" in r.getMessage()]
    assert len(said) == 1 and said[0].startswith("c: sacct: Slurm keeps no accounts here")
    everything = ("jobs", "-S", "2026-11-01", "-E", "2026-11-30", "--format", "json")
    assert [job["job_id"] for job in json.loads(site.run(*everything))] == [1, 3]
    assert [job["job_id"] for job in json.loads(site.run(*everything, "-N", "n2"))] == []
    between = time.strftime("%FT%R", time.localtime(START_S + 1800))
    assert [job["job_id"] for job in json.loads(site.run(*everything, "-S", between))] == [3]
    assert site.record("1")["energy_uj"] == 8_000_000_000
    assert site.run("report", "4") == "" and site.code == 66
    # What a pseudonym hides, or is deleted, its owner's list does not tell.
    places = ("--archive", str(site.archive), "--ledger", str(site.ledger))
    assert main(["ledger", *places, "delete", "--user", "me"]) == 0
    assert json.loads(site.run(*everything)) == []


def test_slurmdbd_that_is_down_is_named_once_a_sweep(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    put_incoming(site.archive, boundary(4711))
    (site.bin / "sacct").write_text(NO_ACCOUNTS.replace("Slurm accounting storage is disabled", "error: no dbd"))
    (site.bin / "sacct").chmod(0o755)
    assert main(["collect", "--once", "--archive", str(site.archive), "--ledger", str(site.ledger)]) == 0
    said = [r.getMessage() for r in caplog.records if "no dbd" in r.getMessage()]
    assert said == ["sacct: error: no dbd: is slurmdbd up?"]


def test_more_nodes_than_a_command_line_holds(site: Site) -> None:
    site.slurm({"NodeList": "rack01-node000007"}, {"JobIDRaw": "2", "JobID": "2", "NodeList": "other"})
    assert [job["job_id"] for job in site.jobs("-N", "rack[01-02]-node[000001-010000]")] == [4711]


@pytest.mark.parametrize(
    "error", [RuntimeError("whatever"), UnavailableError("sacct: no answer"), OSError(7, "too long")]
)
def test_whatever_happens_to_the_comparison_the_rest_of_a_sweep_is_done(tmp_path: Path, error: Exception) -> None:
    def between(since_s: int, until_s: int) -> list[SlurmJob]:
        raise error

    def sweep(now_s: float) -> Summary:
        slurm = Slurm(jobs=lambda ids: [slurm_job(4711)] if now_s > START_S + 200 else [], between=between)
        return Collector(archive, ledger, Tools(lambda: now_s, slurm), DEADLINE_S, queue=True).sweep()

    archive, ledger = Archive(tmp_path, "c"), open_ledger(str(tmp_path / "ledger.db"), create=True)
    put_incoming(tmp_path, boundary(4711))
    assert sweep(START_S + 150.0).stored == 1
    summary = sweep(START_S + 8.0 * DAY_S)
    assert summary.completed == 1 and str(error) in " ".join(summary.notes)
    assert [run.name for run in archive.all_runs()] == [f"4711.0@{START_S - 5}"]
    ledger.close()
