"""The file of the agent's state: a document of JSON in its first line, and what has changed since in a line each.

A line costs what has changed, however many sessions there are; once the lines are several times as long as the document
they follow, the file is replaced by the document as it is then. A line is `CHECK [changed, gone]`: the new values in
objects like those of the document, and the paths of what is not there any more. Its check is the CRC-32 of the first
line and of all that follow up to its own, their checks left out: it counts only behind those it was written behind.

At each interval the sums of every session change: they are given, and written in lines, as tables (`sums`), a column
for each name, by a session's field and a key in it: `{"shares": {"2026-12-01": {"of": [PLACE, ...], "is": {"package-0":
[7, ...]}}}}`. Where sessions have the same keys in a field these are one table, under any name, with the keys under
"in": each session has so many rows, one after the other: `{"domains": {"0": {"of": [PLACE, ...], "in": ["package-0",
...], "is": {"energy_uj": [7, ...], "component": "cpu"}}}}`. A column with one value for all has that alone; where a
session has no value it is null. The one table of the field "" holds what stands in sessions themselves, of all that
have a place in tables. In the first line each session has its own, as older agents know them.

A process that is killed while it writes leaves a torn last line, which counts as not written.
"""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

from perun_hpc import files
from perun_hpc.process.log import guard, log

SESSIONS = "sessions"
"""A list of objects in the file's first line, which older agents read; else an object, by the sessions' places."""
SUMS, OF, IN, IS = "sums", "of", "in", "is"
ITSELF = ""
"""The field, and the key, of the table of what stands in sessions themselves."""
DOMAINS, ACCOUNTS = "domains", "accounts"
"""Where an agent that was older has written accounts in lines as lists of values, and the names of these."""
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
        self._tabled = False
        """Whether there are tables in the file: since it was replaced each session has its sums in the first line."""

    @property
    def held(self) -> Mapping[str, Document]:
        """What the file holds of sessions, by their places, but for their sums; the others cannot be as they were."""
        return {} if self._known is None else self._known[SESSIONS]

    def write(
        self,
        node: Document,
        sessions: Mapping[str, Document | None],
        sums: Document | None = None,
        whole: bool = False,
    ) -> None:
        """Let the file hold this.

        Parameters
        ----------
        node : all but the sessions, plain JSON values; a tuple stays as it is.
        sessions : every session by its place, without its sums; None: it is as it was written last.
        sums : all sessions' sums, by field and key (`table`); None: they are as they were written last.
        whole : replace the file by one line, which older agents read.

        Raises
        ------
        OSError
            where the disk does not take it; then the file holds what it held.
        """
        known, self._known = self._known, None  # back when all went well: else the next one is written whole
        line = b""
        if known is None:
            known, whole = _copied({**node, SESSIONS: sessions, SUMS: sums or {}}), True
        else:
            gone: list[list[str]] = []
            if sums is not None and not self._tabled:
                known[SUMS] = {}
            now = {**node, SESSIONS: sessions, SUMS: known[SUMS] if sums is None else sums}
            changed = _changes(known, now, gone, ())
            if changed or gone:
                line = _compact([changed, gone])
        if whole or (line and not self._append(line)):
            self._replace(known)
        elif sums is not None:
            self._tabled = True
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
        self._check, self._length, self._tabled = zlib.crc32(line), len(line) + 1, False
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
    sessions = {_place(one, number): one for number, one in enumerate(document[SESSIONS])}
    known = {**document, SESSIONS: sessions, SUMS: {}}
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
    if isinstance(names := known.pop(ACCOUNTS, None), list):
        known[SESSIONS] = {place: _named(one, names) for place, one in sessions.items()}
    return _listed(known)


def _named(session: Any, names: Sequence[str]) -> Any:
    """A session with objects as its accounts; what is damaged stays as it is."""
    accounts = session.get(DOMAINS) if isinstance(session, dict) else None
    if not isinstance(accounts, dict):
        return session
    rows = {name: row for name, row in accounts.items() if isinstance(row, list) and len(row) == len(names)}
    return {
        **session,
        DOMAINS: {**accounts, **{name: dict(zip(names, row, strict=True)) for name, row in rows.items()}},
    }


def table(
    places: Sequence[str], names: Sequence[str], rows: Iterable[Sequence[Any]], keys: Sequence[str] = ()
) -> Document:
    """A table of sums: `rows` has for each place the values of all `names`; None is a value that is not there.

    With `keys` it has so many rows for each place.
    """
    columns = zip(names, zip(*rows, strict=True), strict=False)  # no row, no column
    many = {IN: tuple(keys)} if keys else {}
    return {
        OF: tuple(places),
        **many,
        IS: {name: one[0] if one.count(one[0]) == len(one) else one for name, one in columns},
    }


def _listed(known: Document) -> Document:
    """The document as it stands in the first line: each session with its sums."""
    sessions = _with_sums(known[SESSIONS], known[SUMS])
    return {**{name: one for name, one in known.items() if name != SUMS}, SESSIONS: list(sessions.values())}


def _with_sums(sessions: Mapping[str, Document], sums: Document) -> dict[str, Document]:
    """Sessions that have a place in tables get all sums from there."""
    tabled = sums[ITSELF][ITSELF][OF] if sums else ()
    empty = sums.keys() - {ITSELF}
    own = {one: {**sessions[one], **{field: {} for field in empty}} for one in tabled if one in sessions}
    found = {**sessions, **own}
    for field, tables in sums.items():
        for name, one in tables.items():
            for row, (place, key) in enumerate(product(one[OF], one.get(IN, (name,)))):
                if place in found:
                    known = found[place] if field == ITSELF else found[place][field].setdefault(key, {})
                    known.update(_row(one[IS], row))
    return found


def _row(columns: Document, row: int) -> Document:
    values = {name: one[row] if isinstance(one, (list, tuple)) else one for name, one in columns.items()}
    return {name: value for name, value in values.items() if value is not None}


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
        if (value is None and path == (SESSIONS,)) or value == before:
            continue
        if type(value) is dict and type(before) is dict:
            inside = _changes(before, value, gone, (*path, key))
            if inside:
                changed[key] = inside
        else:
            changed[key] = known[key] = value if type(value) is int else _copied(value)
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
