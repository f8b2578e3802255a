"""A run's directory leaves `incoming/` in one step, and files are made durable together; whatever comes in between."""

from __future__ import annotations

import json
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from perun_hpc.accounting.keeping import keep_whole, put_whole_back
from perun_hpc.archive.durable import keeps_its_word, sync_each, sync_new, sync_whole
from perun_hpc.archive.places import REFUSED, Archive
from tests.accounting_data import boundary, put_incoming
from tests.contract.test_ledger_collector import World

KNOWN = {"ext2/ext3", "xfs", "btrfs", "zfs", "tmpfs", "nfs", "ceph"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def arrived(root: Path, *nodes: str) -> list[tuple[Path, str]]:
    """Records of one run with their digests."""
    paths = [put_incoming(root, boundary(node=node, nodelist="n1,n2")) for node in nodes]
    return [(path, sha256(path.read_bytes()).hexdigest()) for path in paths]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def test_the_directory_moves_as_it_is_for_its_owner_alone(tmp_path: Path) -> None:
    files, target = arrived(tmp_path, "n1", "n2"), tmp_path / "boundary"
    incoming = files[0][0].parent
    (incoming / REFUSED).write_text("before\n")
    (incoming / ".n1.json.host.1.0.partial").write_text("what a node had begun")
    number = incoming.stat().st_ino
    assert keep_whole(files, target)
    assert names(target) == ["n1.json", "n2.json"]
    assert target.stat().st_ino == number
    assert target.stat().st_mode & 0o777 == 0o700
    assert not incoming.exists()


@pytest.mark.parametrize("what", ["newer", "another", "damaged", "there"])
def test_what_was_not_summed_keeps_the_directory_where_it_is(tmp_path: Path, what: str) -> None:
    files, target = arrived(tmp_path, "n1"), tmp_path / "boundary"
    incoming = files[0][0].parent
    if what == "newer":
        put_incoming(tmp_path, boundary(revision=2))
    elif what == "another":
        arrived(tmp_path, "n2")
    elif what == "damaged":
        (incoming / "n2.json.damaged").write_text("{")
    else:
        target.mkdir()
    before = {path.name: path.read_bytes() for path in incoming.iterdir()}
    assert not keep_whole(files, target)
    assert {path.name: path.read_bytes() for path in incoming.iterdir()} == before
    assert names(target) == []
    assert names(incoming.parent) == ["4711.0"]


def test_what_was_being_moved_when_the_power_went_comes_back_beside_what_came_since(world: World) -> None:
    ((path, _),) = arrived(world.root, "n1")
    held = path.parent.with_name(".4711.0.taken")
    path.parent.rename(held)
    arrived(world.root, "n2")
    world.collector().sweep()
    (record,) = world.ledger.members("c", "4711")
    assert [node.node for node in record.nodes] == ["n1", "n2"]
    assert names(held.parent) == []
    assert names(Archive(world.root, "c").jobs / "4" / "4711.0" / "boundary") == ["n1.json", "n2.json"]


def test_two_records_of_one_name_both_come_back(tmp_path: Path) -> None:
    ((path, _),) = arrived(tmp_path, "n1")
    held = path.parent.with_name(".4711.0.taken")
    path.parent.rename(held)
    put_incoming(tmp_path, boundary(revision=2))
    put_whole_back(held)
    assert sorted(json.loads(one.read_text())["revision"] for one in path.parent.iterdir()) == [1, 2]
    assert not held.exists()


def test_a_record_is_one_line_and_its_directory_has_what_it_needs(world: World) -> None:
    arrived(world.root, "n1", "n2")
    world.collector().sweep()
    directory = Archive(world.root, "c").jobs / "4" / "4711.0"
    assert names(directory) == ["boundary", "record.json"]
    assert (directory / "record.json").read_text().count("\n") == 1


def test_files_are_made_durable_together_or_each(tmp_path: Path) -> None:
    files = []
    for number in range(40):
        (tmp_path / str(number)).mkdir()
        files.append(tmp_path / str(number) / "record.json")
        files[-1].write_text("{}")
    for sync in (sync_new, sync_each, sync_whole):
        sync(tmp_path, files)
        sync(tmp_path, ())
    with pytest.raises(FileNotFoundError):
        sync_each(tmp_path, [tmp_path / "gone" / "record.json"])
    with pytest.raises(FileNotFoundError):
        sync_whole(tmp_path / "gone")


def test_a_file_system_that_promises_nothing_is_not_believed(tmp_path: Path) -> None:
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], check=True, capture_output=True, text=True).stdout
    assert keeps_its_word(tmp_path) == (kind.strip() in KNOWN)
    assert not keeps_its_word(Path("/proc"))
    assert not keeps_its_word(tmp_path / "gone")
