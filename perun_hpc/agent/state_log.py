"""The file of the agent's state: a document of JSON in its first line, and what has changed since in a line each.

A line costs what has changed, however many sessions there are; once the lines are several times as long as the document
they follow, the file is replaced by the document as it is then. A line is `CHECK [changed, gone]`: the new values in
objects like those of the document, and the paths of what is not there any more. Its check is the CRC-32 of the first
line and of all that follow up to its own, their checks left out: it counts only behind those it was written behind.

At each interval most numbers of every session's accounts (`domains`) change: they are given, and written in lines, as
rows, whose names stand in `accounts`; in the first line they are objects, as older agents know them.

A process that is killed while it writes leaves a torn last line, which counts as not written.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from perun_hpc import files
from perun_hpc.process.log import guard, log

SESSIONS = "sessions"
"""A list of objects in the file's first line, which older agents read; else an object, by the sessions' places."""
DOMAINS, ACCOUNTS = "domains", "accounts"
GROWTH = 4
"""The lines may be so many times as long as the document that they follow,"""
LEAST_B = 1 << 16
"""and at least this long."""

Document: TypeAlias = dict[str, Any]


class StateLog:
    """Writes the file; what cannot be written as a line is written whole the next time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: Document | None = None
        """What stands in the file; a copy, but for values that nobody can change."""
        self._length = self._most_b = self._check = 0

    def knows(self, place: str) -> bool:
        """Whether the file holds a session, so that it can be said to be as it was."""
        return self._known is not None and place in self._known[SESSIONS]

    def write(self, node: Document, sessions: Mapping[str, Document | None], whole: bool = False) -> None:
        """Let the file hold this.

        Parameters
        ----------
        node : all but the sessions, plain JSON values; a tuple stays as it is.
        sessions : every session by its place, with rows as its accounts; None: it is as it was written last.
        whole : replace the file by one line, which older agents read.

        Raises
        ------
        OSError
            where the disk does not take it; then the file holds what it held.
        """
        known, self._known = self._known, None  # back when all went well: else the next one is written whole
        line = b""
        if known is None:
            known, whole = _copied({**node, SESSIONS: sessions}), True
        else:
            gone: list[list[str]] = []
            changed = _changes(known, {**node, SESSIONS: sessions}, gone, ())
            if changed or gone:
                line = _compact([changed, gone])
        if whole or (line and not self._append(line)):
            self._replace(known)
        self._known = known

    def _append(self, body: bytes) -> bool:
        """Write one line; False where the file is too long by now, not the one that was written, or cannot grow."""
        check = zlib.crc32(body, self._check)
        line = b"%08x %b\n" % (check, body)
        if self._length + len(line) > self._most_b:
            return False
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            if os.fstat(fd).st_size != self._length:
                return False
            files.write_all(fd, line, self._length)
            # Begin to write it out, as the kernel does with a file that replaces another one; nobody waits for it.
            os.posix_fadvise(fd, self._length, len(line), os.POSIX_FADV_DONTNEED)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, self._length)
            return False
        finally:
            os.close(fd)
        self._length, self._check = self._length + len(line), check
        return True

    def _replace(self, known: Document) -> None:
        line = _compact(_listed(known))
        files.write_new(self._path, line + b"\n", durable=False)
        self._check, self._length = zlib.crc32(line), len(line) + 1
        self._most_b = self._length + max(LEAST_B, GROWTH * len(line))


def read(path: Path) -> Document | None:
    """What the file holds as of its last whole line, with the sessions as a list; None where there is nothing.

    A first line that is damaged is put aside whole, as `files.read_json` does; where a later one is, what stands before
    it counts, and a copy of the file is put aside, where the disk has space.
    """
    try:
        data = files.content(path)
    except FileNotFoundError:
        return None
    aside = path.with_name(path.name + ".damaged")
    first, _, rest = data.partition(b"\n")
    try:
        document: Document = json.loads(first)
    except (ValueError, RecursionError):
        path.replace(aside)
        return None
    if not rest or not isinstance(document, dict) or not isinstance(document.get(SESSIONS), list):
        return document
    known = {**document, SESSIONS: {_place(one, number): one for number, one in enumerate(document[SESSIONS])}}
    check, lines = zlib.crc32(first), rest.split(b"\n")
    for number, line in enumerate(lines[:-1]):  # the last one is empty, or torn by a kill
        check = zlib.crc32(line[9:], check)
        try:
            if line[:9] != b"%08x " % check:
                raise ValueError("its check does not fit")
            changed, gone = json.loads(line[9:])
            _apply(known, changed, gone)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            guard("keeping what is damaged", partial(files.write_new, aside, data, durable=False))
            log(f"{path}: line {number + 2} of {len(lines)} is damaged ({error}): what is known is older; see {aside}")
            break
    return _listed(known)


def _listed(known: Document) -> Document:
    """The document as it stands in the first line."""
    names = known.get(ACCOUNTS, ())
    return {**known, SESSIONS: [_named(session, names) for session in known[SESSIONS].values()]}


def _named(session: Any, names: Any) -> Any:
    """A session with objects as its accounts; what is damaged stays as it is."""
    domains = session.get(DOMAINS) if isinstance(session, dict) else None
    if not isinstance(domains, dict) or not isinstance(names, (list, tuple)):
        return session
    rows = {name: row for name, row in domains.items() if isinstance(row, (list, tuple)) and len(row) == len(names)}
    return {**session, DOMAINS: {**domains, **{name: dict(zip(names, row, strict=True)) for name, row in rows.items()}}}


def _place(session: Any, number: int) -> str:
    """Under which name lines speak of a session of the first line; a damaged one's is its number."""
    place = session.get("place") if isinstance(session, dict) else None
    return place if isinstance(place, str) else str(number)


def _compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


_NOTHING = object()


def _changes(known: Document, now: Mapping[str, Any], gone: list[list[str]], path: tuple[str, ...]) -> Document:
    """What of `now` differs from `known`, which it is afterwards; paths of what is not there any more go to `gone`."""
    changed: Document = {}
    for key, value, before in _others(known, now):
        if value == before or (value is None and path == (SESSIONS,)):
            continue
        if type(value) is dict and type(before) is dict:
            inside = _changes(before, value, gone, (*path, key))
            if inside:
                changed[key] = inside
        else:
            changed[key] = known[key] = _copied(value)
    if len(known) > len(now):
        for key in known.keys() - now.keys():
            del known[key]
            gone.append([*path, str(key)])
    return changed


def _others(known: Document, now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What is not the same object as before: key, value, value before."""
    if list(known) == list(now):
        pairs = zip(now, now.values(), known.values(), strict=True)
        return [(key, value, before) for key, value, before in pairs if value is not before]
    return [(key, value, known.get(key, _NOTHING)) for key, value in now.items()]


def _apply(known: Document, changed: Document, gone: list[list[str]]) -> None:
    """Bring a document to where `_changes` found it."""
    _set(known, changed)
    for *path, key in gone:
        place = known
        for name in path:
            place = place[name]
        del place[key]


def _set(known: Document, changed: Document) -> None:
    for key, value in changed.items():
        before = known.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            _set(before, value)
        else:
            known[key] = value


def _copied(value: Any) -> Any:
    """A value that stays as it is, whoever changes what it was made of."""
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    return [_copied(one) for one in value] if isinstance(value, list) else value
