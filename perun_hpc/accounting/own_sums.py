"""What a person may see of the ledger's sums, written where that person alone can read it; nobody is given the ledger.

`ARCHIVE/CLUSTER/usage/UID/sums/YYYY-MM.json` holds the rows of `usage_day` of one month that are of the user's own jobs
or of accounts that the user coordinates by Slurm's right; `about.json` beside them says which these are, as of when.
The directory `UID` has an access control list with that one user and never changes: when others' jobs end cannot be
seen from outside. A right that has ended in Slurm ends here with the next whole round, within an hour.
"""

from __future__ import annotations

import json
import logging
import pwd
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from perun_hpc.accounting.daily import MEASURES
from perun_hpc.accounting.database import scratch
from perun_hpc.accounting.deleted import REMOVED
from perun_hpc.accounting.ledger import Ledger
from perun_hpc.archive.access import NoListsError, readable_by
from perun_hpc.archive.places import Archive
from perun_hpc.config.kinds import lower_case
from perun_hpc.data_model import codec
from perun_hpc.errors import AccessError, DataError, NotFoundError, PerunError
from perun_hpc.files import write_new
from perun_hpc.inputs import read_text

log = logging.getLogger(__name__)

SCHEMA = "perun.own-sums/1"
WHOLE_EVERY_S = 3600
"""So often all months are written anew, and coordinators are asked for; the month that goes on, after each change."""
AGAIN_S = 300
"""After a whole round in which this host knew no user at all: its directory of users may only be away."""
NAMED = 5
"""So many users' faults are named at a time."""
MONTHS = 14
"""A year and what budgets of the last one need."""
SUMS, ABOUT = "sums", "about.json"
COLUMNS = ("day", "account", "user_name", "partition_name", "qos", *MEASURES)

Row = tuple[Any, ...]


MAX_B = 256 << 20


@dataclass
class _Person:
    """The names of a user id, and the months that were written for it."""

    names: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class About:
    """Whose sums these are: the names of the user, the accounts that he coordinates, as of when (epoch seconds)."""

    names: tuple[str, ...]
    accounts: tuple[str, ...]
    as_of_s: int


def uid_of(name: str) -> int | None:
    """The user id of a name on this host."""
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


