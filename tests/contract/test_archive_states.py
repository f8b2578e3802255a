"""Two are at work in one archive: one does all of its work between two writes of the other; no joule goes or doubles.

The story is that of `tests.power_story`; `tests.histories.FATE` lets the second one come between.
"""

from __future__ import annotations

import itertools
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from perun_hpc.accounting import packing, upkeep
from perun_hpc.accounting.collect import Collector, Summary, Tools
from perun_hpc.accounting.deleted import REMOVED
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.accounting.running import publish_running
from perun_hpc.agent.outbox.regions import of_session
from perun_hpc.agent.outbox.shipping import ship
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.durable import sync_whole
from perun_hpc.archive.kept import each_run, read
from perun_hpc.archive.places import RECORD, Archive
from perun_hpc.data_model.record import EnergyRecord, from_json
from perun_hpc.errors import PerunError
from tests import power_story as story
from tests.accounting_data import START_S, boundary
from tests.histories import FATE, FOR_EVER

EVERY = 3
"""Between so many writes of one the other one comes; 1 tries all of them."""
SECOND_S, LATE_S = START_S + 9 * story.DAY_S, story.LATER_S + 200
"""When the second sweep of the story is, and the last one."""


@dataclass(frozen=True)
class Place:
    """The story's files; what one does there."""

    root: Path

    @property
    def archive(self) -> Archive:
        return Archive(self.root / "archive", "c")

    @contextmanager
    def ledger(self, name: str = "ledger.db") -> Iterator[Ledger]:
        with closing(open_ledger(str(self.root / name), create=True)) as ledger:
            yield ledger

    def ships(self, *when: str) -> None:
        for number, (at, _) in enumerate(story.RECORDS):
            session = next((self.root / "spools" / str(number)).iterdir(), None)
            if at in when and session is not None:
                ship(session, ArchiveDelivery(self.archive.root), of_session)

    def sweeps(self, now_s: float, who: str = "here:1") -> Summary:
        with self.ledger() as ledger:
            tools = Tools(lambda: float(now_s), sync=sync_whole, publish=lambda directory, uid, others: None)
            collector = Collector(self.archive, ledger, tools, story.DEADLINE_S)
            collector.holder = who
            return collector.sweep()

    def packs(self, now_s: float) -> None:
        with self.ledger() as ledger, packing.PackLease(ledger, "c") as lease:
            for number in self.archive.buckets():
                packing.finish(self.archive, number, now_s)
            for part in self.archive.portions():
                packing.pack(self.archive, part, now_s - 8 * story.DAY_S, now_s, packing.Access(), lease)

    def forgets(self, delete: bool) -> None:
        """Delete the records of the story's first days, or hide whose they are, as `perun ledger` does."""
        with self.ledger() as ledger:
            keeping = upkeep.Keeping(ledger, packing.Access(), SECOND_S)
            forget = upkeep.remove_directories if delete else upkeep.hide_in_directories
            act = upkeep.delete if delete else upkeep.pseudonymise
            who = upkeep.Who(before_s=START_S + 2 * story.DAY_S)
            act(ledger, who, lambda records: forget(self.archive, records, keeping))

    def rebuilds(self) -> None:
        (self.root / "lost.db").unlink(missing_ok=True)
        with self.ledger("lost.db") as ledger:
            upkeep.rebuild(ledger, self.archive)

    def says(self) -> None:
        """A node of job 1 says how far it has got, and the collector tells the owner."""
        record = {**boundary(1, "n2", story.BOTH), "state": "running"}
        (self.root / "1.0").mkdir(exist_ok=True)
        ArchiveDelivery(self.archive.root).progress(self.root / "1.0", record, grow=False)
        publish_running(self.archive, Tools(lambda: float(SECOND_S)))

    def looks(self) -> None:
        """What owners' commands read: whole records."""
        for run in each_run(self.archive):
            with suppress(FileNotFoundError):
                from_json(read(self.archive, run, RECORD), run.name)

    def age(self) -> None:
        """By the story's clock records may be old."""
        for path in self.archive.jobs.rglob(RECORD):
            os.utime(path, (0, 0))


Act = Callable[[Place], object]
FIRST: dict[str, tuple[int, Act]] = {
    "collects": (0, lambda place: place.sweeps(START_S + 1200)),
    "collects and renames": (1, lambda place: place.sweeps(SECOND_S)),
    "packs": (2, lambda place: place.packs(SECOND_S)),
    "collects what is late": (4, lambda place: place.sweeps(LATE_S)),
    "says": (1, lambda place: place.says()),
}
"""How much of the story has been told, and what is done then."""
SECOND: dict[str, Act] = {
    "ships": lambda place: place.ships("second", "late"),
    "sweeps": lambda place: place.sweeps(LATE_S, "there:2"),
    "packs": lambda place: place.packs(LATE_S),
    "looks": lambda place: place.looks(),
    "rebuilds": lambda place: place.rebuilds(),
    "says": lambda place: place.says(),
}


