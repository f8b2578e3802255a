"""Random histories of an archive and its ledger: whatever happens, in whatever order, no evidence is lost or doubled.

A history has a few jobs whose ids come again, of up to three nodes that report after 0 s to 400 days, at times by
another clock, twice, in a newer revision, torn, or knowing only the job's end. Meanwhile a collector sweeps,
directories are renamed, old ones packed, users hidden, the ledger backed up, lost, set back, restored and rebuilt; and
whoever is at work may die before any of its writes, renames, links, removals and commits, and once dead does nothing
more. The next one goes on.

`Player.play(seed)` plays one and compares: after each step no record holds less evidence than before, at the end the
ledger holds exactly the sum of all records that ever arrived, and one made from the directories holds the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from perun_hpc.accounting import packing, upkeep
from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.database import Connection, opened
from perun_hpc.accounting.ledger import Ledger
from perun_hpc.accounting.packed import unpack
from perun_hpc.accounting.packing import Access
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.archive import aside
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.places import Archive
from perun_hpc.errors import UnavailableError
from perun_hpc.slurm.sacct import SlurmJob
from tests.accounting_data import START_S, boundary, domain, slurm_job

DAY_S = 86_400
DEADLINE_S = 900
FOR_EVER = ("0001-01-01", "9999-12-31")


class Death(BaseException):
    """What a process that is killed would not live to see."""


class Fate:
    """Lets the process die before the nth thing that it writes; afterwards every one fails, as nobody is there."""

    EVENTS = frozenset({"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.utime", "os.symlink"})

    def __init__(self) -> None:
        self.root = ""
        self.left: int | None = None
        self.deaths = 0
        self.meanwhile: Callable[[], object] | None = None
        sys.addaudithook(self._audit)

    def strike(self) -> None:
        """One thing is about to be written."""
        if self.left is None:
            return
        self.left -= 1
        if self.left <= 0:
            if self.meanwhile is None:
                raise Death
            self.left = None
            self.meanwhile()

    def _audit(self, name: str, arguments: tuple[Any, ...]) -> None:
        if self.left is None or not (name in self.EVENTS or (name == "open" and arguments[2] & 0o3)):
            return
        if str(arguments[0]).startswith(self.root):
            self.strike()

    def may_kill(self, after: int | None, work: Callable[[], object]) -> bool:
        """Do some work, dying before its `after`th write; whether it survived."""
        self.left = after
        try:
            work()
            return True
        except Death:
            self.deaths += 1
            return False
        finally:
            self.left = None

    def come_between(self, after: int, work: Callable[[], object], other: Callable[[], object]) -> bool:
        """Do some work, and all of another one before its `after`th write; False where it has not so many."""
        self.left, self.meanwhile = after, other
        try:
            work()
            return self.left is None
        finally:
            self.left = self.meanwhile = None


FATE = Fate()
"""One for the whole process: an audit hook cannot be taken back."""


@dataclass
class RunOfJob:
    """A run: what Slurm knows of it, and the energies that nodes reported, by node and rank."""

    job_id: int
    restart_count: int
    start_s: int
    seconds: int
    nodes: tuple[str, ...]
    known_to_slurm: bool
    told: dict[str, tuple[int, int]] = field(default_factory=dict)

    def energy_uj(self) -> int | None:
        """What the ledger must hold in the end."""
        return sum(uj for rank, uj in self.told.values()) if self.told else None


@dataclass(frozen=True)
class Arrival:
    """A node's record that arrives at a time; `rank` 0 is one that began without the job's start."""

    at_s: float
    run: RunOfJob
    node: str
    rank: int
    energy_uj: int
    offset_s: int
    torn: bool = False


class Mortal(Ledger):
    """A ledger whose process may end before a commit."""

    def commit(self, connection: Connection) -> None:
        """Commit, if fate lets it."""
        FATE.strike()
        super().commit(connection)


class Place:
    """A ledger that is emptied, copied and set back, in one file: opening one takes longer than a whole history."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 0.0
        self.ledger = Mortal(*opened(str(path), create=True), lambda: self.now)
        self.ledger.prepare(create=True)
        self.empty = self.copy()

    def copy(self) -> sqlite3.Connection:
        """All that the file holds, as a site's own backup copies it."""
        with contextlib.closing(sqlite3.connect(self.path)) as source:
            target = sqlite3.connect(":memory:")
            source.backup(target)
        return target

    def set_back(self, copy: sqlite3.Connection) -> None:
        """The file of a former day, or an empty one."""
        with contextlib.closing(sqlite3.connect(self.path)) as target:
            copy.backup(target)


