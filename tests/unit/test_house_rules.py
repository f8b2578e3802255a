"""Invariants of the whole tree that no other check holds."""

from __future__ import annotations

import ast
import configparser
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import tomllib

import perun_hpc
from perun_hpc import errors
from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.session import Edge, Gap, Session
from perun_hpc.agent.base.steps import RankRun, Step
from perun_hpc.agent.jobs import ranks
from perun_hpc.agent.outbox import parsing
from perun_hpc.agent.sources import machine

ROOT = Path(__file__).parents[2]


def tracked(*patterns: str) -> list[Path]:
    done = subprocess.run(["git", "-C", ROOT, "ls-files", "-z", *patterns], capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def in_fresh_interpreter(code: str, *options: str) -> str:
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT).stdout


HEAVY = ("numpy", "zarr", "psycopg", "mpi4py", "yaml", "psutil", "pynvml", "asyncio", "h5py", "xarray")


@pytest.mark.parametrize(
    "module",
    ["perun_hpc", "perun_hpc.errors", "perun_hpc.wire.client", "perun_hpc.config.resolve", "perun_hpc.cli.main"],
)
def test_it_imports_nothing_heavy(module):
    loaded = in_fresh_interpreter(f"import {module}, sys; print('\\n'.join(sys.modules))").split()
    assert not [name for name in loaded if name.split(".")[0] in HEAVY]


@pytest.mark.parametrize("module", ["perun_hpc.agent.__main__", "perun_hpc.inject.regions"])
def test_agent_and_regions_import_the_standard_library_only(module):
    bare = in_fresh_interpreter("import sys; print('\\n'.join(sys.modules))", "-I").split()
    loaded = in_fresh_interpreter(f"import {module}, sys; print('\\n'.join(sys.modules))", "-I").split()
    ours = {name.split(".")[0] for name in set(loaded) - set(bare)}
    assert ours - set(sys.stdlib_module_names) == {"perun_hpc"}


def test_the_version_stands_in_one_place():
    version = re.escape(perun_hpc.__version__)
    holders = [
        path.relative_to(ROOT)
        for path in tracked("*.py", "*.cfg", "*.toml", "*.c", "*.h", "*.in")
        if re.search(rf"(?<![\d.]){version}(?![\d.])", path.read_text())
    ]
    assert holders == [Path("perun_hpc/_version.py")]


MACHINE = re.compile(
    r"(?<![\w.}])/(?:work|root|home/(?!alice|bob)[a-z]+)/[\w.-]+|"
    r"https?://(?:pypi|files\.pythonhosted|deb\.debian|registry\.npmjs)[\w.]*"
)


def test_no_text_names_a_machine_or_a_registry():
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in tracked()
        if path.suffix not in {".png", ".gz", ".bin", ".svg"} and path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if (match := MACHINE.search(line))
    ]
    assert not found


def test_exit_codes_come_from_the_table_alone():
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.PerunError)]
    assert len({cls.exit_code for cls in classes}) == len(classes)
    for cls in classes:
        assert re.search(rf"{cls.__name__} +exit {cls.exit_code},", errors.__doc__), cls


ENTRY_POINTS = {"__main__.py", "main.py", "compile.py", "sitecustomize.py"}


def test_only_entry_points_exit_the_process():
    exits = []
    for path in tracked("perun_hpc/*.py"):
        if path.name in ENTRY_POINTS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"sys.exit", "exit", "quit"}:
                exits.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not exits


def test_what_make_test_runs_alone_is_where_it_looks_for_it():
    marked = {path for path in tracked("tests/*.py") if re.search(r"^@?.*pytest\.mark\.alone$", path.read_text(), re.M)}
    assert marked
    assert all(path.parent == ROOT / "tests/flow" for path in marked)


