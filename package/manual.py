"""Manual pages and completions, made from what the commands themselves declare: `python package/manual.py ROOT`.

One page per command, perun(1) above them, perun-policy(5) and perun.ini(5) from the tables of fields, package/*.8 as
they are written. shtab makes the completions for bash, zsh and fish.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

import shtab

from perun_hpc._version import __version__
from perun_hpc.cli.main import COMMANDS, command_parser, overall_parser
from perun_hpc.config.schema import FIELDS, SECTIONS, Layer
from perun_hpc.config.user_schema import OPTIONS

HERE = Path(__file__).resolve().parent
COMPLETIONS = (
    ("bash", "usr/share/bash-completion/completions/perun"),
    ("zsh", "usr/share/zsh/site-functions/_perun"),
    ("zsh", "usr/share/zsh/vendor-completions/_perun"),  # where Debian's looks
    ("fish", "usr/share/fish/vendor_completions.d/perun.fish"),
)
EXITS = """\
0 done; 1 done, and something is to be looked at; 64 wrong usage; 65 damaged data; 66 not found; 69 a service does not
answer; 70 an error of perun itself; 77 not permitted; 78 a wrong policy or configuration."""

POLICY = """\
/etc/perun/policy.yaml, or the file that $PERUN_POLICY names, says what is measured, stored and shown, for which jobs.
Every field has a default; perun policy check lists every mistake, perun policy explain what holds for a job.
Below partitions:, nodes: and accounts: the fields that are marked so may be set for a part of the cluster."""

INI = """\
./.perun.ini, or the file that perun -c names, has sections and options as INI files do.
perun showconf --explain prints those in force, and where each was set."""


def main(root: Path) -> int:
    """Write everything below a directory."""
    os.environ["COLUMNS"] = "80"  # of the lines of usage
    names = [name for name, _ in COMMANDS]
    pages = {
        "perun.1": page(
            overall_parser(),
            [f"perun-{name}(1)" for name in names] + ["perun.ini(5)", "perun-policy(5)", "perun-hpc(8)"],
        )
    }
    whole = overall_parser()
    choices = whole.add_subparsers()
    for name, text in COMMANDS:
        pages[f"perun-{name}.1"] = page(command_parser(name), ["perun(1)"])
        choices.add_parser(name, help=text, parents=[command_parser(name, add_help=False)])
    pages["perun-policy.5"] = policy_page()
    pages["perun.ini.5"] = options_page()
    pages |= {path.name: path.read_text() for path in HERE.glob("*.8")}
    for name, text in pages.items():
        write(root / "usr/share/man" / f"man{name[-1]}" / name, text)
    for shell, name in COMPLETIONS:
        write(root / name, shtab.complete(whole, shell))
    return 0


def write(path: Path, text: str) -> None:
    """Write a file, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def page(parser: argparse.ArgumentParser, related: Iterable[str]) -> str:
    """The page of one command, its subcommands' options in sections of their own."""
    name = parser.prog.replace(" ", "-")
    usage = parser.format_usage().removeprefix("usage: ").strip()
    lines = [*head(name, 1, parser.description or ""), ".SH SYNOPSIS", ".nf", quoted(usage), ".fi"]
    lines += [".SH DESCRIPTION", quoted(sentence(parser.description or ""))]
    if parser.epilog:
        lines += [".PP", ".nf", quoted(parser.epilog), ".fi"]
    lines += options(parser, ".SH OPTIONS")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in dict.fromkeys(action.choices.values()):
                lines += [f'.SH "{sub.prog.upper()}"', ".nf", quoted(sub.format_usage().strip()), ".fi"]
                lines += [".PP", quoted(sentence(sub.description or helped(action, sub))), *options(sub, "")]
    lines += [".SH EXIT STATUS", quoted(EXITS), ".SH SEE ALSO", quoted(", ".join(related)) + "."]
    return "\n".join(lines) + "\n"


def helped(action: argparse._SubParsersAction[argparse.ArgumentParser], sub: argparse.ArgumentParser) -> str:
    """What the overview says of a subcommand."""
    name = next(name for name, one in action.choices.items() if one is sub)
    return next((str(one.help) for one in action._choices_actions if one.dest == name), "")


def options(parser: argparse.ArgumentParser, title: str) -> list[str]:
    """A list of a parser's arguments and options."""
    lines = []
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or isinstance(action, argparse._SubParsersAction):
            continue
        lines += [".TP", "\\fB" + quoted(formatter._format_action_invocation(action)) + "\\fR"]
        lines.append(quoted(sentence(formatter._expand_help(action) if action.help else "")))
    return [title, *lines] if title and lines else lines


def policy_page() -> str:
    """perun-policy(5), from the table of fields."""
    lines = [*head("perun-policy", 5, "the site's policy for perun-hpc")]
    lines += [".SH DESCRIPTION", quoted(POLICY)]
    for section, cls in SECTIONS.items():
        lines += [f'.SH "{section.upper()}"', quoted(str(cls.__doc__))]
        for field in FIELDS.values():
            if field.section == section:
                layers = ", ".join(layer.value for layer in Layer if layer in field.layers)
                lines += [".TP", f"\\fB{quoted(field.path)}\\fR (default: {quoted(field.shown_default)}; per {layers})"]
                lines.append(quoted(sentence(field.doc)))
    lines += [".SH SEE ALSO", "perun\\-policy(1), perun\\-hpc(8)."]
    return "\n".join(lines) + "\n"


def options_page() -> str:
    """perun.ini(5), from the table of options."""
    lines = [*head("perun.ini", 5, "options of perun monitor"), ".SH DESCRIPTION", quoted(INI), ".SH OPTIONS"]
    for option in OPTIONS.values():
        lines += [".TP", f"\\fB[{quoted(option.section)}] {quoted(option.name)}\\fR", quoted(sentence(option.doc))]
        lines.append(f"Default: {quoted(option.kind.show(option.default) or 'none')}.".replace(",", ",\\:"))
    return "\n".join([*lines, ".SH SEE ALSO", "perun\\-monitor(1), perun\\-showconf(1)."]) + "\n"


def head(name: str, section: int, what: str) -> list[str]:
    """The first lines of a page."""
    return [
        f'.TH "{quoted(name.upper())}" {section} "" "perun-hpc {__version__}" ""',
        ".ad l",  # lists of words that cannot be broken would leave holes
        ".SH NAME",
        f"{quoted(name)} \\- {quoted(what.rstrip('.'))}",
    ]


def quoted(text: str) -> str:
    """Text as roff takes it literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def sentence(text: str) -> str:
    """A text as a sentence; lower-case words that begin it, such as names of fields, stay."""
    text = text.strip()
    return text if not text or text[-1] in ".:" else f"{text[0].upper()}{text[1:]}."


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
