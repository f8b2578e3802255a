"""What most nodes of a machine have learnt: the collector keeps it, and a node is given that of its own machine."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest

from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.learnt import LEARNT, Learnt, keep_typical, typical, typical_of
from perun_hpc.energy.static import BIN_UW, StaticPower
from perun_hpc.errors import DataError
from perun_hpc.files import write_new

HOUR_NS = 3600 * 1_000_000_000


def learnt(machine: str, watts: int, hours: float = 1) -> Learnt:
    power = StaticPower({20_000: {watts * 1_000_000 // BIN_UW: round(hours * HOUR_NS)}})
    return Learnt(machine, {"package-0": power})


def test_no_single_node_decides_what_the_others_take() -> None:
    nodes = [learnt("a", 40), learnt("a", 42), learnt("a", 900_000), learnt("b", 10), learnt("b", 11)]
    assert typical(nodes) == {"a": {"package-0": 42_000_000}}
    assert typical([learnt("a", 40), learnt("a", 42), learnt("a", 44, hours=0.1)]) == {}


def test_a_node_counts_once_by_whatever_names_it_hands_over() -> None:
    honest = [replace(learnt("a", watts), sender=f"192.0.2.{watts}") for watts in (40, 41, 42)]
    forged = [replace(learnt("a", 0), sender="192.0.2.9") for _ in range(9)]
    assert typical([*forged, *honest]) == {"a": {"package-0": 40_000_000}}
    assert typical(forged) == {}


def test_where_no_node_has_learnt_anything_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "nodes/n1").mkdir(parents=True)
    keep_typical(tmp_path, write_new)
    assert not (tmp_path / LEARNT).exists()
    (tmp_path / LEARNT).write_text('{"schema": "perun.typical/1", "machines": {"a": {"package-0": 1}}}')
    keep_typical(tmp_path, write_new)
    assert typical_of(tmp_path, "a") == {}


def test_a_node_that_never_idled_has_what_most_nodes_of_its_machine_have(tmp_path: Path) -> None:
    to = ArchiveDelivery(tmp_path)
    for number, watts in enumerate((40, 44, 42)):
        to.keep_learnt(learnt("a", watts), "c", f"n{number}")
    (tmp_path / "c/nodes/n3").mkdir()
    (tmp_path / "c/nodes/n3" / LEARNT).write_text("damaged")
    assert to.learnt_of("c", "n9", "a") is None
    keep_typical(tmp_path / "c", write_new)
    assert to.learnt_of("c", "n9", "a") == Learnt("a", {}, {"package-0": 42_000_000})
    assert to.learnt_of("c", "n9", "b") is None
    own = to.learnt_of("c", "n0", "a")
    assert own == Learnt("a", learnt("a", 40).static, {"package-0": 42_000_000})
    assert Learnt.parse(own.encode()) == own
    assert to.learnt_of("c", "n0") == learnt("a", 40)  # an agent of before asks without its machine


def test_what_no_node_can_have_is_passed_over(tmp_path: Path) -> None:
    assert typical_of(tmp_path, "a") == {}
    for text in ("", "[]", '{"schema": "perun.typical/2", "machines": {}}', '{"schema": "perun.typical/1"}',
                 '{"schema": "perun.typical/1", "machines": {"a": {"package-0": -1}}}'):  # fmt: skip
        (tmp_path / LEARNT).write_text(text)
        assert typical_of(tmp_path, "a") == {}
    with pytest.raises(DataError, match="what no node can have learnt"):
        Learnt.parse(Learnt("a", {}, {"package-0": -1}).encode())


def test_the_collector_holds_what_one_node_has_learnt_at_a_time(tmp_path: Path) -> None:
    """That of one may be a megabyte, and nodes are thousands."""
    to = ArchiveDelivery(tmp_path)
    for number in range(5):
        to.keep_learnt(learnt("a", 40), "c", f"n{number}")
    held = []

    def write(path: Path, text: bytes) -> None:
        gc.collect()
        held.append(sum(isinstance(one, Learnt) for one in gc.get_objects()))

    keep_typical(tmp_path / "c", write)
    assert held[0] <= 1
