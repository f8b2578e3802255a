"""Many short calls of regions made few rows, so that neither memory nor disk grows with them.

Done by `perun-pack.so`, a small C library without needs of its own, on the rows where `regions.Recorder` keeps the
calls, once these are full; without it (another machine's, no ctypes) the rows go on growing. What packed rows say:
docs/architecture.md, "Rank data".
Standard library only, CPython 3.9 on: this runs in the user's interpreter.
"""

from __future__ import annotations

import mmap
import os

from perun_hpc.inject import closed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

LIBRARY = "perun-pack.so"
CELL_NS = 10_000_000
"""How much time of a region a cell takes at first; more where cells fill an eighth of the rows."""
REGIONS = 4096
"""Calls of regions with higher numbers are not packed."""
CELLS = 16_384
"""Most cells of one go."""
WORTH = 4
"""Where less than one row in so many would become free, nothing is packed."""
CROWDED = 8 * 4
MADE, FREED = 1, 2
"""Places in the library's state."""


class Packer:
    """Packs the calls of one recorder.

    OSError or ImportError where the library cannot be had. The caller holds a lock; while it packs, no other thread of
    the interpreter runs.
    """

    def __init__(self) -> None:
        ctypes = closed.load("ctypes")
        self._array: Any = closed.load("array").array
        self._from_buffer = ctypes.c_char.from_buffer
        self._byref = ctypes.byref
        path = os.path.join(os.path.dirname(__file__), LIBRARY)
        if not closed.whole(path):
            raise OSError(f"{path}: not there, or not whole")
        library = ctypes.PyDLL(path)
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        self._pack, self._coarsen = library.perun_pack, library.perun_coarsen
        self._pack.restype = self._coarsen.restype = None
        self._pack.argtypes = (pointer, number, pointer, pointer, number, pointer, number)
        self._coarsen.argtypes = (pointer, number, pointer, number, pointer)
        self._reach, self._place = self._numbers(REGIONS), self._numbers(REGIONS)
        self._places: Any = b""
        self._state = self._array("q", [CELL_NS, 0, 0, REGIONS, _address(self._reach), _address(self._place)])

    def pack(self, memory: mmap.mmap, offset: int, rows: int) -> Sequence[int]:
        """Pack the first `rows` rows behind `offset`; the numbers of the first integers of those that are free then.

        OSError or MemoryError where there is no memory for it.
        """
        if not self._state[FREED]:  # else a signal's handler raised before they were handed out
            self._run(memory, offset, rows)
        free = self._array("q", self._places[: 8 * self._state[FREED]])
        self._state[FREED] = 0
        return free  # type: ignore[no-any-return]

    def _run(self, memory: mmap.mmap, offset: int, rows: int) -> None:
        self._places = mmap.mmap(-1, 3 * 8 * rows)  # takes memory where it is written
        first, places = self._from_buffer(memory, offset), self._from_buffer(self._places)
        try:
            at, to, state = self._byref(first), self._byref(places), _address(self._state)
            cells = self._numbers(CELLS * 9)
            self._pack(at, rows, state, _address(cells), CELLS, to, rows // WORTH)
            if self._state[MADE] * CROWDED > rows:
                self._coarsen(at, rows, state, rows // CROWDED // 2, to)
        finally:
            del first, places  # a mapping cannot be closed while it is looked at

    def _numbers(self, count: int) -> Any:
        return self._array("q", bytes(8 * count))


def _address(numbers: Any) -> int:
    return int(numbers.buffer_info()[0])
