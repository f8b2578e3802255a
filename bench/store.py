"""What a node's trace costs: bytes per sample, CPU time and metadata operations for an hour of 40 sensors at 1 Hz.

The data are synthetic (`tests/soak/store_data.py` says how). Peers write the same rows: HDF5 as Slurm's profile plugin
lays it out (one packet table per node, rows of 8-byte fields and two times, chunks of 10 rows, no compression), HDF5 as
perun 1.0 does (a group per sensor with float64 values and float32 times), and zarr-python appending an array per sensor
every minute.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.result import Result, Skipped, interleaved
from perun_hpc.store.layout import NS_PER_S
from perun_hpc.store.node_store import NodeStore
from tests.soak.store_data import START, rows, sensors

SENSORS = sensors()
ROWS = 3600
ZARR_ROWS = 600
"""zarr appends are measured for ten minutes and multiplied."""

Data = list[list[int | None]]
METADATA = {"open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "os.listdir", "os.scandir"}
_count = {"on": False, "operations": 0}


def _hook(event: str, _arguments: tuple[object, ...]) -> None:
    if _count["on"] and event in METADATA:
        _count["operations"] += 1


def run() -> Iterator[Result]:
    """Figures for the writer."""
    try:
        import h5py  # noqa: F401
        import zarr  # noqa: F401
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed") from error
    sys.addaudithook(_hook)
    data = list(rows(SENSORS, ROWS))
    sizes: dict[str, float] = {}
    operations: dict[str, float] = {}

    def arm(name: str) -> float:
        directory = Path(tempfile.mkdtemp(prefix="perun-bench-"))
        _count.update(on=True, operations=0)
        begin = time.process_time()
        try:
            samples, factor = WRITERS[name](directory, data)
            spent = (time.process_time() - begin) * factor
            operations[name] = _count["operations"] * factor
            sizes[name] = _bytes(directory) / samples
        finally:
            _count["on"] = False
            shutil.rmtree(directory)
        return spent

    cpu = {name: sorted(values)[1] for name, values in interleaved({n: _call(arm, n) for n in WRITERS}, 3).items()}
    for peer, label in (("slurm", "HDF5, Slurm's layout"), ("perun", "HDF5, perun 1.0's layout")):
        suffix = "" if peer == "slurm" else f".{peer}"
        yield Result(f"store.bytes_per_sample{suffix}", sizes["ours"], "B", label, sizes[peer])
    yield Result("store.cpu_s_per_hour", cpu["ours"], "s", "HDF5, row by row", cpu["slurm"], 3)
    yield Result("store.cpu_s_per_hour.zarr", cpu["ours"], "s", "zarr, append", cpu["zarr"], 3)
    yield Result("store.metadata_ops_per_hour", operations["ours"], "calls", "zarr, append", operations["zarr"])


def _call(function: Callable[[str], float], name: str) -> Callable[[], float]:
    return lambda: function(name)


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _ours(directory: Path, data: Data) -> tuple[int, float]:
    store = NodeStore.open(
        directory,
        cluster="c",
        job_id="1",
        restart_count=0,
        node="n1",
        sensors=SENSORS,
        period_ns=NS_PER_S,
        start_ns=START * NS_PER_S,
        energy_step_uj=1000,
    )
    for index, row in enumerate(data):
        store.append(START + index, row, index % 150)
    store.seal()
    shutil.rmtree(directory / "tracks")
    return len(data) * len(SENSORS), 1


def _slurm(directory: Path, data: Data) -> tuple[int, float]:
    import h5py
    import numpy

    fields = [("ElapsedTime", "u8"), ("EpochTime", "u8"), *((sensor.id, "u8") for sensor in SENSORS)]
    with h5py.File(directory / "node.h5", "w") as file:
        table = file.create_dataset("Energy", shape=(0,), maxshape=(None,), chunks=(10,), dtype=fields)
        for index, row in enumerate(data):
            table.resize((index + 1,))
            table[index] = numpy.array([(index, START + index, *row)], dtype=fields)[0]
    return len(data) * len(SENSORS), 1


def _perun(directory: Path, data: Data) -> tuple[int, float]:
    import h5py
    import numpy

    times = numpy.arange(len(data), dtype="f4")
    with h5py.File(directory / "run.h5", "w") as file:
        for column, sensor in enumerate(SENSORS):
            group = file.create_group(sensor.id)
            group.create_dataset("timesteps", data=times)
            group.create_dataset("values", data=numpy.array([row[column] for row in data], dtype="f8"))
    return len(data) * len(SENSORS), 1


def _zarr(directory: Path, data: Data) -> tuple[int, float]:
    import numpy
    import zarr

    group = zarr.open_group(directory / "run.zarr", mode="w")
    made = [group.create_array(s.id, shape=(0,), chunks=(60,), dtype="i8") for s in SENSORS]
    for begin in range(0, ZARR_ROWS, 60):
        for column, array in enumerate(made):
            array.append(numpy.array([row[column] for row in data[begin : begin + 60]], dtype="i8"))
    return ZARR_ROWS * len(SENSORS), len(data) / ZARR_ROWS


WRITERS = {"ours": _ours, "slurm": _slurm, "perun": _perun, "zarr": _zarr}
