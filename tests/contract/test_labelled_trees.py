"""`perun_hpc.open` and `perun_hpc.open_many`: jobs of an archive and stored runs, with names and units."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pint
import pytest
import xarray

import perun_hpc
from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.archive.places import Archive, Run
from perun_hpc.cli.collect import close_trace
from perun_hpc.errors import DataError, NotFoundError, UsageError
from perun_hpc.store import job_store, layout
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import ship
from tests.accounting_data import START_S, boundary, put_incoming, slurm_job
from tests.soak.store_data import rows, sensors

S = layout.NS_PER_S
LONG_AGO = START_S - 40 * 86_400
KINDS = sensors(40)


def trace(root: Path, archive: Archive, job_id: int, node: str, kinds: int = 40, period_ns: int = S) -> None:
    session = root / f"session-{job_id}-{node}-{period_ns}"
    store = NodeStore.open(
        session,
        cluster="c",
        job_id=str(job_id),
        restart_count=0,
        node=node,
        sensors=KINDS[:kinds],
        period_ns=period_ns,
        job_period_ns=S,
        start_ns=LONG_AGO * S,
        sync_ns=None,
    )
    for index, row in enumerate(rows(KINDS[:kinds], 100, seed=job_id)):
        store.append(LONG_AGO * S // period_ns + index, row)
    store.seal()
    ship(session, archive.job(Run(job_id, 0)), ["n1", "n2"])


@pytest.fixture(scope="module")
def site() -> Iterator[Archive]:
    """Job 4711 with all that a trace may hold, 4712 with one node's, 4713 without a trace; an array of two tasks."""
    root = Path(tempfile.mkdtemp(prefix="perun-trees-"))  # pytest's own directories are closed to others
    root.chmod(0o755)
    archive = Archive(root / "archive", "c")
    step = {"step_id": "0", "tasks": 2, "start": {"real_ns": LONG_AGO * S}, "end": {"real_ns": (LONG_AGO + 90) * S}}
    step |= {"ranks": [], "energy_uj": 5_000_000, "u_uj": 10}
    region = {"step_id": "0", "rank": 0, "name": "solve", "calls": 3, "time_ns": 2 * S}
    region |= {"energy_uj": 2_000_000, "u_uj": 1}
    for job_id, nodes in ((4711, ("n1", "n2")), (4712, ("n1",)), (4713, ("n1",)), (4714, ("n1",)), (4715, ("n1",))):
        archive.job(Run(job_id, 0)).mkdir(parents=True)
        for node in nodes if job_id < 4713 else ():
            trace(root, archive, job_id, node, kinds=40 if node == "n1" else 12)
        if job_id == 4711:
            trace(root, archive, job_id, "n1", 2, S // 100)
        for node in nodes:
            data = boundary(job_id, node, ",".join(nodes), start_s=LONG_AGO, steps=[step], regions=[region])
            data["trace"] = {"stored": job_id < 4713}
            put_incoming(archive.root, data)
    ledger = open_ledger(str(root / "ledger.db"), create=True)

    def slurm(ids: Any) -> list[Any]:
        when = {"submit_s": LONG_AGO - 5, "start_s": LONG_AGO, "end_s": LONG_AGO + 100}
        known = [slurm_job(n, **when) for n in (4712, 4713)]
        known.append(slurm_job(4711, nodelist="n[1-2]", num_nodes=2, **when))
        known += [slurm_job(n, shown_id=f"4714_{n - 4714}", **when) for n in (4714, 4715)]
        return [job for job in known if str(job.job_id) in {str(one) for one in ids}]

    tools = Tools(lambda: LONG_AGO + 200.0, Slurm(slurm, lambda since_s, until_s: []), finalise=close_trace)
    summary = Collector(archive, ledger, tools, 900).sweep()
    assert (summary.stored, summary.failed) == (5, 0)
    ledger.close()
    archive.job(Run(4712, 0)).chmod(0o700)
    yield archive
    shutil.rmtree(root)


def opened(site: Archive, what: Any) -> xarray.DataTree:
    return perun_hpc.open(what, archive=site.root, ledger=ledger_of(site), cluster="c")


def ledger_of(site: Archive) -> str:
    return str(site.root.parent / "ledger.db")


def test_a_job_is_a_tree_with_names_and_units(site: Archive) -> None:
    tree = opened(site, 4711)
    assert float(tree.energy) == pytest.approx(16_000)
    assert (tree.energy.attrs["units"], tree.energy.attrs["ancillary_variables"]) == ("J", "uncertainty")
    assert (tree.attrs["name"], tree.attrs["user"], tree.attrs["title"]) == ("stencil", "alice", "job 4711")
    assert tree["hosts"].energy.sel(host="n2") == pytest.approx(8_000)
    assert tree["steps"].coords["step"].values.tolist() == ["0"]
    assert tree["regions"].calls.sel(region="solve") == 6
    energy = tree["samples/energy"].energy
    assert energy.dims == ("host", "sensor", "time")
    assert set(energy.coords) >= {"host", "sensor", "device", "component", "provenance", "time"}
    assert energy.coords["device"].sel(sensor="gpu-1").item() == "gpu-1"
    assert energy.attrs == {
        "long_name": "energy counter, unwrapped",
        "units": "J",
        "resolution": 1e-6,
        "kind": "counter",
    }
    assert tree["samples"].coords["host_status"].values.tolist() == ["complete"]
    stored = job_store.open_job(site.job(Run(4711, 0)))
    np.testing.assert_array_equal(energy.sel(host="n1"), stored.energy.sel(node="n1"))
    other = next(name for name in tree.children if name.startswith("hw-"))
    assert tree[other].coords["host"].values.tolist() == ["n2"]
    assert tree["rate-10ms"].time.diff("time").values[0] == np.timedelta64(10, "ms")


def test_every_unit_is_one_of_pint_and_none_is_missing(site: Archive) -> None:
    known = pint.UnitRegistry()
    seen = set()
    for part in opened(site, 4711).subtree:
        for name, array in part.dataset.variables.items():
            if array.dtype.kind in "iuf" and name not in ("rank", "sample_time_offset"):
                seen.add(array.attrs["units"])
    assert seen >= {"J", "W", "%", "Hz", "degC", "byte", "s", "1"}
    quantities = [known.Quantity(1, "" if unit == "1" else unit) for unit in sorted(seen)]
    assert known.Quantity(2, "J") / known.Quantity(1, "s") == known.Quantity(2, "W") and len(quantities) == len(seen)


def test_it_is_read_when_asked_for_and_can_be_written_again(site: Archive, tmp_path: Path) -> None:
    tree = opened(site, str(4711))
    assert not any(array._in_memory for array in tree["samples/energy"].dataset.data_vars.values())
    tree.to_zarr(tmp_path / "copy.zarr", consolidated=False)
    again = xarray.open_datatree(tmp_path / "copy.zarr", engine="zarr", consolidated=False)
    xarray.testing.assert_equal(again["samples"].load().to_dataset(), tree["samples"].load().to_dataset())
    xarray.testing.assert_equal(again["samples/power"].load().to_dataset(), tree["samples/power"].load().to_dataset())


@pytest.mark.parametrize("part", [".", layout.STORE])
def test_a_jobs_directory_is_the_same_as_its_number(site: Archive, part: str) -> None:
    path = site.job(Run(4712, 0)) / part
    assert perun_hpc.open(path).identical(opened(site, 4712))
    assert perun_hpc.open(str(path)).identical(opened(site, "4712"))


def test_a_store_whose_description_is_damaged_is_refused_in_one_line(site: Archive, tmp_path: Path) -> None:
    shutil.copytree(site.job(Run(4712, 0)), tmp_path / "job")
    document = tmp_path / "job" / layout.STORE / "zarr.json"
    document.write_text(document.read_text().replace('"kind":"counter"', '"kinds":"counter"'))
    with pytest.raises(DataError, match=r"is damaged.*run perun collect --repair") as refused:
        perun_hpc.open(tmp_path / "job")
    assert "\n" not in str(refused.value)


def test_a_job_without_a_trace_has_its_figures(site: Archive) -> None:
    tree = opened(site, 4713)
    assert float(tree.energy) == pytest.approx(8_000)
    assert "samples" not in tree.children


def test_what_is_not_one_job_is_refused_in_one_line(site: Archive, tmp_path: Path) -> None:
    assert opened(site, "4714_1").attrs["title"] == "job 4714_1"
    with pytest.raises(UsageError, match=r"has 2 members: name one, or all with perun_hpc\.open_many"):
        opened(site, 4714)
    with pytest.raises(NotFoundError, match="does not exist"):
        perun_hpc.open(tmp_path / "nothing")
    with pytest.raises(NotFoundError, match="holds no trace"):
        perun_hpc.open(tmp_path)


def test_many_jobs_are_a_table_and_their_traces_which_dask_reads(site: Archive) -> None:
    tree = perun_hpc.open_many([4711, 4712, 4713, "4714"], archive=site.root, ledger=ledger_of(site), cluster="c")
    jobs = tree["jobs"].to_dataset()
    assert jobs.job.values.tolist() == ["4711", "4712", "4713", "4714_0", "4714_1"]
    assert float(jobs.energy.sum()) == pytest.approx(6 * 8_000)
    assert jobs.start.dtype == "M8[ns]" and jobs.user.values.tolist() == ["alice"] * 5
    first, second = (tree[f"traces/{job}/samples/energy"].energy for job in ("4711", "4712"))
    assert first.chunks is not None and first.data.name != second.data.name
    used = {name: float(one.diff("time").sum()) for name, one in (("4711", first), ("4712", second))}
    for name, joules in used.items():
        assert joules == pytest.approx(float(opened(site, name)["samples/energy"].energy.diff("time").sum()))
    assert used["4711"] != used["4712"]
    assert len(pickle.dumps(tree)) < 1_000_000  # what goes to a worker is how to read, not what


def test_distributed_workers_open_and_read_them(site: Archive) -> None:
    """In an interpreter of its own: a worker process begins by importing what called it."""
    code = f"""
import perun_hpc
from dask.distributed import Client, LocalCluster

if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        tree = perun_hpc.open_many([4711, 4712], archive={str(site.root)!r}, cluster="c")
        print([float(tree[f"traces/{{job}}/samples/energy"].energy.diff("time").sum()) for job in (4711, 4712)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    alone = [float(opened(site, job)["samples/energy"].energy.diff("time").sum()) for job in (4711, 4712)]
    assert json.loads(done.stdout) == pytest.approx(alone)


def test_who_may_not_enter_a_jobs_directory_does_not_see_it(site: Archive) -> None:
    """The directory of all runs cannot be listed; a job's is its owner's."""
    if os.getuid():
        pytest.skip("needs root, to be somebody else")
    code = f"""
import os, sys
import perun_hpc, perun_hpc.report.trees.opening, xarray, zarr, perun_hpc.accounting.whereabouts
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for what in (4712, {str(site.job(Run(4712, 0)))!r}):
    try:
        perun_hpc.open(what, archive={str(site.root)!r}, cluster="c")
    except Exception as error:
        print(type(error).__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    # By its number Slurm is asked next, which there may not be here.
    assert done.stdout.split()[0] in ("NotFoundError", "UnavailableError"), done.stderr
    assert done.stdout.split()[1:] == ["AccessError"], done.stderr


def test_hosts_of_a_round_lie_side_by_side_though_their_times_differ(tmp_path: Path) -> None:
    for late, node in enumerate("ab"):
        place = tmp_path / "0" / node
        store = NodeStore.open(
            place,
            cluster="",
            job_id="run",
            restart_count=0,
            node=node,
            sensors=KINDS[:2],
            period_ns=S,
            start_ns=LONG_AGO * S,
            nodes=(node,),
            job_dir=place,
            sync_ns=None,
        )
        for index in range(20):
            store.append(LONG_AGO + 5 * late + index, [10**6 * index, 10**6 * (index + late)])
        store.seal()
        job_store.finalise(place, (node,), (LONG_AGO + 99) * S, (LONG_AGO + 99) * S)
    tree = perun_hpc.open(tmp_path / "0")
    energy = tree["samples/energy"].energy
    assert dict(energy.sizes) == {"host": 2, "sensor": 2, "time": 25}
    assert energy.sel(sensor="package-1", time=np.datetime64(LONG_AGO + 6, "s")).values.tolist() == [6.0, 2.0]
    assert np.isnan(energy.sel(host="b").values[:, :5]).all() and np.isnan(energy.sel(host="a").values[:, 20:]).all()