def test_the_agents_parts_are_told_the_time():
    asked = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in tracked("perun_hpc/agent/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and re.fullmatch(r"time\.(time|monotonic)(_ns)?", ast.unparse(node))
    ]
    assert not asked, "a clock comes in as an argument: process/clock.py"


def test_no_pickle_is_read():
    readers = [
        path.relative_to(ROOT) for path in tracked("perun_hpc/*.py") if re.search(r"pickle\.loads?\(", path.read_text())
    ]
    assert not readers


def test_no_shell_runs_a_text():
    shells = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked("perun_hpc/*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"shell=True|os\.system\(|os\.popen\(|\beval\(|yaml\.load\(", line)
    ]
    assert not shells


ARCHIVED = {"incoming", "jobs", "nodes", "running", "owners", "facility", "aside"}
ARCHIVED_FILES = {"record.json", "running.json", "sweep.json", "job.zarr", "refused"}


def spelled(path):
    """Names of the archive that a module spells itself: parts of paths, and its files' names wherever they stand."""
    tree = ast.parse(path.read_text())
    joins = [node for node in ast.walk(tree) if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)]
    parts = {side for node in joins for side in (node.left, node.right)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in ARCHIVED_FILES | (ARCHIVED if node in parts else set()):
            yield f"{path.relative_to(ROOT)}:{node.lineno} {node.value}"


def test_only_the_archive_package_spells_where_things_lie_in_it():
    places = ROOT / "perun_hpc/archive/places.py"
    assert {one.rpartition(" ")[2] for one in spelled(places)} >= {"record.json", "running.json", "sweep.json"}
    elsewhere = [one for path in tracked("perun_hpc/*.py") if path.parent != places.parent for one in spelled(path)]
    assert [re.sub(r":\d+ ", " ", one) for one in elsewhere] == ["perun_hpc/store/layout.py job.zarr"], elsewhere


def test_test_files_have_names_of_their_own():
    names = [path.name for path in tracked("tests/*.py") if path.name.startswith("test_")]
    assert len(names) == len(set(names)), sorted(name for name in names if names.count(name) > 1)


@pytest.mark.parametrize("path", tracked("*.md"), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_every_test_that_security_md_names_is_there():
    text = (ROOT / "docs/security.md").read_text()
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text)
    assert len([one for one in named if one[1]]) > 40
    lost = []
    for file, name in named:
        source = (ROOT / file).read_text() if (ROOT / file).exists() else ""
        if not re.search(rf"^def {name}\(" if name else "^def test_", source, re.MULTILINE):
            lost.append(f"{file}::{name}")
    assert lost == []
    rows = set(re.findall(r"^\| ([a-z-]+) \|", (ROOT / "docs/attacks.md").read_text(), re.MULTILINE))
    live = re.findall(r"live: ((?:`attacks.md`, )?[^;:).]*)", text)
    words = {word for one in live for word in re.findall(r"\*([a-z-]+)\*", one)}
    assert len(words) > 15 and words <= rows, words - rows


def test_the_spack_recipe_follows_the_package_metadata():
    recipe = (ROOT / "spack/spack_repo/perun/packages/perun_hpc/package.py").read_text()
    ast.parse(recipe)
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    options, extras = config["options"], config["options.extras_require"]
    assert f'depends_on("python@{options["python_requires"].removeprefix(">=")}:"' in recipe
    built_with = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert [f'depends_on("py-{need.replace(">=", "@")}:", type="build")' in recipe for need in built_with] == [True]
    assert all(f'depends_on("{tool}", type="build")\n' in recipe for tool in ("c", "gmake")), "C parts of the wheel"
    for line in f"{options['install_requires']}\n{extras['mpi']}\n{extras['site']}".split("\n"):
        if line.strip():
            name, version = re.fullmatch(r"([\w-]+)(?:\[\w+\])? >= ([\d.]+)", line.strip()).groups()
            assert f'depends_on("py-{name.lower()}@{version}:"' in recipe, line


@pytest.mark.skipif(not Path("/usr/bin/systemd-sysusers").exists(), reason="no systemd-sysusers here")
@pytest.mark.parametrize("users", tracked("slurm/systemd/*.sysusers.conf"), ids=lambda path: path.name)
def test_a_list_of_accounts_is_sound(users):
    done = subprocess.run(["systemd-sysusers", "--dry-run", users], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    named = [line.split()[1] for line in users.read_text().splitlines() if line.startswith("u ")]
    assert named == (["perun-meters"] if users.name.startswith("perun-meters") else ["perun", parsing.USER])


@pytest.mark.skipif(not (Path("/usr/bin/systemd-analyze")).exists(), reason="no systemd-analyze here")
@pytest.mark.parametrize("unit", tracked("slurm/systemd/*.service"), ids=lambda path: path.name)
def test_a_systemd_unit_is_sound(unit, tmp_path):
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"/opt/perun-hpc/bin/\w+", "/bin/true", unit.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert (done.returncode, done.stderr) == (0, "")
    exposed = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=26", copy]
    done = subprocess.run(exposed, capture_output=True, text=True, timeout=60, env={**os.environ})
    assert done.returncode == 0, done.stdout


def test_the_agents_unit_lets_it_at_gpus_and_bmcs():
    lines = (ROOT / "slurm/systemd/perun-agent.service").read_text().splitlines()
    listing = ("DeviceAllow=", "DevicePolicy=", "PrivateDevices=yes", "ProtectClock=yes")
    assert not [line for line in lines if line.startswith(listing)]


def test_the_agents_unit_leaves_it_alive_and_gives_it_files_for_a_whole_job():
    """A child that the kernel ends for memory is not the service's end; all ranks of a job fit into its open files."""
    lines = (ROOT / "slurm/systemd/perun-agent.service").read_text().splitlines()
    assert "OOMPolicy=continue" in lines
    (files,) = [int(line.partition("=")[2]) for line in lines if line.startswith("LimitNOFILE=")]
    assert ranks.of_one_user((files - machine.KEPT_FILES) // 3) >= ranks.MAX_RANKS


def test_the_collectors_unit_leaves_the_hooks_directory_to_root():
    unit = (ROOT / "slurm/systemd/perun-collect.service").read_text().splitlines()
    assert "RuntimeDirectory=perun-collect" in unit


def test_the_administrators_lines_are_those_that_the_cluster_is_tested_with():
    from devcluster import site

    slurm_conf = (ROOT / "slurm/conf/slurm.conf.perun").read_text().splitlines()
    plugstack = (ROOT / "slurm/conf/plugstack.conf.perun").read_text().splitlines()
    assert set(site.SLURM_CONF) <= set(slurm_conf)
    assert set(site.PLUGSTACK) <= set(plugstack)
    install = (ROOT / "docs/install.md").read_text()
    for line in [line for line in (*slurm_conf, *plugstack) if line and not line.startswith("#")]:
        assert line in install


def long_prose(text: str) -> list[int]:
    """The numbers of the lines that are too long, outside of tables, code and what cannot be broken (links)."""
    found, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        code = fenced or line.startswith(("    ", "|"))
        if not code and len(line) > 120 and len(line.split()) > 1:
            found.append(number)
    return found


def test_prose_ends_at_120_columns():
    pages = tracked("docs/*.md", "README.md", "CONTRIBUTING.md", "SECURITY.md")
    assert not [f"{page.relative_to(ROOT)}:{number}" for page in pages for number in long_prose(page.read_text())]


def test_long_prose_is_found_and_tables_code_and_links_are_not():
    long = "word " * 30
    assert long_prose(f"short\n{long}\n") == [2]
    assert not long_prose(f"| {long}\n```\n{long}\n```\n    {long}\nhttps://host/{'x' * 200}\n")


FIGURATIVE = re.compile(r"(?<![.\w])(?:told|rooms?|houses?)(?!\w)", re.IGNORECASE)
"""Words that stood for module, space, said and reported."""


def test_plain_words_stand_in_code_and_docs():
    pages = tracked("perun_hpc", "docs", "slurm", "bench", "demo", "devcluster", "*.md")
    found = [
        f"{page.relative_to(ROOT)}:{number}: {match[0]}"
        for page in pages
        if page.suffix in {".py", ".c", ".h", ".md", ".sh"} and page.name != "CHANGELOG.md"
        for number, line in enumerate(page.read_text().splitlines(), 1)
        if (match := FIGURATIVE.search(line))
    ]
    assert not found


def test_the_glossary_explains_each_term_once_and_is_linked():
    rows = re.findall(r"^\| (?!term|-)(.+?) \| (.+) \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    terms = [term for term, _ in rows]
    assert len(terms) == len(set(terms)) > 60
    for page in ("README.md", "docs/architecture.md"):
        assert "glossary.md)" in (ROOT / page).read_text()


def test_the_walks_pass_files_that_are_there_and_none_twice():
    text = (ROOT / "docs/architecture.md").read_text()
    walks = text[text.index("## Four walks") : text.index("## Paths")].split("\n**")[1:]
    assert len(walks) == 4
    for walk in walks:
        named = re.findall(r"`([\w/]+\.(?:py|c))`", walk)
        assert len(named) == len(set(named)) >= 6, [one for one in named if named.count(one) > 1]
        assert not [one for one in named if not any((ROOT / base / one).is_file() for base in ("perun_hpc", "."))]


def changed(statement: ast.AST) -> Iterator[str]:
    """Attributes of other objects that a statement sets, fills, or empties."""
    calls = ("append", "add", "update", "setdefault", "pop", "clear", "extend", "remove", "discard")
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign | ast.Delete):
        targets = statement.targets
    elif isinstance(statement, ast.AugAssign | ast.AnnAssign):
        targets = [statement.target]
    elif isinstance(statement, ast.Call) and isinstance(statement.func, ast.Attribute) and statement.func.attr in calls:
        targets = [statement.func.value]
    while targets:
        target = targets.pop()
        if isinstance(target, ast.Tuple | ast.List):
            targets += target.elts
        elif isinstance(target, ast.Subscript | ast.Starred):
            targets.append(target.value)
        elif isinstance(target, ast.Attribute) and ast.unparse(target.value) != "self":
            yield target.attr


def test_a_session_is_changed_by_its_own_methods_alone() -> None:
    base = ROOT / "perun_hpc/agent/base"
    own = {base / f"{name}.py" for name in ("session", "account", "steps")}
    names = {field.name for kind in (Session, DomainAccount, Step, RankRun, Edge, Gap) for field in fields(kind)}
    others = {("meter", "cpus"), ("learning", "energy_uj"), ("learning", "busy_ns")}  # of the node; of an idle time
    found = [
        f"{path.relative_to(ROOT)}:{statement.lineno}: {name}"
        for path in tracked("perun_hpc/agent/*.py")
        if path not in own
        for statement in ast.walk(ast.parse(path.read_text()))
        for name in changed(statement)
        if name in names and (path.stem, name) not in others
    ]
    assert found == []


def test_one_module_replaces_files() -> None:
    """`files.Replacement`; the two that write as root by a directory's descriptor say why it is not theirs."""
    by_descriptor = {"perun_hpc/slurm/hook.py", "perun_hpc/agent/sources/root_helper.py"}
    makes = re.compile(r"O_EXCL|mkstemp|NamedTemporary|\.partial\"|os\.(rename|replace)\b")
    found = {str(path.relative_to(ROOT)) for path in tracked("perun_hpc/*.py") if makes.search(path.read_text())}
    assert found == by_descriptor | {"perun_hpc/files.py"}
    assert all("`files`" in (ROOT / name).read_text() for name in by_descriptor)
