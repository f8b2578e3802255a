"""HTML that cannot hold what it should not: all text is escaped once, in one place."""

from __future__ import annotations

import html
from collections.abc import Sequence

from perun_hpc.report.screen import printable


class Html(str):
    """Text that is HTML already; all other text is foreign, wherever it came from."""

    __slots__ = ()


def safe(text: str | Html) -> Html:
    r"""Foreign text as HTML: markup as it was written, control characters as escapes (`\x1b`, `\u202e`)."""
    return text if isinstance(text, Html) else Html(html.escape(printable(text), quote=True))


def joined(parts: Sequence[str | Html], glue: str = "") -> Html:
    """Some texts, each made safe."""
    return Html(glue.join(safe(part) for part in parts))


def tag(name: str, content: str | Html = "", **attributes: str | float) -> Html:
    """An element; an attribute's name loses a `_` at its end, other `_` become `-`."""
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{safe(str(value))}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{safe(content)}</{name}>")


def table(head: Sequence[str], rows: Sequence[Sequence[str | Html]], kinds: str, caption: str = "") -> Html:
    """A table in a box that scrolls; `kinds` has a letter a column: t text, n number, b bar."""
    top = joined([tag("th", text, class_=kind, scope="col") for text, kind in zip(head, kinds, strict=True)])
    body = joined([
        tag("tr", joined([tag("td", text, class_=kind) for text, kind in zip(row, kinds, strict=True)])) for row in rows
    ])  # fmt: skip
    said = tag("caption", caption) if caption else Html("")
    made = Html(f"<table>{said}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")
    return tag("div", made, class_="scroll")


def bar(value: float, most: float, bound: float = 0.0, colour: str = "accent") -> Html:
    """A bar of `value` on a scale that ends at `most`, with what it may be wrong by as a whisker."""
    if most <= 0:
        return Html("")
    length, low, high = (min(100.0, max(0.0, 100 * x / most)) for x in (value, value - bound, value + bound))
    parts = f'<rect x="0" y="2" width="{length:.2f}" height="10" fill="var(--{colour})" rx="0.6"/>'
    if bound > 0:
        line = 'stroke="var(--ink)" stroke-width="1.3" vector-effect="non-scaling-stroke"'
        parts += f'<path d="M{low:.2f} 7H{high:.2f}M{low:.2f} 3V11M{high:.2f} 3V11" {line} fill="none"/>'
    return Html(f'<svg class="bar" viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true">{parts}</svg>')
