"""What leaves the spool: a spool that was lost takes nothing away, and what is not ours in it holds nothing up."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.audit import odd_lines
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.measure import curve
from perun_hpc.agent.outbox import shipping
from perun_hpc.agent.outbox.losses import Losses, find_set_aside, read_undelivered
from perun_hpc.agent.outbox.shipping import Shipper, ship_all, ship_ledger
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.config.schema import Store
from perun_hpc.process.clock import MACHINE

DAY = "2026-11-22.jsonl"


def lines(*numbers: int) -> str:
    return "".join(f'{{"t0_ns":{number}}}\n' for number in numbers)


@pytest.mark.parametrize(
    ("spools", "expected"),
    [
        ([lines(1, 2), lines(1, 2, 3)], lines(1, 2, 3)),
        ([lines(1, 2, 3), lines(1, 4)], lines(1, 2, 3, 4)),  # cut back after a crash
        ([lines(1, 2), lines(7), lines(7, 8)], lines(1, 2, 7, 8)),  # the disk was lost
        ([lines(1, 2), lines(7, 8), lines(7, 9)], lines(1, 2, 7, 8, 9)),
        ([lines(1, 2), lines(12), lines(2)], lines(1, 2, 12)),
        ([lines(1, 2), lines(1, 2) + '{"t0_'], lines(1, 2)),  # read while it was written
        ([lines(7, 8), lines(7, 8, 1, 2)], lines(7, 8, 1, 2)),  # another boot
        ([lines(1, 2), ""], lines(1, 2)),
    ],
)
def test_the_archive_keeps_what_the_spool_lost(tmp_path: Path, spools: list[str], expected: str) -> None:
    (tmp_path / "archive").mkdir()
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    for text in spools:
        (paths.node / DAY).write_text(text)
        ship_ledger(paths, ArchiveDelivery(tmp_path / "archive"), "c", "n1")
    assert (tmp_path / "archive" / "c" / "nodes" / "n1" / DAY).read_text() == expected


def interval(begin: int, end: int, joules: int, domain: str = "package-0") -> str:
    told = {"t0_ns": begin, "t1_ns": end, "domain": domain, "total_uj": joules, "shares": {"idle": joules}}
    return json.dumps(told) + "\n"


class Waiting(ArchiveDelivery):
    """An archive that answers once it may."""

    begun, may = threading.Event(), threading.Event()

    def ledger(self, directory: Path, cluster: str, node: str) -> tuple[str, ...]:
        self.begun.set()
        assert self.may.wait(60)
        return super().ledger(directory, cluster, node)


def test_two_processes_never_put_lines_into_one_ledger_at_once(tmp_path: Path) -> None:
    """One is what a killed agent left, and has waited for the archive since."""
    (tmp_path / "archive").mkdir()
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    (paths.node / DAY).write_text(lines(1, 2))
    to = Waiting(tmp_path / "archive"), ArchiveDelivery(tmp_path / "archive")
    held, next_one = (threading.Thread(target=ship_ledger, args=(paths, one, *HOME)) for one in to)
    held.start()
    assert Waiting.begun.wait(60)
    next_one.start()
    next_one.join(0.5)
    shipped = tmp_path / "archive" / "c" / "nodes" / "n1" / DAY
    assert next_one.is_alive() and not shipped.exists()
    Waiting.may.set()
    held.join(60)
    next_one.join(60)
    assert shipped.read_text() == lines(1, 2)


def test_what_a_node_reported_once_of_a_time_stays(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever speaks for a node later: its ledger only grows, and what contradicts it is kept apart and named."""
    (tmp_path / "archive").mkdir()
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    first = interval(10, 20, 5) + interval(20, 30, 6) + interval(20, 30, 1, "dram-0")
    forged = interval(10, 20, 5) + interval(20, 30, 900) + interval(30, 40, 7) + interval(50, 40, 3)
    again = first + interval(30, 40, 8) + interval(40, 50, 9)
    for text in (first, forged, forged, again):
        (paths.node / DAY).write_text(text)
        ship_ledger(paths, ArchiveDelivery(tmp_path / "archive"), *HOME)
    home = tmp_path / "archive" / "c" / "nodes" / "n1"
    assert (home / DAY).read_text() == first + interval(30, 40, 7) + interval(40, 50, 9)
    aside = home / f"{DAY[:10]}.aside.jsonl"
    assert aside.read_text() == interval(20, 30, 900) + interval(50, 40, 3) + interval(30, 40, 8)
    logged = capfd.readouterr().err
    assert logged.count("contradict what it sent") == 2 and str(aside) in logged
    (finding,) = odd_lines([aside], "2026-11-22", "2026-11-22")
    assert finding.where == "n1 2026-11-22" and "3 lines" in finding.what
    assert odd_lines([aside], "2026-11-23", "2026-11-24") == []


