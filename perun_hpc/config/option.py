"""An option, of the site's policy or of a user's configuration: one table of them is parsed, checked, shown, explained.

An option is declared as a field of a frozen dataclass, by `item`; what its text means is its kind's to say. Standard
library only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from perun_hpc.config.kinds import Kind


@dataclass(frozen=True)
class Option:
    """One option of one section."""

    section: str
    name: str
    kind: Kind
    default: Any
    doc: str

    @property
    def path(self) -> str:
        """`section.name`, as people write it."""
        return f"{self.section}.{self.name}"

    @property
    def shown_default(self) -> str:
        """Its default as it would be written."""
        return "none" if self.default is None else self.kind.show(self.default)


def item(kind: Kind, default: str, doc: str, **more: Any) -> Any:
    """A dataclass' field that is an option; `more` stands in its metadata, too."""
    value = kind.parse(default)
    # Defaults are shared by all instances, so an empty table is None.
    return dataclasses.field(default=None if value == {} else value, metadata={"kind": kind, "doc": doc, **more})


def refusal(kind: Kind, text: str | None, expected: ValueError) -> str:
    """Why `text` is no value of that kind (None: it is not even one text), and what was meant, if that can be seen."""
    shown = f"'{text[:60]}' is not allowed" if text is not None else "wrong shape"
    hint = f"; did you mean '{near}'?" if text and (near := nearest(text, getattr(kind, "words", ()))) else ""
    return f"{shown}: expected {expected}{hint}"


def explained(rows: Iterable[tuple[Option, Any, str]]) -> list[str]:
    """A line for each option: its name, its value as it would be written, and where that was decided."""
    lines = [(one.path, "none" if value is None else one.kind.show(value), where) for one, value, where in rows]
    first, second = (max((len(line[column]) for line in lines), default=0) for column in (0, 1))
    return [f"{path:<{first}}  {shown:<{min(second, 40)}}  {where}" for path, shown, where in lines]


def nearest(text: str, words: Iterable[str]) -> str | None:
    """The word that is meant by `text`; None where none is like it."""
    import difflib

    return next(iter(difflib.get_close_matches(text[:60], list(words), n=1, cutoff=0.6)), None)
