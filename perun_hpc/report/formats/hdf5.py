"""A run as HDF5: groups ID/ROUND/HOST/DEVICE_GROUP/SENSOR with datasets `timesteps` and `values`, metrics as
attributes; and the whole tree but its readings as JSON in the dataset `.tree`, from which it is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from perun_hpc import extras, files
from perun_hpc.data_model.data import DataNode, NodeType, RawData
from perun_hpc.errors import DataError, NotFoundError, UnavailableError
from perun_hpc.monitoring import runs
from perun_hpc.report.formats.readings import with_raw_data

GAP = -(1 << 63)
TREE = ".tree"


def check() -> None:
    """UnavailableError without h5py."""
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"the format hdf5 needs h5py: {extras.remedy('h5py')}") from error


def write(tree: DataNode, directory: Path, target: Path) -> None:
    """Write the file; UnavailableError without h5py."""
    check()
    import h5py

    with files.Replacement(target) as partial, h5py.File(partial, "w") as file:
        whole = with_raw_data(tree, directory)
        file[TREE] = runs.encode(_bare(whole)).decode()
        _write(file.create_group(_name(tree.id)), whole)


def read(path: Path) -> DataNode:
    """The tree with its readings.

    Raises
    ------
    NotFoundError, DataError, UnavailableError
    """
    check()
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if TREE not in file:
                raise DataError(f"{path}: holds no run of perun-hpc (files of perun 1.0.0 are read by perun 1.0.0)")
            tree = runs.decode(file[TREE][()], path)
            _hang(file[_name(tree.id)], tree)
            return tree
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist: check the path") from error
    except (OSError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _name(text: str) -> str:
    return text.replace("/", "_")


def _bare(tree: DataNode) -> DataNode:
    """The tree without readings; a copy."""
    copy = DataNode.from_json(tree.to_json())
    for node in copy.walk(NodeType.SENSOR):
        node.raw_data = None
    return copy


def _hang(group: Any, node: DataNode) -> None:
    """Put the readings of a group and all below it into the tree."""
    if "values" in group:
        numbers = (None if value == GAP else value for value in group["values"][()].tolist())
        times = tuple(group["timesteps"][()].tolist())
        node.raw_data = RawData(times, tuple(numbers), str(group["values"].attrs["unit"]))
    for name, child in node.nodes.items():
        _hang(group[_name(name)], child)


def _write(group: Any, node: DataNode) -> None:
    import numpy as np

    group.attrs["type"] = str(node.type)
    # As datasets: an attribute holds 64 KiB at most.
    group["metadata"] = json.dumps(node.metadata)
    for kind in node.metrics:
        group.attrs[str(kind)] = node.value(kind)
    if node.regions:
        group["regions"] = json.dumps(node.to_json()["regions"])
    if node.raw_data is not None:
        values = [GAP if value is None else value for value in node.raw_data.values]
        group.create_dataset("timesteps", data=np.array(node.raw_data.mono_ns, dtype=np.int64)).attrs["unit"] = "ns"
        data = group.create_dataset("values", data=np.array(values, dtype=np.int64))
        data.attrs["unit"] = node.raw_data.unit
        data.attrs["gap"] = GAP
    for name, child in node.nodes.items():
        _write(group.create_group(_name(name)), child)
