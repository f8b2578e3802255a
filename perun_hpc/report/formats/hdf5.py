"""A run as HDF5: groups ROUND/HOST/DEVICE_GROUP/SENSOR with datasets `timesteps` and `values`, metrics as
attributes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perun_hpc import files
from perun_hpc.data_model.data import DataNode
from perun_hpc.errors import UnavailableError
from perun_hpc.report.formats.readings import with_raw_data

GAP = -(1 << 63)


def check() -> None:
    """UnavailableError without h5py."""
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise UnavailableError("the format hdf5 needs h5py: pip install 'perun-hpc[hdf5]'") from error


def write(tree: DataNode, directory: Path, target: Path) -> None:
    """Write the file; UnavailableError without h5py."""
    check()
    import h5py

    with files.Replacement(target) as partial, h5py.File(partial, "w") as file:
        _write(file.create_group(tree.id.replace("/", "_")), with_raw_data(tree, directory))


def _write(group: Any, node: DataNode) -> None:
    import numpy as np

    group.attrs["type"] = str(node.type)
    group.attrs["metadata"] = json.dumps(node.metadata)
    for kind in node.metrics:
        group.attrs[str(kind)] = node.value(kind)
    if node.regions:
        group.attrs["regions"] = json.dumps(node.to_json()["regions"])
    if node.raw_data is not None:
        values = [GAP if value is None else value for value in node.raw_data.values]
        group.create_dataset("timesteps", data=np.array(node.raw_data.mono_ns, dtype=np.int64)).attrs["unit"] = "ns"
        data = group.create_dataset("values", data=np.array(values, dtype=np.int64))
        data.attrs["unit"] = node.raw_data.unit
        data.attrs["gap"] = GAP
    for name, child in node.nodes.items():
        _write(group.create_group(name.replace("/", "_")), child)
