"""What proves to a device who perun is: read when it is needed, shown nowhere.

Lines `KEY: VALUE` in a file that systemd's credential store holds, or that nobody but its owner can read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perun_hpc.errors import AccessError, ConfigError
from perun_hpc.inputs import read_text

DIRECTORY = Path("/etc/perun/credentials")
MAX_B = 4096
KEYS = ("user", "password", "auth", "auth-protocol", "privacy", "privacy-protocol")


@dataclass(frozen=True)
class Secret:
    """The lines of one file; `repr` hides what they say. `stamp` is another one when the file was replaced."""

    name: str
    values: Mapping[str, str] = field(repr=False)
    stamp: tuple[int, int] = (0, 0)

    def get(self, key: str) -> str:
        """One of them. ConfigError where the file has no such line."""
        if key not in self.values:
            raise ConfigError(f"credential {self.name}: it has no line '{key}: ...' (docs/meters.md)")
        return self.values[key]


def read_secret(name: str, environ: Mapping[str, str] = os.environ, directory: Path = DIRECTORY) -> Secret:
    """Read a credential by its name: from $CREDENTIALS_DIRECTORY, which systemd makes, else from `directory`.

    Raises
    ------
    AccessError
        Where it cannot be read, or others than its owner can.
    ConfigError
        Where it holds something else; no part of it is in the message.
    """
    store = environ.get("CREDENTIALS_DIRECTORY", "")
    path = Path(store) / name
    if not store or not path.exists():
        path, store = directory / name, ""
    try:
        stat = path.stat()
        if not store and (stat.st_mode & 0o077 or stat.st_uid not in (0, os.geteuid())):
            raise AccessError(f"{path}: others can read this credential: chown root {path}; chmod 600 {path}")
        text = read_text(path, MAX_B)
    except OSError as error:
        remedy = f"LoadCredential={name}:{path} in the unit, or run it as root"
        raise AccessError(f"{path}: credential {name} cannot be read ({error.strerror}): {remedy}") from None
    except ValueError:
        raise ConfigError(f"{path}: a credential is a few lines 'KEY: VALUE' in UTF-8") from None
    values = {}
    for count, line in enumerate(text.splitlines(), 1):
        key, colon, value = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if not colon or key.strip() not in KEYS:
            raise ConfigError(f"{path}: line {count} is none of 'KEY: VALUE' with {', '.join(KEYS)}")
        values[key.strip()] = value.strip()
    return Secret(name, values, (stat.st_ino, stat.st_mtime_ns))
