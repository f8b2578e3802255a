"""What `perun doctor` reads of the poller of meters: its files, credentials, unit, and what it says of devices."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.archive.meter_readings import Meter, States, read_states
from perun_hpc.archive.places import Archive
from perun_hpc.data_model import codec
from perun_hpc.doctor import meters
from perun_hpc.doctor.facts import Meters
from perun_hpc.errors import DataError
from perun_hpc.meters.inventory import Pin, write_pins
from perun_hpc.meters.polling import Poller

NOW_S = 1_800_000_000.0
SITE = """
cluster: c
bmcs: [{nodes: n1, host: bmc-n1, credential: bmc}, {nodes: n2, host: bmc-n2, credential: bmc}]
pdus: [{name: r1, host: pdu1, credential: pdu}]
"""


def pin(node: str, device: str) -> Pin:
    return Pin(
        name=f"{node}-power", node=node, device=device, kind="power", scope="wall", read=("/redfish/v1/x#/y",), unit="W"
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "meters.yaml").write_text(SITE)
    (tmp_path / "credentials").mkdir(mode=0o700)
    for name in ("bmc", "pdu"):
        path = tmp_path / "credentials" / name
        path.write_text("user: perun\npassword: kept secret\n")
        path.chmod(0o600)
    pins = [pin("n1", "bmc-n1"), pin("n2", "bmc-n2"), pin("r1", "pdu1")]
    write_pins(tmp_path / "pinned.yaml", pins)
    return tmp_path


def looked(place: Path) -> Meters:
    found = meters.files(place / "meters.yaml", place / "pinned.yaml", place / "credentials")
    return codec.decode(Meters, found)


def test_files_that_fit_each_other_are_no_finding(place: Path) -> None:
    found = looked(place)
    assert (found.mistakes, found.credentials, found.cluster) == ((), (), "c")
    assert [Path(path).name for path in found.held] == ["bmc", "pdu"]
    assert meters.are_here(place) is False
    (place / "etc/perun").mkdir(parents=True)
    (place / "etc/perun/meters.yaml").touch()
    assert meters.are_here(place)


def test_a_device_that_is_not_pinned_or_no_longer_there_is_named(place: Path) -> None:
    write_pins(place / "pinned.yaml", [pin("n1", "bmc-n1"), pin("n2", "bmc-n2"), pin("n9", "bmc-n9")])
    assert looked(place).mistakes == (
        "pdu1 is in meters.yaml, but nothing of it is pinned",
        "bmc-n9 is pinned, but not in meters.yaml",
    )


def test_mistakes_in_the_files_are_named(place: Path) -> None:
    (place / "meters.yaml").write_text(SITE + "colour: red\n")
    assert "colour" in looked(place).mistakes[0]
    (place / "meters.yaml").write_text(SITE)
    (place / "pinned.yaml").unlink()
    assert "pinned.yaml cannot be read" in looked(place).mistakes[0]


def test_credentials_that_others_can_read_or_that_are_missing_are_named_and_never_shown(place: Path) -> None:
    bmc = place / "credentials" / "bmc"
    bmc.chmod(0o640)
    (place / "credentials" / "pdu").unlink()
    found = looked(place)
    assert "bmc: others can read this credential" in found.credentials[0]
    assert "credential pdu cannot be read" in found.credentials[1]
    bmc.chmod(0o600)
    os.chown(bmc, 12345, 0)
    bmc.parent.chmod(0o777)
    found = looked(place)
    assert "others can read this credential" in found.credentials[0]
    assert "others than root can put files there" in found.credentials[-1]
    bmc.write_text("a password without a key: kept secret\n")
    os.chown(bmc, 0, 0)
    assert "kept secret" not in repr(looked(place))


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ({"LoadState": "loaded", "ActiveState": "active", "SubState": "running"}, ""),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, "the unit is not installed"),
        ({"LoadState": "masked", "ActiveState": "inactive"}, "the unit cannot be loaded (masked)"),
        ({"LoadState": "loaded", "ActiveState": "failed", "SubState": "failed"}, "it does not run (failed, failed)"),
    ],
)
def test_what_systemd_shows_of_the_unit(shown: dict[str, str], said: str) -> None:
    assert meters.unit(shown) == said


def test_a_poller_that_says_nothing_is_named(tmp_path: Path) -> None:
    def say(now_s: float) -> Any:
        return meters.readings(str(tmp_path), "", now_s)

    assert "nothing was ever read into it" in say(NOW_S)[0][0]
    directory = Archive(tmp_path, "c").facility("x").parent
    directory.mkdir(parents=True)
    assert "no meter was ever read" in say(NOW_S)[0][0]
    poller = Poller([pin("n1", "bmc-n1")], lambda host: pytest.fail(host), directory, 60.0)
    poller.note()
    states = read_states(directory)
    assert states is not None
    assert say(states.time_s + 100) == [[], []]
    assert say(states.time_s + 7500) == [["the poller has said nothing since 2 hours"], []]
    (directory / "meters.json").write_text("{}")
    with pytest.raises(DataError, match=r"meters\.json"):
        say(NOW_S)


def test_devices_that_do_not_answer_are_a_line_each() -> None:
    def one(device: str, read_s: float | None, problem: str, since_s: float = 0.0) -> Meter:
        return Meter("n", "power", "wall", 60.0, device=device, read_s=read_s, problem=problem, since_s=since_s)

    states = States(NOW_S, {
        "a-power": one("bmc-a", NOW_S - 30, ""),
        "b-power": one("bmc-b", NOW_S - 200, "bmc-b: no answer within 10 s"),
        "c-power": one("bmc-c", NOW_S - 7000, "bmc-c: no answer within 10 s"),
        "c-energy": one("bmc-c", NOW_S - 7300, "bmc-c: no answer within 10 s"),
        "d-power": one("bmc-d", None, "it refuses the credential bmc (401)", NOW_S - 100_000),
        "e-power": one("bmc-e", NOW_S - 9000, ""),
        "f-power": one("bmc-f", None, ""),
    })  # fmt: skip
    assert meters.silent_devices(states, NOW_S) == [
        "bmc-c: c-energy (and 1 meter more of it) was not read for 2 hours: no answer within 10 s",
        "bmc-d: d-power was not read for 28 hours: it refuses the credential bmc (401)",
        "bmc-e: e-power was not read for 2 hours: no reading came",
    ]
