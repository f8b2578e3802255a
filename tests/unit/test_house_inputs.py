"""What attribution takes in is fed: a field that only tests set promises a figure that nobody gets."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import perun_hpc
from perun_hpc.energy import attribute

PACKAGE = Path(perun_hpc.__file__).parent
INPUTS = (
    attribute.NodeInput,
    attribute.DomainInput,
    attribute.GpuHolding,
    attribute.JobInput,
    attribute.IntervalInput,
)
FIELDS = [(one.__name__, name) for one in INPUTS for name in one.__annotations__]


def given(source: str) -> Iterator[tuple[str, str]]:
    """(input, field) that some source sets; `replace` sets fields of whatever it is given, which is named ''."""
    for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        for keyword in call.keywords:
            # A constant says that nobody knows better.
            if keyword.arg is not None and not isinstance(keyword.value, ast.Constant):
                yield ("" if name == "replace" else name), keyword.arg


def test_the_search_finds_what_is_set_and_nothing_else():
    source = "JobInput(owner=x, cpu_ns=None)\nreplace(job, present_ns=n)\nattribute.GpuHolding(part=1)\nother(gpus=g)\n"
    assert set(given(source)) == {("JobInput", "owner"), ("", "present_ns"), ("other", "gpus")}


@pytest.fixture(scope="module")
def fed() -> set[tuple[str, str]]:
    own = PACKAGE / "energy" / "attribute.py"
    return {one for path in PACKAGE.rglob("*.py") if path != own for one in given(path.read_text())}


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_production_sets_every_field_of_attributions_inputs(fed: set[tuple[str, str]], name: str, field: str) -> None:
    assert (name, field) in fed or ("", field) in fed
