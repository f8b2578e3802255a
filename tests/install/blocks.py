"""The blocks of docs/install.md: in which section each stands, for which host, and its text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "install.md"
HOSTS = (
    "every host",
    "one host",
    "the controller",
    "the collector's host",
    "a compute node",
    "a login node",
    "a machine",
)
"""Whom a block may be for, by the words of the sentence before it."""


@dataclass(frozen=True)
class Block:
    """Commands of the page. `host` is one of `HOSTS`, `systemd` None where it does not matter whether a host has it."""

    section: str
    host: str
    systemd: bool | None
    text: str


def blocks(page: str) -> list[Block]:
    """All blocks of the page, in its order.

    Raises
    ------
    ValueError
        If the sentence before a block does not say for which host it is.
    """
    found, section, before, fence = [], "", "", None
    for line in page.splitlines():
        if line.startswith("```"):
            if fence is None:
                fence = []
            else:
                found.append(_block(section, before, "\n".join(fence)))
                before, fence = "", None
        elif fence is not None:
            fence.append(line)
        elif line.startswith("## "):
            section, before = line.removeprefix("## "), ""
        elif line or before.endswith(":"):
            before = f"{before} {line}".rstrip()
        else:
            before = ""
    return found


def _block(section: str, before: str, text: str) -> Block:
    sentence = re.split(r"(?<=[.?)]) (?=[A-Z(])", before.strip())[-1]
    hosts = [host for host in HOSTS if f"on {host}" in sentence.lower()]
    if len(hosts) != 1 or not sentence.endswith(":"):
        raise ValueError(f"install.md, {section}: for which host is the block after '{sentence}'?")
    systemd = False if "without systemd" in sentence else True if "with systemd" in sentence else None
    return Block(section, hosts[0], systemd, text)
