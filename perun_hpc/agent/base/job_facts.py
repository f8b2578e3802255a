"""What Slurm said of a job, as a `job-start` or `job-end` brings it: known keys, bounded, numbers that are numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from perun_hpc.data_model.wording import plain
from perun_hpc.errors import DataError

#: What a `job-start` may say about a job; the rest of a message is ignored.
JOB_KEYS = (
    "uid",
    "gid",
    "user",
    "account",
    "partition",
    "node",
    "cluster",
    "nodelist",
    "num_nodes",
    "cpus_on_node",
    "cpus_per_node",
    "gpus",
    "gpu_names",
    "het_job_id",
    "het_offset",
    "sluid",
    "start_time",
    "end_time",
    "exclusive",
    "flag",
)
EXIT_KEYS = ("exit_code", "exit_code2", "derived_ec")


def job_fields(fields: Any) -> dict[str, str]:
    """The known keys of a `job-start`, bounded; DataError where it does not say whose the job is.

    A number that is none is left out: what it is good for is less than the job's energy.
    """
    job = {key: plain(fields[key], 8192) for key in JOB_KEYS if fields.get(key)}
    for key in ("uid", "gid"):
        if key in job and not is_number(job[key]):
            raise DataError(f"{key} {job[key][:20]!r}: a number was expected")
    return usable(job)


def exit_fields(fields: Mapping[str, str]) -> dict[str, str]:
    """How the job ended, bounded."""
    return {name: fields[name][:64] for name in EXIT_KEYS if name in fields}


def usable(job: Mapping[str, str]) -> dict[str, str]:
    """What is said of a job, without numbers that are none."""
    return {key: text for key, text in job.items() if key not in ("num_nodes", "cpus_on_node") or is_number(text)}


def without_names(job: Mapping[str, str]) -> dict[str, str]:
    """Whose the job is and how large, nothing that could be odd."""
    plain_numbers = ("uid", "gid", "num_nodes", "cpus_on_node")
    names = ("user", "account", "partition", "node", "cluster", "nodelist", "sluid")
    kept = {key: job[key] for key in names if key in job}
    kept.update({key: job[key] for key in plain_numbers if is_number(job.get(key, ""))})
    return kept


def cpus_on_node(job: Mapping[str, str]) -> int:
    """How many CPUs Slurm gave the job on its node; 0 if it did not say."""
    cpus = job.get("cpus_on_node", "")
    if is_number(cpus):
        return int(cpus[:6])
    counts = per_node(job.get("cpus_per_node", ""))
    if len(set(counts)) <= 1:
        return counts[0] if counts else 0
    from perun_hpc.slurm import hostlist

    try:
        nodes = hostlist.expand(job.get("nodelist", ""))
    except ValueError:
        nodes = ()
    node = job.get("node", "")
    return counts[nodes.index(node)] if node in nodes and len(nodes) == len(counts) else min(counts)


def per_node(text: str) -> list[int]:
    """The numbers of Slurm's `2(x3),1`, one per node, in order."""
    counts: list[int] = []
    for number, times in re.findall(r"(\d{1,6})(?:\(x(\d{1,5})\))?", text):
        counts += [int(number)] * int(times or 1)
    return counts


def is_number(text: str) -> bool:
    """Whether a text is a number as Slurm writes one."""
    return text.isascii() and text.isdigit() and len(text) <= 10
