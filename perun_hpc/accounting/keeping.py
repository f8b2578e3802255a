"""Boundary records as files: read, set aside where damaged, and moved out of `incoming/` once the ledger has them.

What moves is what was read: an agent may put a newer record under the same name at any moment, and it stays. A file is
in its new place, durably, before it leaves the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from perun_hpc.accounting.identity import of_boundaries
from perun_hpc.archive.kept import Kept, boundaries
from perun_hpc.archive.places import BOUNDARIES, DAMAGED, REFUSED, TAKEN, Archive, Run
from perun_hpc.data_model.boundary import MAX_READ_B, Boundary, lean, read_boundary, read_open
from perun_hpc.errors import DataError
from perun_hpc.files import NO_LINKS, link_new, sync_directory, write_new

log = logging.getLogger(__name__)

UNREADABLE = "damaged boundary record"
MAX_RUN_B = MAX_READ_B
"""Bytes of all records of a run of which regions and ranks are read, the nodes in order; of the others the rest."""
MAX_RUN_STEPS = 50_000
"""Steps of all records of a run that are read: of ten thousand nodes five each."""
_TAKEN = re.compile(r"(?:@\d+)?(?:\.[0-9a-f]{16}\.taken)?\.json\Z")
"""What follows the node in the name of a record's file: when the run began where two runs' records met under one name,
and the mark of one that is being moved."""
_ASIDE = re.compile(rf"(?:\.[0-9a-f]{{16}})?\.json{re.escape(DAMAGED)}\Z")


_AFTER_NODE = re.compile(r"(?:@\d+)?(?:\.[0-9a-f]{16})?(?:\.taken)?")


class _Budget:
    """How much is left for what users can make many of, while the records of one run are read."""

    def __init__(self) -> None:
        self._read_b = 0
        self._steps = 0

    def fit(self, record: Boundary) -> Boundary:
        self._read_b += record.size_b
        self._steps += len(record.raw.get("steps") or ())
        return lean(record, self._read_b <= MAX_RUN_B, self._steps <= MAX_RUN_STEPS)


def read_placed(path: Path, file: Kept | None = None) -> Boundary:
    """Read a boundary record that lies where those of its job, node and cluster do; `DataError` for any other one.

    `file` is what lies there where that may be packed.
    """
    record = read_boundary(path) if file is None else _read(file)
    directory = path.parent.parent if path.parent.name == BOUNDARIES else path.parent
    run, above, stem = Run.parse(directory.name), directory.parent, path.name.partition(".json")[0]
    if run is None:
        return record
    cluster = (above.parent if above.name.isdecimal() else above).parent.name
    wrong = []
    if (record.job_id, record.restart_count) != (run.job_id, run.restart_count):
        wrong.append(f"job {record.job_id}.{record.restart_count}")
    if not (stem.startswith(record.node) and _AFTER_NODE.fullmatch(stem, len(record.node))):
        wrong.append(f"node {record.node[:40]!r}")
    if (record.cluster or "cluster") != cluster:
        wrong.append(f"cluster {record.cluster[:40]!r}")
    if wrong:
        raise DataError(f"{path}: damaged boundary record (its content is of {', '.join(wrong)}): see who wrote it")
    return record


def _read(file: Kept) -> Boundary:
    with file.open() as opened:
        return read_open(opened, str(file.path))


def read_records(directory: Path) -> tuple[list[tuple[Path, Boundary]], list[Path]]:
    """Read a directory's boundary records; also the paths of those that are damaged, or belong elsewhere."""
    good: list[tuple[Path, Boundary]] = []
    damaged: list[Path] = []
    budget = _Budget()
    for path in sorted(directory.glob("*.json")):
        try:
            good.append((path, budget.fit(read_placed(path))))
        except FileNotFoundError:
            continue
        except DataError as error:
            log.warning("%s", error)
            damaged.append(path)
    return good, damaged


def read_kept(archive: Archive, run: Run) -> list[Boundary]:
    """Read the boundary records kept of a run, and of those that were set aside what this version can read."""
    found, budget = [], _Budget()
    for file in boundaries(archive, run):
        with contextlib.suppress(FileNotFoundError, DataError):
            if file.name.endswith(f".json{DAMAGED}"):
                found.append(budget.fit(read_placed(file.path, file)))
            elif file.name.endswith(".json"):
                found.append(budget.fit(_read(file)))
    return found


def problems(names: Iterable[str], readable: Iterable[Boundary]) -> list[str]:
    """Return the nodes of which only damaged records are among the files of these names."""
    aside = {_ASIDE.sub("", name) for name in names if name.endswith(f".json{DAMAGED}")}
    return sorted(aside - {b.node for b in readable})


def kept_names(archive: Archive, run: Run) -> list[str]:
    """The names of the boundary records kept of a run, damaged ones among them."""
    return [file.path.name for file in boundaries(archive, run)]


def set_aside(path: Path) -> None:
    """Rename a damaged record; one that its node has put there meanwhile gets its name back."""
    aside = path.with_name(path.name + DAMAGED)
    if aside.exists():
        _put_aside(aside, aside.parent)
    path.rename(aside)
    with contextlib.suppress(DataError, FileNotFoundError):
        read_placed(aside)
        _link_first(aside, path)
        aside.unlink()


