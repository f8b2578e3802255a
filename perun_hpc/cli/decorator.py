"""`@perun`: measure every call of a function, as `perun monitor` measures a program."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast, overload

from perun_hpc.inject import closed

F = TypeVar("F", bound=Callable[..., Any])

_NEEDED = (
    "perun_hpc.cli.session", "perun_hpc.monitoring.spawn", "perun_hpc.monitoring.gather", "perun_hpc.monitoring.ranks",
    "perun_hpc.inject.regions", "perun_hpc.wire.client", "perun_hpc.monitoring.runs", "perun_hpc.report.formats.text",
    "perun_hpc.report.formats.history",
)  # fmt: skip
"""What a measured call imports sooner or later: at once, without the program's own modules in between."""


@overload
def perun(configuration_file: F) -> F: ...
@overload
def perun(configuration_file: str | os.PathLike[str] = "./.perun.ini", **config: object) -> Callable[[F], F]: ...
def perun(configuration_file: F | str | os.PathLike[str] = "./.perun.ini", **config: object) -> F | Callable[[F], F]:
    """Decorate a function: ``@perun``, ``@perun()`` or ``@perun("my.ini", app_name="mine", sampling_period=0.1)``.

    The function's result and its exceptions pass through. Called inside `perun monitor` the function just runs: the
    program is measured already.

    Parameters
    ----------
    configuration_file : read besides those that are read anyway; or, with a bare ``@perun``, the function itself.
    config : options of the configuration by name; they come before all files.

    Returns
    -------
    The function that measures its calls, or, for a file or keywords, what makes it of a function. A file or an option
    that cannot be is a `ConfigError` of the first call.
    """
    if callable(configuration_file):
        return cast("F", _decorate(configuration_file, None, {}))
    file = Path(configuration_file)
    # The default file is one that load() looks for anyway, and it need not exist.
    named = None if configuration_file == "./.perun.ini" else file
    return lambda function: cast("F", _decorate(function, named, config))


def _decorate(function: Callable[..., Any], file: Path | None, config: dict[str, object]) -> Callable[..., Any]:
    @functools.wraps(function)
    def measured(*args: Any, **kwargs: Any) -> Any:
        if closed.load("perun_hpc.inject.rank").current is not None:
            return function(*args, **kwargs)
        try:
            session, *_ = (closed.load(name, strict=False) for name in _NEEDED)
            return session.Session.load(file, config).run_function(function, args, kwargs)
        except BaseException as error:
            raise error.with_traceback(_of_function(error.__traceback__))  # noqa: B904 (it is the same one)

    return measured


def _of_function(trace: TracebackType | None) -> TracebackType | None:
    """A trace from the decorated function on; as it is where the exception is our own."""
    rest = trace
    while rest is not None and rest.tb_frame.f_globals.get("__name__", "").startswith("perun_hpc."):
        rest = rest.tb_next
    return rest or trace
