"""Merging one-hour stores of all nodes of a job: rewriting metadata beside copying, at 4, 64, 1024 and 8192 nodes.

Peers: HDF5 files in Slurm's layout copied into one as sh5util does, and, up to 64 nodes, the same Zarr parts re-encoded
into one array per quantity with zarr-python. `ship` is what the parts cost before, where they come from spools; its
peer is a plain copy of the same files.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench import store_jobs
from bench.result import Result, Skipped, medians
from perun_hpc.store.merge import finalise
from perun_hpc.store.ship import ship

SIZES = (4, 64, 1024, 8192)
MAX_REENCODED = 64
ROWS = 3600
NEEDED_B = 16 << 30
"""What the copies of the largest job need while they are made."""


def run() -> Iterator[Result]:
    """Figures for each size."""
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed") from error
    free_b = shutil.disk_usage(tempfile.gettempdir()).free
    if free_b < NEEDED_B:
        raise Skipped(f"{NEEDED_B >> 30} GiB are needed in {tempfile.gettempdir()}, {free_b >> 30} GiB are free")
    for nodes in SIZES:
        directory = Path(tempfile.mkdtemp(prefix="perun-bench-"))
        try:
            yield from _size(directory, nodes)
        finally:
            shutil.rmtree(directory)
    yield _shipping()


def _size(directory: Path, nodes: int) -> Iterator[Result]:
    job = store_jobs.job(directory, nodes, ROWS)
    source = store_jobs.slurm_file(directory / "node.h5", ROWS)
    names = store_jobs.names(nodes)
    cpu_s: dict[str, list[float]] = {"ours": [], "hdf5": []}
    arms: dict[str, Callable[[], float]] = {
        "ours": lambda: _timed(lambda: finalise(job, names, store_jobs.NOW_NS), cpu_s["ours"]),
        "hdf5": lambda: _timed(lambda: store_jobs.slurm_merge(source, directory / "job.h5", nodes), cpu_s["hdf5"]),
    }
    if nodes <= MAX_REENCODED:
        arms["zarr"] = lambda: _timed(lambda: _reencode(job, directory / "merged.zarr"))
    state = finalise(job, names, store_jobs.NOW_NS).state
    if state != "complete":
        raise RuntimeError(f"the store of {nodes} nodes is {state}")
    rounds = 3 if nodes <= 1024 else 1
    taken = medians(arms, rounds)
    again = sorted(arms["ours"]() for _ in range(5))[2]
    value = taken["ours"] if rounds > 1 else again
    yield Result(f"merge.seconds.{nodes}", value, "s", "HDF5 copied as by sh5util", taken["hdf5"], rounds)
    ours_s, hdf5_s = (sorted(cpu_s[arm])[len(cpu_s[arm]) // 2] for arm in ("ours", "hdf5"))
    yield Result(f"merge.cpu_s.{nodes}", ours_s, "s", "HDF5 copied as by sh5util", hdf5_s, rounds)
    if "zarr" in taken:
        yield Result(f"merge.seconds.{nodes}.zarr", value, "s", "zarr, re-encoded", taken["zarr"], rounds)


def _timed(call: Callable[[], object], cpu_s: list[float] | None = None) -> float:
    """Wall time of a call that begins with nothing left to write, so that none waits for what another one wrote.

    Its CPU time, which says the same on a busy machine, goes into `cpu_s`.
    """
    os.sync()
    begin, used = time.perf_counter(), time.process_time()
    call()
    if cpu_s is not None:
        cpu_s.append(time.process_time() - used)
    return time.perf_counter() - begin


def _reencode(job: Path, target: Path) -> None:
    import numpy
    import zarr

    from perun_hpc.store.job_store import open_group

    source = open_group(job)
    start = int(source.attrs["time_start"])  # type: ignore[arg-type]
    merged = zarr.open_group(target, mode="w")
    for name, array in source.arrays():
        if array.ndim > 1 and numpy.issubdtype(array.dtype, numpy.number):
            shape = (*array.shape[:-1], array.shape[-1] - start)
            made = merged.create_array(name, shape=shape, chunks=(1, *shape[1:]), dtype=array.dtype)
            for node in range(shape[0]):
                made[node] = array[node, ..., start:]


def _shipping() -> Result:
    directory = Path(tempfile.mkdtemp(prefix="perun-bench-"))
    try:
        session = store_jobs.session(directory / "session", "node00000", ROWS)
        target = directory / "job"
        ship(session, target, store_jobs.names(64))
        copies = iter(range(1000))
        arms: dict[str, Callable[[], float]] = {
            "ours": lambda: _timed(lambda: ship(session, target, store_jobs.names(64))),
            "copy": lambda: _timed(lambda: shutil.copytree(session / "job.zarr", directory / f"copy{next(copies)}")),
        }
        taken = medians(arms, 9)
        return Result("merge.ship_s_per_node", taken["ours"], "s", "cp -r, not made durable", taken["copy"], 9)
    finally:
        shutil.rmtree(directory)
