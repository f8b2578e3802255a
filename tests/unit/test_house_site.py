"""The documents' site: whole, made of the code where it can be, and of pages that a forge shows as they are."""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from demo.__main__ import directory
from demo.screens import SHOTS
from devcluster import Cluster
from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.archive.places import Archive
from perun_hpc.cli.main import COMMANDS, command_parser
from tests.accounting_data import START_S, boundary, put_incoming
from website import stage

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS) for path in DOCS.rglob("*.md"))
NAV = (ROOT / "website" / "mkdocs.yml").read_text().partition("\nnav:\n")[2]


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pages = tmp_path_factory.mktemp("site") / "pages"
    assert stage.main(pages) == 0
    return pages


def test_every_page_is_reached_from_the_navigation() -> None:
    named = re.findall(r"([\w/-]+\.md)$", NAV, re.MULTILINE)
    assert len(named) == len(set(named))
    assert {str(page) for page in PAGES} <= set(named)


def links(text: str) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)#\s]+)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)) if link]


def test_links_and_pictures_lead_somewhere_here_and_on_the_site(staged: Path) -> None:
    pages = [ROOT / name for name in stage.OUTSIDE] + [DOCS / page for page in PAGES] + sorted(staged.rglob("*.md"))
    lost = [
        f"{page}: {link}"
        for page in pages
        for link in links(page.read_text())
        if "://" not in link and not link.startswith("mailto:") and not (page.parent / link).exists()
    ]
    assert lost == []


def test_the_command_line_s_page_has_every_command_and_option(staged: Path) -> None:
    page = (staged / "reference" / "command-line.md").read_text()
    for name, _ in COMMANDS:
        assert f"## perun {name}\n" in page
        for action in command_parser(name)._actions:
            if action.help is not argparse.SUPPRESS:
                assert all(option in page for option in action.option_strings), (name, action)


def test_the_reference_has_every_name_that_a_program_may_build_on(staged: Path) -> None:
    said = "\n".join(path.read_text() for path in (staged / "reference").glob("*.md"))
    for left, right in re.findall(r"^\| `([\w.]+)` \| (.+) \|$", (DOCS / "api.md").read_text(), re.MULTILINE):
        for name in re.findall(r"`(\w+)`", right) if "." in left else [left]:
            assert re.search(rf"^::: [\w.]+\.{name}$|^`{name}` is another name", said, re.MULTILINE), (left, name)


def test_a_link_out_of_the_documents_leads_to_the_page_s_place(staged: Path) -> None:
    lay = ROOT / "docs" / "tutorials"
    text = "[a](../../CHANGELOG.md#x) [b](../report.md) [c](https://example.org/x.md) [d](../../Makefile)"
    moved = stage.moved(text, lay, staged / "tutorials", staged)
    assert moved == "[a](../CHANGELOG.md#x) [b](../report.md) [c](https://example.org/x.md) [d](../../Makefile)"


def test_every_screen_is_one_that_a_command_makes_and_a_page_shows() -> None:
    there = {path.name for path in (DOCS / "screens").iterdir()}
    assert there == {*(f"{shot.name}.svg" for shot in SHOTS), "report-page.png"}
    shown = " ".join(page.read_text() for page in [ROOT / "README.md", *(DOCS / page for page in PAGES)])
    assert [name for name in sorted(there) if f"screens/{name})" not in shown] == []


def test_ci_builds_the_site_without_a_warning() -> None:
    assert "\nmake docs\n" in (ROOT / ".ci" / "run").read_text()
    recipe = subprocess.run(["make", "-n", "-o", "build", "docs"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "mkdocs build --strict" in recipe.stdout and " -q" not in recipe.stdout.partition("mkdocs build")[2]


def test_nothing_on_the_site_comes_from_the_network() -> None:
    config = (ROOT / "website" / "mkdocs.yml").read_text()
    assert "font: false" in config and "- offline" in config
    assert re.findall(r"https?://", config) == []


def test_the_demo_finds_a_record_where_the_collector_puts_it(tmp_path: Path) -> None:
    put_incoming(tmp_path / "perun", {**boundary(4711), "cluster": "demo"})
    with contextlib.closing(open_ledger(str(tmp_path / "ledger.db"), create=True)) as ledger:
        Collector(Archive(tmp_path / "perun", "demo"), ledger, Tools(lambda: START_S + 200.0), 900).sweep()
    cluster = cast(Cluster, SimpleNamespace(shared=tmp_path, name="demo"))
    assert (directory(cluster, 4711) / "record.json").is_file()