class History:
    """One history, decided by its seed, in two ledgers: the second one is what becomes of a lost one in the end."""

    def __init__(self, seed: int, root: Path, places: tuple[Place, Place]) -> None:
        self.places = places
        for place in places:
            place.set_back(place.empty)
        self.ledger = places[0].ledger
        self.rng = random.Random(seed)
        self.root = root
        self.now = float(START_S)
        self.archive = Archive(root / "archive", "c")
        self.archive.root.mkdir(parents=True)
        self.runs = self._runs()
        self.arrivals = sorted(self._arrivals(), key=lambda a: a.at_s)
        self.tools = Tools(
            lambda: self.now,
            Slurm(self._jobs, self._between) if self.rng.random() < 0.25 else None,  # it asks day by day: 400 of them
            publish=lambda directory, uid, others: None,
        )
        self.up = True
        self.backup: Path | None = None
        self.copy: sqlite3.Connection | None = None
        self.held: dict[int, dict[str, tuple[int, str]]] = {}
        self.packed = 0

    @property
    def now(self) -> float:
        """The clock of all machines, in epoch seconds."""
        return self.places[0].now

    @now.setter
    def now(self, now_s: float) -> None:
        for place in self.places:
            place.now = now_s

    def play(self) -> None:
        """Everything that happens, then the end."""
        for arrival in self.arrivals:
            self.now = max(self.now, arrival.at_s)
            self._until_done(lambda a=arrival: self._deliver(a))  # type: ignore[misc]
            if not arrival.torn:
                known = arrival.run.told.get(arrival.node, (-1, 0))
                arrival.run.told[arrival.node] = max(known, (arrival.rank, arrival.energy_uj))
            for _ in range(self.rng.choice((0, 1, 1, 2))):
                self._step(self.rng.choices(self.STEPS, self.WEIGHTS)[0])
                self.now += self.rng.choice((1, 60, 4000, 2 * DAY_S)) * self.rng.random()
        self._end()

    def _runs(self) -> list[RunOfJob]:
        rng, made = self.rng, []
        for job_id in range(1, rng.choice((2, 3))):
            at = START_S + rng.randrange(DAY_S)
            for _ in range(rng.choice((1, 1, 2, 3))):
                for restart in range(rng.choice((1, 1, 2))):
                    seconds = rng.choice((1, 100, 5000, 100_000))
                    nodes = tuple(f"n{i + 1}" for i in range(rng.choice((1, 2, 3))))
                    made.append(RunOfJob(job_id, restart, at, seconds, nodes, rng.random() < 0.8))
                    at += seconds + 300
                at += 2 * DAY_S + rng.choice((0, 3, 8, 40, 400)) * DAY_S
        return made

    def _arrivals(self) -> Iterable[Arrival]:
        rng = self.rng
        for run in self.runs:
            for node in run.nodes:
                offset_s = rng.choice((0, 0, 0, rng.randrange(-20, 20), rng.randrange(-36_000, 36_000)))
                energies = (0, rng.randrange(1, 1 << 40), rng.randrange(1, 1 << 40))
                for rank in rng.choice(((1,), (1,), (1,), (1, 2), (2, 1), (1, 1), (1, 0), (0, 1))):
                    delay_s = rng.random() * rng.choice((0, 60, 2000, DAY_S, 10 * DAY_S, 400 * DAY_S))
                    at_s = run.start_s + run.seconds + delay_s
                    energy_uj = energies[rank]
                    if rng.random() < 0.1:
                        yield Arrival(at_s, run, node, rank, energy_uj, offset_s, torn=True)
                        at_s += rng.random() * 10 * DAY_S
                    yield Arrival(at_s, run, node, rank, energy_uj, offset_s)

    def _deliver(self, a: Arrival) -> None:
        parts = {"package-0": domain("cpu", a.energy_uj)} if a.rank else {}
        start_s = a.run.start_s + a.offset_s
        record = boundary(
            a.run.job_id, a.node, ",".join(a.run.nodes), parts, start_s, a.run.seconds, num_nodes=len(a.run.nodes),
            restart_count=a.run.restart_count, revision=max(a.rank, 1),
        )  # fmt: skip
        if not a.rank:
            record["start"]["from"] = "epilog"
        session = self.root / "spool" / f"{a.run.job_id}.{a.run.restart_count}"
        session.mkdir(parents=True, exist_ok=True)
        incoming = self.archive.base / "incoming" / session.name
        if a.torn:
            # Torn on the way into the archive: what lies under the name is cut short.
            if not (incoming / f"{a.node}.json").exists():
                incoming.mkdir(parents=True, exist_ok=True)
                (incoming / f"{a.node}.json").write_text(json.dumps(record)[:150])
            return
        ArchiveDelivery(self.archive.root).session(session, record)

    STEPS = ("sweep", "hour", "backup", "restore", "copy", "set back", "rebuild", "hide", "slurm", "second", "pack")
    WEIGHTS = (30, 6, 3, 2, 3, 2, 3, 1, 3, 3, 8)

    def _step(self, what: str) -> None:
        if what == "sweep":
            self._maybe_killed(self._sweep)
        elif what == "hour":
            self.now += 3700
            self._maybe_killed(self._sweep)
        elif what == "second":
            # A collector elsewhere that stopped in the middle: its lease ends some time.
            self.ledger.acquire("collect:c", "elsewhere:1", seconds=60)
            with suppress(UnavailableError):
                self._sweep()
            self.now += 130
        elif what == "slurm":
            self.up = not self.up
        elif what == "rebuild":
            self._maybe_killed(lambda: upkeep.rebuild(self.ledger, self.archive))
        elif what == "backup":
            path = self.root / "backup.gz"
            if self._maybe_killed(lambda: upkeep.backup(self.ledger, path)):
                self.backup = path
                return
        elif what == "pack":
            for path in self.archive.base.glob("jobs/*/*/record.json"):
                os.utime(path, (0, 0))  # by the clock of this history they may be old
            self._maybe_killed(self._pack)
        elif what == "copy":
            self.copy = self.places[0].copy()
        elif what == "hide" and self.rng.random() < 0.5:
            keeping = upkeep.Keeping(self.ledger, Access(), self.now)
            upkeep.pseudonymise(
                self.ledger,
                upkeep.Who(before_s=int(self.now) - 10),
                lambda records: upkeep.hide_in_directories(self.archive, records, keeping),
            )
        elif what == "restore" and self.backup is not None:
            self._set_back(self.places[0].empty)
            upkeep.restore(self.ledger, self.backup)
            self._until_done(lambda: upkeep.rebuild(self.ledger, self.archive))
        elif what == "set back" and self.copy is not None:
            self._set_back(self.copy)
            self._until_done(lambda: upkeep.rebuild(self.ledger, self.archive))
        self._check()

    def _maybe_killed(self, work: Callable[[], object]) -> bool:
        after = self.rng.randrange(1, self.rng.choice((4, 30, 90))) if self.rng.random() < 0.5 else None
        return FATE.may_kill(after, work)

    def _until_done(self, work: Callable[[], object]) -> None:
        while not self._maybe_killed(work):
            pass

    def _sweep(self) -> None:
        Collector(self.archive, self.ledger, self.tools, DEADLINE_S, queue=True).sweep()

    def _pack(self) -> None:
        with packing.PackLease(self.ledger, "c") as lease:
            for number in self.archive.buckets():
                packing.finish(self.archive, number, self.now)
            for part in self.archive.portions():
                self.packed += packing.pack(self.archive, part, self.now - 8 * DAY_S, self.now, Access(), lease)

    def _set_back(self, copy: sqlite3.Connection) -> None:
        self.places[0].set_back(copy)
        self.held = {}

    def _check(self) -> None:
        """No revision holds less evidence than the one before."""
        now: dict[int, dict[str, tuple[int, str]]] = {}
        with self.ledger.read() as connection:
            for row, body in connection.execute("SELECT job, body FROM record"):
                now[row] = {
                    n["node"]: (n.get("revision", 1), n.get("digest", "")) for n in json.loads(unpack(body))["nodes"]
                }
        for row, before in self.held.items():
            # Of two rows that turn out to be one run's, by a node whose clock was wrong, one takes all of the other.
            one = now[row] if row in now else next((o for o in now.values() if before.items() <= o.items()), {})
            for node, rank in before.items():
                assert node in one and one[node] >= rank, (row, node, rank, one)
        self.held = now

    def _jobs(self, ids: Iterable[int]) -> list[SlurmJob]:
        wanted = set(ids)
        return [job for job in self._between(0, 1 << 62) if job.job_id in wanted]

    def _between(self, since_s: int, until_s: int) -> list[SlurmJob]:
        if not self.up:
            raise UnavailableError("sacct: is slurmdbd up?")
        made = []
        for run in self.runs:
            end_s = run.start_s + run.seconds
            if run.known_to_slurm and end_s <= self.now and end_s >= since_s and run.start_s <= until_s:
                times = {"submit_s": run.start_s - 5, "start_s": run.start_s, "end_s": end_s}
                nodes = {"nodelist": ",".join(run.nodes), "num_nodes": len(run.nodes)}
                made.append(slurm_job(run.job_id, run=run.restart_count, **times, **nodes))
        return made

    def _end(self) -> None:
        self.up = True
        left: list[Path] = []
        for _ in range(6):
            self.now += DEADLINE_S + 4000
            for one in aside.entries(self.archive):  # a wrong clock's record may seem to be of another run
                (one.path / aside.ALLOWED).touch()
            self._sweep()
            self._check()
            left = [path for name in ("incoming", "aside") for path in (self.archive.base / name).rglob("*.json")]
            if not left:
                break
        assert left == [], left
        self._compare(self.ledger)
        upkeep.rebuild(self.places[1].ledger, self.archive)
        self._compare(self.places[1].ledger)

    def _compare(self, ledger: Ledger) -> None:
        expected: dict[tuple[int, int], list[int]] = {}
        for run in self.runs:
            if (energy_uj := run.energy_uj()) is not None:
                expected.setdefault((run.job_id, run.restart_count), []).append(energy_uj)
        found: dict[tuple[int, int], list[int]] = {}
        for job_id in {run.job_id for run in self.runs}:
            for record in ledger.members("c", str(job_id)):
                if record.nodes:
                    found.setdefault((job_id, record.restart_count), []).append(record.energy_uj or 0)
                    assert sum(s.energy_uj for s in record.shares) == (record.energy_uj or 0)
        alike = {k: sorted(v) for k, v in found.items()} == {k: sorted(v) for k, v in expected.items()}
        assert alike, f"found {found}, expected {expected}"
        sums = usage(ledger, ["account"], Filter(), *FOR_EVER)
        assert sum(s.values["energy_uj"] for s in sums) == sum(map(sum, expected.values()))


