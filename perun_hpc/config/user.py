"""The user's configuration: INI files, environment, command line.

Lowest to highest: defaults, `~/.config/perun.ini`, `./.perun.ini`, the file of `-c`, `PERUN_<OPTION>`, the command line
or a decorator's keywords. Every option is known (`user_schema`): anything else is an error, in one line.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from perun_hpc.config.kinds import Number
from perun_hpc.config.option import Option, nearest, refusal
from perun_hpc.config.user_schema import FORMATS, OPTIONS, UserSettings
from perun_hpc.errors import ConfigError

__all__ = ["FORMATS", "OPTIONS", "UserSettings", "defaults", "flat", "load", "settings", "stated", "unflat"]

Stated = tuple[Option, str, str]
"""An option, the text that it is given, and where that stands."""


def defaults() -> configparser.ConfigParser:
    """A parser that holds every option with its default."""
    parser = configparser.ConfigParser(interpolation=None)
    for option in OPTIONS.values():
        if not parser.has_section(option.section):
            parser.add_section(option.section)
        parser.set(option.section, option.name, option.kind.show(option.default))
    return parser


def load(
    file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
    directory: Path | None = None,
) -> configparser.ConfigParser:
    """The configuration in force.

    Parameters
    ----------
    file : of `-c`; it has to exist.
    overrides : command line or decorator keywords by option name; None values do not count, zeros do.
    environ, home, directory : where `PERUN_<OPTION>`, `.config/perun.ini` and `.perun.ini` are looked for.

    Returns
    -------
    A parser that has every option.

    Raises
    ------
    ConfigError
        In one line, for an unknown section or option or a value that cannot be.


    """
    parser = defaults()
    for option, text, _ in stated(file, overrides, environ, home, directory):
        parser.set(option.section, option.name, text)
    return parser


def stated(
    file: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] = os.environ,
    home: Path | None = None,
    directory: Path | None = None,
) -> Iterator[Stated]:
    """Every option that is set somewhere, lowest to highest, checked; parameters and errors as of `load`."""
    home_file = (Path(environ.get("HOME", "/")) if home is None else home) / ".config" / "perun.ini"
    for path in (home_file, (Path() if directory is None else directory) / ".perun.ini"):
        try:
            there = path.is_file()
        except OSError:  # in another user's home, which cannot be looked into
            there = False
        if there:
            yield from _read(path)
    if file is not None:
        if not file.is_file():
            raise ConfigError(f"configuration file {file} does not exist: check -c")
        yield from _read(file)
    for option in OPTIONS.values():
        text = environ.get(f"PERUN_{option.name.upper()}")
        if text is not None:
            yield _checked(option, text, f"environment variable PERUN_{option.name.upper()}")
    for name, value in (overrides or {}).items():
        if value is None:
            continue
        if name not in OPTIONS:
            raise ConfigError(_unknown(name, "keyword"))
        text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        yield _checked(OPTIONS[name], text, f"option {name}")


def settings(parser: configparser.ConfigParser) -> UserSettings:
    """Freeze a configuration; ConfigError for what cannot be."""
    values = {}
    for section in parser.sections():
        # As written: a parser of the caller's may interpolate, and may hold keys without a value.
        for name, text in parser.items(section, raw=True):
            option = _known(section, name, "configuration")
            values[name] = _value(option, text or "", f"configuration, [{section}] {name}")
    return UserSettings(**values)


def flat(chosen: UserSettings) -> dict[str, str]:
    """All options by `section.name`, each as it would be written: what a run keeps of its configuration. Bytes that are
    no UTF-8 are spelt out."""
    shown = {option.path: option.kind.show(getattr(chosen, option.name)) for option in OPTIONS.values()}
    return {path: os.fsencode(text).decode("utf-8", "backslashreplace") for path, text in shown.items()}


def unflat(kept: Mapping[str, str]) -> UserSettings:
    """Inverse of `flat`; what is not there has its default, options that are no more are left out.

    Raises
    ------
    ConfigError
        In one line, for a value that cannot be.
    """
    known = {option.path: option for option in OPTIONS.values()}
    return UserSettings(
        **{known[path].name: _value(known[path], text, path) for path, text in kept.items() if path in known}
    )


def _read(path: Path) -> Iterator[Stated]:
    parser = configparser.ConfigParser(interpolation=None, allow_no_value=True)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ConfigError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    for section in parser.sections():
        for name, text in parser[section].items():
            yield _checked(_known(section, name, str(path)), text or "", f"{path}, [{section}] {name}")


def _known(section: str, name: str, where: str) -> Option:
    option = OPTIONS.get(name)
    if option is None:
        raise ConfigError(f"{where}, [{section}]: {_unknown(name, 'option')}")
    if option.section != section:
        raise ConfigError(f"{where}: option {name} belongs into section [{option.section}], not [{section}]")
    return option


def _unknown(name: str, what: str) -> str:
    near = nearest(name, OPTIONS)
    hint = f"did you mean '{near}'?" if near else "see perun showconf --default"
    return _line(f"unknown {what} '{name[:60]}': {hint}")


def _checked(option: Option, text: str, where: str) -> Stated:
    _value(option, text, where)
    return option, _bare(option, text), where


def _value(option: Option, text: str, where: str) -> Any:
    try:
        return option.kind.parse(_bare(option, text))
    except ValueError as error:
        raise ConfigError(_line(f"{where}: {refusal(option.kind, text, error)}")) from error


def _bare(option: Option, text: str) -> str:
    """A number without blanks around it, such as the newline of a variable that a shell has read from a file."""
    return text.strip() if isinstance(option.kind, Number) else text


def _line(text: str) -> str:
    """As one line, without what a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)
