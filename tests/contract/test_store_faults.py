"""Full disks, power cuts and damaged files: never silently wrong, never unreadable as a whole."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from perun_hpc.errors import DataError
from perun_hpc.store import job_store, layout
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import ship
from tests.soak import store_kill
from tests.soak.store_data import START

S = layout.NS_PER_S
ROWS = 1400
NOW = (START + 99_999) * S


def mounted(*arguments: str) -> bool:
    return subprocess.run(["mount", *arguments], capture_output=True).returncode == 0


def opened(session: Path) -> NodeStore:
    return NodeStore.open(
        session,
        cluster="c",
        job_id="1",
        restart_count=0,
        node="n1",
        sensors=store_kill.SENSORS,
        period_ns=S,
        start_ns=START * S,
    )


def append(store: NodeStore, first: int, stop: int) -> bool:
    """Append rows; whether the store reported a problem at any time."""
    troubled = False
    for tick in range(START + first, START + stop):
        store.append(tick, [store_kill.value(tick, column) for column in range(len(store.sensors))])
        troubled = troubled or store.problem is not None
    return troubled


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)):
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("room_kb", [16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512])
def test_a_full_disk_costs_rows_and_never_an_exception(small_disk: Path, tmp_path: Path, room_kb: int) -> None:
    assert mounted("-o", f"remount,size={room_kb}k", str(small_disk))
    session = small_disk / "session"
    store = opened(session)
    troubled = append(store, 0, ROWS)
    store.close()
    assert mounted("-o", "remount,size=4m", str(small_disk))
    (again,) = NodeStore.recover(session)
    kept = again.last_tick + 1 - START if again.last_tick >= 0 else 0
    assert troubled or kept == ROWS
    append(again, ROWS, ROWS + 5)
    again.seal("complete")
    assert again.problem is None
    ship(session, tmp_path / "job", store_kill.NODES)
    job_store.finalise(tmp_path / "job", store_kill.NODES, NOW, NOW)
    check_values(tmp_path / "job")


def test_a_disk_that_is_full_for_a_while_loses_nothing_once_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    session = small_disk / "session"
    store = opened(session)
    append(store, 0, 100)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    append(store, 100, 900)
    assert store.problem is not None and "No space left" in store.problem
    with pytest.raises(OSError, match="No space left"):
        store.seal()
    filler.unlink()
    assert store.seal().rows == 900
    ship(session, tmp_path / "job", store_kill.NODES)
    job_store.finalise(tmp_path / "job", store_kill.NODES, NOW, NOW)
    assert check_values(tmp_path / "job") == 900


def check_values(job: Path) -> int:
    """Every stored value is the one appended, or missing; returns how many ticks have a row."""
    group = job_store.open_group(job)
    start = START - layout.origin_tick(S, START * S)
    found: np.ndarray = np.asarray(group[layout.OFFSET][0, start:]) != layout.fill("int32")  # type: ignore[index,type-arg]
    for part in layout.arrays(store_kill.SENSORS):
        stored = np.asarray(group[part.form.name][0, :, start:])  # type: ignore[index]
        missing = layout.fill(part.form.dtype)
        found |= (stored != missing).any(axis=0)
        for row, column in enumerate(part.columns):
            for index, read in enumerate(stored[row].tolist()):
                expected = store_kill.value(START + index, column)
                assert read in (missing, None if expected is None else expected // part.form.divisor)
    return int(found.sum())


def test_a_power_cut_loses_no_more_than_the_flush_bound(tmp_path: Path) -> None:
    """The disk is a file; its copy, taken while the writer runs, is what a power cut at that instant leaves."""
    image, disk, after = tmp_path / "image", tmp_path / "disk", tmp_path / "after"
    disk.mkdir()
    after.mkdir()
    with image.open("wb") as file:
        file.truncate(48 << 20)
    if subprocess.run(["mkfs.ext4", "-q", str(image)], capture_output=True).returncode or not mounted(
        "-o", "loop,commit=1", str(image), str(disk)
    ):
        pytest.skip("a loop mount needs root and loop devices")
    writer = subprocess.Popen([sys.executable, "-m", "tests.soak.store_kill", "slow", str(disk / "session")])
    try:
        acknowledged = []
        ack = disk / "synced"
        for number in range(4):
            time.sleep(random.Random(number).uniform(0.5, 0.8))
            acknowledged.append(int(ack.read_text()) if ack.exists() and ack.read_text() else START - 1)
            shutil.copyfile(image, tmp_path / f"cut{number}")
    finally:
        writer.kill()
        writer.wait()
        subprocess.run(["umount", "-l", str(disk)], check=True)
    assert acknowledged[-1] > START
    for number, synced in enumerate(acknowledged):
        assert mounted("-o", "loop", str(tmp_path / f"cut{number}"), str(after))
        try:
            sessions = NodeStore.recover(after / "session") if (after / "session").exists() else []
            assert sessions or synced < START
            for store in sessions:
                assert store.last_tick >= synced
                store.seal("partial", "power cut")
                ship(after / "session", tmp_path / f"job{number}", store_kill.NODES)
                job_store.finalise(tmp_path / f"job{number}", store_kill.NODES, NOW, NOW)
                assert check_values(tmp_path / f"job{number}") >= synced - START + 1
        finally:
            subprocess.run(["umount", "-l", str(after)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("damage")
    store = opened(root / "session")
    append(store, 0, ROWS)
    store.seal()
    ship(root / "session", root / "job", store_kill.NODES)
    job_store.finalise(root / "job", store_kill.NODES, NOW, NOW)
    return root / "job"


def kinds(job: Path) -> list[str]:
    """One file of every kind that a job's directory holds."""
    found: dict[str, str] = {}
    for path in sorted(job.rglob("*")):
        name = str(path.relative_to(job))
        if path.is_file() and path.stat().st_size:
            parent = path.parent.name
            kind = parent if path.name.startswith("c.") or parent == layout.STORE else path.name
            found.setdefault(f"{kind}:{path.name.split('.')[0]}", name)
    return list(found.values())