class Publisher:
    """Keeps one cluster's directories of sums as the ledger and Slurm say; coordinators are asked for once an hour.

    `coordinators` returns account -> names (`UnavailableError`: nobody is one), `uids` the user id of a name.
    """

    def __init__(
        self,
        archive: Archive,
        ledger: Ledger,
        coordinators: Callable[[], Mapping[str, Iterable[str]]],
        uids: Callable[[str], int | None] = uid_of,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._archive = archive
        self._ledger = ledger
        self._ask = coordinators
        self._uid_of = uids
        self._clock = clock
        self._whole_s = float("-inf")
        self._coordinated: dict[str, frozenset[str]] = {}

    def publish(self, changed: bool) -> None:
        """Write what is due; `changed`: records came since the last time.

        Raises
        ------
        AccessError
            Where the archive's file system has no access control lists; where some users' sums cannot be written, once
            all others' are.
        UnavailableError
            When the ledger does not answer.
        """
        now_s = self._clock()
        whole = now_s - self._whole_s >= WHOLE_EVERY_S
        if not (whole or changed):
            return
        if whole:
            self._whole_s = now_s
            self._learn_coordinators()
        months = last_months(date.fromtimestamp(now_s), MONTHS if whole else 1)
        known: dict[str, int | None] = {}
        people: dict[int, _Person] = {}
        failed: set[str] = set()
        for name in self._coordinated:
            if (uid := self._known_uid(name, known)) is not None:
                people.setdefault(uid, _Person()).names.add(name)
        for month in months:
            for uid, (names, rows) in self._by_user(month, known).items():
                person = people.setdefault(uid, _Person())
                person.names |= names
                person.files.add(f"{month}.json")
                failed.add(self._write(uid, f"{month}.json", {"columns": COLUMNS, "rows": rows}))
        for uid, person in people.items():
            accounts = {account for name in person.names for account in self._coordinated.get(name, ())}
            about = About(tuple(sorted(person.names)), tuple(sorted(accounts)), int(now_s))
            failed.add(self._write(uid, ABOUT, codec.encode(about)))
        if whole:
            self._forget(people)
            if not people:
                self._whole_s = now_s - WHOLE_EVERY_S + AGAIN_S
        if failed := failed - {""}:
            raise AccessError("; ".join(sorted(failed)[:NAMED]))

    def _learn_coordinators(self) -> None:
        """Turn Slurm's account -> coordinators round."""
        found: dict[str, set[str]] = {}
        try:
            for account, names in self._ask().items():
                for name in names:
                    found.setdefault(name, set()).add(lower_case(account))
        except PerunError as error:
            log.warning("sums for coordinators of accounts: %s", error)
        self._coordinated = {name: frozenset(accounts) for name, accounts in found.items()}

    def _by_user(self, month: str, known: dict[str, int | None]) -> dict[int, tuple[set[str], list[Row]]]:
        """User id -> the names it has, and the rows of the month that it may see."""
        coordinators: dict[str, list[str]] = {}
        for name, accounts in self._coordinated.items():
            for account in accounts:
                coordinators.setdefault(account, []).append(name)
        found: dict[int, tuple[set[str], list[Row]]] = {}
        for row in rows_of(self._ledger, self._archive.cluster, month):
            values = dict(zip(COLUMNS, row, strict=True))
            readers = {values["user_name"], *coordinators.get(lower_case(values["account"]), ())}
            uids = {uid: name for name in readers if (uid := self._known_uid(name, known)) is not None}
            for uid, name in uids.items():
                names, rows = found.setdefault(uid, (set(), []))
                names.add(name)
                rows.append(row)
        return found

    def _known_uid(self, name: str, known: dict[str, int | None]) -> int | None:
        """The user id of a name; none of what stands for deleted records, and none of root's."""
        if name not in known:
            known[name] = None if name in ("", REMOVED) else self._uid_of(name) or None
        return known[name]

    def _write(self, uid: int, name: str, content: Mapping[str, Any]) -> str:
        """Write one file of a user's; why that cannot be: it holds up no other user's. NoListsError: nobody's can."""
        own = self._archive.usage(uid)
        try:
            self._put(own, uid, name, content)
        except NoListsError:
            raise
        except AccessError as error:
            return str(error)
        except OSError as error:
            return f"{own}: {error.strerror or error}: see its owner and the disk; if removed, it is made anew"
        return ""

    def _put(self, own: Path, uid: int, name: str, content: Mapping[str, Any]) -> None:
        sums = own / SUMS
        if not sums.is_dir():
            own.parent.mkdir(mode=0o711, exist_ok=True)
            own.parent.chmod(0o711)
            own.mkdir(mode=0o700, exist_ok=True)
            sums.mkdir(mode=0o755, exist_ok=True)
            sums.chmod(0o755)
        readable_by(own, [uid])
        data = json.dumps({"schema": SCHEMA, **content}, separators=(",", ":")).encode()
        path = sums / name
        if not path.exists() or path.read_bytes() != data:
            write_new(path, data, mode=0o644, durable=False, exact=True)

    def _forget(self, people: Mapping[int, _Person]) -> None:
        """Take away what is nobody's any more, and months of which a person may see nothing now."""
        for own in self._archive.usage(None).glob("*"):
            person = people.get(int(own.name)) if own.name.isdigit() else None
            if person is None:
                shutil.rmtree(own, ignore_errors=True)
                continue
            for path in (own / SUMS).glob("????-??.json"):
                if path.name not in person.files:
                    path.unlink(missing_ok=True)


def rows_of(ledger: Ledger, cluster: str, month: str) -> list[Row]:
    """The ledger's sums of one month (`YYYY-MM`), a row for each day and what it is summed by."""
    query = f"SELECT {', '.join(COLUMNS)} FROM usage_day WHERE cluster = :c AND day >= :first AND day <= :last "
    values = {"c": cluster, "first": f"{month}-01", "last": f"{month}-31"}
    with ledger.read() as connection:
        return [tuple(row) for row in connection.execute(f"{query} ORDER BY {', '.join(COLUMNS[:5])}", values)]


def last_months(today: date, count: int) -> list[str]:
    """The months (`YYYY-MM`) up to the one of `today`, the newest first."""
    number = today.year * 12 + today.month - 1
    return [f"{(number - back) // 12:04d}-{(number - back) % 12 + 1:02d}" for back in range(count)]


@dataclass(frozen=True)
class OwnSums:
    """The sums that the asker may see, as a ledger in memory that holds nothing else, and what they are."""

    ledger: Ledger
    about: About
    first_day: str


def own_sums(archive: Archive, uid: int) -> OwnSums:
    """Read what was written for a user.

    Raises
    ------
    NotFoundError
        When nothing was written for that user, or it is another's.
    DataError
        When it is damaged.
    """
    sums = archive.usage(uid) / SUMS
    try:
        about = codec.decode(About, _content(sums / ABOUT))
        months = {path.stem: _content(path) for path in sorted(sums.glob("????-??.json"))}
        rows = [dict(zip(one["columns"], row, strict=True)) for one in months.values() for row in one["rows"]]
        ledger = Ledger(*scratch(), time.time)
        ledger.prepare(create=True)
        with ledger.write() as connection:
            connection.insert("usage_day", [{"cluster": archive.cluster, **row} for row in rows])
    except OSError as error:
        raise NotFoundError(
            f"no sums of yours in {archive.root}: the collector writes them once a job of yours has a record"
        ) from error
    except (*codec.MISFITS, AttributeError, RecursionError) as error:
        raise DataError(f"{sums}: damaged ({error}): the collector writes it anew within an hour") from error
    return OwnSums(ledger, about, f"{min(months, default=time.strftime('%Y-%m'))}-01")


def _content(path: Path) -> dict[str, Any]:
    """The content of one file; what does not hold is refused by who uses it."""
    value: dict[str, Any] = json.loads(read_text(path, MAX_B))
    if value.pop("schema") != SCHEMA:
        raise ValueError("of another version of perun")
    return value
