"""A file of a public repository at a pinned commit: of a clone on this machine, or from GitHub; kept below build/."""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

KEPT = Path(__file__).parents[2] / "build" / "reproduce"
CLONES = "PERUN_REPRODUCE_DATA"
"""Names a folder with clones as OWNER/NAME (bare ones, too) and with data sets that are not in a repository."""
RAW = "https://raw.githubusercontent.com"
TIMEOUT_S = 60


class Unavailable(Exception):
    """The data cannot be had here; the text says why and what to do."""


@dataclass(frozen=True)
class Repository:
    """A public repository at one commit, the licence of its data, and what it belongs to."""

    name: str
    commit: str
    licence: str
    about: str
    web: str = RAW
    kept: Path = KEPT

    def text(self, path: str) -> str:
        """A file as text."""
        return self.file(path).decode()

    def file(self, path: str) -> bytes:
        """A file's bytes.

        Raises
        ------
        Unavailable
            where neither a clone nor the network has it.
        """
        kept = self.kept / self.name / self.commit / path
        if kept.exists():
            return kept.read_bytes()
        clones = os.environ.get(CLONES)
        data = self._of_clone(Path(clones) / self.name, path) if clones else self._fetched(path)
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_name(f"{kept.name}.{os.getpid()}")
        part.write_bytes(data)
        part.replace(kept)
        return data

    def _of_clone(self, clone: Path, path: str) -> bytes:
        found = subprocess.run(
            ["git", "-C", str(clone), "show", f"{self.commit}:{path}"], capture_output=True, check=False
        )
        if found.returncode:
            why = found.stderr.decode(errors="replace").strip()
            raise Unavailable(
                f"{clone} has no {path} of commit {self.commit[:12]}: {why}; clone it there, or unset {CLONES}"
            )
        return found.stdout

    def _fetched(self, path: str) -> bytes:
        url = f"{self.web}/{self.name}/{self.commit}/{urllib.parse.quote(path)}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                return bytes(answer.read())
        except (urllib.error.URLError, OSError) as error:
            raise Unavailable(f"{url}: {error}; clone it as DIR/{self.name} and set {CLONES}=DIR") from error


def data_set(name: str, where: str) -> Path:
    """The folder of a data set that is in no repository.

    Raises
    ------
    Unavailable
        where nobody put it there; it says where it is from.
    """
    clones = os.environ.get(CLONES)
    folder = Path(clones or ".") / name
    if not clones or not folder.is_dir():
        raise Unavailable(f"unrun: download {where} into DIR/{name} and set {CLONES}=DIR")
    return folder
