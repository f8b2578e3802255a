"""Job stores and HDF5 files of many nodes for the benches `merge` and `read`: 40 sensors at 1 Hz.

One node's part is written for real; the others are hard links to its files, which costs readers and copiers nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from perun_hpc.data_model.sensor import Sensor
from perun_hpc.store import create, layout
from perun_hpc.store.layout import NS_PER_S, Mark
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import ship
from tests.soak.store_data import START, rows, sensors

SENSORS = sensors()
NOW_NS = (START + 7200) * NS_PER_S


def names(count: int) -> tuple[str, ...]:
    """The nodes of a job."""
    return tuple(f"node{index:05d}" for index in range(count))


def session(directory: Path, node: str, count: int, of: Sequence[Sensor] = SENSORS) -> Path:
    """A sealed session in a node's spool."""
    store = NodeStore.open(
        directory,
        cluster="c",
        job_id="1",
        restart_count=0,
        node=node,
        sensors=tuple(of),
        period_ns=NS_PER_S,
        start_ns=START * NS_PER_S,
        energy_step_uj=1000,
        sync_ns=None,
    )
    for index, row in enumerate(rows(tuple(of), count)):
        store.append(START + index, row)
    store.seal()
    return directory


def job(directory: Path, nodes: int, count: int) -> Path:
    """A job's directory to which all nodes have shipped `count` rows each."""
    target = directory / "job"
    fill(directory / "session", target, nodes, count)
    return target


def fill(spool: Path, target: Path, nodes: int, count: int, of: Sequence[Sensor] = SENSORS) -> None:
    """Ship the traces of all nodes into a job's directory; the session of one lies in `spool` then."""
    ship(session(spool, names(nodes)[0], count, of), target, names(nodes))
    (track,) = create.tracks(target, create.read_plan(target))
    for form in track.forms:
        for column in range(2):
            first = create.shard_path(target, track, form.name, 0, column)
            for node in range(1, nodes) if first.exists() else ():
                os.link(first, create.shard_path(target, track, form.name, node, column))
    for name in names(nodes)[1:]:
        mark = Mark(name, track.group, "complete", START, START + count - 1)
        (target / layout.MARKS / mark.name).touch()


def slurm_file(path: Path, count: int) -> Path:
    """The same rows as a node's HDF5 file in the layout of Slurm's profile plugin."""
    import h5py
    import numpy

    fields = [("ElapsedTime", "u8"), ("EpochTime", "u8"), *((sensor.id, "u8") for sensor in SENSORS)]
    data = [(index, START + index, *row) for index, row in enumerate(rows(SENSORS, count))]
    with h5py.File(path, "w") as file:
        table = file.create_dataset("node/Energy", shape=(count,), maxshape=(None,), chunks=(10,), dtype=fields)
        table[:] = numpy.array(data, dtype=fields)
    return path


def slurm_merge(source: Path, target: Path, nodes: int) -> None:
    """What sh5util does: open every node's file and copy its groups into the job's."""
    import h5py

    with h5py.File(target, "w") as merged:
        for name in names(nodes):
            with h5py.File(source, "r") as part:
                part.copy("node", merged, name=name)
