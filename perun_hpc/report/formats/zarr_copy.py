"""A run's traces as they are: ROUND/HOST.zarr below the target directory."""

from __future__ import annotations

import shutil
from pathlib import Path

from perun_hpc.errors import NotFoundError
from perun_hpc.store import layout


def write(directory: Path, target: Path) -> None:
    """Copy every trace of a run; NotFoundError if it has none (a run shorter than a sampling period)."""
    traces = sorted(directory.glob(f"*/*/{layout.STORE}"))
    if not traces:
        raise NotFoundError(f"{directory} holds no trace: it was shorter than a sampling period")
    for trace in traces:
        host = trace.parent
        shutil.copytree(trace, target / host.parent.name / f"{host.name}.zarr", dirs_exist_ok=True)
