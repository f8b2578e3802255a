"""Draw a terminal's text as an SVG: `perun report 2 | python -m demo.picture > docs/report.svg`."""

from __future__ import annotations

import sys
from html import escape

CELL, LINE, MARGIN = 8.4, 18, 16


def draw(text: str) -> str:
    """Return an SVG of `text`, one line of the terminal per line, 80 columns or what the longest line needs."""
    lines = text.rstrip("\n").split("\n")
    width = 2 * MARGIN + CELL * max(80, *(len(line) for line in lines))
    height = 2 * MARGIN + LINE * len(lines)
    rows = "\n".join(
        f'<text x="{MARGIN}" y="{MARGIN + LINE * (number + 0.75):.0f}" textLength="{CELL * len(line):.1f}">'
        f"{escape(line)}</text>"
        for number, line in enumerate(lines)
        if line
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}">\n'
        f'<rect width="100%" height="100%" rx="8" fill="#1e1f26"/>\n'
        f'<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="14" fill="#e6e6e6" '
        f'xml:space="preserve">\n{rows}\n</g>\n</svg>\n'
    )


if __name__ == "__main__":
    sys.stdout.write(draw(sys.stdin.read()))
