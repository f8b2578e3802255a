"""The collector against an archive: waiting, late nodes, damage, jobs nobody reported, and kills at random moments."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.audit import refused_records
from perun_hpc.accounting.collect import BATCH, RETRY_S, Collector, Slurm, Tools
from perun_hpc.accounting.homes import record_in
from perun_hpc.accounting.keeping import read_kept
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.questions import Filter, jobs, usage
from perun_hpc.archive import kept
from perun_hpc.archive.places import Archive, Run
from perun_hpc.data_model.boundary import LIMIT
from perun_hpc.data_model.record import from_json
from perun_hpc.errors import UnavailableError
from perun_hpc.slurm.sacct import SlurmJob
from tests.accounting_data import START_S, boundary, domain, put_incoming, slurm_job
from tests.contract.conftest import empty

DEADLINE_S = 900


class World:
    """An archive, a ledger, a clock, and a Slurm that knows `jobs`."""

    def __init__(self, root: Path, url: str = "") -> None:
        self.root = root
        self.now = START_S + 110.0
        self.jobs: list[SlurmJob] = []
        self.up = True
        self.ledger: Ledger = open_ledger(url or str(root / "ledger.db"), create=True, clock=lambda: self.now)
        self.archive = Archive(root, "c")
        self.asked = 0

    def collector(self) -> Collector:
        return Collector(
            self.archive, self.ledger, Tools(lambda: self.now, Slurm(self._ask, self._between)), DEADLINE_S, queue=True
        )

    def _ask(self, ids: Iterable[int]) -> list[SlurmJob]:
        self._check()
        wanted = set(ids)
        return [j for j in self.jobs if j.job_id in wanted]

    def _between(self, since_s: int, until_s: int) -> list[SlurmJob]:
        self._check()
        return [j for j in self.jobs if (j.end_s or until_s) >= since_s and (j.start_s or 0) <= until_s]

    def _check(self) -> None:
        self.asked += 1
        if not self.up:
            raise UnavailableError("sacct: is slurmdbd up?")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_job_becomes_a_record_its_owner_can_read(world: World) -> None:
    world.jobs = [slurm_job()]
    put_incoming(world.root, boundary())
    assert world.collector().sweep().stored == 1
    job = world.archive.job(Run(4711, 0))
    record = from_json((job / "record.json").read_bytes())
    assert (record.energy_uj, record.state, record.qos) == (8_000_000_000, "COMPLETED", "normal")
    assert record == world.ledger.members("c", "4711")[0]
    assert (job / "boundary" / "n1.json").exists()
    assert not (world.archive.base / "incoming" / "4711.0").exists()
    assert world.collector().sweep().stored == 0


def test_it_waits_for_all_nodes_or_the_deadline(world: World) -> None:
    put_incoming(world.root, boundary(node="n1", nodelist="n1,n2"))
    assert world.collector().sweep().waiting == 1
    world.now += DEADLINE_S
    assert world.collector().sweep().stored == 1
    assert world.ledger.members("c", "4711")[0].missing == ("n2: no boundary record",)
    put_incoming(world.root, boundary(node="n2", nodelist="n1,n2"))
    assert world.collector().sweep().stored == 1
    (record,) = world.ledger.members("c", "4711")
    assert (record.status, record.revision, record.energy_uj) == ("complete", 2, 16_000_000_000)


def test_slurm_that_is_away_costs_nothing_but_time(world: World) -> None:
    world.up = False
    put_incoming(world.root, boundary())
    assert world.collector().sweep().stored == 1
    assert world.ledger.members("c", "4711")[0].state == ""
    world.up, world.jobs = True, [slurm_job()]
    assert world.collector().sweep().completed == 1
    assert world.ledger.members("c", "4711")[0].state == "COMPLETED"
    on_disk = from_json((world.archive.job(Run(4711, 0)) / "record.json").read_bytes())
    assert on_disk.state == "COMPLETED"


def test_a_job_still_running_for_slurm_is_completed_later(world: World) -> None:
    world.jobs = [slurm_job(state="RUNNING", end_s=None)]
    put_incoming(world.root, boundary())
    world.collector().sweep()
    assert world.ledger.members("c", "4711")[0].state == ""
    world.jobs = [slurm_job(state="FAILED")]
    world.collector().sweep()
    (record,) = world.ledger.members("c", "4711")
    assert (record.state, record.wasted_uj) == ("FAILED", 8_000_000_000)


def test_a_name_and_qos_that_slurmdbd_gets_later_are_waited_for(world: World) -> None:
    world.jobs = [slurm_job(name="allocation", qos="Unknown")]
    put_incoming(world.root, boundary())
    world.collector().sweep()
    assert world.ledger.members("c", "4711")[0].name == ""
    world.jobs = [slurm_job()]
    world.collector().sweep()
    assert world.ledger.members("c", "4711")[0].name == "stencil"


def test_a_requeued_run_does_not_take_the_row_of_the_run_before_it(world: World) -> None:
    before = slurm_job(state="REQUEUED", start_s=START_S - 20, end_s=START_S - 11)
    world.jobs = [before]  # slurmdbd has not heard of the second run yet
    put_incoming(world.root, boundary(restart_count=1))
    world.collector().sweep()
    assert world.ledger.members("c", "4711")[0].state == ""
    world.jobs = [before, slurm_job()]
    world.collector().sweep()
    assert world.ledger.members("c", "4711")[0].state == "COMPLETED"


@pytest.mark.parametrize("known", ["ended", "running", "not yet"])
def test_a_node_whose_clock_is_off_does_not_take_the_state_of_the_run_before(world: World, known: str) -> None:
    first = slurm_job(state="NODE_FAIL", end_s=START_S + 1000)
    second = slurm_job(submit_s=START_S + 1000, start_s=START_S + 1100, end_s=START_S + 1400, run=1)
    by_then = {"ended": [second], "running": [replace(second, state="RUNNING", end_s=None)], "not yet": []}
    world.jobs = [first, *by_then[known]]
    world.now = START_S + 1410.0
    put_incoming(world.root, boundary(seconds=1000))
    put_incoming(world.root, boundary(restart_count=1, start_s=START_S + 1100 - 600, seconds=300))  # in the first one
    world.now = START_S + 850.0 if known == "not yet" else world.now
    world.collector().sweep()
    if known != "ended":
        assert [r.state for r in world.ledger.members("c", "4711")] == ["NODE_FAIL", ""]
    world.now = START_S + 1410.0
    world.jobs = [first, second]
    world.collector().sweep()
    found = {r.restart_count: r.state for r in world.ledger.members("c", "4711")}
    assert found == {0: "NODE_FAIL", 1: "COMPLETED"}


def test_a_job_id_that_comes_again_on_the_same_day_has_its_own_state(world: World) -> None:
    again = {"submit_s": START_S + 5000, "start_s": START_S + 5010, "end_s": START_S + 5110}
    world.jobs = [slurm_job(state="FAILED"), slurm_job(run=1, **again)]  # as a requeue's, by Slurm's rows
    for start_s in (START_S, START_S + 5010):
        put_incoming(world.root, boundary(start_s=start_s))
        world.now = start_s + 110.0
        world.collector().sweep()
    assert [r.state for r in world.ledger.members("c", "4711")] == ["FAILED", "COMPLETED"]


def test_a_run_whose_times_differ_by_the_clocks_is_taken_in_the_end(world: World) -> None:
    world.jobs = [slurm_job(start_s=START_S - 115, end_s=START_S - 15)]
    put_incoming(world.root, boundary())
    world.collector().sweep()
    assert world.ledger.members("c", "4711")[0].state == ""
    world.now += 1200
    world.collector().sweep()
    assert world.ledger.members("c", "4711")[0].state == "COMPLETED"


def test_jobs_nobody_reported_get_a_record_that_says_so(world: World) -> None:
    world.jobs = [slurm_job(), slurm_job(4712), slurm_job(4713, state="CANCELLED", start_s=None, nodelist="")]
    put_incoming(world.root, boundary())
    world.now += 2 * DEADLINE_S
    assert world.collector().sweep().missing == 1
    (record,) = world.ledger.members("c", "4712")
    assert (record.status, record.energy_uj, record.missing) == ("missing", None, ("no node reported this job",))
    assert world.collector().sweep().missing == 0
    put_incoming(world.root, boundary(4712))
    world.collector().sweep()
    (record,) = world.ledger.members("c", "4712")
    assert (record.status, record.revision) == ("complete", 2)


def test_the_run_after_a_requeue_that_nobody_reported_gets_its_own_record(world: World) -> None:
    first = slurm_job(start_s=None, end_s=START_S + 4, state="REQUEUED")
    second = slurm_job(submit_s=START_S + 5, start_s=START_S + 15, end_s=START_S + 100, run=1)
    world.jobs = [first, second]
    put_incoming(world.root, boundary(seconds=6))
    world.now = START_S + 50.0 + DEADLINE_S  # the next comparison's time span begins after the first run
    world.collector().sweep()
    world.now += 2 * DEADLINE_S
    world.up = False
    assert world.collector().sweep().missing == 0
    world.up = True
    assert world.collector().sweep().missing == 1
    found = [(r.restart_count, r.state, r.status) for r in world.ledger.members("c", "4711")]
    assert found == [(0, "REQUEUED", "complete"), (1, "COMPLETED", "missing")]


def test_a_node_that_heard_of_the_job_long_after_its_end_completes_the_missing_record(world: World) -> None:
    world.jobs = [slurm_job(), slurm_job(4712)]
    put_incoming(world.root, boundary(4712))
    world.now += 2 * DEADLINE_S
    assert world.collector().sweep().missing == 1
    late = boundary(start_s=START_S + 600, seconds=1)
    late["start"]["late_ns"], late["end"]["late_ns"] = 600 * 10**9, 501 * 10**9
    put_incoming(world.root, late)
    world.collector().sweep()
    (record,) = world.ledger.members("c", "4711")
    assert (record.revision, record.start_ns, record.elapsed_s) == (2, START_S * 10**9, 100)


def test_a_damaged_boundary_record_is_set_aside_and_named(world: World) -> None:
    put_incoming(world.root, boundary(node="n1", nodelist="n1,n2"))
    bad = put_incoming(world.root, boundary(node="n2", nodelist="n1,n2"))
    bad.write_text(bad.read_text()[:100])
    assert world.collector().sweep().damaged == 1
    world.now += DEADLINE_S
    world.collector().sweep()
    (record,) = world.ledger.members("c", "4711")
    assert "n2: damaged boundary record" in record.missing
    assert (world.archive.job(Run(4711, 0)) / "boundary" / "n2.json.damaged").exists()


@pytest.mark.parametrize("odd", [{"sluid": 7}, {"sluid": ["a"]}, {"sluid": {"a": 1}}, {"why": 7}, {"why": ["a"]}])
def test_a_record_whose_text_is_none_is_damaged_and_holds_up_nobody(world: World, odd: dict[str, Any]) -> None:
    put_incoming(world.root, boundary(**odd))
    put_incoming(world.root, boundary(job_id=4712))
    summary = world.collector().sweep()
    assert (summary.damaged, summary.stored) == (1, 1)
    assert [record.energy_uj for record in jobs(world.ledger, Filter("c"), 9)] == [8_000_000_000]
    assert (world.archive.base / "incoming" / "4711.0" / "n1.json.damaged").exists()


@pytest.fixture
def worlds(ledger_url: str, tmp_path: Path) -> Iterator[World]:
    """A world on each database."""
    world = World(tmp_path, ledger_url)
    yield world
    empty(world.ledger)
    world.ledger.close()


def beyond_every_column(job_id: int) -> dict[str, Any]:
    """A boundary record whose numbers are in range and whose sum is not."""
    most = domain("cpu", 8, u_uj=LIMIT - 1)
    return boundary(job_id, domains={f"package-{n}": most for n in range(3)})


def test_a_record_that_the_ledger_refuses_waits_alone_and_is_offered_again(worlds: World) -> None:
    world = worlds
    for n in range(1, 11):
        put_incoming(world.root, beyond_every_column(n) if n == 5 else boundary(n))
    summary = world.collector().sweep()
    assert (summary.stored, summary.refused) == (9, 1)
    assert [note for note in summary.notes if "job 5.0" in note and "does not take it" in note]
    incoming = world.archive.base / "incoming"
    assert sorted(p.name for p in incoming.iterdir()) == ["5.0"]
    (finding,) = refused_records(world.archive)
    assert finding.where == "job 5.0" and "does not take it" in finding.what

    # The next sweeps do not try at once, and go on with the others.
    put_incoming(world.root, boundary(11))
    summary = world.collector().sweep()
    assert (summary.stored, summary.refused, summary.notes) == (1, 1, ())

    # Offered again later: refused again while nothing changed, taken once its node has a better record.
    world.now += RETRY_S
    assert world.collector().sweep().refused == 1
    world.now += RETRY_S
    put_incoming(world.root, boundary(5, revision=2))
    assert world.collector().sweep().stored == 1
    assert len(world.ledger.members("c", "5")) == 1
    assert list(incoming.iterdir()) == [] and refused_records(world.archive) == []


def test_slurms_word_that_the_ledger_refuses_blocks_nobody(worlds: World) -> None:
    world = worlds
    world.jobs = [slurm_job(n, gpus=1 << 63 if n in (2, 5) else 0) for n in range(1, 7)]
    for n in range(1, 4):
        put_incoming(world.root, boundary(n))
    world.up = False
    world.collector().sweep()
    world.up = True
    world.now += 2 * DEADLINE_S
    summary = world.collector().sweep()
    # 2 keeps its record without Slurm's data; 4, 5 and 6 reported nothing.
    assert (summary.completed, summary.missing) == (2, 2)
    assert len([note for note in summary.notes if "job 5.0" in note]) == 1
    assert sorted(r.job_id for r in jobs(world.ledger, Filter(), 10)) == [1, 2, 3, 4, 6]


def test_a_days_backlog_without_slurm_is_completed_in_one_sweep_past_jobs_that_slurm_forgot(world: World) -> None:
    world.up = False
    for n in range(1, 2 * BATCH + 2):
        put_incoming(world.root, boundary(n, seconds=100 + n / 10))
    world.collector().sweep()
    forgotten = 2 * BATCH
    world.jobs = [slurm_job(n) for n in range(1, 2 * BATCH + 1) if n != forgotten]
    world.up = True
    assert world.collector().sweep().completed == 2 * BATCH - 1
    left = [job for page in world.ledger.without_state("c", BATCH) for job in page]
    assert {r.job_id for r in world.ledger.load(left)} == {forgotten, forgotten + 1}


def test_a_directory_that_cannot_be_written_costs_its_job_alone(world: World) -> None:
    for n in (1, 2, 3):
        put_incoming(world.root, boundary(n))
    (world.archive.base / "jobs" / "0").mkdir(parents=True)
    world.archive.job(Run(2, 0)).write_text("a file where the run's directory belongs")
    summary = world.collector().sweep()
    assert (summary.stored, summary.failed) == (2, 1) and "2.0" in summary.notes[0]
    world.archive.job(Run(2, 0)).unlink()
    world.collector().sweep()
    assert (world.archive.job(Run(2, 0)) / "record.json").exists()
    assert list((world.archive.base / "incoming").iterdir()) == []


def test_one_sacct_call_for_a_batch(world: World) -> None:
    world.jobs = [slurm_job(n) for n in range(1, 151)]
    for n in range(1, 151):
        put_incoming(world.root, boundary(n))
    assert world.collector().sweep().stored == 150
    assert world.asked <= 3


def test_two_collectors_do_not_clash(world: World) -> None:
    other = world.collector()
    other.holder = "elsewhere:1"
    assert world.ledger.acquire("collect:c", other.holder)
    with pytest.raises(UnavailableError, match="another collector"):
        world.collector().sweep()
    world.now += 1000
    put_incoming(world.root, boundary())
    assert world.collector().sweep().stored == 1


def test_a_run_of_a_recycled_id_is_not_mixed_with_the_old_one(world: World) -> None:
    put_incoming(world.root, boundary())
    world.collector().sweep()
    later = 90 * 86400
    world.now += later
    day = [{"day": "2027-02-20", "domain": "package-0", "energy_uj": 8_000_000_000}]
    put_incoming(world.root, boundary(start_s=START_S + later, shares=day))
    assert world.collector().sweep().stored == 1
    assert [r.energy_uj for r in world.ledger.members("c", "4711")] == [8_000_000_000, 8_000_000_000]


def test_a_finished_run_gives_its_bare_name_away_and_is_found_by_its_submission(world: World) -> None:
    world.jobs = [slurm_job()]
    put_incoming(world.root, boundary())
    world.collector().sweep()
    world.now += 8 * 86400
    put_incoming(world.root, boundary(job_id=4712, start_s=START_S + 8 * 86400 - 110))
    world.collector().sweep()
    moved = Run(4711, 0, START_S - 5)
    assert [run.name for run in world.archive.all_runs()] == [moved.name, "4712.0"]
    assert kept.runs(world.archive, 4711) == []
    assert kept.runs(world.archive, 4711, [START_S - 5]) == [moved]


def test_a_newer_run_gets_the_bare_name_and_the_older_one_keeps_its_evidence(world: World) -> None:
    put_incoming(world.root, boundary())
    world.collector().sweep()
    world.now += 7 * 86400 - 110
    put_incoming(world.root, boundary(start_s=START_S + 7 * 86400 - 200))
    world.collector().sweep()
    world.now += 2 * 86400
    world.collector().sweep()
    newer, older = Run(4711, 0), Run(4711, 0, START_S + 100)
    assert list(world.archive.all_runs()) == [newer, older]
    for run, start_s in ((newer, START_S + 7 * 86400 - 200), (older, START_S)):
        assert record_in(world.archive, run).start_ns == start_s * 10**9
        assert [b.start_ns for b in read_kept(world.archive, run)] == [start_s * 10**9]


def test_killed_at_random_moments_it_loses_and_doubles_nothing(tmp_path: Path) -> None:
    rng = random.Random(11)
    jobs = 120
    start_s = int(time.time()) - 5000  # the program has the machine's clock: a run that ended long ago would be renamed
    pending = [boundary(n, node, "n1,n2", start_s=start_s) for n in range(1, jobs + 1) for node in ("n1", "n2")]
    rng.shuffle(pending)
    command = [sys.executable, "-m", "perun_hpc.cli.main", "collect", "--no-slurm", "--deadline", "0"]
    command += ["--archive", str(tmp_path), "--ledger", str(tmp_path / "ledger.db")]
    kills = 0
    while pending or kills < 8:
        for data in pending[:30]:
            put_incoming(tmp_path, data)
        pending = pending[30:]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(rng.uniform(0.4, 1.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ledger = open_ledger(str(tmp_path / "ledger.db"))
    (total,) = usage(ledger, ["account"], Filter(), "0000-01-01", "9999-12-31")
    assert (total.values["jobs"], total.values["energy_uj"]) == (jobs, jobs * 16_000_000_000)
    for n in range(1, jobs + 1):
        (record,) = ledger.members("c", str(n))
        assert (record.status, record.energy_uj) == ("complete", 16_000_000_000)
        job = tmp_path / "c" / "jobs" / f"{int(n) // 1000}" / f"{n}.0"
        assert json.loads((job / "record.json").read_text())["energy_uj"] == 16_000_000_000
        assert sorted(p.name for p in (job / "boundary").iterdir()) == ["n1.json", "n2.json"]
    ledger.close()
    assert list((tmp_path / "c" / "incoming").iterdir()) == []
