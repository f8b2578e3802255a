"""The line that slurmdbd's AdminComment holds of a whole array, where the policy wants one instead of one a task.

`perun2:tasks=99998/100000:st=complete:pv=measured:e=1842000000000/15500000000:cpu=...:crc=1a2b3c4d`: of how many of its
runs the energy is known, whether that is all of it, the worst provenance, sums in uJ with their standard uncertainty.
It stands on the job whose own id is the array's. Records are added up some at a time.
"""

from __future__ import annotations

import re
from binascii import crc32
from collections.abc import Iterable, Sequence

from perun_hpc.accounting.summing import doubts_of
from perun_hpc.accounting.together import doubts_together, together
from perun_hpc.data_model.record import EnergyRecord, worst_provenance
from perun_hpc.energy.uncertainty import Doubts, added, combined_uj
from perun_hpc.errors import DataError

PREFIX = "perun2:"
_LINE = re.compile(
    r"perun2:tasks=(\d{1,12})/(\d{1,12}):st=([a-z]+):pv=[a-z]+(?::e=(\d{1,24})/(\d{1,24}))?[:a-z0-9=/]*\Z"
)


def encode(pages: Iterable[Sequence[EnergyRecord]]) -> str:
    """Return the line for all runs of an array, which come some at a time; "" where there are none."""
    runs = known = energy_uj = rest_uj = 0
    whole, words = True, list[str]()
    doubts: Doubts = {}
    parts: dict[str, tuple[int, Doubts]] = {}
    for records in pages:
        page = together(records)
        more, more_rest_uj = doubts_together([r for r in records if r.energy_uj is not None])
        runs, known = runs + page.runs, known + page.known
        energy_uj, rest_uj = energy_uj + (page.energy_uj or 0), rest_uj + more_rest_uj
        doubts = added((doubts, more))
        whole = whole and not page.lower_bound
        words += [page.provenance] if page.known else []
        for component in (one for record in records for one in record.components):
            uj, may_err = parts.get(component.component, (0, {}))
            parts[component.component] = uj + (component.energy_uj or 0), added((may_err, doubts_of(component)))
    if not runs:
        return ""
    fields = [f"tasks={known}/{runs}", f"st={'complete' if whole else 'partial'}"]
    fields.append(f"pv={worst_provenance(words) if words else 'missing'}")
    if known:
        fields.append(f"e={energy_uj}/{combined_uj(doubts) + rest_uj}")
        fields += [f"{name}={uj}/{combined_uj(err)}" for name, (uj, err) in sorted(parts.items()) if name.isalpha()]
    text = PREFIX + ":".join(fields)
    return f"{text}:crc={crc32(text.encode()):08x}"


def read(line: str) -> tuple[int, int, bool, int | None, int]:
    """Return of how many runs of how many an energy is known, whether that is all, the energy and its uncertainty, uJ.

    Raises
    ------
    DataError
        When the line is of another version, cut or changed.
    """
    text, _, crc = line.rpartition(":crc=")
    match = _LINE.match(text)
    if match is None or f"{crc32(text.encode()):08x}" != crc:
        raise DataError("this perun does not know the form of its array's AdminComment: ask on the collector's host")
    energy_uj = None if match[4] is None else int(match[4])
    return int(match[1]), int(match[2]), match[3] == "complete", energy_uj, int(match[5] or 0)
