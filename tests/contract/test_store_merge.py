"""Merging, recoding and repair, read back with zarr and xarray."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.errors import DataError
from perun_hpc.store import create, job_store, layout
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.recode import drop_sources
from perun_hpc.store.ship import ship
from perun_hpc.store.thin import thin
from tests.handed_over import record
from tests.soak.store_data import START, rows, sensors

S = layout.NS_PER_S
NODES = tuple(f"n{index}" for index in range(20))
NOW = (START + 10_000) * S


def node(
    root: Path, name: str, count: int = 900, nodes: Sequence[str] = NODES, first: int = 0, kinds: int = 16
) -> None:
    made = sensors(kinds)
    store = NodeStore.open(
        root / name,
        cluster="c",
        job_id="1",
        restart_count=0,
        node=name,
        sensors=made,
        period_ns=S,
        start_ns=START * S,
        sync_ns=None,
    )
    for index, row in enumerate(rows(made, count, seed=nodes.index(name))):
        store.append(START + first + index, row)
    store.seal()
    ship(root / name, root / "job", nodes)


def snapshot(job: Path) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    data = job_store.open_job(job).load()
    return {str(name): data[name].values.copy() for name in [*data.data_vars, "node_status", "node_until", "time"]}


def test_merging_twice_changes_nothing(tmp_path: Path) -> None:
    for name in NODES[:3]:
        node(tmp_path, name)
    first = job_store.finalise(tmp_path / "job", NODES[:3], NOW)
    before = {path: path.read_bytes() for path in (tmp_path / "job").rglob("*") if path.is_file()}
    assert job_store.finalise(tmp_path / "job", NODES[:3], NOW) == first
    assert {path: path.read_bytes() for path in (tmp_path / "job").rglob("*") if path.is_file()} == before


def test_a_late_node_is_taken_in(tmp_path: Path) -> None:
    job = tmp_path / "job"
    node(tmp_path, "n0", nodes=NODES[:2])
    assert job_store.finalise(job, NODES[:2], NOW).state == "open"
    assert job_store.finalise(job, NODES[:2], NOW, deadline_ns=NOW).missing == ("n1",)
    assert np.isnan(job_store.open_job(job).energy.sel(node="n1").values).all()
    node(tmp_path, "n1", count=1000, nodes=NODES[:2])
    assert job_store.finalise(job, NODES[:2], NOW, deadline_ns=NOW).state == "complete"
    late = job_store.open_job(str(job))
    assert late.sizes["time"] == 1000
    assert not np.isnan(late.energy.sel(node="n1").values).any()
    assert np.isnan(late.energy.sel(node="n0").values[:, 900:]).all()


def merge_many(job: Path, count: int) -> None:
    for _ in range(count):
        assert job_store.finalise(job, NODES[:4], NOW).state in ("complete", "busy")


def test_merging_many_times_at_once_leaves_a_whole_store(tmp_path: Path) -> None:
    for name in NODES[:4]:
        node(tmp_path, name, nodes=NODES[:4])
    fork = multiprocessing.get_context("spawn")
    workers = [fork.Process(target=merge_many, args=(tmp_path / "job", 40)) for _ in range(3)]
    for worker in workers:
        worker.start()
    merge_many(tmp_path / "job", 1)
    for _ in range(30):
        assert list(job_store.open_job(tmp_path / "job").node_status.values) == ["complete"] * 4
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


def test_other_hardware_and_other_rates_have_groups_of_their_own(tmp_path: Path) -> None:
    job = tmp_path / "job"
    node(tmp_path, "n0", nodes=NODES[:2])
    node(tmp_path, "n1", nodes=NODES[:2], kinds=12)
    fast = NodeStore.open(
        tmp_path / "fast",
        cluster="c",
        job_id="1",
        restart_count=0,
        node="n0",
        sensors=sensors(16)[:2],
        period_ns=S // 100,
        job_period_ns=S,
        start_ns=START * S,
    )
    for index in range(1000):
        fast.append(START * 100 + index, [index, 2 * index])
    fast.seal()
    ship(tmp_path / "fast", job, NODES[:2])
    assert job_store.finalise(job, NODES[:2], NOW).state == "complete"
    main, other, rate = job_store.groups(job)
    assert (main, other[:3], rate) == ("", "hw-", "rate-10ms")
    tree = xarray.open_datatree(job / layout.STORE, engine="zarr", chunks=None)
    assert set(tree.children) == {layout.MAIN, other, rate}
    assert tree[layout.MAIN].energy.dims == tree[rate].energy.dims == ("node", "energy_channel", "time")
    assert list(job_store.open_group(job)["node_status"][:]) == ["complete", "not of this kind"]  # type: ignore[index]
    assert list(job_store.open_job(job).node.values) == ["n0"]
    assert list(job_store.open_job(job, other).node.values) == ["n1"]
    quick = job_store.open_job(job, "rate-10ms")
    np.testing.assert_allclose(quick.energy.sel(node="n0").values[1], np.arange(1000) * 2e-6)


def test_a_store_that_began_in_layout_1_goes_on_in_it(tmp_path: Path) -> None:
    job = tmp_path / "job"
    began = layout.Plan("c", "1", 0, NODES[:2], START * S, S, layout=1)
    assert json.loads(began.to_json())["schema"] == "perun.trace/1"
    assert create.agree(job, began) == began
    for name in NODES[:2]:
        node(tmp_path, name, nodes=NODES[:2], kinds=16 if name == "n0" else 12)
    assert job_store.finalise(job, NODES[:2], NOW).state == "complete"
    assert (job / "track.json").exists() and (job / layout.STORE / "energy").is_dir()
    main, other = job_store.groups(job)
    before = [job_store.open_job(job, group).energy.values for group in (main, other)]
    job_store.recode(job, NOW)
    (job / layout.PLAN).write_text("torn")
    assert [loss.file for loss in job_store.repair(job, NOW).losses] == [layout.PLAN]
    assert create.read_plan(job) == began
    for group, values in zip((main, other), before, strict=True):
        np.testing.assert_array_equal(job_store.open_job(job, group).energy.values, values)
        assert "time_start" in job_store.open_group(job, group).attrs


def test_a_store_of_a_newer_layout_is_refused(tmp_path: Path) -> None:
    node(tmp_path, "n0", nodes=NODES[:1])
    job = tmp_path / "job"
    job_store.finalise(job, NODES[:1], NOW)
    for path in (job / layout.STORE / "zarr.json", job / layout.PLAN):
        text = path.read_text()
        newer = text.replace('"perun_layout":2', '"perun_layout":3').replace("perun.trace/2", "perun.trace/3")
        assert newer != text
        path.write_text(newer)
    for read in (job_store.open_job, job_store.open_group, job_store.groups):
        with pytest.raises(DataError, match="a newer perun wrote it, in layout 3"):
            read(job)
    with pytest.raises(DataError, match="another version of perun"):
        job_store.finalise(job, NODES[:1], NOW)


def test_recoding_changes_no_value_and_no_reader_sees_a_gap(tmp_path: Path) -> None:
    job = tmp_path / "job"
    for name in NODES[:18]:
        node(tmp_path, name)
    job_store.finalise(job, NODES, NOW, deadline_ns=NOW)
    before = snapshot(job)
    opened = xarray.open_zarr(job / layout.STORE, group=layout.MAIN, chunks=None)
    job_store.recode(job, NOW)
    after = snapshot(job)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
    held = opened.energy.isel(time=slice(opened.attrs["time_start"], None)).values
    np.testing.assert_array_equal(held, before["energy"])
    assert drop_sources(job, NOW + S, grace_ns=2 * S) == 0
    late = int(9e18)
    (job / layout.RECODED).write_text(json.dumps({"recoded_ns": late - S}))
    assert drop_sources(job, late, grace_ns=S) > 0
    for name, values in before.items():
        np.testing.assert_array_equal(snapshot(job)[name], values)
    assert not list(job.rglob("energy/c.*"))
    node(tmp_path, "n19")
    job_store.finalise(job, NODES, NOW, deadline_ns=NOW)
    job_store.recode(job, NOW)
    again = snapshot(job)
    np.testing.assert_array_equal(again["energy"][:18], before["energy"][:18])
    assert not np.isnan(again["energy"][19]).any()


def test_recoding_refuses_a_damaged_source_and_changes_nothing(tmp_path: Path) -> None:
    job = tmp_path / "job"
    node(tmp_path, "n0", nodes=NODES[:1])
    job_store.finalise(job, NODES[:1], NOW)
    (shard,) = (job / layout.STORE / layout.MAIN / "power").glob("c.*")
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="checksum"):
        job_store.recode(job, NOW)
    assert not (job / layout.RECODED).exists()
    assert not np.isnan(job_store.open_job(job).energy.values).any()


def test_steps_ranks_and_regions_are_tables(tmp_path: Path) -> None:
    node(tmp_path, "n0", nodes=NODES[:1])
    ranks = [{"rank": 0, "pid": 7, "start_ns": 1, "end_ns": None}, {"rank": 1, "pid": 8, "start_ns": 2, "end_ns": 9}]
    record = {
        "node": "n0",
        "steps": [{"step_id": "0", "tasks": 2, "ranks": ranks}],
        "regions": [{"step_id": "0", "rank": 1, "name": "solve", "calls": 3, "energy_uj": 2_500_000, "time_ns": 5}],
    }
    job_store.finalise(tmp_path / "job", NODES[:1], NOW, records=[record])
    job_store.finalise(tmp_path / "job", NODES[:1], NOW)
    path = tmp_path / "job" / layout.STORE
    regions = xarray.open_zarr(path, group="regions", chunks=None)
    assert (str(regions.name.values[0]), float(regions.energy_uj[0]), regions.energy_uj.attrs["units"]) == (
        "solve",
        2.5,
        "J",
    )
    pids = xarray.open_zarr(path, group="ranks", chunks=None).pid.values
    assert list(pids) == [7, 8]
    assert int(xarray.open_zarr(path, group="steps", chunks=None).tasks[0]) == 2


@pytest.mark.parametrize("recoded", [False, True])
def test_thinning_keeps_energies_to_the_tick(tmp_path: Path, recoded: bool) -> None:
    job = tmp_path / "job"
    for name in NODES[:2]:
        node(tmp_path, name, count=1500, nodes=NODES[:2], first=7)
    job_store.finalise(job, NODES[:2], NOW)
    if recoded:
        job_store.recode(job, NOW)
        (job / layout.RECODED).write_text('{"recoded_ns": 9000000000000000000}')
        assert drop_sources(job, 9 * 10**18, grace_ns=0) > 0
    before = snapshot(job)
    assert thin(job, 60, NOW) > 0
    after = snapshot(job)
    energy, kept = before["energy"], ~np.isnan(after["energy"][0, 0])
    np.testing.assert_array_equal(after["energy"][..., 0], energy[..., 0])
    np.testing.assert_array_equal(after["energy"][..., -1], energy[..., -1])
    np.testing.assert_array_equal(after["energy"][..., kept], energy[..., kept])
    assert 25 <= kept.sum() <= 28
    assert list(after["node_status"]) == ["complete"] * 2
    assert thin(job, 120, NOW) > 0
    assert 12 <= (~np.isnan(snapshot(job)["energy"][0, 0])).sum() <= 15
    np.testing.assert_array_equal(snapshot(job)["energy"][..., -1], energy[..., -1])


def test_a_store_whose_creator_died_half_way_is_completed_by_the_merge(tmp_path: Path) -> None:
    job = tmp_path / "job"
    node(tmp_path, "n0", nodes=NODES[:1])
    job_store.finalise(job, NODES[:1], NOW)
    before = snapshot(job)
    for name in ("time", "energy_channel", "sample_time_offset"):
        for path in (job / layout.STORE / layout.MAIN / name).glob("zarr.json"):
            path.unlink()
    shutil.rmtree(job / layout.STORE / layout.MAIN / "time")
    shutil.rmtree(job / layout.STORE / layout.MAIN / "energy_channel")
    (job / layout.STORE / "zarr.json").unlink()
    job_store.finalise(job, NODES[:1], NOW)
    after = snapshot(job)
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values)
    assert job_store.open_job(job).energy_channel.values[0] == "package-0"


def test_a_store_whose_creator_died_before_its_track_is_empty_until_a_node_comes(tmp_path: Path) -> None:
    job = tmp_path / "job"
    node(tmp_path, "n0", nodes=NODES[:2])
    for path in job.iterdir():
        if path.name != layout.PLAN:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    merged = job_store.finalise(job, NODES[:2], NOW, deadline_ns=NOW, records=(record(1, stored=True),))
    assert merged == job_store.Merged("empty", {}, NODES[:2]) and os.listdir(job) == [layout.PLAN]  # noqa: PTH208
    node(tmp_path, "n1", nodes=NODES[:2])
    merged = job_store.finalise(job, NODES[:2], NOW, deadline_ns=NOW)
    assert (merged.state, merged.missing) == ("partial", ("n0",))
    assert not np.isnan(job_store.open_job(job).energy.sel(node="n1").values[:, :900]).any()


def test_a_plan_of_a_clock_in_1970_does_not_fill_the_archive_with_times(tmp_path: Path) -> None:
    node(tmp_path, "n0", nodes=NODES[:1])
    plan = tmp_path / "job" / layout.PLAN
    plan.write_text(json.dumps(json.loads(plan.read_text()) | {"start_ns": 1}))
    before = len(list((tmp_path / "job").rglob("*")))
    with pytest.raises(DataError, match=r"layout\.json: the trace would span 5\d years"):
        job_store.finalise(tmp_path / "job", NODES[:1], NOW)
    assert len(list((tmp_path / "job").rglob("*"))) <= before + 10


@pytest.mark.parametrize("group", ["../../elsewhere", "\ud800", "A" * 300, "a\0b", "rate-infns", 7])
def test_a_group_that_is_no_groups_name_is_damage_and_makes_no_directory(tmp_path: Path, group: object) -> None:
    node(tmp_path, "n0", nodes=NODES[:1])
    about = tmp_path / "job" / layout.track_file(layout.MAIN)
    about.write_text(json.dumps(json.loads(about.read_text()) | {"group": group}))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=r"track-samples\.json: channels damaged"):
        job_store.finalise(tmp_path / "job", NODES[:1], NOW)
    assert sorted(path for path in tmp_path.rglob("*") if not path.name.startswith(".")) == before


def test_a_plan_of_thousands_of_brackets_is_damage(tmp_path: Path) -> None:
    node(tmp_path, "n0", nodes=NODES[:1])
    (tmp_path / "job" / layout.PLAN).write_text('{"schema": "perun.trace/1", "nodes": ' + "[" * 20_000)
    with pytest.raises(DataError, match=r"layout\.json: damaged"):
        job_store.finalise(tmp_path / "job", NODES[:1], NOW)


def as_of_a_newer_version(path: Path) -> None:
    """Let a plan, or a track's description, be of the layout after ours."""
    path.write_text(path.read_text().replace(f"perun.trace/{layout.VERSION}", f"perun.trace/{layout.VERSION + 1}"))


