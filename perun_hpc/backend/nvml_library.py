"""The Python module pynvml, of whatever version and distribution it is."""

from __future__ import annotations

from typing import Any

from perun_hpc.data_model.sensor import Missing


class Library:
    """The module pynvml of any version: what it lacks is a function that the driver lacks, for who asks.

    `knows_fields`: whether it has the fields of power and their scopes (nvidia-ml-py 12.535 and later have).
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self.knows_fields = hasattr(module, "NVML_FI_DEV_POWER_INSTANT") and hasattr(module, "NVML_POWER_SCOPE_MODULE")

    def __getattr__(self, name: str) -> Any:
        try:
            return getattr(self._module, name)
        except AttributeError:
            if not name.startswith("nvml"):
                raise
            return self._lacks

    def _lacks(self, *_: Any) -> Any:
        raise self._module.NVMLError(self._module.NVML_ERROR_FUNCTION_NOT_FOUND)


def outdated(module: Any) -> tuple[Missing, ...]:
    """What a module pynvml of before 2023 costs, and whose it is.

    The distribution pynvml (before 12) has a module of that name of its own, which hides that of nvidia-ml-py.
    """
    if Library(module).knows_fields:
        return ()
    place = getattr(module, "__file__", None) or "?"
    other = hasattr(module, "__path__")
    whose = "of the distribution pynvml, which hides nvidia-ml-py's" if other else "of an old nvidia-ml-py"
    remedy = (
        "pip uninstall pynvml; pip install --force-reinstall nvidia-ml-py" if other else "pip install -U nvidia-ml-py"
    )
    why = f"the Python module {place} is {whose}: GPUs are read by the older calls, superchips' modules and power not"
    return (Missing("power fields of NVIDIA GPUs", why, remedy),)


def text(value: Any) -> str:
    """A text; older versions of the package hand bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
