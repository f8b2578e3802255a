"""`perun sensors` on this very machine, whatever it has."""

from __future__ import annotations

import json
import subprocess
import sys


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
