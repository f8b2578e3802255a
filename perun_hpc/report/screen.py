"""Plain terminal output: foreign text made harmless, cells cut and padded to columns, colour only where wanted."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

WIDTH = 80
_COLOURS = {"measured": 32, "modelled": 36, "estimated": 33, "simulated": 35}
_ORIGIN = re.compile(rf"(?<=  )({'|'.join(_COLOURS)})\b")
_DRAWN = re.compile("[▁-█▉-▏]+")
_LABEL = re.compile(r"^(?:[A-Z][A-Za-z]+|of it|node meter|Over time)(?=  )")
_ENERGY = re.compile(r"(?<=^Energy     )\S.*?(?=  |$)")


@dataclass(frozen=True)
class Style:
    """How lines are drawn: with colour or not, in Unicode or ASCII."""

    colour: bool = False
    unicode: bool = True

    def bold(self, text: str) -> str:
        """A heading."""
        return f"\x1b[1m{text}\x1b[0m" if self.colour else text

    def warn(self, text: str) -> str:
        """Something that is not as it should be."""
        return f"\x1b[33m{text}\x1b[0m" if self.colour else text

    def highlighted(self, line: str) -> str:
        """A report's line: its label, bars and curves in colour, and the words for where a figure comes from."""
        if not self.colour or "\x1b" in line:
            return line
        line = _ENERGY.sub("\x1b[1m\\g<0>\x1b[0m", line)
        line = _DRAWN.sub("\x1b[36m\\g<0>\x1b[0m", line)
        line = _ORIGIN.sub(lambda word: f"\x1b[{_COLOURS[word[0]]}m{word[0]}\x1b[0m", line)
        return _LABEL.sub("\x1b[34m\\g<0>\x1b[0m", line)

    @property
    def rule(self) -> str:
        """A line across the screen."""
        return ("─" if self.unicode else "-") * WIDTH

    @property
    def plus_minus(self) -> str:
        """The sign before an uncertainty."""
        return "±" if self.unicode else "+-"

    @property
    def at_least(self) -> str:
        """The sign before a lower bound."""
        return "≥" if self.unicode else ">="

    @property
    def at_most(self) -> str:
        """The sign before an upper bound."""
        return "≤" if self.unicode else "<="

    @property
    def ellipsis(self) -> str:
        """What stands for text that was cut."""
        return "…" if self.unicode else "~"

    def units(self, line: str) -> str:
        """A line whose units the terminal can show."""
        return line if self.unicode else line.replace("µ", "u")

    def bar(self, share: float, width: int) -> str:
        """A bar of `share` (0..1) of `width` cells; something is never nothing."""
        cells = max(0.0, min(1.0, share)) * width
        if not self.unicode:
            return "#" * max(round(cells), 1 if share > 0 else 0)
        eighths = max(round(cells * 8), 1 if share > 0 else 0)
        return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]

    def fit(self, text: str, width: int, right: bool = False) -> str:
        """Cut or pad foreign text to `width` cells."""
        safe = printable(text)
        if cells(safe) > width:
            kept = ""
            for char in safe:
                if cells(kept + char) > width - 1:
                    break
                kept += char
            safe = kept + self.ellipsis
        gap = " " * (width - cells(safe))
        return gap + safe if right else safe + gap


def style_for(stream: TextIO) -> Style:
    """Colour on a terminal that can show it (NO_COLOR is honoured), Unicode where the encoding has it."""
    colour = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return Style(colour, "utf" in (stream.encoding or "").lower())


def printable(text: str) -> str:
    r"""Return foreign text with every control, format or line-breaking character as an escape: `\x1b` cannot act."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def cells(text: str) -> int:
    """How many columns a terminal needs for printable text."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def both_ends(left: str, right: str, style: Style) -> str:
    """Put two texts at the two ends of the line; the left one gives way, but for a right one beyond 60 columns."""
    end = style.fit(right, min(cells(printable(right)), 60))
    return f"{style.fit(left, WIDTH - cells(end) - 2)}  {end}" if right else style.fit(left, WIDTH).rstrip()


def wrapped(text: str, indent: int, first: str = "") -> list[str]:
    """Wrap foreign text at the screen's width, `indent` columns in, the first line starting with `first`."""
    lines = [first.ljust(indent)]
    for word in printable(text).split():
        for piece in _pieces(word, WIDTH - indent):
            glue = "" if len(lines[-1]) == indent else " "
            if cells(lines[-1] + glue + piece) > WIDTH:
                lines.append(" " * indent)
                glue = ""
            lines[-1] += glue + piece
    return [line.rstrip() for line in lines]


def _pieces(word: str, width: int) -> list[str]:
    """Cut a word that no line could hold."""
    pieces = [""]
    for char in word:
        if cells(pieces[-1] + char) > width:
            pieces.append("")
        pieces[-1] += char
    return pieces


def table(
    rows: Sequence[Sequence[str]], head: Sequence[str], right: Sequence[bool], style: Style, widest: int = 24
) -> list[str]:
    """Lay out rows under a head; each column as wide as it needs, foreign text cut at `widest`."""
    columns = [_column(texts, at_right, style, widest) for texts, at_right in zip(zip(head, *rows), right, strict=True)]
    return [style.units("  ".join(line).rstrip()) for line in zip(*columns, strict=True)]


def _column(texts: Sequence[str], right: bool, style: Style, widest: int) -> list[str]:
    width = cells_of(texts)
    if width <= widest and _is_plain(texts):
        return [text.rjust(width) if right else text.ljust(width) for text in texts]
    return [style.fit(text, min(width, widest), right) for text in texts]


def cells_of(texts: Sequence[str]) -> int:
    """How many columns a terminal needs for the longest of these foreign texts."""
    if _is_plain(texts):
        return max(map(len, texts), default=0)
    return max(map(cells, map(printable, texts)), default=0)


def _is_plain(texts: Sequence[str]) -> bool:
    """Whether each character of these texts takes a column as it is; there may be tens of thousands of them."""
    together = "".join(texts)
    return together.isascii() and together.isprintable()
