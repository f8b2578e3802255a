"""A job's cost in the collector grows with its nodes, no faster."""

from __future__ import annotations

import json
import tracemalloc

from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.data_model.boundary import parse_boundary
from perun_hpc.slurm.hostlist import expand
from tests.accounting_data import boundary

SMALL, LARGE = 250, 2000


def peak_b(nodes: int) -> int:
    """Memory that a job's boundary records and their sum take at most."""
    nodelist = f"n[1-{nodes}]"
    texts = [json.dumps(boundary(1, f"n{n}", nodelist, num_nodes=nodes)).encode() for n in range(1, nodes + 1)]
    expand.cache_clear()
    tracemalloc.start()
    record = sum_boundaries([parse_boundary(text, "test") for text in texts])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(record.nodes), record.status) == (nodes, "complete")
    assert expand.cache_info().misses == 1
    return peak


def test_memory_is_linear_in_a_jobs_nodes() -> None:
    small, large = peak_b(SMALL), peak_b(LARGE)
    assert large < 1.25 * LARGE / SMALL * small
    assert large / LARGE < 30_000  # bytes a node: 8,192 nodes in 250 MB
