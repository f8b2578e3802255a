"""The examples of the documents are ones that perun takes."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.cli.main import COMMANDS
from perun_hpc.config.policy import parse
from perun_hpc.meters.inventory import load_site

ROOT = Path(__file__).parents[2]
DOCUMENTS = subprocess.run(
    ["git", "-C", ROOT, "ls-files", "-z", "*.md"], capture_output=True, text=True, check=True
).stdout.split("\0")[:-1]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.S | re.M)
COMMAND = re.compile(r"^(?:\$ )?(?:/opt/perun-hpc/bin/)?perun (.*)$")


def blocks(document: str, *languages: str) -> Iterator[str]:
    for language, text in BLOCK.findall((ROOT / document).read_text()):
        if language in languages:
            yield text


def commands(document: str) -> Iterator[str]:
    """Command lines that call perun, each without what follows it in a pipe or a list."""
    for text in blocks(document, "", "sh", "bash", "console", "text"):
        for line in text.splitlines():
            for part in re.split(r"&&|;|\||>", line.split(" #")[0].split("   ")[0]):
                match = COMMAND.match(part.strip())
                if match:
                    yield match[1]


METERS = "docs/meters.md"
POLICIES = [(name, text) for name in DOCUMENTS if name != METERS for text in blocks(name, "yaml")]
CALLS = [(name, line) for name in DOCUMENTS for line in commands(name)]


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise AssertionError(message)


def test_there_are_examples_to_check():
    assert len(POLICIES) >= 2
    assert len(CALLS) >= 10


@pytest.mark.parametrize(("document", "text"), POLICIES)
def test_a_policy_of_the_documents_is_valid(document, text):
    parse(text.encode(), document)


def test_the_list_of_meters_of_the_documents_is_valid(tmp_path):
    (text,) = blocks(METERS, "yaml")
    (tmp_path / "meters.yaml").write_text(text)
    site = load_site(tmp_path / "meters.yaml")
    assert (len(site.bmcs), site.bmcs[0].host, len(site.pdus)) == (129, "n001-bmc.example.org", 2)


@pytest.mark.parametrize(("document", "line"), CALLS)
def test_a_command_of_the_documents_is_understood(document, line):
    words = shlex.split(line.replace("[", "").replace("]", ""))
    if words[0].startswith("-"):
        return
    assert words[0] in dict(COMMANDS)
    parser = Parser(prog=f"perun {words[0]}")
    importlib.import_module(f"perun_hpc.cli.{words[0]}").configure(parser)
    parser.parse_args(words[1:])


def test_every_command_has_its_module():
    for name, _ in COMMANDS:
        assert (ROOT / "perun_hpc" / "cli" / f"{name}.py").is_file(), name
