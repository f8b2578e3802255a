"""Notices that the application has initialised MPI, and learns the rank's place in the machine from it.

MPI is never imported from here. When the application imports `mpi4py.MPI`, which initialises MPI as a rule, or calls
`MPI.Init` later, every rank is at the same point of a collective call. Not every one is ours, though: right behind it
those of a host agree outside of MPI (`comm.host_group`), make a communicator of their own, use it once and give it
back. Between then and the end of the run no communicator of ours exists.
"""

from __future__ import annotations

import sys

from perun_hpc.inject import closed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from perun_hpc.inject.rank import Rank

MPI4PY = "mpi4py.MPI"


def install(rank: Rank) -> None:
    """Watch for the application's MPI on behalf of `rank`."""
    sys.meta_path.insert(0, _Finder(rank))


class _Finder:
    """First on sys.meta_path until mpi4py.MPI is imported; lets the others find it and looks over their shoulder."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != MPI4PY:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = None if find is None else find(name, path, target)
            if spec is not None:
                _watch_loader(spec.loader, self._rank)
                return spec
        return None


def _watch_loader(loader: Any, rank: Rank) -> None:
    execute = loader.exec_module

    def exec_module(module: Any) -> Any:
        del loader.exec_module
        before = _initialised_by_others()
        result = execute(module)
        try:
            _after_import(module, rank, before)
        except Exception as error:  # ours, never the application's
            rank.mpi_failed(f"{type(error).__name__}: {error}")
        return result

    try:
        loader.exec_module = exec_module
    except AttributeError:  # a loader without a __dict__: the environment's ranks must do
        rank.mpi_failed(f"{type(loader).__name__} cannot be watched")


def _initialised_by_others() -> bool:
    """Whether some library has initialised MPI before mpi4py was imported; then importing it is no collective call."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            paths = {line.split(maxsplit=5)[5].strip() for line in maps if "libmpi" in line}
    except (OSError, IndexError):
        return False
    if not paths:
        return False
    ctypes = closed.load("ctypes")
    for path in paths:
        flag = ctypes.c_int(0)
        try:
            ctypes.CDLL(path).MPI_Initialized(ctypes.byref(flag))
        except (OSError, AttributeError):
            continue
        if flag.value:
            return True
    return False


def _after_import(mpi: Any, rank: Rank, before: bool) -> None:
    if before:
        rank.mpi_failed("MPI was initialised before mpi4py was imported")
    elif mpi.Is_initialized():
        if not mpi.Is_finalized():
            rank.mpi_ready(mpi)
    else:
        for name in ("Init", "Init_thread"):
            setattr(mpi, name, _then(getattr(mpi, name), mpi, rank))


def _then(function: Any, mpi: Any, rank: Rank) -> Any:
    def initialise(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        rank.mpi_ready(mpi)
        return result

    # Most programs never come here.
    return closed.load("functools").update_wrapper(initialise, function)
