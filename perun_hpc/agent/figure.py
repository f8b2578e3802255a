"""A figure for Slurm's own commands, and the file of them that our energy plugin reads (`docs/architecture.md`)."""

from __future__ import annotations

import binascii
import struct
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from perun_hpc.errors import DataError

MAGIC = b"perunfig"
VERSION = 1
HEAD = struct.Struct("<8sIIQ20x")
RECORD = struct.Struct("<IIQQQQI")
CHECKSUM = struct.Struct("<I")
MOST = 1024
"""Records in the file."""
OF_JOB = 0xFFFF_FFFF
OF_NODE = 0
SECOND_NS = 1_000_000_000
SHORTEST_NS = 100_000_000
"""Counters go on ten times a second or more often."""


@dataclass(frozen=True)
class Figure:
    """Energy as of a moment (monotonic), the power at which it goes on (0: that may not be seen), and until when."""

    energy_uj: int
    at_ns: int
    power_uw: int = 0
    until_ns: int = 0

    def next(self, energy_uj: int, at_ns: int) -> Figure:
        """The figure after this one, with the mean power in between; the same one at the same moment.

        Its power stays after less than `SHORTEST_NS`: in so short a time a counter has gone on by too much or not at
        all.
        """
        if at_ns <= self.at_ns:
            return self
        if at_ns - self.at_ns < SHORTEST_NS:
            return Figure(energy_uj, at_ns, self.power_uw, self.until_ns)
        power_uw = max(0, energy_uj - self.energy_uj) * SECOND_NS // (at_ns - self.at_ns)
        return Figure(energy_uj, at_ns, power_uw, self.until_ns)


def packed(node: Figure | None, jobs: Iterable[tuple[int, int, Figure]], sequence: int) -> bytes:
    """The file's content: of the node, then of jobs and steps (id, step or `OF_JOB`), `MOST` in all."""
    records = [] if node is None else [_record(0, OF_NODE, node, sequence)]
    for job, step, figure in jobs:
        if len(records) == MOST:
            break
        records.append(_record(job, step, figure, sequence))
    return b"".join((_checked(HEAD.pack(MAGIC, VERSION, len(records), sequence)), *records))


def _record(job: int, step: int, figure: Figure, sequence: int) -> bytes:
    values = (figure.energy_uj, figure.power_uw, figure.at_ns, figure.until_ns)
    return _checked(RECORD.pack(job, step, *values, sequence & 0xFFFF_FFFF))


def node_of(data: bytes) -> Figure | None:
    """Inverse of `packed`, for the node: its figure; None where there is none of it.

    Raises
    ------
    DataError
        where the data have another layout, or were half written when they were read.
    """
    size = RECORD.size + CHECKSUM.size
    head = data[: HEAD.size]
    if not _holds(data[:size]) or HEAD.unpack(head)[:2] != (MAGIC, VERSION):
        raise DataError("no figures of this version")
    _, _, count, sequence = HEAD.unpack(head)
    for index in range(1, count + 1):
        one = data[index * size : (index + 1) * size]
        if not _holds(one):
            raise DataError("a damaged record")
        job, step, energy_uj, power_uw, at_ns, until_ns, of = RECORD.unpack(one[: RECORD.size])
        if of != sequence & 0xFFFF_FFFF:
            raise DataError("half rewritten")
        if (job, step) == (0, OF_NODE):
            return Figure(energy_uj, at_ns, power_uw, until_ns)
    return None


def _holds(one: bytes) -> bool:
    """Whether a head or record is whole."""
    return len(one) == RECORD.size + CHECKSUM.size and _checked(one[: RECORD.size]) == one


def _checked(data: bytes) -> bytes:
    return data + CHECKSUM.pack(binascii.crc32(data))


def capped(steps: Mapping[int, Figure], ended: Collection[int], job: Figure) -> dict[int, Figure]:
    """The figures of a job's steps at the job's moment: together no more than the job has, and draws.

    Each goes on from its last part with the power that it had then, but those of `ended`.
    """
    given_uj = sum(one.energy_uj for one in steps.values())
    goes_on = {number: one for number, one in steps.items() if number not in ended}
    since = {name: one.power_uw * max(0, job.at_ns - one.at_ns) // SECOND_NS for name, one in goes_on.items()}
    left_uj, wanted_uj = max(0, job.energy_uj - given_uj), sum(since.values())
    power_uw = sum(one.power_uw for one in goes_on.values())
    found = {number: Figure(one.energy_uj, job.at_ns, 0, job.until_ns) for number, one in steps.items()}
    for number, one in goes_on.items():
        more_uj = since[number] if wanted_uj <= left_uj else left_uj * since[number] // wanted_uj
        draws_uw = one.power_uw if power_uw <= job.power_uw else job.power_uw * one.power_uw // power_uw
        found[number] = replace(found[number], energy_uj=one.energy_uj + more_uj, power_uw=draws_uw)
    return found
