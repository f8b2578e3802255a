"""Many short calls of regions made few rows, so that neither memory nor disk grows with them.

Done by `perun-pack.so`, a small C library without needs of its own, on the rows where `regions.Recorder` keeps the
calls, once these are full; without it (another machine's, no ctypes) the rows go on growing. What packed rows say:
docs/architecture.md, "Rank data".
Standard library only, CPython 3.9 on: this runs in the user's interpreter.
"""

from __future__ import annotations

import os

from perun_hpc.inject import closed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
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
        library = ctypes.PyDLL(os.path.join(os.path.dirname(__file__), LIBRARY))
        number, pointer = ctypes.c_int64, ctypes.c_void_p
        self._pack, self._coarsen = library.perun_pack, library.perun_coarsen
        self._pack.restype = self._coarsen.restype = number
        self._pack.argtypes = (pointer, number, pointer, pointer, number, pointer, number)
        self._coarsen.argtypes = (pointer, number, pointer, number, pointer)
        self._reach, self._place = self._numbers(REGIONS), self._numbers(REGIONS)
        self._state = self._array("q", [CELL_NS, 0, REGIONS, _address(self._reach), _address(self._place)])

    def pack(self, memory: mmap.mmap, offset: int, rows: int) -> Sequence[int]:
        """Pack the first `rows` rows behind `offset`; the numbers of the first integers of those that are free then."""
        places = self._numbers(3 * rows)
        first = self._from_buffer(memory, offset)
        try:
            at, state = self._byref(first), _address(self._state)
            cells = self._numbers(CELLS * 9)
            found = self._pack(at, rows, state, _address(cells), CELLS, _address(places), rows // WORTH)
            del cells
            free = places[:found]
            if self._state[1] * CROWDED > rows:
                free += places[: self._coarsen(at, rows, state, rows // CROWDED // 2, _address(places))]
        finally:
            del first  # the mapping cannot be closed while it is looked at
        return free  # type: ignore[no-any-return]

    def _numbers(self, count: int) -> Any:
        return self._array("q", bytes(8 * count))


def _address(numbers: Any) -> int:
    return int(numbers.buffer_info()[0])
