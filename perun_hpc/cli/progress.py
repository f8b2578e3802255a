"""Progress of long work: on a terminal, where rich is installed; elsewhere nothing is shown."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")

FEW = 20
"""Fewer things than this are done before anybody looks."""


def each(things: Sequence[T], what: str) -> Iterable[T]:
    """The things one after the other, with a bar on stderr that goes away at the end."""
    console = _console() if len(things) >= FEW else None
    if console is None:
        return things
    from rich.progress import track

    return track(things, what, console=console, transient=True)


def during(what: str) -> AbstractContextManager[object]:
    """Something that moves on stderr as long as this is open."""
    console = _console()
    return contextlib.nullcontext() if console is None else console.status(what)


def _console() -> Console | None:
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(stderr=True)


def rounds(number: int) -> Iterator[int]:
    """The numbers of rounds from 0; on a terminal each is said before it begins."""
    for place in range(number):
        if number > 1 and sys.stderr is not None and sys.stderr.isatty():
            with contextlib.suppress(OSError, ValueError):
                print(f"perun: round {place + 1} of {number}", file=sys.stderr)
        yield place
