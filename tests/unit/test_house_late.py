"""Whatever lives on is whole soon after it has begun: an upgrade of perun puts no other module beside its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from perun_hpc.agent.daemon import INLINE
from perun_hpc.backend.catalog import BACKENDS

ROOT = Path(__file__).parents[2]

#: Makes a process whole and says which modules of perun's its functions would import yet, and where.
LATE_IMPORTS = """
import ast, importlib, json, sys
from pathlib import Path

def is_module(name):
    path = root.joinpath(*name.split("."))
    return path.is_dir() or path.with_name(path.name + ".py").exists()

def named(statement):
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    return [statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)]

root, begun, late = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
importlib.import_module(begun)
from perun_hpc.process.whole import make_whole
exec(late)
left = []
for name, module in list(sys.modules.items()):
    if not name.startswith("perun_hpc."):  # what `perun_hpc` itself imports late is for who imports it
        continue
    tree = ast.parse(Path(module.__file__).read_text())
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for one in ast.walk(function):
                if isinstance(one, (ast.Import, ast.ImportFrom)):
                    wanted = [n for n in named(one) if n.startswith("perun_hpc.") and is_module(n)]
                    left += [f"{name}:{one.lineno} {n}" for n in wanted if n not in sys.modules]
print(json.dumps([left, sorted(sys.modules)]))
"""


def late_imports(begun: str, late: str) -> tuple[list[str], list[str]]:
    command = [sys.executable, "-c", LATE_IMPORTS, str(ROOT), begun, late]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=ROOT)
    left, loaded = json.loads(done.stdout)
    return left, loaded


AGENT = """
from perun_hpc.agent.late import late
from perun_hpc.config.schema import Store
make_whole(late(Store(collector="c:7071", tls={"ca": "/ca", "certificate": "/c", "key": "/k"})))
"""
COLLECTOR = "from perun_hpc.cli.collect import LATE; make_whole(LATE)"


@pytest.mark.parametrize(
    ("begun", "late"),
    [("perun_hpc.agent.daemon", AGENT), ("perun_hpc.cli.collect", COLLECTOR)],
    ids=["agent", "collector"],
)
def test_what_lives_on_imports_nothing_of_peruns_once_it_is_whole(begun: str, late: str) -> None:
    assert late_imports(begun, late)[0] == []


def test_what_is_left_to_import_is_found() -> None:
    """The check itself: an agent that is not whole yet has something to import."""
    left = late_imports("perun_hpc.agent.daemon", "")[0]
    assert any(one.endswith(" perun_hpc.store.ship") for one in left)


def test_the_agent_has_the_code_of_every_backend_that_it_may_open() -> None:
    _, loaded = late_imports("perun_hpc.agent.daemon", AGENT)
    late = {backend.name for backend in BACKENDS} - {*INLINE, "psutil"}  # those inline are opened at once
    assert {f"perun_hpc.backend.{name}" for name in late} <= set(loaded)


def test_an_agent_without_a_collector_holds_none_of_the_librarys_larger_modules_that_it_has_no_use_for() -> None:
    """It lives on every node: these would be a tenth of its memory."""
    whole = """
import sys
import perun_hpc.agent.daemon
from perun_hpc.agent.late import late
from perun_hpc.config.schema import Store
from perun_hpc.process.whole import make_whole
make_whole(late(Store()))
print(*sys.modules)
"""
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){whole}"]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split())
    large = "subprocess tempfile shutil statistics decimal threading argparse ssl numpy yaml"
    assert loaded & set(large.split()) == set()
