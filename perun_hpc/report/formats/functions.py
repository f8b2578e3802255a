"""The regions of a run as CSV: one line for each region of each rank and round, with its energy and that of a call."""

from __future__ import annotations

import csv
import io

from perun_hpc.data_model.data import DataNode, MetricType, NodeType
from perun_hpc.report.listing import csv_cell

COLUMNS = (
    "run id", "hostname", "rank", "function", "calls", "raised", "open", "time_s", "mean_s", "std_s", "max_s",
    "energy_j", "u_j", "low_j", "high_j", "method", "provenance", "call_energy_j", "share",
)  # fmt: skip


def csv_text(tree: DataNode) -> str:
    """The lines with a head; what is not known is empty. `u_j` is for k=1, `share` the part of the host's energy."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for run in tree.walk(NodeType.RUN):
        for host in run.walk(NodeType.NODE):
            for one in host.regions:
                energy = one.metrics.get(MetricType.ENERGY)
                found = () if energy is None else (
                    energy.value, energy.uncertainty, energy.low, energy.high, energy.method, energy.provenance
                )  # fmt: skip
                values = (
                    f"{tree.id}/{run.id}", one.host, one.rank, one.name, one.calls, one.raised, one.open, one.time_s,
                    one.mean_s, one.std_s, one.max_s, *(found or (None,) * 6), one.call_energy_j, one.share,
                )  # fmt: skip
                writer.writerow([csv_cell(value) for value in values])
    return text.getvalue()
