"""A halo-exchange stencil: Jacobi iterations of a heat equation, split into rows over MPI ranks.

An ordinary mpi4py program. It runs with and without perun: only the two decorators know of it, and without perun in the
interpreter they do nothing.
"""

from __future__ import annotations

import sys
import time
from array import array

from mpi4py import MPI

try:
    from perun_hpc import monitor
except ImportError:

    def monitor():  # type: ignore[no-untyped-def,no-redef]
        """Do nothing where perun is not at hand."""
        return lambda function: function


WIDTH, ROWS = 192, 24  # columns of the plate, rows of one rank


@monitor()
def exchange(comm: MPI.Comm, plate: array[float]) -> None:
    """Swap the outer rows of `plate` with the neighbouring ranks, in place."""
    rank, size = comm.Get_rank(), comm.Get_size()
    above = rank - 1 if rank > 0 else MPI.PROC_NULL
    below = rank + 1 if rank < size - 1 else MPI.PROC_NULL
    view = memoryview(plate)
    top, bottom = view[WIDTH : 2 * WIDTH], view[ROWS * WIDTH : (ROWS + 1) * WIDTH]
    comm.Sendrecv(top, above, recvbuf=view[(ROWS + 1) * WIDTH :], source=below)
    comm.Sendrecv(bottom, below, recvbuf=view[:WIDTH], source=above)


@monitor()
def relax(plate: array[float], sweeps: int = 1) -> array[float]:
    """Jacobi steps over the inner points, the outer rows as they are; returns the new plate."""
    for _ in range(sweeps):
        old, plate = plate, array("d", plate)
        for row in range(1, ROWS + 1):
            first, last = row * WIDTH + 1, (row + 1) * WIDTH - 1
            plate[first:last] = array(
                "d",
                (0.25 * (old[i - 1] + old[i + 1] + old[i - WIDTH] + old[i + WIDTH]) for i in range(first, last)),
            )
    return plate


def main(seconds: float) -> None:
    """Iterate for about `seconds`; rank 0 says how far it came."""
    comm = MPI.COMM_WORLD
    plate = array("d", bytes(8 * WIDTH * (ROWS + 2)))
    if comm.Get_rank() == 0:
        plate[:WIDTH] = array("d", [100.0] * WIDTH)
    start, steps, running = time.monotonic(), 0, True
    while running:
        exchange(comm, plate)
        plate = relax(plate)
        steps += 1
        running = comm.bcast(time.monotonic() - start < seconds, root=0)
    heat = comm.reduce(sum(plate[WIDTH:-WIDTH]), op=MPI.SUM, root=0)
    if comm.Get_rank() == 0:
        print(f"{comm.Get_size()} ranks, {steps} steps, heat {heat:.1f}")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 10.0)
