"""Reading one sensor of all nodes of a job of 1024: from the merged store, the recoded one, and a merged HDF5 file.

The HDF5 file is laid out as Slurm's and merged as sh5util does. Ten minutes at 1 Hz; all files are warm,
opening counts.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import store_jobs
from bench.result import Result, Skipped, medians
from perun_hpc.store.merge import finalise

NODES = 1024
ROWS = 600


def run() -> Iterator[Result]:
    """The figures."""
    try:
        import h5py  # noqa: F401
        import xarray  # noqa: F401
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed") from error
    from perun_hpc.store.job_store import recode

    directory = Path(tempfile.mkdtemp(prefix="perun-bench-"))
    try:
        job = store_jobs.job(directory, NODES, ROWS)
        finalise(job, (), store_jobs.NOW_NS)
        store_jobs.slurm_merge(store_jobs.slurm_file(directory / "node.h5", ROWS), directory / "job.h5", NODES)
        arms = {"ours": lambda: _ours(job), "hdf5": lambda: _hdf5(directory / "job.h5")}
        whole = medians(arms, 3)
        begin = time.perf_counter()
        recode(job, store_jobs.NOW_NS)
        recoding = time.perf_counter() - begin
        blocks = medians(arms, 3)
    finally:
        shutil.rmtree(directory)
    yield Result("read.one_sensor_s.1024", whole["ours"], "s", "HDF5 merged by sh5util", whole["hdf5"], 3)
    yield Result("read.one_sensor_recoded_s.1024", blocks["ours"], "s", "HDF5 merged by sh5util", blocks["hdf5"], 3)
    yield Result("read.recode_s.1024", recoding, "s")


def _ours(job: Path) -> float:
    from perun_hpc.store.job_store import open_job

    begin = time.perf_counter()
    power = open_job(job).power.sel(power_channel="gpu-0").values
    taken = time.perf_counter() - begin
    if power.shape != (NODES, ROWS):
        raise RuntimeError(f"read {power.shape}")
    return taken


def _hdf5(path: Path) -> float:
    import h5py
    import numpy

    begin = time.perf_counter()
    with h5py.File(path, "r") as file:
        column = numpy.stack([file[f"{name}/Energy"]["synthetic:gpu-0:power"] for name in file])
    taken = time.perf_counter() - begin
    if column.shape != (NODES, ROWS):
        raise RuntimeError(f"read {column.shape}")
    return taken
