"""A run as a pickle of its tree, readings included."""

from __future__ import annotations

import enum
import io
import pickle
from pathlib import Path
from typing import Any

from perun_hpc import files
from perun_hpc.data_model import data
from perun_hpc.data_model.data import DataNode
from perun_hpc.errors import DataError, NotFoundError
from perun_hpc.report.formats.readings import with_raw_data


def write(tree: DataNode, directory: Path, target: Path) -> None:
    """Write the file."""
    files.write_new(target, pickle.dumps(with_raw_data(tree, directory)), 0o644, durable=False)


def read(path: Path) -> DataNode:
    """The tree; a pickle that holds anything but a tree is refused, and nothing in it is run.

    Raises
    ------
    NotFoundError, DataError
    """
    try:
        found = _Unpickler(io.BytesIO(path.read_bytes())).load()
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist: check the path") from error
    except Exception as error:  # whatever a damaged pickle leads to
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(found, DataNode):
        raise DataError(f"{path}: holds no run of perun-hpc")
    return found


class _Unpickler(pickle.Unpickler):
    """Knows the classes of a tree and no other name: a pickle can call whatever it can name."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the tree's classes; UnpicklingError for anything else."""
        if (module, name) == ("builtins", "getattr"):  # how CPython 3.11 names the member of an enumeration
            return _member
        found = getattr(data, name, None) if module == data.__name__ else None
        if not isinstance(found, type) or found.__module__ != data.__name__:
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a run")
        return found


def _member(kind: Any, name: str) -> Any:
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum)):
        raise pickle.UnpicklingError(f"{name} of {kind!r} is no part of a run")
    return kind[name]