def take(path: Path, digest: str) -> Path | None:
    """Rename a record that was read, so that what its node puts there now is another file.

    None where it is gone, or no longer what was read: then it stays, for the next sweep to read.
    """
    held = path.with_name(f"{_TAKEN.sub('', path.name)}.{digest[:16]}.taken.json")
    with contextlib.suppress(FileNotFoundError):
        if path != held:
            path.rename(held)
        if _digest(held) == digest:
            return held
    return None


def keep_apart(taken: Path, target: Path) -> None:
    """Move a record that was taken into a directory where nothing counts, beside others of its name."""
    name = _TAKEN.sub("", taken.name)
    for final in (target / f"{name}.json", target / f"{name}.{_digest(taken)[:16]}.taken.json"):
        if not final.exists() or _digest(final) == _digest(taken):
            _link_over(taken, final)
            break
    sync_directory(target)
    taken.unlink()


def put_back(path: Path, target: Path) -> None:
    """Move a record from where nothing counts into `incoming/`, beside one that its node has put there meanwhile."""
    _link_first(path, target / f"{_TAKEN.sub('', path.name)}.json")
    sync_directory(target)
    path.unlink()


def keep(taken: Sequence[Path], target: Path) -> None:
    """Put records into a run's directory for good, of each node the one of the highest rank, and only then drop these.

    OSError where that cannot be; what is not kept yet stays.
    """
    for path in taken:
        _put(path, target)
    sync_directory(target)
    for path in taken:
        path.unlink(missing_ok=True)


def keep_whole(files: Sequence[tuple[Path, str]], target: Path) -> bool:
    """Move a run's whole directory of `incoming/` to `target`, which is not there yet, in one step.

    Parameters
    ----------
    files
        The records in it with their digests, as they were read.
    target
        Where they are to lie.

    Returns
    -------
    False where something else lies there, or may do so: nothing was moved then.
    """
    incoming = files[0][0].parent
    if not all(digest and path.name == f"{_TAKEN.sub('', path.name)}.json" for path, digest in files):
        return False
    held = incoming.with_name(f".{incoming.name}{TAKEN}")
    if target.exists():
        return False
    try:
        incoming.rename(held)
        held.chmod(0o700)
        if _is_just(held, files):
            held.rename(target)
            return True
    except OSError as error:
        log.info("%s: %s: its records are moved one by one", incoming, error)
    put_whole_back(held)
    return False


def put_whole_back(held: Path) -> None:
    """Give what was taken whole its place in `incoming/` back, beside what its nodes have put there meanwhile."""
    incoming = held.with_name(held.name[1 : -len(TAKEN)])
    with contextlib.suppress(OSError):
        if not incoming.exists():
            held.rename(incoming)
            return
    with contextlib.suppress(OSError):
        for path in sorted(held.iterdir()):
            if path.name.startswith("."):
                path.unlink()
            else:
                put_back(path, incoming)
        held.rmdir()


def _is_just(held: Path, files: Sequence[tuple[Path, str]]) -> bool:
    """Whether a directory holds these records and nothing else; what was to become one has come to nothing there."""
    names = {one.name for one in held.iterdir()}
    for name in [one for one in names if one.startswith(".") or one == REFUSED]:
        (held / name).unlink()
        names.remove(name)
    return names == {path.name for path, _ in files} and all(
        _digest(held / path.name) == digest for path, digest in files
    )


def _put(path: Path, target: Path) -> None:
    if path.name.endswith(DAMAGED):
        _put_aside(path, target)
        return
    final = target / f"{_TAKEN.sub('', path.name)}.json"
    if not final.exists():
        _link_over(path, final)
        return
    record, known = read_boundary(path), None
    try:
        known = read_boundary(final)
    except DataError:
        _put_aside(final, target)
    if known is not None and not of_boundaries([known]).likeness(of_boundaries([record])):
        # An older perun put two runs into one directory.
        final, known = final.with_name(f"{_TAKEN.sub('', path.name)}@{record.start_ns // 1_000_000_000}.json"), None
    if known is None or known.rank < record.rank:
        _link_over(path, final)


def _put_aside(path: Path, target: Path) -> None:
    """Keep a damaged record beside those that were damaged before: another version may read it."""
    digest = _digest(path)
    node = _ASIDE.sub("", path.name).removesuffix(".json")
    for name in (f"{node}.json{DAMAGED}", f"{node}.{digest[:16]}.json{DAMAGED}"):
        aside = target / name
        if aside != path and not aside.exists():
            _link_over(path, aside)
            return
        if aside != path and _digest(aside) == digest:
            return


def _link_over(path: Path, final: Path) -> None:
    try:
        link_new(final, path)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        write_new(final, path.read_bytes())


def _link_first(path: Path, final: Path) -> None:
    """Give a file its name back unless there is another one; either way it is read again."""
    try:
        os.link(path, final)
    except FileExistsError:
        with contextlib.suppress(FileExistsError):
            os.link(path, final.with_name(f"{_TAKEN.sub('', final.name)}.{_digest(path)[:16]}.taken.json"))


def _digest(path: Path) -> str:
    """What identifies a file's content, whatever its length."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
