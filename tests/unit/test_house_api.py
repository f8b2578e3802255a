"""What docs/api.md promises: the names are there, typed, and say what they take, return and raise."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import perun_hpc
from perun_hpc import errors

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
NAMES = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
MODULES = {
    module: re.findall(r"`(\w+)`", names)
    for module, names in re.findall(r"^\| `(perun_hpc\.[\w.]+)` \| (.+) \|$", PAGE, re.MULTILINE)
}
PUBLIC = [*perun_hpc.__all__, "open", "open_many"]
"""What `import *` brings, and what would hide a builtin if it did."""
SECTION = re.compile(r"^(\w+)\n-{3,}\n(.*?)(?=^\w+\n-{3,}\n|\Z)", re.MULTILINE | re.DOTALL)
ENTRY = re.compile(r"^(\w+(?:, \w+)*) :", re.MULTILINE)


def test_the_names_of_the_package_are_those_of_the_page():
    assert sorted(PUBLIC) == sorted(NAMES)


def test_a_program_sees_the_names_before_it_uses_one():
    code = "import perun_hpc, sys; print(*dir(perun_hpc)); print(*sys.modules)"
    shown, loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert set(PUBLIC) <= set(shown.split())
    assert "perun_hpc.cli.decorator" not in loaded.split()  # to list a name imports nothing


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("_")])
def test_a_name_of_the_package_is_typed(name: str):
    signature = inspect.signature(getattr(perun_hpc, name))
    annotations = [one.annotation for one in signature.parameters.values()] + [signature.return_annotation]
    assert not {inspect.Signature.empty, "Any", Any} & set(annotations), signature


def promised() -> Iterator[tuple[str, Any]]:
    """Every object of the page, by its full name."""
    yield from ((f"perun_hpc.{name}", getattr(perun_hpc, name)) for name in PUBLIC)
    for module, names in MODULES.items():
        yield from ((f"{module}.{name}", getattr(importlib.import_module(module), name)) for name in names)


def functions(name: str, thing: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The function, or a class's own methods of public names."""
    if inspect.isfunction(thing):
        yield name, thing
    elif inspect.isclass(thing):
        for key, member in vars(thing).items():
            function = getattr(member, "__func__", member)
            if inspect.isfunction(function) and not key.startswith("_"):
                yield f"{name}.{key}", function


def parameters(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def sections(thing: Any) -> dict[str, str]:
    return dict(SECTION.findall((inspect.getdoc(thing) or "") + "\n"))


def described(text: str) -> list[str]:
    return [name for names in ENTRY.findall(text) for name in names.split(", ")]


def raised(function: Callable[..., Any]) -> set[str]:
    """The errors of perun's own, and of Python's for wrong values, that a function's own lines raise."""
    known = {name for name, one in vars(errors).items() if inspect.isclass(one)} | {"ValueError", "PolicyError"}
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = (node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call))
    return {ast.unparse(call.func) for call in calls} & known


def missing(function: Callable[..., Any]) -> list[str]:
    """What the docstring of a function of several parameters does not say."""
    found, names = sections(function), parameters(function)
    if len(names) < 2:
        return []
    lacking = []
    if described(found.get("Parameters", "")) != names:
        lacking.append(f"Parameters: {', '.join(names)}")
    if inspect.signature(function).return_annotation not in ("None", None) and not found.get("Returns", "").strip():
        lacking.append("Returns")
    lacking += [f"Raises: {one}" for one in sorted(raised(function)) if one not in found.get("Raises", "")]
    return lacking


SEVERAL = [
    pytest.param(function, id=full)
    for name, thing in promised()
    for full, function in functions(name, thing)
    if len(parameters(function)) > 1
]


@pytest.mark.parametrize("function", SEVERAL)
def test_a_public_function_says_what_it_takes_returns_and_raises(function: Callable[..., Any]):
    assert missing(function) == []


CLASSES = [
    pytest.param(thing, id=name)
    for name, thing in promised()
    if inspect.isclass(thing) and "__init__" in vars(thing) and not dataclasses.is_dataclass(thing)
]


@pytest.mark.parametrize("thing", CLASSES)
def test_a_public_class_says_what_it_is_made_of(thing: type):
    names = parameters(thing.__init__)
    assert len(names) < 2 or described(sections(thing).get("Parameters", "")) == names


def test_what_a_docstring_lacks_is_found():
    def silent(first: int, second: int) -> int:
        """Add."""
        if first < 0:
            raise ValueError("negative")
        return first + second

    def half(first: int, second: int) -> None:
        """Add.

        Parameters
        ----------
        first : one of them.
        """

    assert missing(silent) == ["Parameters: first, second", "Returns", "Raises: ValueError"]
    assert missing(half) == ["Parameters: first, second"]
    assert len(SEVERAL) > 30
    assert SimpleNamespace(**MODULES)  # the page's tables were read
