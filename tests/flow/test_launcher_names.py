"""A program's own modules that are called like the standard library's: perun neither runs them nor hides them."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import perun_hpc

PACKAGE = Path(perun_hpc.__file__).parent
PERUN = [sys.executable, "-m", "perun_hpc.cli.main"]
STARTS = ("perun_hpc", "perun_hpc.inject.closed", "perun_hpc.inject.path.sitecustomize", "perun_hpc.inject.rank",
          "perun_hpc.inject.regions")  # fmt: skip
"""What the user's interpreter imports first; all else is found from here."""


def file_of(module: str) -> Path | None:
    path = PACKAGE.parent / Path(*module.split("."))
    return next((one for one in (path / "__init__.py", path.with_suffix(".py")) if one.is_file()), None)


def named_in(path: Path) -> set[str]:
    """Every module that a file names in an import statement or to `load`, wherever it stands."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("perun_hpc."):
            found.add(node.value)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load" and node.args:
            found.add(str(getattr(node.args[0], "value", "")))
    return found


def standard_modules() -> set[str]:
    """The standard library's modules that perun can import in the user's interpreter, and what those import."""
    ours, seen, names = [*STARTS], set(), set()
    while ours:
        module = ours.pop()
        path = file_of(module)
        if path is None or module in seen or module in ("perun_hpc.cli.decorator", "perun_hpc.monitoring.results"):
            continue  # @perun and callbacks bring numpy along
        seen.add(module)
        for name in named_in(path):
            (ours.append if name.startswith("perun_hpc") else names.add)(name)
    direct = sorted({name for name in names if name.partition(".")[0] in sys.stdlib_module_names} - {"imp"})
    code = (
        "import sys, importlib, json; before = set(sys.modules)\n"
        f"for name in {direct!r}:\n"
        "    try: importlib.import_module(name)\n    except ImportError: pass\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    at_start = subprocess.run([sys.executable, "-I", "-c", "import sys; print(*sys.modules)"], capture_output=True,
                              text=True, check=True).stdout.split()  # fmt: skip
    return {*json.loads(done.stdout), *direct} & sys.stdlib_module_names - {*sys.builtin_module_names, *at_start}


PROGRAM = """
from perun_hpc import monitor, window
@monitor('work')
def work(): pass
work()
with window('w') as w: pass
print('measured', w.energy_uj is not None)
"""


def run(directory: Path, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PERUN", "PYTHONPATH", "PMI", "SLURM"))}
    return subprocess.run(command, cwd=directory, env={**env, "HOME": str(directory), **environ}, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL, timeout=120)  # fmt: skip


def hostile(directory: Path, names: set[str]) -> Path:
    """Modules by these names that note that they were imported."""
    directory.mkdir()
    for name in names:
        (directory / f"{name}.py").write_text(
            f"with open({str(directory / 'ran')!r}, 'a') as file: file.write({name!r} + ' ')\nmine = {name!r}\n"
        )
    return directory


def regions(directory: Path) -> list[tuple[str, int]]:
    (path,) = directory.glob("perun_results/*/*/run.json")
    (one,) = json.loads(path.read_text())["nodes"].values()
    return [(region["name"], region["calls"]) for host in one["nodes"].values() for region in host["regions"]]


def test_the_list_of_names_is_not_empty() -> None:
    expected = {"socket", "json", "struct", "dataclasses", "resource", "ctypes", "signal"}
    assert expected - {*sys.builtin_module_names} <= standard_modules()


@pytest.mark.parametrize("place", ["beside the script", "PYTHONPATH"])
def test_no_module_of_the_programs_is_run_in_place_of_the_standard_librarys(tmp_path: Path, place: str) -> None:
    names = standard_modules()
    theirs = hostile(tmp_path / "theirs", names)
    beside = place == "beside the script"
    app = (theirs if beside else tmp_path) / "app.py"
    app.write_text(PROGRAM)
    if beside:
        done = run(tmp_path, *PERUN, "monitor", str(app))
    else:  # by way of a shell: perun itself is started without the program's path
        (tmp_path / "start.sh").write_text(f"export PYTHONPATH=$PYTHONPATH:{theirs}\nexec {sys.executable} {app}\n")
        done = run(tmp_path, *PERUN, "monitor", "-n", "app", "sh", "start.sh")
    assert (done.returncode, done.stdout) == (0, "measured True\n"), done.stderr
    assert not (theirs / "ran").exists(), (theirs / "ran").read_text()
    assert regions(tmp_path) == [("work", 1), ("w", 1)]


def test_the_programs_own_modules_are_what_it_gets(tmp_path: Path) -> None:
    names = sorted({"socket", "json", "struct", "dataclasses", "resource", "ctypes", "re"} & standard_modules())
    theirs = hostile(tmp_path / "theirs", set(names))
    (theirs / "app.py").write_text(
        f"{PROGRAM}\nimport {', '.join(names)}\nprint([one.mine for one in ({', '.join(names)})])\nwork()\n"
        "with window('w') as w: pass\n"
        f"print([one.mine for one in ({', '.join(names)})], [sys.modules[n].mine for n in {names!r}])\n".replace(
            "[sys", "[__import__('sys')"
        )
    )
    done = run(tmp_path, *PERUN, "monitor", str(theirs / "app.py"))
    assert (done.returncode, done.stdout) == (0, f"measured True\n{names}\n{names} {names}\n"), done.stderr
    assert regions(tmp_path) == [("work", 2), ("w", 2)]


def test_what_the_program_does_not_call_so_is_loaded_once(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM + "import sys\nprint('socket' in sys.modules, 'json' in sys.modules)\n")
    done = run(tmp_path, *PERUN, "monitor", "app.py")
    assert done.stdout == "measured True\nTrue True\n", done.stderr


@pytest.mark.parametrize("former", [":/a", "/a:", ":", "/a::/b", "", "/a", None])
def test_the_programs_pythonpath_is_byte_for_byte_what_it_was(tmp_path: Path, former: str | None) -> None:
    (tmp_path / "app.py").write_text("import os, sys\nprint(repr(os.environ.get('PYTHONPATH')), sys.path[1:])\n")
    environ = {} if former is None else {"PYTHONPATH": former}
    plain = run(tmp_path, sys.executable, "app.py", **environ)
    done = run(tmp_path, *PERUN, "monitor", "app.py", **environ)
    assert plain.stdout.startswith(repr(former))
    assert done.stdout == plain.stdout, done.stderr