def test_what_others_left_among_the_sessions_is_not_shipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "archive").mkdir()
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    (paths.sessions / "stale-directory").mkdir(parents=True)
    (paths.sessions / "7.0").touch()
    (paths.sessions / "stale.msg").touch()
    assert ship_all(paths, ArchiveDelivery(tmp_path / "archive"), ("c", "n1"))
    assert capfd.readouterr().err == ""


HOME = ("c", "n1")


@pytest.fixture
def paths(tmp_path: Path) -> AgentPaths:
    found = AgentPaths(tmp_path / "run", tmp_path / "spool")
    found.node.mkdir(parents=True)
    found.sessions.mkdir()
    (tmp_path / "archive").mkdir()
    return found


def sealed(paths: AgentPaths, name: str, **more: Any) -> Path:
    """A session that waits: as much of its boundary record as shipping looks at."""
    directory = paths.session(name)
    directory.mkdir()
    start, end = {"from": "hook", "mono_ns": 0, "real_ns": 0}, {"mono_ns": 10**10, "real_ns": 10**10}
    ranks = [{"rank": 0, "start_mono_ns": 0, "end_mono_ns": 10**10}]
    steps = [{"step_id": 0, "ranks": ranks}] if more.pop("flagged", False) else []
    record = {"node": "n1", "cluster": "c", "start": start, "end": end, "steps": steps, "trace": {"stored": False}}
    (directory / "boundary.json").write_text(json.dumps({**record, **more}))
    return directory


def arrived(tmp_path: Path) -> dict[str, dict[str, Any]]:
    found = (tmp_path / "archive/c/incoming").glob("*/n1.json")
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def test_a_session_that_fails_again_and_again_holds_up_nobody_and_is_set_aside(
    tmp_path: Path, paths: AgentPaths
) -> None:
    broken = sealed(paths, "1.0", node=None)
    (sealed(paths, "2.0") / "boundary.json").write_text('{"torn')
    sealed(paths, "3.0")
    to = ArchiveDelivery(tmp_path / "archive")
    assert not ship_all(paths, to, HOME)
    assert set(arrived(tmp_path)) == {"3.0"}
    assert set(read_undelivered(paths)) == {"job 1.0", "job 2.0"}
    evidence = (broken / "boundary.json").read_bytes()
    for number in range(10, 10 + shipping.TRIES):
        sealed(paths, f"{number}.0")
        ship_all(paths, to, HOME)
        assert f"{number}.0" in arrived(tmp_path)
    assert ship_all(paths, to, HOME)
    assert read_undelivered(paths) == {}
    aside = find_set_aside(paths)
    assert set(aside) == {"job 1.0", "job 2.0"}
    assert "TypeError" in aside["job 1.0"].why
    assert "damaged" in aside["job 2.0"].why
    assert (paths.set_aside / "1.0/boundary.json").read_bytes() == evidence


def test_an_archive_that_is_away_costs_no_session_anything(tmp_path: Path, paths: AgentPaths) -> None:
    sealed(paths, "1.0")
    (tmp_path / "archive").rmdir()  # not mounted
    for _ in range(3 * shipping.TRIES):
        assert not ship_all(paths, ArchiveDelivery(tmp_path / "archive"), HOME)
    assert find_set_aside(paths) == {}
    (tmp_path / "archive").mkdir()
    assert ship_all(paths, ArchiveDelivery(tmp_path / "archive"), HOME)
    assert arrived(tmp_path)["1.0"]["notes"] == []


