"""Steps on two nodes, one of which has a fault: a part of `python -m tests.faults matrix`, which tries every cell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devcluster import Cluster
from tests.faults import matrix
from tests.faults.ground import Ground

pytestmark = pytest.mark.cluster

CELLS = {
    "none": ("one rank -I", "Python + C", "Open MPI", "torchrun"),
    "agent stopped": ("mpi4py", "plain C"),
    "agent dead": ("mpi4py",),
    "kill switch": ("one rank -I",),
    "plugin missing": ("plain C",),
    "prefix missing": ("Python + C",),
    "prefix hung": ("mpi4py", "regions"),
}


@pytest.fixture(scope="module")
def field(cluster: Cluster) -> Iterator[matrix.Field]:
    with matrix.prepared(Ground(cluster)) as field:
        yield field


@pytest.mark.parametrize("fault", CELLS)
def test_steps_on_two_nodes_end_as_without_perun(field: matrix.Field, fault: str) -> None:
    with matrix.under(field, fault) as way:
        cells = [field.cell(fault, program, way) for program in CELLS[fault]]
    for cell in cells:
        assert cell.as_without, cell
        assert cell.plain_code == 0, cell
