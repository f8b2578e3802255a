"""The line that slurmdbd's AdminComment holds: a record's figures in text that 22.05's lower-casing cannot harm.

`perun1:rev=1:st=complete:pv=measured:n=2/2:cov=1000000:e=18420000000/155000000:cpu=...:crc=1a2b3c4d`: keys and values
in lower-case letters, digits and `/` only, energies in uJ with their standard uncertainty, the coverage in millionths,
a checksum at the end because slurmdbd cuts silently what is too long.
"""

from __future__ import annotations

import re
from binascii import crc32
from dataclasses import replace

from perun_hpc.accounting.summing import missing_record
from perun_hpc.data_model.boundary import LIMIT
from perun_hpc.data_model.record import PROVENANCES, Component, EnergyRecord
from perun_hpc.data_model.wording import count
from perun_hpc.errors import DataError
from perun_hpc.slurm.sacct import SlurmJob
from perun_hpc.slurm.states import WASTED_STATES

PREFIX = "perun1:"
_NAME = re.compile(r"[a-z]+\Z")
_PLAIN = {"rev", "st", "pv", "n", "cov", "e", "idle", "crc"}


def encode(record: EnergyRecord) -> str:
    """Return the line for a record."""
    parts = [
        f"rev={record.revision}",
        f"st={record.status}",
        f"pv={record.provenance}",
        f"n={len(record.nodes)}/{record.num_nodes}",
        f"cov={round(record.coverage * 1_000_000)}",
    ]
    if record.energy_uj is not None:
        parts.append(f"e={record.energy_uj}/{record.u_uj}")
        if record.idle_uj:
            parts.append(f"idle={record.idle_uj}")
        parts += [f"{c.component}={c.energy_uj}/{c.u_uj}" for c in record.components if _NAME.match(c.component)]
    text = PREFIX + ":".join(parts)
    return f"{text}:crc={crc32(text.encode()):08x}"


def is_ours(comment: str) -> bool:
    """Whether perun wrote a comment."""
    return comment.startswith("perun") and comment[5:6].isdigit()


def decode(comment: str, job: SlurmJob, cluster: str) -> EnergyRecord:
    """Return what a line says of the run `job`; hosts, steps and functions are not in it.

    Raises
    ------
    DataError
        When the line is of another version, cut or changed.
    """
    text, _, crc = comment.rpartition(":crc=")
    if not comment.startswith(PREFIX) or f"{crc32(text.encode()):08x}" != crc:
        raise DataError(
            f"job {job.shown_id}: this perun does not know the form of its AdminComment: ask on the collector's host"
        )
    try:
        values = dict(part.split("=") for part in text.removeprefix(PREFIX).split(":"))
        seen = _whole(values["n"].split("/")[0])
        nodes = _whole(values["n"].split("/")[1])
        base = missing_record(job, cluster, "")
        record = replace(
            base,
            revision=_whole(values["rev"]),
            status=values["st"],
            provenance=values["pv"],
            coverage=_whole(values["cov"]) / 1_000_000,
            num_nodes=nodes,
            missing=(f"{nodes - seen} of {count(nodes, 'node')} did not report",) if seen < nodes else (),
            missing_nodes=(),
            simulated=values["pv"] == PROVENANCES[-1],
        )
        if "e" not in values:
            return record
        energy_uj, u_uj = _pair(values["e"])
        wall_ns = max(record.end_ns - record.start_ns, 1)
        names = values.keys() - _PLAIN
        # The line's word is the worst of the parts: of one part, or where it is the best word, it is each part's.
        provenance = values["pv"] if len(names) == 1 or values["pv"] in (PROVENANCES[0], PROVENANCES[-1]) else ""
        return replace(
            record,
            energy_uj=energy_uj,
            u_uj=u_uj,
            idle_uj=_whole(values.get("idle", "0")),
            wasted_uj=energy_uj if job.state in WASTED_STATES else 0,
            power_mean_mw=energy_uj * 1_000_000 // wall_ns,
            components=tuple(
                _component(name, *_pair(value), provenance) for name, value in values.items() if name not in _PLAIN
            ),
        )
    except (ValueError, KeyError, IndexError) as error:
        raise DataError(
            f"job {job.shown_id}: its AdminComment is damaged ({error}): ask the collector's host"
        ) from error


def _whole(text: str) -> int:
    number = int(text)
    if not -LIMIT < number < LIMIT:
        raise ValueError(f"{text[:40]} is out of range")
    return number


def _pair(value: str) -> tuple[int, int]:
    first, second = value.split("/")
    return _whole(first), _whole(second)


def _component(name: str, energy_uj: int, u_uj: int, provenance: str) -> Component:
    return Component(
        component=name,
        energy_uj=energy_uj,
        u_uj=u_uj,
        static_uj=0,
        dynamic_uj=0,
        idle_uj=0,
        suspended_uj=0,
        modelled_uj=0,
        covered_ns=0,
        gap_ns=0,
        domains=0,
        provenance=provenance,
        methods=(),
    )
