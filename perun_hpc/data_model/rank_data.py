"""What one rank hands over, `perun.rank-data/1`: how it is written, and how it is read.

One line of JSON, then the tables that it lists: rows of little-endian int64. The rank writes it in the user's own
interpreter (standard library only, CPython 3.9 on), the agent and `perun monitor` read it: the sender is the user, so
everything is checked, and whatever bytes come give either a value or a DataError.
"""

from __future__ import annotations

import json
import sys
from array import array

from perun_hpc.data_model.wording import cut
from perun_hpc.errors import DataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Mapping, Sequence
    from typing import Any

SCHEMA = "perun.rank-data/1"
CALLS = ("region", "start_ns", "end_ns")
SAMPLES = ("mono_ns", "cpu_ns", "rss_peak_b")
ROW_B = 24
"""Bytes of a row: three int64 in either table."""
MAX_HEAD_B = 1024 * 1024
"""Most bytes of the first line."""
MAX_NAME_B = 256
"""Most bytes of a region's name."""
MAX_TEXT_B = 1024
"""Most bytes of any other text."""
MAX_RANK = 2**31

_TEXTS = ("step_id", "host", "python", "end")
_NUMBERS = ("local_rank", "ntasks", "nnodes", "pid", "dropped")


def live(about: Mapping[str, Any], names: Sequence[str], most_b: int = MAX_HEAD_B) -> bytes:
    """The first line before a table of calls that goes on growing, of fewer than `most_b` bytes.

    `about` are the header's keys that say whose it is. Names for which there is no space are left out.
    """
    return _head(about, "live", names, [("calls", CALLS, -1)], 0, most_b)[0]