def test_a_directory_that_the_collector_takes_away_holds_nothing_up(tmp_path: Path, paths: AgentPaths) -> None:
    """It removes what it finds empty: also a directory in which a record is about to appear."""
    place = tmp_path / "archive/c/incoming/1.0"
    over = threading.Event()

    def sweep() -> None:
        while not over.wait(0.002):  # a thousand times as often as a collector
            with contextlib.suppress(OSError):
                place.rmdir()

    collector = threading.Thread(target=sweep)
    collector.start()
    try:
        for _ in range(50):
            sealed(paths, "1.0")
            assert ship_all(paths, ArchiveDelivery(tmp_path / "archive"), HOME), read_undelivered(paths)
            (place / "n1.json").unlink()
    finally:
        over.set()
        collector.join()


def test_an_archive_that_takes_something_is_asked_again_soon(tmp_path: Path, paths: AgentPaths) -> None:
    """What failed while it was away does not wait for minutes once it is back, though one thing fails still."""
    store, shipper, now_ns = Store(archive=str(tmp_path / "archive")), Shipper(paths, Losses(), MACHINE), 0
    sealed(paths, "1.0")
    sealed(paths, "2.0")
    (tmp_path / "archive").rmdir()

    def attempt() -> None:
        shipper.start(store, HOME, 1 << 30, now_ns)
        until_s = time.monotonic() + 60
        while shipper.busy and time.monotonic() < until_s:
            shipper.poll(now_ns)
            time.sleep(0.005)

    for pause_ns in (*shipping.BACKOFF_NS, shipping.BACKOFF_NS[-1]):
        attempt()
        assert not shipper.is_due(now_ns + pause_ns - 1) and shipper.is_due(now_ns + pause_ns)
        now_ns += pause_ns
    (tmp_path / "archive/c/incoming").mkdir(parents=True)
    (tmp_path / "archive/c/incoming/1.0").touch()  # in its way
    attempt()
    assert set(arrived(tmp_path)) == {"2.0"}
    assert shipper.is_due(now_ns + shipping.BACKOFF_NS[0])


def heavy(paths: AgentPaths, name: str, points: int) -> Path:
    """A session whose energy curve has so many points, and whose rank handed over more than a quick session's."""
    directory = sealed(paths, name, flagged=True)
    drawn = paths.spool / f"curve-{points}"
    if not drawn.exists():
        for at in range(0, points, 100_000):
            curve.extend(drawn, [(number, number) for number in range(at, at + 100_000)])
    shutil.copyfile(drawn, directory / "curve.bin")
    (directory / "ranks").mkdir()
    (directory / "ranks/0-0.rank").write_bytes(bytes(2 * shipping.QUICK_B))
    return directory


def run(shipper: Shipper, store: Store, memory_b: int, seconds: float = 240) -> None:
    """Serve a shipper as the agent's loop does, until nothing is due and no child works."""
    until_s = time.monotonic() + seconds
    while shipper.busy or shipper.is_due(0):
        assert time.monotonic() < until_s
        if shipper.is_due(0):
            shipper.start(store, HOME, memory_b, 0)
        shipper.poll(0)
        time.sleep(0.005)


def test_evidence_leaves_without_regions_when_there_is_too_little_memory_for_them(
    tmp_path: Path, paths: AgentPaths
) -> None:
    heavy(paths, "1.0", 4_000_000)
    sealed(paths, "2.0")
    shipper = Shipper(paths, Losses(), MACHINE)
    run(shipper, Store(archive=str(tmp_path / "archive")), 2 * (24 << 20))
    found = arrived(tmp_path)
    assert found["2.0"]["notes"] == []
    (note,) = found["1.0"]["notes"]
    assert note.startswith("regions and energies of steps are left out: ")
    assert "more than its 24 MiB of memory" in note
    assert not list(paths.sessions.iterdir())


def test_a_small_session_passes_a_heavy_one(tmp_path: Path, paths: AgentPaths) -> None:
    for number in range(5):
        heavy(paths, f"{number}.0", 1_500_000)
    sealed(paths, "9.0")
    shipper = Shipper(paths, Losses(), MACHINE)
    store = Store(archive=str(tmp_path / "archive"))
    until_s = time.monotonic() + 240  # for a machine that is busy
    seen = 0
    while shipper.busy or shipper.is_due(0):
        assert time.monotonic() < until_s
        if shipper.is_due(0):
            shipper.start(store, HOME, 1 << 30, 0)
        shipper.poll(0)
        if "9.0" in arrived(tmp_path) and not seen:
            seen = len(arrived(tmp_path))
        time.sleep(0.001)
    assert len(arrived(tmp_path)) == 6
    assert seen <= 2
