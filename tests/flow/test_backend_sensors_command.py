"""`perun sensors` on this very machine, whatever it has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from perun_hpc.agent.sources.workers import open_in_child
from perun_hpc.process.clock import MACHINE


def perun(*args):
    return subprocess.run(
        [sys.executable, "-m", "perun_hpc.cli.main", "sensors", *args], capture_output=True, text=True, timeout=60
    )


def test_the_table_shows_every_sensor_of_the_json_with_value_unit_source_device_and_cost():
    done = perun("--json")
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["sensors"]
    for sensor in data["sensors"]:
        assert (sensor["value"] is None) == (sensor["error"] is not None)
        assert sensor["cost_us"] > 0
    shown = perun().stdout.splitlines()
    assert shown[0].split() == ["SENSOR", "VALUE", "NOW", "UNIT", "SOURCE", "DEVICE", "READ", "us"]
    listed = {line.split()[0] for line in shown[1:] if ":" in line.split(" ")[0]}
    assert listed >= {sensor["id"] for sensor in data["sensors"]}
    for missing in data["missing"]:
        assert missing["why"] and missing["remedy"]


def test_there_is_always_an_energy_figure_and_the_scope_says_what_it_is():
    data = json.loads(perun("--json").stdout)
    energies = [sensor for sensor in data["sensors"] if sensor["quantity"] in ("energy", "power")]
    assert energies
    scope = perun("--scope").stdout.strip()
    assert scope == data["scope"]
    assert scope.count("\n") == 0
    if {sensor["provenance"] for sensor in energies} == {"estimated"}:
        assert "estimated" in scope


def test_the_configuration_leaves_out_what_all_shows_again():
    data = json.loads(perun("--json", "--include-backends", "psutil", "--exclude-sensors", "psutil:cpu-").stdout)
    names = {sensor["id"] for sensor in data["sensors"]}
    assert "psutil:memory:data" in names
    assert not any(name.startswith("psutil:cpu-") for name in names)
    everything = json.loads(
        perun("--all", "--json", "--include_backends", "psutil", "--exclude_sensors", "psutil:cpu-").stdout
    )
    active = {sensor["id"]: sensor["active"] for sensor in everything["sensors"]}
    assert active["psutil:cpu-0:utilisation"] is False
    assert active["psutil:memory:data"] is True


def test_alone_rank_0_owns_everything():
    done = perun("--by-rank", "--include-backends", "psutil")
    assert done.stdout.startswith("rank 0 on ")
    assert "psutil:memory:data" in done.stdout


def test_a_wrong_option_is_one_line_and_exit_code_64():
    done = perun("--everything")
    assert done.returncode == 64
    assert done.stderr.count("\n") == 1


SLOW_TOOL = """#!/bin/sh
sleep 0.15
echo x >> {told}
echo "Current Power : $((100 + $(wc -l < {told}))) Watts"
"""


def test_a_controller_that_is_slow_to_answer_is_waited_for_at_every_reading(tmp_path: Path, monkeypatch):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/ipmi0").touch()
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin/ipmi-dcmi"
    tool.write_text(SLOW_TOOL.format(told=tmp_path / "dev/told"))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    found = open_in_child("ipmi", tmp_path, 10, MACHINE)
    (reader,) = found.readers
    watts = [reader.read()[0].ticks for _ in range(3)]
    found.close()
    # The first answer may be to what the child asked by itself when it had begun.
    assert watts == list(range(watts[0], watts[0] + 3))
