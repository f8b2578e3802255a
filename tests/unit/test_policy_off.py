"""`perun off` and `perun on`: the list of nodes beside slurm.conf."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.cli.main import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    return tmp_path / "perun.off"


def test_nodes_go_into_the_list_and_out_of_it(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["off"]) == 0
    assert capsys.readouterr().out == "no node is off\n"
    assert main(["off", "n[3-4],g1"]) == main(["off", "n4", "n5"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "off from the next job and step on: g1, n3, n4"
    assert main(["on", "n[4-5],n9"]) == 0
    said = capsys.readouterr()
    assert said.out == "on from the next job and step on: n4, n5\n" and "was not off: n9" in said.err
    assert main(["off"]) == 0
    assert capsys.readouterr().out == "g1\nn3\n"
    text = place.read_text()
    assert text.endswith("\n# off g1\n# off n3\n")
    assert all(line.startswith("#") for line in text.splitlines())  # slurm.conf may include it
    assert place.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in place.parent.iterdir()] == ["perun.off"]


def test_a_node_that_slurm_does_not_know_is_named_once_it_is_off(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sinfo = tmp_path / "bin" / "sinfo"
    sinfo.parent.mkdir()
    sinfo.write_text("#!/bin/sh\nprintf 'n1\\nn2\\nn2\\n'\n")
    sinfo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sinfo.parent}:/usr/bin:/bin")
    assert main(["off", "n1,n11"]) == 0
    assert "Slurm has no node n11:" in capsys.readouterr().err and "# off n11\n" in place.read_text()
    sinfo.write_text("#!/bin/sh\nexit 1\n")
    assert main(["off", "n12"]) == 0 and capsys.readouterr().err == ""


@pytest.mark.parametrize("nodes", ["n*", "n[3", "a b\nPrologFlags=None"])
def test_what_is_no_node_is_refused(place: Path, nodes: str) -> None:
    assert main(["off", nodes]) == 64
    assert not place.exists()


def test_a_place_that_cannot_be_written_is_named(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(place.parent / "none" / "slurm.conf"))
    assert main(["off", "n1"]) == 77
    assert "none/perun.off: No such file or directory" in capsys.readouterr().err
