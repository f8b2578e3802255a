"""A monitored session: warm-up, rounds, results written and shown. Behind `perun monitor` and `@perun`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.cli import logs, progress
from perun_hpc.comm import Comm
from perun_hpc.config.user import UserSettings, load, settings
from perun_hpc.data_model.wording import count
from perun_hpc.errors import ConfigError, NotFoundError, UsageError
from perun_hpc.monitoring import callbacks
from perun_hpc.monitoring.application import Application
from perun_hpc.monitoring.monitor import DEFAULT_SENSORS, MonitorStatus, PerunMonitor

if TYPE_CHECKING:
    from perun_hpc.data_model.data import DataNode
    from perun_hpc.monitoring.spawn import SamplingProcess


_said: set[str] = set()
"""Warnings about this launch that were given: once, however many functions it calls."""


class Session:
    """One application, its rounds and what becomes of their results."""

    def __init__(self, config: ConfigParser, live_files: tuple[str, ...] = ()) -> None:
        self._config = config
        self._live_files = live_files
        self.settings: UserSettings = settings(config)

    @classmethod
    def load(cls, file: Path | None, overrides: Mapping[str, object], live_files: tuple[str, ...] = ()) -> Session:
        """A session with the configuration in force.

        Raises
        ------
        ConfigError
            For what the configuration says wrongly; a country without a figure is known here, not after the run.
        """
        session = cls(load(file, overrides), live_files)
        if isinstance(country := session.settings.emissions_factor, str):
            from perun_hpc.energy import footprint  # most runs state none

            try:
                footprint.national_intensity(country)
            except NotFoundError as error:
                raise ConfigError(f"emissions_factor: {error}") from error
        return session

    def run_command(
        self,
        program: str,
        arguments: tuple[str, ...],
        is_binary: bool = False,
        is_module: bool = False,
        sampler: SamplingProcess | None = None,
    ) -> int:
        """Run a command; returns its exit code, or dies by the signal that ended it.

        `sampler` is a sampling process that waits for its orders; whoever started it ends it where it was not needed.
        """
        from perun_hpc.monitoring import child
        from perun_hpc.report import formats

        app = Application(program, self._config, is_binary, is_module, arguments)
        command = app.command()  # a missing script is an error before anything is started
        formats.check(self.settings.format)
        comm = Comm()
        launched = comm.place.source in ("mpich", "openmpi", "slurm") and comm.place.size > 1
        if launched and self.settings.rounds + self.settings.warmup_rounds > 1:
            raise UsageError(
                "an MPI program can be started once per launch: use --rounds 1 and start mpirun several times"
            )
        try:
            code = self._rounds(app, comm, sampler)
        except child.NotStartedError as error:
            raise NotFoundError(f"{program}: {error.strerror}: check that it can be executed") from error
        except Exception as error:  # ours: what the user wants to run runs, and its exit code is the exit code
            if app.ended is None:
                callbacks.warn(f"{type(error).__name__}: {error}: the application runs unmeasured")
                app.ended = child.run(command, lambda _: os.environ)
            else:
                callbacks.warn(f"{type(error).__name__}: {error}")
            code = app.ended.code
        if code > 128:
            with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or its reader is gone
                sys.stdout.flush()
            child.die_by(code - 128)
        return int(code)

    def run_function(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Call a function under measurement; returns or raises what it does."""
        shared = os.fspath(self.settings.data_out)
        with contextlib.suppress(OSError):  # said where the run's own directory is made
            Path(shared).mkdir(parents=True, exist_ok=True)
        comm = Comm.detect(shared=shared)
        if comm.why and comm.why not in _said:
            _said.add(comm.why)
            callbacks.warn(comm.why)
        app = Application(function, self._config, args=args, kwargs=kwargs)
        try:
            return self._rounds(app, comm)
        finally:
            comm.close()

    def _rounds(self, app: Application, comm: Comm, sampler: SamplingProcess | None = None) -> Any:
        monitor = PerunMonitor(app, comm, {}, DEFAULT_SENSORS, self._config)
        monitor.live_files = self._live_files
        if sampler is not None:
            monitor.adopt(sampler)
            # What is needed at the end is imported while the other side starts.
            import perun_hpc.report.formats.text  # noqa: F401
        runs: list[DataNode] = []
        status, result = MonitorStatus.SETUP, None
        try:
            for _ in range(self.settings.warmup_rounds):
                status, _, result = monitor.run_application("", record=False)
                if status is MonitorStatus.SCRIPT_ERROR:
                    return result
            for _ in progress.rounds(self.settings.rounds):
                status, node, result = monitor.run_application("")
                if status is MonitorStatus.FILE_NOT_FOUND:
                    raise NotFoundError(f"{app.name}: no such script or command: check the path")
                if node is not None:
                    runs.append(node)
                if status is MonitorStatus.SCRIPT_ERROR:
                    break
            return result
        except BaseException:
            if monitor.data is not None:
                runs.append(monitor.data)
            raise
        finally:
            status = monitor.status
            monitor.close()
            if runs and monitor.directory is not None:
                self._finish(app, comm, monitor, runs, status)

    def _finish(
        self, app: Application, comm: Comm, monitor: PerunMonitor, runs: list[DataNode], status: MonitorStatus
    ) -> None:
        """Keep and show the runs; what goes wrong here is said, and the application's result stays what it is."""
        from perun_hpc.monitoring.runs import about, keep
        from perun_hpc.report.formats import show

        assert monitor.directory is not None
        place = comm.place
        metadata = about(app.name, status.name, runs, self.settings, ranks=place.size, source=place.source)
        try:
            path, tree = keep(monitor.directory, runs, metadata)
        except Exception as error:
            callbacks.warn(f"this run could not be kept ({error}); what was measured is in {monitor.directory.path}")
            return
        logs.note("INFO", f"{status.name}: {count(len(runs), 'run')} kept in {path}")
        callbacks.call_all(tree)
        try:
            show(path, tree, self.settings, os.fspath(self.settings.data_out))
        except Exception as error:
            kind = self.settings.format
            callbacks.warn(
                f"the run is kept in {path}, but not written as {kind} ({error}): try perun export {path} {kind}"
            )
