"""How mkdocstrings is to read this project's docstrings, whose entries are `name : what it is`, with no type in them.

NumPy's form has a type behind the colon and the description below, indented; types stand in our signatures.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import griffe

_SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n(.*?)(?=^\w[\w ]*\n-{3,}\n|\Z)", re.MULTILINE | re.DOTALL)
_ENTRY = re.compile(r"^(\w+(?:, \w+)*) : (.*)$")


class Entries(griffe.Extension):  # type: ignore[misc]
    """Gives each object's docstring NumPy's form before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            returned = str(getattr(obj, "returns", None) or "")
            obj.docstring.value = _SECTION.sub(partial(_section, returned), obj.docstring.value + "\n").rstrip()


def _section(returned: str, match: re.Match[str]) -> str:
    title, text = match[1], match[2]
    head = f"{title}\n{'-' * len(title)}\n"
    if title in ("Parameters", "Attributes", "Other Parameters"):
        return head + "\n".join(_indented(text.rstrip().split("\n"))) + "\n\n"
    if title in ("Returns", "Yields") and returned and not re.search(r"^ ", text, re.MULTILINE):
        return head + f"{returned}\n    {' '.join(text.split())}\n\n"
    return match[0]


def _indented(lines: list[str]) -> list[str]:
    """Entries with their descriptions below, where they stand behind a colon."""
    if not any(_ENTRY.match(line) for line in lines):
        return lines
    kept: list[str] = []
    for line in lines:
        match = _ENTRY.match(line)
        kept += [match[1], f"    {match[2]}"] if match else [f"    {line}" if line else line]
    return kept
