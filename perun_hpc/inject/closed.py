"""Imports that perun does in the user's interpreter: of its own modules and the standard library's, whatever else is
called like them.

A program may have a `socket.py` or a `json.py` of its own beside it. What perun needs is looked for in the standard
library's own directories alone; where the program has a module of that name, or may get one, ours stays out of its
sight. CPython 3.9 on. This module itself takes only what every interpreter has loaded before it looks at a path.
"""

import os
import sys
from _frozen_importlib import BuiltinImporter, FrozenImporter, _gcd_import  # type: ignore[attr-defined]
from _frozen_importlib_external import PathFinder
from _thread import RLock, get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OURS = "perun_hpc"


def _places() -> "list[str]":
    """The directories of the standard library; empty where they are not known."""
    home = os.path.dirname(getattr(os, "__file__", None) or "")
    if not home:
        return []
    version = os.path.basename(home)
    lib = getattr(sys, "platlibdir", "lib")
    return [home, os.path.join(home, "lib-dynload"), f"{sys.base_exec_prefix}/{lib}/{version}/lib-dynload"]


def _names() -> "frozenset[str]":
    """The names of the standard library's modules; Python 3.9 has no list of them."""
    known: Any = getattr(sys, "stdlib_module_names", None)
    if known is None:
        known = {*sys.builtin_module_names}
        for place in PLACES:
            known.update(name.partition(".")[0] for name in (os.listdir(place) if os.path.isdir(place) else ()))
    return frozenset(known)


PLACES = _places()
"""Where the standard library is."""
_STANDARD = _names()
_BUILT_IN = "built-in", "frozen"

_lock = RLock()
_private: "dict[str, Any]" = {}
"""What was imported here and is not to be seen by the program."""


def _unlock() -> None:
    """In a forked child: a thread that is not in it may have had the lock."""
    global _lock
    _lock = RLock()


os.register_at_fork(after_in_child=_unlock)


def load(name: str, strict: bool = True, shared: bool = True) -> "Any":
    """The module of this name, perun's or the standard library's.

    Parameters
    ----------
    strict : nothing else is imported on the way; False for modules of perun's that need other packages.
    shared : the program finds the standard library's modules loaded where it has none by their names; False before its
        path is known.
    """
    with _lock:
        module = _private.get(name) or sys.modules.get(name)
        if module is not None and (name.startswith(OURS) or name in _private or _is_standard(module)):
            return module
        return _load(name, strict, shared)


def whole(library: str) -> bool:
    """Whether all that is loaded of a shared library (ELF, 64 bits) is in its file: a half-copied one would end the
    process. False where it cannot be read."""
    try:
        fd = os.open(library, os.O_RDONLY | os.O_CLOEXEC)
        try:
            head, size = os.read(fd, 4096), os.fstat(fd).st_size
        finally:
            os.close(fd)
    except OSError:
        return False

    def number(at: int, width: int = 8) -> int:
        return int.from_bytes(head[at : at + width], sys.byteorder)

    if head[:5] != b"\x7fELF\x02":
        return False
    first, each, count = number(32), number(54, 2), number(56, 2)
    if not count or each < 56 or first + count * each > len(head):
        return False
    return all(number(at + 8) + number(at + 32) <= size for at in range(first, first + count * each, each))


def _load(name: str, strict: bool, shared: bool) -> "Any":
    before = set(sys.modules)
    theirs = {key: one for key, one in list(sys.modules.items()) if _standard_name(key) and not _is_standard(one)}
    for key in theirs:
        del sys.modules[key]
    sys.modules.update(_private)
    finder = _Finder(strict)
    sys.meta_path.insert(0, finder)
    try:
        return _gcd_import(name)
    finally:
        sys.meta_path.remove(finder)
        leading = _leading()
        for key in list(sys.modules):
            if not _standard_name(key) or not (key not in before or key in theirs or key in _private):
                continue
            if key in theirs or key in _private or not shared or _shadowed(key.partition(".")[0], leading):
                _private[key] = sys.modules.pop(key)
        sys.modules.update(theirs)


def _standard_name(name: str) -> bool:
    return name.partition(".")[0] in _STANDARD


def _is_standard(module: "Any") -> bool:
    """Whether a module is the standard library's own."""
    origin = getattr(getattr(module, "__spec__", None), "origin", None)
    if origin in _BUILT_IN:
        return True
    if not isinstance(origin, str):
        return False
    rest = next((origin[len(place) + 1 :] for place in PLACES if origin.startswith(place + os.sep)), "")
    return bool(rest) and not rest.startswith(("site-packages", "dist-packages"))


def _leading() -> "list[str]":
    """What the program's path has before the standard library."""
    places = [os.path.normpath(place) for place in PLACES]
    leading: list[str] = []
    for part in sys.path:
        if os.path.normpath(part) in places:
            break
        leading.append(part)
    return leading


def _shadowed(top: str, leading: "list[str]") -> bool:
    """Whether the program would import another module by this name."""
    if top in sys.builtin_module_names:
        return False
    spec = PathFinder.find_spec(top, leading)
    return spec is not None and spec.origin is not None  # a directory without __init__.py comes after all modules


class _Finder:
    """First on `sys.meta_path` during an import of ours, for its thread alone: knows the standard library."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict and bool(PLACES)
        self._thread = get_ident()

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        """Where a module of the standard library is; None for perun's own and, unless strict, others'."""
        if path is not None or get_ident() != self._thread:
            return None
        spec = BuiltinImporter.find_spec(name) or FrozenImporter.find_spec(name) or PathFinder.find_spec(name, PLACES)
        if spec is None and self._strict and name != OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return spec
