"""The pages of the site: `python -m website.stage DIR` puts docs/, the pages beside it and the reference into DIR.

docs/ stays what it is on a forge, plain Markdown; only links that lead out of it change here. The reference is made of
the code: commands of their parsers, Python names of docs/api.md's tables, whose docstrings mkdocstrings reads.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from perun_hpc.cli.main import COMMANDS, command_parser, overall_parser

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
    "ansible/README.md": "ansible.md",
}
"""Pages that lie outside of docs/, and what they are called beside its pages."""
PAGES = (
    ("python", "In a program that is measured", "In a measured program"),
    ("arrays", "Jobs and runs as labelled arrays", "Jobs and runs as arrays"),
    ("results", "For programs that start runs or read results", "For runs and results"),
    ("method", "For who wants to check a figure", "For who checks a figure"),
)
"""Page, section of docs/api.md, title."""
_LINK = re.compile(r"\]\(([^)#\s]+)")
_ROW = re.compile(r"^\| `([\w.]+)` \| (.+) \|$", re.MULTILINE)


def main(target: Path) -> int:
    """Write all pages anew."""
    os.environ["COLUMNS"] = "80"  # of the lines of usage
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(ROOT / "docs", target)
    for page in target.rglob("*.md"):
        page.write_text(moved(page.read_text(), (ROOT / "docs" / page.relative_to(target)).parent, page.parent, target))
    for source, name in OUTSIDE.items():
        text = (ROOT / source).read_text()
        (target / name).write_text(moved(text, (ROOT / source).parent, target, target))
    reference = target / "reference"
    reference.mkdir()
    (reference / "command-line.md").write_text("\n".join(command_line()) + "\n")
    for name, text in python_pages((ROOT / "docs" / "api.md").read_text()):
        (reference / f"{name}.md").write_text(text)
    return 0


def moved(text: str, lay: Path, lies: Path, target: Path) -> str:
    """A page whose links lead to the same pages from where it lies now; those to other files of the tree are code."""

    def renamed(match: re.Match[str]) -> str:
        link = match[1]
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        path = Path(os.path.normpath(lay / link)).relative_to(ROOT)
        inside = OUTSIDE.get(str(path)) or (str(path.relative_to("docs")) if path.parts[0] == "docs" else None)
        return match[0] if inside is None else f"]({os.path.relpath(target / inside, lies)}"

    return _LINK.sub(renamed, text)


def command_line() -> Iterator[str]:
    """The page of the command line, of the parsers themselves."""
    whole = overall_parser()
    yield from ("# The command line", "", str(whole.description), "")
    yield from ("```text", whole.format_usage().strip(), "```", "", *options(whole))
    for name, _ in COMMANDS:
        parser = command_parser(name)
        yield from (f"## perun {name}", "", f"{sentence(parser.description or '')}", "")
        yield from ("```text", parser.format_usage().strip(), "```", "", *options(parser))
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                helped = {one.dest: str(one.help or "") for one in action._choices_actions}
                for word, sub in action.choices.items():
                    yield from (f"### {sub.prog}", "", sentence(sub.description or helped.get(word, "")), "")
                    yield from ("```text", sub.format_usage().strip(), "```", "", *options(sub))


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """A table of a parser's arguments and options."""
    formatter = parser._get_formatter()
    rows = [
        f"| `{cell(formatter._format_action_invocation(action))}` "
        f"| {cell(formatter._expand_help(action) if action.help else '')} |"
        for action in parser._actions
        if action.help is not argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction)
    ]
    yield from ("| option | what it does |", "|---|---|", *rows, "")


def cell(text: str) -> str:
    """Text that ends no cell of a table and is no markup."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def sentence(text: str) -> str:
    """A text as a sentence."""
    text = text.strip()
    return f"{text[0].upper()}{text[1:].rstrip('.')}." if text else ""


def python_pages(api: str) -> Iterator[tuple[str, str]]:
    """Name and text of the pages of Python names, by the tables of docs/api.md."""
    sections = dict(part.partition("\n")[::2] for part in re.split(r"^## ", api, flags=re.MULTILINE)[1:])
    for name, section, title in PAGES:
        lines = [f"# {title}", "", "The names of [api.md](../api.md), with what their docstrings say.", ""]
        for left, right in _ROW.findall(sections[section]):
            module = left if "." in left else "perun_hpc"
            names = re.findall(r"`(\w+)`", right) if "." in left else [left]
            if "." in left:
                lines += [f"## {module}", ""]
            for one in names:
                lines += [entry(module, one), ""]
        yield name, "\n".join(lines)


def entry(module: str, name: str) -> str:
    """One name: by where it is defined, since what a package hands on has no docstring for who only reads files."""
    import importlib

    thing = getattr(importlib.import_module(module), name)
    home, defined = str(getattr(thing, "__module__", module)), str(getattr(thing, "__qualname__", name))
    if defined != name:
        return f"`{name}` is another name of `{defined}`."
    return f"::: {home if home.startswith('perun_hpc') else module}.{name}"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