@pytest.mark.parametrize("harm", ["flip", "truncate", "empty", "remove"])
def test_damage_to_any_file_is_noticed_repaired_and_named(whole: Path, tmp_path: Path, harm: str) -> None:
    assert len(kinds(whole)) > 12
    for number, name in enumerate(kinds(whole)):
        job = tmp_path / str(number)
        shutil.copytree(whole, job)
        damage(job / name, harm, seed=number)
        try:
            repaired = job_store.repair(job, NOW)
        except DataError as error:
            pytest.fail(f"{name}: {error}")
        assert check_values(job) == ROWS, name
        data = job_store.open_job(job)
        assert list(data.node.values) == list(store_kill.NODES)
        assert data.energy_channel.values[0] == "package-0"
        samples = name.split("/")[-1].startswith("c.0.")
        if samples and harm != "remove":
            assert [loss for loss in repaired.losses if name in loss.file], name
            assert data.node_status.values[0].startswith("partial"), name


def damage(path: Path, harm: str, seed: int) -> None:
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[random.Random(seed).randrange(len(data))] ^= 0x10
        path.write_bytes(data)
    elif harm == "truncate":
        os.truncate(path, len(data) // 2)
    elif harm == "empty":
        os.truncate(path, 0)
    else:
        path.unlink()


@pytest.mark.parametrize("harm", ["flip", "truncate"])
def test_a_damaged_shard_is_never_silently_wrong(whole: Path, tmp_path: Path, harm: str) -> None:
    for number in range(25):
        job = tmp_path / str(number)
        shutil.copytree(whole, job)
        shards = sorted((job / layout.STORE / layout.MAIN / "energy").glob("c.*"))
        damage(shards[0], harm, seed=number)
        try:
            check_values(job)
        except AssertionError:
            raise
        except Exception as error:  # any reader's error will do, a wrong value will not
            assert type(error).__name__


def test_rows_that_a_full_disk_kept_out_of_the_journal_reach_it_once_there_is_room(small_disk: Path) -> None:
    session = small_disk / "session"
    store = opened(session)
    append(store, 0, 20)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert append(store, 20, 300)
    filler.unlink()
    append(store, 300, 400)
    (again,) = NodeStore.recover(session)  # as after a kill -9: nothing of the writer's memory
    assert not again.losses
    assert again.seal().rows == 400
