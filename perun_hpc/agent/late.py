"""What the agent and its children import late, for a prolog may wait for the agent's first second.

A test finds what is missing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perun_hpc.config.schema import Store

_LATE = (
    "perun_hpc.config.schema",
    "perun_hpc.config.resolve",
    "perun_hpc.slurm.hostlist",
    "perun_hpc.agent.node_figures",
    "perun_hpc.agent.traces.trace",
    "perun_hpc.agent.traces.fast_trace",
    "perun_hpc.store.node_store",
    "perun_hpc.store.ship",
    "perun_hpc.backend.file",
    "perun_hpc.backend.nvml",
    "perun_hpc.backend.amdsmi",
    "perun_hpc.backend.dcgm",
    "perun_hpc.backend.ipmi",
)


def late(store: Store) -> tuple[str, ...]:
    """Modules, beside those that the agent imports at once; what these import at once comes with them.

    OpenSSL takes 5 MiB (hashes 4, TLS 1), so only agents have it that hand over to a collector.
    """
    handover = ("perun_hpc.archive.handover",) if store.collector else ()
    tls = ("perun_hpc.archive.certificates",) if store.collector and store.tls else ()
    return (*_LATE, *handover, *tls)
