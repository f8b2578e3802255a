"""How `pytest -n N` shares the tests out among its processes."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest
from xdist.scheduler import LoadFileScheduling

FOLDERS = ("slurm", "mpi", "flow", "contract", "wire", "unit")
"""In the order in which they begin: what takes longest first."""
CLUSTERS = (
    ("test_attack", "test_line"),
    ("test_accounting", "test_hooks", "test_store", "test_watch"),
    ("test_configless", "test_doctor", "test_energy_plugin"),
)
"""Files of `slurm` with a cluster of their own, beside the one of all others: each about a fourth of the time."""
WHOLE = ("mpi", "wire")
"""Ranks of MPI that wait take a CPU each: one program at a time. The C parts are built once, with the sanitizers."""


class Beside(LoadFileScheduling):
    """The tests of a file stay together, since they share fixtures; so do those of a cluster and those of `WHOLE`."""

    def _split_scope(self, nodeid: str) -> str:
        file = PurePath(nodeid.partition("::")[0])
        if file.parent.name in WHOLE:
            return file.parent.name
        if file.parent.name != "slurm":
            return str(file)
        return next((" ".join(files) for files in CLUSTERS if file.stem in files), "slurm")


def in_order(items: list[pytest.Item]) -> None:
    """Sort the tests by the folders' order; the scheduler begins with the first."""
    here = Path(__file__).parent
    items.sort(key=lambda item: FOLDERS.index(item.path.relative_to(here).parts[0]))
