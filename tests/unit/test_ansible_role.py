"""What the Ansible role writes fits what the documents say; `make ansible-test` runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ANSIBLE = Path(__file__).parents[2] / "ansible"
ROLE = ANSIBLE / "roles/perun_hpc"


def tasks(name: str) -> list[dict[str, Any]]:
    """The tasks of one file."""
    return list(yaml.safe_load((ROLE / f"tasks/{name}.yml").read_text()))


@pytest.mark.parametrize(("name", "unit"), [("agent", "perun-agent"), ("collector", "perun-collect")])
def test_a_unit_may_write_to_another_archive_and_starts_without_it(name: str, unit: str) -> None:
    written = [task["ansible.builtin.copy"] for task in tasks(name) if "ansible.builtin.copy" in task]
    (drop_in,) = (one for one in written if one["dest"] == f"/etc/systemd/system/{unit}.service.d/archive.conf")
    assert drop_in["content"] == "[Service]\nReadWritePaths=-{{ perun_hpc_archive }}\n"
    assert f"include_tasks: {name}.yml" in (ROLE / "tasks/present.yml").read_text()


def test_systemd_is_not_asked_for_a_unit_that_a_first_run_in_check_mode_does_not_bring() -> None:
    handlers = yaml.safe_load((ROLE / "handlers/main.yml").read_text())
    every = [*handlers, *tasks("collector"), *tasks("agent")]
    asked = [task for task in every if "ansible.builtin.systemd_service" in task]
    assert len(asked) == 2
    assert all("perun_hpc_command.stat.exists" in task["when"] for task in asked)


def test_a_configless_slurm_gets_the_plugins_line_in_the_file_that_travels() -> None:
    found = [task for task in tasks("plugstack") if task["when"] == "perun_hpc_configless | bool"]
    (line,) = (task["ansible.builtin.lineinfile"] for task in found)
    assert line["path"].endswith("/plugstack.conf")
    assert re.search(line["regexp"], line["line"])


@pytest.mark.parametrize(
    ("text", "stands"),
    [
        ("ClusterName=x\n", False),
        ("# BEGIN perun-hpc\nPrologFlags=Alloc\nProlog=/a\n# END perun-hpc\n", False),
        ("PrologEpilogTimeout=5\nEpilogSlurmctld=/a\n#Prolog=/a\n", False),
        ("# BEGIN perun-hpc\nProlog=/a\n# END perun-hpc\nprolog = /site\n", True),
        ("PrologFlags=X11\n", True),
    ],
)
def test_lines_of_the_sites_own_are_seen_before_the_block_is_written(text: str, stands: bool) -> None:
    names = [task["name"] for task in tasks("slurm_conf")]
    seen = next(task for task in tasks("slurm_conf") if task["name"] == "See that the block takes the place of nothing")
    assert names.index(seen["name"]) < names.index("Keep the lines of slurm.conf, or take them out")
    pattern = re.search(r"search\('(.*)'\)", seen["ansible.builtin.assert"]["that"])
    block = re.search(r"regex_replace\('(.*)', ''\)", seen["vars"]["own"])
    assert pattern
    assert block
    assert bool(re.search(pattern[1], re.sub(block[1], "", text))) is stands


def test_no_node_is_touched_where_one_controller_keeps_the_hooks() -> None:
    first = yaml.safe_load((ANSIBLE / "perun.yml").read_text())[0]
    assert (first["hosts"], first["any_errors_fatal"]) == ("slurm_controller", True)