def as_of_this_version(path: Path) -> None:
    path.write_text(path.read_text().replace(f"perun.trace/{layout.VERSION + 1}", f"perun.trace/{layout.VERSION}"))


def of_node(name: str) -> dict[str, Any]:
    trace = {"stored": True, "state": "complete", "why": None}
    return {**record(1, stored=True), "node": name, "nodelist": "n[0-1]", "trace": trace}


@pytest.mark.parametrize("newer", ["the store", "the node"])
def test_a_trace_that_only_a_newer_version_can_merge_is_kept_until_there_is_one(tmp_path: Path, newer: str) -> None:
    """As a newer node beside ours leaves the store, or an older collector finds what a newer node hands over."""
    whole = tmp_path / "whole"
    for name in NODES[:2]:
        node(whole, name, nodes=NODES[:2])
    job_store.finalise(whole / "job", NODES[:2], NOW)
    (tmp_path / "spool").mkdir()
    for name in NODES[:2]:
        shutil.copytree(whole / name, tmp_path / "spool" / name / "1.0")
    archive = tmp_path / "archive"
    archive.mkdir()
    job, delivery = archive / "c/jobs/0/1.0", ArchiveDelivery(archive)
    delivery.session(tmp_path / "spool/n0/1.0", of_node("n0"))
    plan, track = job / layout.PLAN, tmp_path / "spool/n1/1.0/tracks/1s/track.json"
    as_of_a_newer_version(plan if newer == "the store" else track)
    delivery.session(tmp_path / "spool/n1/1.0", of_node("n1"))
    shutil.rmtree(tmp_path / "spool")  # as an agent does that has handed over

    put = json.loads((archive / "c/incoming/1.0/n1.json").read_text())
    assert put["trace"]["stored"] and "its trace waits in apart/n1 for a newer perun" in put["notes"][-1]
    if newer == "the store":
        with pytest.raises(layout.OtherLayoutError):
            job_store.repair(job, NOW)  # it takes no newer plan for a damaged one
        as_of_this_version(plan)
    else:
        assert job_store.finalise(job, NODES[:2], NOW).missing == ("n1",)
        as_of_this_version(job / "apart/n1/tracks/1s/track.json")
    assert job_store.finalise(job, NODES[:2], NOW).state == "complete"
    assert not (job / "apart").exists()
    expected, found = snapshot(whole / "job"), snapshot(job)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