def told(root: Path, parts: int) -> Place:
    """The story up to one of its parts."""
    story.prepare(root)
    place = Place(root)
    place.archive.base.mkdir()
    place.ships("first")
    for part in range(parts):
        if part == 0:
            place.sweeps(START_S + 1200)
            place.ships("second")
        elif part == 1:
            place.sweeps(SECOND_S)
        elif part == 2:
            place.age()
            place.packs(SECOND_S)
        else:
            place.ships("late")
    return place


def said(act: Act, place: Place) -> None:
    """Do it; what cannot be is said in one line."""
    try:
        act(place)
    except PerunError as error:
        assert str(error)
        assert "\n" not in str(error)


def at_once(tmp_path: Path, parts: int, act: Act, other: Act) -> Iterator[Place]:
    """The places as they are after each time that the other one came between."""
    told(tmp_path / "begun", parts)
    FATE.root = str(tmp_path / "now" / "archive")
    for number in itertools.count(1, EVERY):
        shutil.rmtree(tmp_path / "now", ignore_errors=True)
        shutil.copytree(tmp_path / "begun", tmp_path / "now")
        place = Place(tmp_path / "now")
        place.age()
        more = FATE.come_between(number, partial(said, act, place), partial(said, other, place))
        yield place
        if not more:
            break


@pytest.mark.parametrize("second", SECOND)
@pytest.mark.parametrize("first", FIRST)
def test_two_at_once_lose_and_double_nothing(first: str, second: str, tmp_path: Path) -> None:
    tried = 0
    for place in at_once(tmp_path, *FIRST[first], SECOND[second]):
        assert story.recover(place.root) == story.ENERGIES, f"the {tried}th time"
        place.looks()
        place.rebuilds()
        with place.ledger("lost.db") as ledger:
            found = {job: [r.energy_uj for r in ledger.members("c", str(job))] for job in story.ENERGIES}
        assert found == story.ENERGIES
        tried += 1
    assert tried > 1


Runs = dict[int, list[tuple[int, str, int | None]]]
"""Start, user and energy of each run, by job."""
HIDING: tuple[tuple[bool, str, int], ...] = tuple(
    (first, other, parts)
    for first, other, told in (
        (True, "packs", (1, 2, 3)),
        (False, "packs", (1, 2)),
        (True, "reports", (1, 2, 4)),
        (False, "reports", (0, 1, 3, 4)),
    )
    for parts in told
)
"""Whether records are forgotten first, what comes between or is come between, and how much has been told."""


def reports(place: Place) -> None:
    place.ships("second", "late")
    place.sweeps(LATE_S, "there:2")


def elsewhere(act: Act, place: Place) -> None:
    """Do it in a process of its own: a lease is one process's."""
    child = os.fork()
    if child == 0:
        try:
            said(act, place)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def of_jobs(records: Iterable[EnergyRecord]) -> Runs:
    found: Runs = {}
    for record in sorted(records, key=lambda record: (record.job_id, record.start_ns)):
        found.setdefault(record.job_id, []).append((record.start_ns, record.user, record.energy_uj))
    return found


def in_archive(place: Place) -> Runs:
    records = []
    for run in each_run(place.archive):
        with suppress(FileNotFoundError):
            records.append(from_json(read(place.archive, run, RECORD), run.name))
    return of_jobs(records)


def naming(place: Place, *below: str) -> list[str]:
    """The files that name the user of the story's first days, packed ones too; those of its last day may."""
    found: dict[str, bytes] = {}
    for path in place.archive.base.joinpath(*below).rglob("*"):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as pack:
                found |= {f"{path}: {name}": pack.read(name) for name in pack.namelist()}
        elif path.is_file():
            found[str(path)] = path.read_bytes()
    return [where for where, data in found.items() if b"alice" in data and str(story.LATER_S).encode() not in data]


@pytest.mark.parametrize("delete", [True, False])
@pytest.mark.parametrize(("forgets_first", "other", "parts"), HIDING)
def test_who_is_forgotten_beside_others_is_named_nowhere_and_no_joule_goes(
    forgets_first: bool, other: str, parts: int, delete: bool, tmp_path: Path
) -> None:
    """Once the command has been run again, as it says where it could not; then again for what came late."""
    forget: Act = lambda place: place.forgets(delete)  # noqa: E731
    beside: Act = reports if other == "reports" else lambda place: place.packs(LATE_S)
    act, between = (forget, beside) if forgets_first else (beside, forget)
    tried = 0
    for place in at_once(tmp_path, parts, act, lambda place: elsewhere(between, place)):
        place.forgets(delete)
        assert not naming(place, "jobs")
        reports(place)
        place.forgets(delete)
        assert not naming(place)
        with place.ledger() as ledger:
            records = [record for job in story.ENERGIES for record in ledger.members("c", str(job))]
            sums = {s.group[0]: s.values["energy_uj"] for s in usage(ledger, ["user"], Filter(), *FOR_EVER)}
        held = Counter[str]()
        for record in records:
            held[record.user] += record.energy_uj or 0
        removed_uj = sums.pop(REMOVED, 0)
        assert sums == held
        assert removed_uj + held.total() == sum(sum(runs) for runs in story.ENERGIES.values())
        assert bool(removed_uj) is delete
        assert held["alice"] == story.ENERGIES[2][1]
        assert in_archive(place) == of_jobs(records)
        tried += 1
    assert tried > 1
