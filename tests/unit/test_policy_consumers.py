"""Every field of the policy is read by something outside `config/`: no field that does nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import perun_hpc
from perun_hpc.config.schema import FIELDS, SECTIONS, Field

PACKAGE = Path(perun_hpc.__file__).parent
RESOLVED = {
    "monitor.jobs",
    "monitor.partitions",
    "monitor.accounts",
    "monitor.canaries",
    "monitor.user_options",
    "sampling.period_min_ns",
    "sampling.period_max_ns",
}
"""What resolving a job's settings itself consumes: it decides whether and how a job is measured."""
SOURCES = {
    path: path.read_text()
    for path in PACKAGE.rglob("*.py")
    if path.parent != PACKAGE / "config" and path.parent != PACKAGE / "monitoring"
}


def readers(field: Field) -> list[Path]:
    """Files that name the section, or its class, and read the attribute, or the key of the compiled policy."""
    name = re.escape(field.attribute)
    wanted = re.compile(rf"[\w)\]]\.{name}\b|[\[(][\"']{name}[\"']|[\"']{re.escape(field.key)}[\"']")
    named = re.compile(rf"{field.section}|\b{SECTIONS[field.section].__name__}\b")
    return [path for path, text in SOURCES.items() if wanted.search(text) and named.search(text)]


@pytest.mark.parametrize("key", sorted(set(FIELDS) - RESOLVED))
def test_a_field_has_a_reader(key: str) -> None:
    assert readers(FIELDS[key]), f"nothing reads {key}: remove the field, or let something follow it"


@pytest.mark.parametrize("key", sorted(RESOLVED))
def test_what_resolving_consumes_is_in_its_source(key: str) -> None:
    text = (PACKAGE / "config" / "resolve.py").read_text()
    name = FIELDS[key].name
    assert f'"{name}"' in text or f".{name}" in text or re.search(r"\{name\}_min|\{side\}", text)


def test_a_field_that_nothing_reads_is_found() -> None:
    field = FIELDS["store.flush_ns"]
    invented = Field(field.section, "floppy", field.kind, None, field.layers, field.bound, "")
    assert not readers(invented)
