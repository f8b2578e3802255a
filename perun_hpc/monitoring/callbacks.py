"""Functions of the user that are called with results: after the run, or with every reading.

One that fails costs a warning and nothing else.

- `register_callback(f)` in the application (or in the script that uses `@perun`): `f(node)` gets the `DataNode` of the
  run, of type MULTI_RUN.
- `register_live_callback(factory, id)` in a file named by `--live-callback-files`: `factory()` is called in the
  sampling process and returns a function, which gets a dict with each sensor's value in J, W, B, s, %, Hz or degrees
  Celsius, under HOST_SENSOR; a gap is left out. It is called with the first and the last reading, too.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from perun_hpc.inject import closed

if TYPE_CHECKING:
    from perun_hpc.data_model.data import DataNode
    from perun_hpc.data_model.sensor import Sensor

PostRun = Callable[["DataNode"], None]
Live = Callable[[Mapping[str, float]], None]

QUEUED = 64
"""Readings that wait for a slow live callback; newer ones are left out."""
STOP_S = 1.0

post_run: list[PostRun] = []
live_factories: dict[str, Callable[[], Live]] = {}


def register_callback(function: PostRun) -> PostRun:
    """Have `function(node)` called when the run has ended; usable as a decorator."""
    if function not in post_run:
        from perun_hpc.inject import rank

        if rank.current is not None and not post_run:
            atexit.register(_call_in_rank)
        post_run.append(function)
    return function


def _call_in_rank() -> None:
    """At the end of an application that runs under `perun monitor`: the callbacks get this host's figures up to now."""
    from perun_hpc.inject import rank

    here = rank.current
    if here is None or here.pid != os.getpid() or here.keys["rank"] != "0" or not here.socket:
        return
    answer = here.ask("summary", "path")
    if answer is None:
        warn("callbacks are not called: the node's agent measures this run, its figures come with the job's report")
        return
    try:
        user = closed.load("perun_hpc.config.user", strict=False)
        results = closed.load("perun_hpc.monitoring.results", strict=False)
        runs = closed.load("perun_hpc.monitoring.runs", strict=False)
        directory = Path(answer[0])
        summary = results.read_summary(directory)
        chosen = user.unflat(summary["config"])  # in force out there: files, environment, command line
        host = results.host_node(directory, summary, (), with_regions=False)
        run = results.run_node(directory.parent.name, [host], chosen)
        node = results.multi_run_node(summary["run_id"], [run], runs.about(summary["app"], "RUNNING", [run], chosen))
    except Exception as error:  # a Python before 3.11, a summary that nobody wrote
        warn(f"callbacks are not called: {type(error).__name__}: {error}")
        return
    call_all(node)


def register_live_callback(factory: Callable[[], Live], id: str) -> None:
    """Have `factory()` called once in the sampling process, and what it returns with every reading.

    Parameters
    ----------
    factory : makes the callback. It gets a dict of figures in plain units by HOST_SENSOR (perun's name of the sensor,
    where it has one, else its id); a sensor that gave nothing is not in it.
    id : its name in warnings; a second factory of the same name takes the first one's place.
    """
    live_factories[id] = factory


def call_all(node: DataNode) -> None:
    """Call the post-run callbacks one after the other; what one raises is a warning."""
    for function in post_run:
        try:
            function(node)
        except Exception as error:
            warn(f"callback {getattr(function, '__name__', function)!r} raised {type(error).__name__}: {error}")


def warn(text: str) -> None:
    """One line on stderr."""
    say(f"warning: {text}")


def say(text: str, who: str = "perun: ") -> None:
    """Print a line of perun's on stderr, where there is one that takes it."""
    if sys.stderr is not None:  # else `print` would take stdout, which is the application's
        with contextlib.suppress(OSError, ValueError):
            print(f"{who}{text}", file=sys.stderr)


class LiveCallbacks:
    """The live callbacks of a run, called in a thread of their own so that a slow one delays no reading."""

    def __init__(self, functions: Mapping[str, Live]) -> None:
        self._functions = dict(functions)
        self._left_out = 0
        if functions:
            import queue
            import threading

            self._queue: queue.Queue[dict[str, float] | None] = queue.Queue(QUEUED)
            self._host = os.uname().nodename
            self._thread = threading.Thread(target=self._work, name="perun-live", daemon=True)
            self._thread.start()

    @classmethod
    def from_files(cls, files: Sequence[str]) -> LiveCallbacks:
        """Run each file, then make the callbacks that they registered."""
        functions: dict[str, Live] = {}
        for file in files:
            try:
                import runpy

                runpy.run_path(file, run_name="perun_live_callbacks")
            except (Exception, SystemExit) as error:
                warn(f"live callback file {file} raised {type(error).__name__}: {error}")
        for name, factory in live_factories.items():
            try:
                functions[name] = factory()
            except Exception as error:
                warn(f"live callback {name!r} could not be made: {type(error).__name__}: {error}")
        return cls(functions)

    @property
    def wanted(self) -> bool:
        """Whether there is any."""
        return bool(self._functions)

    def call(self, sensors: Sequence[Sensor], values: Sequence[int | None]) -> None:
        """Hand one row of raw values over; returns at once."""
        if not self._functions:
            return
        import queue

        from perun_hpc.data_model.perun_names import perun_names
        from perun_hpc.data_model.units import Quantity, plain

        names = perun_names(one for one in sensors if one.component != "gpu" or one.quantity is not Quantity.ENERGY)
        sample = {
            f"{self._host}_{names.get(sensor.id, sensor.id)}": plain(sensor.base(value), sensor.quantity)
            for sensor, value in zip(sensors, values, strict=True)
            if value is not None
        }
        try:
            self._queue.put_nowait(sample)
        except queue.Full:
            self._left_out += 1

    def _work(self) -> None:
        while (sample := self._queue.get()) is not None:
            for name, function in list(self._functions.items()):
                try:
                    function(sample)
                except Exception as error:
                    del self._functions[name]
                    warn(f"live callback {name!r} raised {type(error).__name__}: {error}; it is not called again")

    def close(self) -> None:
        """Let the callbacks finish what waits, for a short while."""
        if not hasattr(self, "_thread"):
            return
        import queue

        try:
            self._queue.put(None, timeout=STOP_S)
        except queue.Full:
            self._left_out += self._queue.qsize()
        self._thread.join(STOP_S)
        if self._left_out:
            warn(f"live callbacks were too slow: {self._left_out} readings were left out")
