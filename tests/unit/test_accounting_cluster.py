"""Which cluster is meant where none is named: Slurm says it, since users cannot list the archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.archive.places import only_cluster
from perun_hpc.errors import AccessError, UnavailableError
from perun_hpc.slurm.cluster import cluster_name, nodes, partitions


def asked(text: str | None, commands: list[list[str]]) -> object:
    """A Slurm that answers every command with a text, or not at all."""

    def run(command: Sequence[str], stdin: str | None, timeout_s: float) -> str:
        commands.append(list(command))
        if text is None:
            raise UnavailableError("slurm_load_ctl_conf error: Unable to contact slurm controller")
        return text

    return run


def named(environ: dict[str, str], text: str | None) -> tuple[str | None, list[list[str]]]:
    commands: list[list[str]] = []
    return cluster_name(environ, asked(text, commands)), commands  # type: ignore[arg-type]


def test_a_job_has_the_name_in_its_environment() -> None:
    assert named({"SLURM_CLUSTER_NAME": "alpha"}, "") == ("alpha", [])


def test_slurm_conf_says_it_while_slurmctld_is_down(tmp_path: Path) -> None:
    conf = tmp_path / "slurm.conf"
    conf.write_text("# ClusterName=old\nclustername = Alpha\nSlurmctldHost=ctl\n")
    assert named({"SLURM_CONF": str(conf)}, None) == ("alpha", [])


def test_a_file_that_slurm_conf_includes_says_it(tmp_path: Path) -> None:
    (tmp_path / "slurm.conf").write_text("Include names.conf\nSlurmctldHost=ctl\n")
    (tmp_path / "names.conf").write_text("ClusterName=Beta # the second\n")
    assert named({"SLURM_CONF": str(tmp_path / "slurm.conf")}, None) == ("beta", [])


@pytest.mark.parametrize(
    ("text", "name"), [("x\nClusterName             = alpha\n", "alpha"), ("", None), (None, None)]
)
def test_slurmctld_says_it_where_there_is_no_such_line(tmp_path: Path, text: str | None, name: str | None) -> None:
    assert named({"SLURM_CONF": str(tmp_path / "absent")}, text) == (name, [["scontrol", "show", "config"]])


def test_partitions_are_asked_for_with_the_hidden_ones() -> None:
    commands: list[list[str]] = []
    assert partitions(asked("main\nshort\n", commands)) == {"main", "short"}  # type: ignore[arg-type]
    assert "--all" in commands[0]
    assert partitions(asked(None, [])) is None  # type: ignore[arg-type]
    assert nodes(asked("n1\nn2\nn1\n", commands)) == {"n1", "n2"}  # type: ignore[arg-type]
    assert "--all" in commands[1]


def test_without_slurm_the_only_cluster_of_an_archive_is_meant(tmp_path: Path) -> None:
    assert only_cluster(tmp_path / "absent") == ""
    (tmp_path / "alpha").mkdir()
    assert only_cluster(tmp_path) == "alpha"
    (tmp_path / "beta").mkdir()
    assert only_cluster(tmp_path) == ""


def test_a_ledger_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AccessError, match=r"the ledger cannot be made or opened: .*: let .* be a directory of the"):
        open_ledger(str(tmp_path / "file" / "ledger.db"), create=True)
