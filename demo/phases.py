"""The stencil with an input to read and checkpoints to write: a program whose power has a course worth looking at.

Its ranks swap rows once in many sweeps, as block methods do: a call that lasts some tenths of a second has a power of
its own between readings that are a second apart, one of a millisecond has only an upper bound.
"""

from __future__ import annotations

import sys
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

from mpi4py import MPI

if TYPE_CHECKING:
    from demo.stencil import ROWS, WIDTH, exchange, relax
    from perun_hpc import monitor
else:
    from stencil import ROWS, WIDTH, exchange, monitor, relax

SWEEPS = 150  # between two exchanges
PAUSE_S = 0.25  # a disk that others use, too


@monitor()
def read_input(comm: MPI.Comm) -> array[float]:
    """Wait for the plate's values, as for a file on a busy disk."""
    time.sleep(20 * PAUSE_S)
    plate = array("d", bytes(8 * WIDTH * (ROWS + 2)))
    if comm.Get_rank() == 0:
        plate[:WIDTH] = array("d", [100.0] * WIDTH)
    return plate


@monitor()
def checkpoint(plate: array[float], path: Path) -> None:
    """Write the plate piece by piece."""
    with path.open("wb") as file:
        for row in range(0, len(plate), WIDTH):
            file.write(plate[row : row + WIDTH].tobytes())
            if row % (2 * WIDTH) == 0:
                time.sleep(PAUSE_S)


def main(rounds: int, round_s: float) -> None:
    """Compute for `round_s` and write a checkpoint, `rounds` times."""
    comm = MPI.COMM_WORLD
    plate = read_input(comm)
    for _ in range(rounds):
        start, running = time.monotonic(), True
        while running:
            exchange(comm, plate)
            plate = relax(plate, SWEEPS)
            running = comm.bcast(time.monotonic() - start < round_s, root=0)
        checkpoint(plate, Path(f"checkpoint.{comm.Get_rank()}"))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