def final(
    about: Mapping[str, Any],
    end: str,
    names: Sequence[str],
    calls: bytes,
    samples: Sequence[Sequence[int]],
    dropped: int = 0,
) -> tuple[bytes, bytes, bytes]:
    """All that a rank hands over at its end, to be joined.

    Parameters
    ----------
    about : the header's keys that say whose it is.
    end : how it ended: exit, finalize or raised.
    calls : the table of calls, little-endian.
    dropped : how many calls found no space; those of regions whose names find none are added.
    """
    tables = [("calls", CALLS, len(calls) // ROW_B), ("samples", SAMPLES, len(samples))]
    head, kept = _head(about, end, names, tables, dropped, MAX_HEAD_B)
    if kept < len(names):
        regions = _numbers(memoryview(calls).cast("B"))[::3]
        head, _ = _head(about, end, names, tables, dropped + sum(region >= kept for region in regions), MAX_HEAD_B)
    rows = array("q", [number for row in samples for number in row])
    if sys.byteorder == "big":
        rows.byteswap()
    return head, calls, rows.tobytes()


def _head(
    about: Mapping[str, Any],
    end: str,
    names: Sequence[str],
    tables: Sequence[tuple[str, Sequence[str], int]],
    dropped: int,
    most_b: int,
) -> tuple[bytes, int]:
    """A first line, and how many of the names are in it."""
    head = {
        "schema": SCHEMA,
        **about,
        "live": end == "live",
        "end": end,
        "dropped": dropped,
        "tables": [{"name": name, "columns": columns, "rows": rows} for name, columns, rows in tables],
        "regions": [],
    }
    line = json.dumps(head, separators=(",", ":"))
    left_b = most_b - len(line) - len("\n") - 20  # `dropped` may be said anew, with more digits
    written = []
    for name in names:
        text = json.dumps(cut(str(name), MAX_NAME_B))  # programs name regions by numbers, too
        left_b -= len(text) + len(",")
        if left_b < 0:
            break
        written.append(text)
    return f"{line[:-2]}{','.join(written)}]}}\n".encode(), len(written)


class RankData:
    """What one rank handed over, checked.

    Attributes
    ----------
    header : the first line, see docs/architecture.md; every value that is known is of its type.
    names : of the regions; none longer than `MAX_NAME_B`, and plain text.
    calls : rows of (region, start_ns, end_ns), flat; whether they say what can be is for whoever reads them.
    samples : rows of (mono_ns, cpu_ns, rss_peak_b), flat.
    """

    __slots__ = ("calls", "header", "names", "samples")

    def __init__(
        self, header: Mapping[str, Any], names: tuple[str, ...], calls: Sequence[int], samples: Sequence[int]
    ) -> None:
        self.header = header
        self.names = names
        self.calls = calls
        self.samples = samples

    @property
    def rank(self) -> int:
        """The rank's number in the world, MPI's if it was asked."""
        mpi = self.header.get("mpi") or self.header
        return int(mpi["rank"])

    @property
    def whole(self) -> bool:
        """Whether the rank ended by itself; a killed one left only its calls."""
        return not self.header["live"]


def parse(data: bytes | mmap.mmap) -> RankData:
    """Read rank data; DataError says what is wrong with it. `data` is not copied."""
    header = head(data)
    body = memoryview(data)[data.find(b"\n") + 1 :]
    counts = [table["rows"] for table in header["tables"]]
    if header["live"]:
        calls = _numbers(body[: len(body) // ROW_B * ROW_B])
        used = next((at for at in range(1, len(calls), 3) if calls[at] == 0), len(calls) + 1)
        return RankData(header, header["regions"], calls[: used - 1], ())
    if sum(counts) * ROW_B > len(body):
        raise DataError("rank data: a table is cut off")
    calls, samples = _numbers(body[: counts[0] * ROW_B]), _numbers(body[counts[0] * ROW_B : sum(counts) * ROW_B])
    return RankData(header, header["regions"], calls, samples)


def head(data: bytes | mmap.mmap) -> dict[str, Any]:
    """The first line of rank data, checked, names of regions made plain; DataError says what is wrong with it."""
    end = data.find(b"\n", 0, MAX_HEAD_B)
    if end < 0:
        raise DataError(f"rank data: no header in the first {MAX_HEAD_B >> 10} KiB")
    try:
        header = json.loads(data[:end].decode())
    except RecursionError:
        raise DataError("rank data: the header is nested too deeply") from None
    except ValueError as error:
        raise DataError(f"rank data: the header is no JSON ({error})") from error
    if not isinstance(header, dict) or header.get("schema") != SCHEMA:
        raise DataError(f"rank data: not of schema {SCHEMA}")
    if wrong := _wrong(header):
        raise DataError(f"rank data: {wrong}")
    header["regions"] = tuple(cut(name, MAX_NAME_B) for name in header["regions"])
    header.update({key: cut(header[key], MAX_TEXT_B) for key in _TEXTS if key in header})
    if header.get("mpi"):
        header["mpi"] = {
            cut(key, MAX_NAME_B): cut(value, MAX_TEXT_B) if isinstance(value, str) else value
            for key, value in header["mpi"].items()
        }
    return header


def _wrong(header: Mapping[str, Any]) -> str:
    """What is wrong with a header; empty if nothing is."""
    regions, mpi = header.get("regions"), header.get("mpi")
    if not _number(header.get("rank"), MAX_RANK):
        return "`rank` is no number"
    for key in _NUMBERS:
        if not _number(header.get(key, 0), 2**63):
            return f"`{key}` is no number"
    for key in _TEXTS:
        if not isinstance(header.get(key, ""), str):
            return f"`{key}` is no text"
    if mpi is not None and not _world(mpi):
        return "`mpi` does not say which rank of how many it is"
    if not isinstance(regions, list) or not all(isinstance(name, str) for name in regions):
        return "`regions` is no list of names"
    if type(header.get("live")) is not bool:
        return "`live` says neither yes nor no"
    return _wrong_tables(header.get("tables"), header["live"])


def _world(mpi: Any) -> bool:
    """Whether MPI's word about a rank is one: a rank, a size, and no more than single values beside."""
    if not isinstance(mpi, dict) or not all(_number(mpi.get(key), MAX_RANK) for key in ("rank", "size")):
        return False
    return all(value is None or isinstance(value, (str, int)) for value in mpi.values())


def _wrong_tables(tables: Any, live: bool) -> str:
    """What is wrong with the list of tables: the calls, and behind those of a rank that has ended its samples."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return "`tables` is no list of tables"
    known = [("calls", list(CALLS)), ("samples", list(SAMPLES))]
    if [(table.get("name"), table.get("columns")) for table in tables] not in (known[:1], known[: 1 if live else 2]):
        return "the tables are not those of calls and samples"
    for table in tables:
        rows = table.get("rows")
        if not ((type(rows) is int and rows == -1) if live else _number(rows, 2**63)):
            return f"the table of {table['name']} has no number of rows"
    return ""


def _number(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most


def _numbers(table: memoryview) -> Sequence[int]:
    """A table's numbers, not copied where this machine writes them in the same order."""
    if sys.byteorder == "little":
        return table.cast("q")
    numbers = array("q", table.tobytes())
    numbers.byteswap()
    return numbers
