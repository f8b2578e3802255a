"""What developers and their forge rely on: the workflow, the forms, the changelog, the Makefile's targets."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_workflow_runs_what_ci_runs_on_debian_12() -> None:
    workflow = read(ROOT / ".github" / "workflows" / "ci.yml")
    jobs = workflow["jobs"]
    assert {job["container"]["image"] for job in jobs.values()} == {"debian:12"}
    last = {name: job["steps"][-1]["run"].splitlines()[-1] for name, job in jobs.items()}
    assert last == {"all": ".ci/run", "coverage": "make coverage"}
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request" in workflow[True]  # YAML 1.1 takes the word `on` for a truth
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_a_form_asks_something_and_ids_are_its_own(form: Path) -> None:
    content = read(form)
    assert content["name"]
    assert content["description"]
    ids = [part["id"] for part in content["body"] if part["type"] != "markdown"]
    assert ids
    assert len(ids) == len(set(ids))
    assert all(part["attributes"].get("label") for part in content["body"] if part["type"] != "markdown")


def test_no_line_of_the_changelog_stands_twice() -> None:
    """Lines of both sides are taken where branches are merged (.gitattributes); what both have must not come twice."""
    lines = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.strip()]
    assert [line for line in set(lines) if lines.count(line) > 1] == []


def targets() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_every_target_that_the_documents_name_is_there() -> None:
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", "*.md"], capture_output=True, text=True, check=True)
    named = {
        (name, target)
        for name in listed.stdout.split()
        for target in re.findall(r"(?:^|`)make ([a-z][a-z0-9-]*)", (ROOT / name).read_text(), re.MULTILINE)
    }
    assert {"check", "test", "demo"} <= {target for _, target in named}
    assert sorted((name, target) for name, target in named if target not in targets()) == []


def always_true(test: ast.expr) -> bool:
    """Whether an assertion holds whatever the code does: of a constant, of a tuple, of a thing and itself."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.Tuple | ast.GeneratorExp):
        return True
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return False
    left, right = ast.unparse(test.left), ast.unparse(test.comparators[0])
    length = left.startswith("len(") and right == "0" and isinstance(test.ops[0], ast.GtE)
    return length or (left == right and isinstance(test.ops[0], ast.Eq | ast.Is | ast.LtE | ast.GtE))


def test_no_assertion_holds_whatever_the_code_does() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert) and always_true(node.test)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("text", "always"),
    [("a == a", True), ("len(a) >= 0", True), ("(a, b)", True), ("1", True), ("a is a", True), ("a == b", False),
     ("a != a", False), ("a", False), ("len(a) > 0", False), ("False", False), ("(x for x in a)", True)],
)  # fmt: skip
def test_an_assertion_that_cannot_fail_is_found(text: str, always: bool) -> None:
    assert always_true(ast.parse(text, mode="eval").body) is always
