"""Code that a process would import late, imported before an upgrade can put another version's in its place.

A process that lives on and imports a module after perun was upgraded would have a new module beside the old ones: what
one hands to the other need not fit any more. So whatever lives on is whole soon after it has begun; children that it
forks are whole with it, and programs that it executes take and answer arguments, JSON or messages of the wire alone.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from functools import partial

from perun_hpc.process.log import guard


def make_whole(modules: Iterable[str]) -> None:
    """Import these; one that cannot be imported (a Python without ssl) fails where it is wanted, as before."""
    for name in modules:
        if name not in sys.modules:
            guard(f"importing {name}", partial(importlib.import_module, name))
