"""What is run: a script, a module, a binary, or a function of this very process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from configparser import ConfigParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perun_hpc.config.user import settings
from perun_hpc.errors import NotFoundError

if TYPE_CHECKING:
    from perun_hpc.monitoring.child import Ended

INJECT = Path(__file__).resolve().parent.parent / "inject" / "path"


class Application:
    """An application and how to start it.

    Parameters
    ----------
    app : path of a script or binary, a command found on PATH, the name of a module (with `is_module`), or a callable.
    config : of this run; `app_name` in it names the application (`SLURM`: as its job is called).
    is_binary : run it without injecting anything, whatever it is.
    is_module : run `python -m app`.
    args, kwargs : its arguments; kwargs for callables only.

    Attributes
    ----------
    ended : how its command ended the last time that it ran; None until then.
    """

    def __init__(
        self,
        app: str | os.PathLike[str] | Callable[..., Any],
        config: ConfigParser,
        is_binary: bool = False,
        is_module: bool = False,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._app = app
        self.is_binary = is_binary
        self.is_module = is_module
        self.args = tuple(args)
        self.kwargs = dict(kwargs or {})
        name = settings(config).app_name
        self._name = os.environ.get("SLURM_JOB_NAME") if name == "SLURM" else name  # outside of a job the program's
        self.ended: Ended | None = None

    @property
    def function(self) -> Callable[..., Any] | None:
        """The callable, None for a command."""
        return None if isinstance(self._app, (str, os.PathLike)) else self._app

    @property
    def name(self) -> str:
        """Name under which runs are kept: text, whatever bytes the command has."""
        if self._name:
            return readable(self._name)
        if isinstance(self._app, (str, os.PathLike)):
            app = os.fspath(self._app)
            return readable(app if self.is_module else _program(app, self.args))
        return str(getattr(self._app, "__name__", type(self._app).__name__))

    @property
    def is_script(self) -> bool:
        """Whether this is a Python file, or a directory with a `__main__.py`, that is handed to the interpreter."""
        if not isinstance(self._app, (str, os.PathLike)) or self.is_binary or self.is_module:
            return False
        app = os.fspath(self._app)
        return app.endswith((".py", ".pyc", ".pyz")) or os.access(Path(app, "__main__.py"), os.R_OK)

    def command(self, environ: Mapping[str, str] = os.environ) -> list[str]:
        """The command line of anything but a callable.

        Raises
        ------
        NotFoundError
            If there is no such script or command.
        """
        assert isinstance(self._app, (str, os.PathLike))
        app = os.fspath(self._app)
        if self.is_module:
            return [interpreter(environ), "-m", app, *self.args]
        import shutil

        found = shutil.which(app, path=environ.get("PATH", os.defpath))
        # A directory gives way to a command of its name.
        if self.is_script and (found is None or not Path(app).is_dir()):
            if not os.access(app, os.F_OK):
                raise NotFoundError(f"script {app} does not exist: check the path")
            return [interpreter(environ), app, *self.args]
        if found is None:
            if Path(app).is_file() and os.sep not in app:
                raise NotFoundError(
                    f"command {app} is not on PATH: run it as ./{app}, a Python file needs the ending .py"
                )
            raise NotFoundError(f"command {app} does not exist or cannot be executed: check the path")
        return [app, *self.args]

    def environ(self, base: Mapping[str, str], rank: Mapping[str, str], pid: int) -> dict[str, str]:
        """The environment of the command: `base`, and unless it is run as a binary the launcher's variables.

        Parameters
        ----------
        base : the environment to begin with.
        rank : the launcher's variables that name the rank.
        pid : the process that is to be the rank.

        Returns
        -------
        A new mapping; `base` as it is for a binary.
        """
        return dict(base) if self.is_binary else injected(base, rank, pid)


def _program(app: str, args: tuple[Any, ...]) -> str:
    """What a command line runs: for an interpreter its script or module; code of `-c` has no name."""
    words = iter([str(arg) for arg in args] if Path(app).name.startswith("python") else ())
    for word in words:
        if word == "-c":
            break
        if word == "-m":
            return next(words, app)
        if word in ("-W", "-X"):
            next(words, None)
        elif not word.startswith("-"):
            return Path(word).stem
    return Path(app).stem or Path(app).absolute().name


def readable(text: str) -> str:
    """A name as text that can be written anywhere: bytes that are no UTF-8 are spelt out."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def injected(base: Mapping[str, str], rank: Mapping[str, str], pid: int) -> dict[str, str]:
    """An environment with the launcher in it: for process `pid` as the rank that `rank` describes."""
    result = {**base, **rank, "PERUN_PID": str(pid), "PYTHONPATH": str(INJECT)}
    result.pop("PERUN_LATE", None)  # of another rank, whose command started this one
    former = base.get("PYTHONPATH")
    if former is not None:
        result["PERUN_ORIG_PYTHONPATH"] = former
        if former:
            result["PYTHONPATH"] += os.pathsep + former
    return result


def interpreter(environ: Mapping[str, str]) -> str:
    """The user's Python: that of the activated environment if there is one, else the one that runs perun."""
    for name in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        prefix = environ.get(name)
        if prefix:
            for base in ("python", "python3"):
                path = Path(prefix) / "bin" / base
                if os.access(path, os.X_OK):
                    return str(path)
    return sys.executable