class KilledHistory(History):
    """The same with processes of their own, which end by `kill -9` wherever they are."""

    LONGEST_S = 0.06

    def _maybe_killed(self, work: Callable[[], object]) -> bool:
        after_s = self.rng.random() * self.LONGEST_S if self.rng.random() < 0.5 else None
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        if after_s is not None:
            time.sleep(after_s)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        FATE.deaths += os.WIFSIGNALED(status)
        assert os.WIFSIGNALED(status) or status == 0, f"a process ended with {status}"
        return status == 0


class Player:
    """Plays histories below a directory, one after the other; `kind` says who dies, and how."""

    def __init__(self, root: Path, kind: type[History] = History) -> None:
        self.root = root
        self.kind = kind
        self.places = (Place(root / "ledger.db"), Place(root / "lost.db"))

    def play(self, seed: int) -> None:
        """Play the history of a seed; AssertionError names it."""
        FATE.root = str(self.root)
        root = self.root / str(seed)
        try:
            self.kind(seed, root, self.places).play()
        except Exception as error:
            raise AssertionError(f"history {seed}: {type(error).__name__}: {error}") from error
        finally:
            shutil.rmtree(root, ignore_errors=True)

    def close(self) -> None:
        """Give the ledgers back."""
        for place in self.places:
            place.ledger.close()
