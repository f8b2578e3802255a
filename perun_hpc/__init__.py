"""perun-hpc: performance and energy of every Slurm job, measured automatically.

Public names, imported when they are first used so that ``import perun_hpc`` costs next to nothing:

``monitor``
    Mark a region: ``@monitor``, ``@monitor("name")``, ``with monitor("name"):``.
``window``
    A region whose energy is known at once: ``with window("name") as w: ...; w.energy_j``.
``perun``
    Measure a call: ``@perun(app_name="mine")``.
``register_callback``, ``register_live_callback``
    Be called with the finished run, or with every reading.
``open``, ``open_many``
    Jobs and stored runs as trees of xarray's. Not among what ``import *`` brings, which would hide the builtin.
"""

from perun_hpc._version import __version__

TYPE_CHECKING = False  # in the programs that are measured, importing typing would cost more than all of this package
if TYPE_CHECKING:
    from typing import Any

    from perun_hpc.cli.decorator import perun
    from perun_hpc.inject.regions import monitor, window
    from perun_hpc.monitoring.callbacks import register_callback, register_live_callback
    from perun_hpc.report.trees.opening import open as open
    from perun_hpc.report.trees.opening import open_many as open_many

__all__ = ["__version__", "monitor", "perun", "register_callback", "register_live_callback", "window"]

_HOMES = {
    "monitor": "perun_hpc.inject.regions",
    "window": "perun_hpc.inject.regions",
    "perun": "perun_hpc.cli.decorator",
    "register_callback": "perun_hpc.monitoring.callbacks",
    "register_live_callback": "perun_hpc.monitoring.callbacks",
    "open": "perun_hpc.report.trees.opening",
    "open_many": "perun_hpc.report.trees.opening",
}


def __dir__() -> "list[str]":
    return sorted({*globals(), *_HOMES})


def __getattr__(name: str) -> "Any":
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from perun_hpc.inject import closed

    value = getattr(closed.load(_HOMES[name], strict=name in ("monitor", "window")), name)
    globals()[name] = value
    return value
