"""A page as Debian's Chromium shows it, without a network: for the tests, and as pictures for the documents.

`python -m demo.browser [PAGE.html [STEM]]` writes STEM-light.png, STEM-dark.png, STEM-closer.png and STEM-narrow.png
(default: docs/page-...) of a page of `perun report --html`, or of one that is made for it.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

CHROMIUM = "/usr/bin/chromium"
WIDE, NARROW = (1180, 900), (390, 844)
SHOWN = 1615
"""Pixels of a picture's height: the head, the chart and where the energy went."""


@dataclass
class Shown:
    """A page in a browser, and what it complained about or asked for beside itself."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def refuse(self, dialog: Dialog) -> None:
        """Note and close a window that a script opened."""
        self.complaints.append(dialog.message)
        dialog.dismiss()


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium; root has no sandbox there."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield found
        finally:
            found.close()


@contextmanager
def shown(
    within: Browser, file: Path, dark: bool = False, size: tuple[int, int] = WIDE, scripts: bool = True
) -> Iterator[Shown]:
    """A file as it opens from the disk, offline."""
    context = within.new_context(
        viewport={"width": size[0], "height": size[1]}, offline=True, java_script_enabled=scripts,
        color_scheme="dark" if dark else "light",
    )  # fmt: skip
    try:
        made = Shown(context.new_page())
        made.page.on("console", lambda message: made.complaints.append(message.text))
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        made.page.on("dialog", made.refuse)
        made.page.on("request", lambda request: made.asked.append(request.url))
        made.page.goto(file.resolve().as_uri())
        yield made
    finally:
        context.close()


def pictures(file: Path, stem: Path) -> list[Path]:
    """Write pictures of a page of `perun report --html`: light, dark, closer at some minutes, on a telephone."""
    made = []

    def take(kind: str, page: Page, height: int) -> None:
        target = stem.with_name(f"{stem.name}-{kind}.png")
        size = page.viewport_size or {"width": WIDE[0], "height": WIDE[1]}
        clip = {"x": 0.0, "y": 0.0, "width": float(size["width"]), "height": float(height)}
        page.screenshot(path=target, full_page=True, clip=clip)  # type: ignore[arg-type]
        made.append(target)

    with browser() as found:
        for kind, dark in (("light", False), ("dark", True)):
            with shown(found, file, dark=dark) as one:
                take(kind, one.page, SHOWN)
        with shown(found, file) as one:
            chart = one.page.locator("#stage")
            chart.focus()
            for key in ("+", "+", "ArrowRight", "ArrowDown", "ArrowDown"):
                chart.press(key)
            target = stem.with_name(f"{stem.name}-closer.png")
            chart.screenshot(path=target)
            made.append(target)
        with shown(found, file, size=NARROW) as one:
            take("narrow", one.page, 1400)
    for target in made:
        _shrink(target)
    return made


def _shrink(target: Path) -> None:
    """A picture of 128 colours: a third of the bytes, and nobody sees it."""
    from PIL import Image

    with Image.open(target) as drawn:
        fewer = drawn.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    fewer.save(target, optimize=True)


def example(directory: Path) -> Path:
    """A page of a job that is made for it: twelve hosts, one slow, one idle for a while, one with a gap."""
    from perun_hpc.report import curves
    from perun_hpc.report.page import Beside, page
    from tests import picture_data

    record = picture_data.record(12, 900)
    picture_data.write_trace(directory / "job", directory / "scratch", 12, 900)
    drawn = curves.read(directory / "job", record.start_ns, record.end_ns)
    target = directory / "job.html"
    target.write_text(page(record, Beside("the job's directory", drawn)), encoding="utf-8")
    return target


def main(words: list[str]) -> int:
    """Write the pictures; prints their names."""
    stem = Path(words[1]) if len(words) > 1 else Path(__file__).parents[1] / "docs" / "page"
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(words[0]) if words else example(Path(scratch))
        print("\n".join(map(str, pictures(file, stem))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
