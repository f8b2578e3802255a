"""The node's side of the store: rows in, shards out, whatever happens in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perun_hpc.data_model.sensor import Kind, Sensor
from perun_hpc.data_model.units import Quantity
from perun_hpc.errors import DataError
from perun_hpc.store import job_store, layout
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.shard import GrowingShard, end_of
from perun_hpc.store.ship import extend, grow, ship
from tests.soak.store_data import rows, sensors

S = layout.NS_PER_S
START = 1_764_000_000
"""A whole number of chunks of 600 s into its shard: offsets below count from there."""


def sensor(domain: str, quantity: Quantity, kind: Kind, **more: object) -> Sensor:
    return Sensor(
        id=f"test:{domain}:{quantity}",
        host="n1",
        backend="test",
        device="",
        domain=domain,
        component="cpu",
        kind=kind,
        quantity=quantity,
        unit="tick",
        **more,  # type: ignore[arg-type]
    )


SENSORS = (
    sensor("package-0", Quantity.ENERGY, Kind.COUNTER, wrap_range=1 << 32),
    sensor("package-0", Quantity.POWER, Kind.GAUGE),
)


def opened(directory: Path, node: str = "n1", **more: object) -> NodeStore:
    settings = {"sensors": SENSORS, "period_ns": S, "start_ns": START * S, **more}
    return NodeStore.open(directory, cluster="c", job_id="7", restart_count=0, node=node, **settings)  # type: ignore[arg-type]


def row(index: int) -> list[int | None]:
    return [index * 1000, 100_000_000 + index * 1000]


def merged(session: Path, job: Path, nodes: tuple[str, ...] = ("n1",)) -> job_store.Merged:
    ship(session, job, nodes)
    return job_store.finalise(job, nodes, (START + 100_000) * S)


def test_rows_come_back_as_they_went_in(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    for index in range(1500):
        store.append(START + index, row(index) if index != 700 else [None, None], offset_us=index % 90)
    sealed = store.seal()
    assert (sealed.state, sealed.rows, sealed.first, sealed.last) == ("complete", 1500, START, START + 1499)
    assert merged(tmp_path / "s", tmp_path / "j").state == "complete"
    data = job_store.open_job(tmp_path / "j")
    energy = data.energy.sel(node="n1", energy_channel="package-0").values
    expected = np.arange(1500) * 1e-3
    expected[700] = np.nan
    np.testing.assert_allclose(energy, expected, rtol=1e-12)
    assert float(data.power.sel(node="n1").values[0, 3]) == pytest.approx(100.003)
    assert data.time.values[0] == np.datetime64(START * S, "ns")
    assert data.sizes["time"] == 1500


def test_a_counter_that_wraps_is_stored_unwrapped(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    for index in range(10):
        store.append(START + index, [(4_294_000_000 + index * 500_000) % (1 << 32), 0])
    store.seal()
    merged(tmp_path / "s", tmp_path / "j")
    raw = job_store.open_group(tmp_path / "j")["energy"][0, 0, :]  # type: ignore[index]
    stored = np.asarray(raw)[START - layout.origin_tick(S, START * S) :]
    np.testing.assert_array_equal(stored, 4_294_000_000 + np.arange(10) * 500_000)


def test_rows_of_a_tick_that_has_passed_are_counted_and_left_out(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    for tick in (0, 1, 2, 1, 2, 3):
        store.append(START + tick, row(tick))
    sealed = store.seal()
    assert (sealed.rows, sealed.dropped) == (4, 2)


def test_a_store_that_was_abandoned_is_recovered_with_its_rows(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    for index in range(1300):
        store.append(START + index, row(index))
    store.close()
    (again,) = NodeStore.recover(tmp_path / "s")
    assert again.losses == ()
    assert again.last_tick == START + 1299
    for index in range(1300, 1400):
        again.append(START + index, row(index))
    assert again.seal().rows == 1400
    merged(tmp_path / "s", tmp_path / "j")
    energy = job_store.open_job(tmp_path / "j").energy.values[0, 0]
    np.testing.assert_allclose(energy, np.arange(1400) * 1e-3, rtol=1e-12)
    assert NodeStore.recover(tmp_path / "s") == []


@pytest.mark.parametrize("cut", [1, 5, 13, 37])
def test_a_torn_journal_loses_its_tail_and_says_so(tmp_path: Path, cut: int) -> None:
    store = opened(tmp_path / "s")
    for index in range(20):
        store.append(START + index, row(index))
    store.close()
    (path,) = (tmp_path / "s").rglob("*.journal")
    os.truncate(path, path.stat().st_size - cut)
    (again,) = NodeStore.recover(tmp_path / "s")
    assert len(again.losses) == 1
    sealed = again.seal()
    assert (sealed.state, sealed.rows) == ("partial", 19 if cut <= 36 else 18)


def test_a_torn_index_is_rebuilt_from_the_journal(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    for index in range(1250):
        store.append(START + index, row(index))
    store.close()
    (shard,) = (tmp_path / "s").rglob("energy/c.*")
    with shard.open("r+b") as file:
        file.write(b"\x00" * 512)
    (again,) = NodeStore.recover(tmp_path / "s")
    again.seal()
    merged(tmp_path / "s", tmp_path / "j")
    energy = job_store.open_job(tmp_path / "j").energy.values[0, 0]
    np.testing.assert_allclose(energy, np.arange(1250) * 1e-3, rtol=1e-12)


def test_a_flushed_part_of_a_running_job_can_be_read(tmp_path: Path) -> None:
    store = opened(tmp_path / "s", nodes=("n1", "n2"), job_dir=tmp_path / "j")
    for index in range(50):
        store.append(START + index, row(index))
    store.flush()
    result = job_store.finalise(tmp_path / "j", ("n1", "n2"), (START + 60) * S)
    assert result.state == "open"
    assert result.nodes == {"n1": "running", "n2": "missing: has not reported yet"}
    assert job_store.open_job(tmp_path / "j").energy.sel(node="n1").values[0, -1] == pytest.approx(0.049)
    for index in range(50, 70):
        store.append(START + index, row(index))
    store.seal()
    late = job_store.finalise(tmp_path / "j", ("n1", "n2"), (START + 99) * S, deadline_ns=(START + 98) * S)
    assert late.state == "partial"
    data = job_store.open_job(tmp_path / "j")
    assert list(data.node_status.values) == ["complete", "missing: no data by the deadline"]
    assert data.sizes["time"] == 70
    assert np.isnan(data.energy.sel(node="n2").values).all()


def test_an_empty_trace_leaves_nothing_in_the_archive(tmp_path: Path) -> None:
    assert opened(tmp_path / "s").seal().rows == 0
    assert ship(tmp_path / "s", tmp_path / "j", ("n1",)).files == 0
    assert job_store.finalise(tmp_path / "j", ("n1",), START * S).state == "empty"


def test_values_that_the_type_cannot_hold_are_missing_not_wrapped(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    store.append(START, [1, (1 << 32) * 1000])
    store.append(START + 1, [1 << 63, 5000])
    store.append(START + 2, [3, -1])
    store.seal()
    merged(tmp_path / "s", tmp_path / "j")
    data = job_store.open_job(tmp_path / "j")
    np.testing.assert_array_equal(np.isnan(data.power.values[0, 0]), [True, False, True])
    np.testing.assert_array_equal(np.isnan(data.energy.values[0, 0]), [False, True, False])


def test_an_unsealed_session_is_not_shipped(tmp_path: Path) -> None:
    opened(tmp_path / "s")
    with pytest.raises(DataError, match="seal it first"):
        ship(tmp_path / "s", tmp_path / "j", ("n1",))


@pytest.mark.parametrize(
    "sealed", [7, {}, {"rows": None}, {"rows": 1, "first": 0, "last": 0, "why": "", "state": "../x"}]
)
def test_a_damaged_seal_is_refused_with_its_file(tmp_path: Path, sealed: object) -> None:
    store = opened(tmp_path / "session")
    store.append(1_764_000_000, row(0))
    store.seal()
    about = next((tmp_path / "session").rglob("track.json"))
    about.write_text(json.dumps(json.loads(about.read_text()) | {"sealed": sealed}))
    with pytest.raises(DataError, match=r"track\.json: damaged: it says that the track has ended"):
        ship(tmp_path / "session", tmp_path / "job", ["n1"])


@pytest.mark.parametrize(
    "said",
    [
        *({"energy_step_uj": step_uj} for step_uj in (0, -1, 1.5, "1", True)),
        *({"period_ns": period_ns} for period_ns in (0, 1, 99_999, 10**19, 1e9, None)),
        *({"job_dir": job_dir} for job_dir in ("relative", "/a\0b", "/\ud800", "/" + "A" * 256, "/A" * 3000, 7)),
    ],
    ids=str,
)
def test_a_description_that_no_track_can_have_is_damaged(tmp_path: Path, said: dict[str, object]) -> None:
    store = opened(tmp_path / "session")
    store.append(1_764_000_000, row(0))
    store.close()
    about = next((tmp_path / "session").rglob("track.json"))
    about.write_text(json.dumps(json.loads(about.read_text()) | said))
    with pytest.raises(DataError, match=r"track\.json: damaged"):
        NodeStore.recover(tmp_path / "session")


def test_the_agreed_plan_of_a_shared_store_is_the_first_one(tmp_path: Path) -> None:
    for node, start in (("n1", START), ("n2", START + 3)):
        store = opened(tmp_path / node, node=node, nodes=("n1", "n2"), job_dir=tmp_path / "j", start_ns=start * S)
        store.append(START + 5, row(5))
        store.seal()
    assert json.loads((tmp_path / "j" / layout.PLAN).read_bytes())["start_ns"] == START * S
    assert job_store.finalise(tmp_path / "j", (), (START + 9) * S).state == "complete"


def test_a_trace_that_grows_in_the_archive_shows_finished_chunks_and_ends_as_if_shipped_whole(tmp_path: Path) -> None:
    store = opened(tmp_path / "s", sync_ns=None)
    sizes = []
    for index in range(3000):
        store.append(START + index, row(index))
        if index % 500 == 499:
            grow(tmp_path / "s", tmp_path / "j", ("n1", "n2"))
            state = job_store.finalise(tmp_path / "j", ("n1", "n2"), (START + index) * S).state
            if state == "empty":
                continue
            assert state == "open"
            data = job_store.open_job(tmp_path / "j")
            energy = data.energy.sel(node="n1", energy_channel="package-0")
            seen = energy.dropna("time").values
            np.testing.assert_allclose(seen, np.arange(len(seen)) * 1e-3)
            assert len(seen) > index - 2 * layout.chunk_rows(S)
            assert str(data.node_status.sel(node="n1").values) == "running"
            sizes.append(len(seen))
    assert sizes == sorted(sizes) and len(set(sizes)) > 3
    assert not grow(tmp_path / "s", tmp_path / "j", ("n1", "n2")).bytes, "nothing is new"
    # Had the node died now, after the deadline:
    now_ns = (START + 5000) * S
    dead = job_store.finalise(tmp_path / "j", ("n1", "n2"), now_ns, now_ns, {"n1": "node failed"})
    assert dead.nodes == {"n1": "partial: node failed", "n2": "missing: no data by the deadline"}
    until = job_store.open_job(tmp_path / "j").node_until.sel(node="n1").values
    assert until == np.datetime64((START + sizes[-1] - 1) * S, "ns")
    store.seal()
    assert merged(tmp_path / "s", tmp_path / "j", ("n1", "n2")).nodes["n1"] == "complete"
    data = job_store.open_job(tmp_path / "j")
    np.testing.assert_allclose(data.energy.sel(node="n1").values[0], np.arange(3000) * 1e-3)


def test_what_a_crash_took_back_is_written_anew(tmp_path: Path) -> None:
    path, copy = tmp_path / "c.0.0.0", tmp_path / "copy" / "c.0.0.0"
    shard = GrowingShard(path, layout.CHUNKS_PER_SHARD)
    shard.put(0, b"first")
    shard.publish()
    earlier = shard.index
    shard.put(1, b"taken back")
    shard.publish()
    extend(path, copy)
    assert copy.read_bytes() == path.read_bytes()
    with path.open("r+b") as file:
        file.write(b"\0" * 8)
    again = GrowingShard(path, layout.CHUNKS_PER_SHARD, earlier)
    again.put(1, b"other")
    again.put(2, b"more")
    again.publish()
    extend(path, copy)
    size = end_of(again.index)
    assert copy.read_bytes() == path.read_bytes()[:size]
    assert extend(path, copy) == 0


def test_four_hundred_sensors_come_back(tmp_path: Path) -> None:
    many = sensors(400)
    store = opened(tmp_path / "s", sensors=many, sync_ns=None)
    written = list(rows(many, 700))
    for index, values in enumerate(written):
        store.append(START + index, values)
    store.seal()
    assert merged(tmp_path / "s", tmp_path / "j").state == "complete"
    group = job_store.open_group(tmp_path / "j")
    start = START - layout.origin_tick(S, START * S)
    checked = 0
    for part in layout.arrays(many):
        stored = np.asarray(group[part.form.name][0, :, start:])  # type: ignore[index]
        for at, column in enumerate(part.columns):
            if many[column].kind is Kind.GAUGE:  # a counter's values are unwrapped
                raw = [values[column] for values in written]
                np.testing.assert_array_equal(stored[at], [v // part.form.divisor for v in raw if v is not None])
                checked += 1
    assert checked > 300


def test_the_writer_stays_small() -> None:
    code = (
        "import tempfile\n"
        "from pathlib import Path\n"
        "from perun_hpc.store.node_store import NodeStore\n"
        "from tests.soak.store_data import START, rows, sensors\n"
        "with tempfile.TemporaryDirectory() as directory:\n"
        "    store = NodeStore.open(Path(directory), cluster='c', job_id='1', restart_count=0, node='n1',\n"
        "        sensors=sensors(40), period_ns=10**9, start_ns=START * 10**9, sync_ns=None)\n"
        "    for index, row in enumerate(rows(sensors(40), 1300)):\n"
        "        store.append(START + index, row)\n"
        "    store.seal()\n"
        "print(*(line.split()[1] for line in open('/proc/self/status') if line.startswith(('VmHWM', 'Threads'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    resident_kb, threads = map(int, done.stdout.split())
    assert resident_kb < 25_000 and threads == 1
