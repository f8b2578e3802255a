"""What `perun doctor` reads of the file of figures that Slurm's own commands show."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perun_hpc.agent.figure import SECOND_NS, Figure, packed
from perun_hpc.doctor import services
from perun_hpc.doctor.energy import figures
from perun_hpc.doctor.facts import Agent, Policy

ME = os.geteuid()
NODE = Figure(5_000_000, 90 * SECOND_NS, 0, 113 * SECOND_NS)
JOB = (7, 0xFFFF_FFFF, Figure(1, 90 * SECOND_NS, 0, 113 * SECOND_NS))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "slurm.figures"
    path.write_bytes(packed(NODE, [JOB], 3))
    path.chmod(0o600)
    return path


def said(file: Path, at_s: int = 100, owner: int = ME) -> str:
    return figures(file, at_s * SECOND_NS, owner)


def test_figures_count_until_their_time(file: Path) -> None:
    assert said(file) == said(file, 113) == ""
    assert said(file, 120) == "is stale: its figures counted until 7.0 s ago"


def test_a_file_that_says_nothing_of_the_node_is_named(file: Path) -> None:
    file.write_bytes(packed(None, [JOB], 4))
    assert said(file) == "has no figure of the node"


@pytest.mark.parametrize("size", [0, 7, 47, 48, 90])
def test_a_truncated_file_is_damaged(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    assert said(file).startswith("is damaged")


@pytest.mark.parametrize("at", [0, 8, 12, 44, 48, 60, 95])
def test_a_file_that_is_half_written_is_damaged(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    assert said(file).startswith("is damaged")


def test_a_file_of_two_times_is_damaged(file: Path) -> None:
    later = packed(NODE, [JOB], 4)
    file.write_bytes(later[:48] + file.read_bytes()[48:])
    assert said(file) == "is damaged: half rewritten"


def test_only_a_file_that_is_roots_alone_counts_and_no_other_thing_in_its_place(file: Path) -> None:
    assert said(file, owner=ME + 1).startswith(f"belongs to uid {ME}, mode 0600")
    file.chmod(0o620)
    assert said(file).startswith(f"belongs to uid {ME}, mode 0620")
    kept = file.rename(file.with_suffix(".kept"))
    assert said(file) == "is not there"
    file.symlink_to(kept)
    assert said(file).startswith("cannot be read")
    file.unlink()
    os.mkfifo(file)
    assert said(file) == "is no file"


def test_the_file_of_a_young_agent_and_of_a_node_that_needs_none_is_not_asked_for() -> None:
    policy = Policy("", shared_s=10.0)
    assert not services.has_been_here(Agent(), policy)
    assert services.has_been_here(Agent(jobs=("7",)), policy)
    assert services.has_been_here(Agent(listens=True), policy)
    young, grown = ({"uptime_ns": str(seconds * SECOND_NS)} for seconds in (25, 35))
    assert not services.has_been_here(Agent(young, listens=True), policy)
    assert services.has_been_here(Agent(grown, listens=True), policy)
