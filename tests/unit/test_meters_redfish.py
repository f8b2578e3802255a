"""Management controllers over Redfish: what is found in captured trees, what is read, and how each fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.cli.main import main
from perun_hpc.meters.finding import Found, RefusedError, find
from perun_hpc.meters.inventory import Bmc, load_pins
from perun_hpc.meters.redfish import Trust
from perun_hpc.meters.series import read_series
from tests.redfish import PASSWORD, USER, Controller, serving, tree

CHASSIS = "/redfish/v1/Chassis"
DELL = f"{CHASSIS}/System.Embedded.1"


def found_in(documents: dict[str, Any], **more: Any) -> Found:
    return find(Bmc("n1", "bmc-n1", "bmc", Trust(), **more), documents.get)


def value_at(documents: dict[str, Any], place: str) -> Any:
    uri, _, pointer = place.partition("#")
    value = documents[uri]
    for step in pointer.split("/")[1:]:
        value = value[int(step) if isinstance(value, list) else step]
    return value


TREES = (
    # tree, [(kind, value there, unit, scope, a word of what that is known from)]
    ("dell-idrac9", [
        ("power", 429, "W", "unknown", "PowerControl"),
        ("energy", 3982394, "Wh", "unknown", "AccumulativePower"),
    ]),
    ("dell-idrac10", [
        ("power", 181, "W", "board", "PhysicalContext is SystemBoard"),
        ("energy", 704.729, "kWh", "board", "LifetimeReading"),
    ]),
    ("hpe-ilo6", [("power", 565, "W", "psu-output", "outputs (565 W) is the same")]),
    ("supermicro-gb300", [("power", 1355.398772, "W", "board", "hot-swap")]),
)  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), TREES, ids=[name for name, _ in TREES])
def test_a_captured_tree_is_read_as_what_it_is(name: str, expected: list[tuple[Any, ...]]) -> None:
    documents = tree(name)
    pins = found_in(documents).pins
    seen = [(pin.kind, value_at(documents, pin.read[0]), pin.unit, pin.scope) for pin in pins]
    assert seen == [row[:4] for row in expected]
    assert all(row[4] in pin.basis for row, pin in zip(expected, pins, strict=True))
    assert all(len(pin.read) == 1 for pin in pins)


def test_zero_watts_of_a_running_machine_are_no_meter() -> None:
    with pytest.raises(RefusedError, match="0 W"):
        found_in(tree("supermicro-x10-zero"))


# ----------------------------------------------------------------------------------------------------------- by command


@pytest.fixture
def site(tmp_path: Path) -> Callable[[Controller], list[str]]:
    """Files of a site with one node, whose options are returned."""

    def make(controller: Controller) -> list[str]:
        (tmp_path / "archive" / "c1").mkdir(parents=True, exist_ok=True)
        credentials = tmp_path / "credentials"
        credentials.mkdir(exist_ok=True)
        (credentials / "bmc").write_text(f"user: {USER}\npassword: {PASSWORD}\n")
        (credentials / "bmc").chmod(0o600)
        config = tmp_path / "meters.yaml"
        config.write_text(
            f"period: 10 s\nbmcs:\n- {{nodes: n1, host: '{controller.host}', credential: bmc, ca: {controller.ca}}}\n"
        )
        options = ["--config", config, "--pinned", tmp_path / "pinned.yaml", "--credentials", credentials]
        return [*map(str, options), "--archive", str(tmp_path / "archive")]

    return make


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    with serving(tmp_path, tree("dell-idrac10")) as running:
        yield running


def test_what_is_discovered_is_polled_into_the_archive(
    controller: Controller, site: Callable[[Controller], list[str]], tmp_path: Path
) -> None:
    options = site(controller)
    assert main(["meters", "discover", "--write", *options]) == 0
    assert [pin.name for pin in load_pins(tmp_path / "pinned.yaml")] == ["n1-power", "n1-energy"]
    assert main(["meters", "poll", "--once", *options]) == 0
    controller.documents[f"{DELL}/Sensors/SystemBoardPwrConsumption"] |= {"Reading": 200, "LifetimeReading": 704.731}
    assert main(["meters", "poll", "--once", *options]) == 0
    facility = tmp_path / "archive" / "c1" / "facility"
    before, after = read_series(facility / "n1-energy.csv")
    assert (f"{after.kwh - before.kwh:.6f}", after.since) == ("0.002000", "1732726299")
    first, second = read_series(facility / "n1-power.csv")
    assert [int(first.reading), int(second.reading)] == [181, 200]
    taken_s = second.time_s - first.time_s
    assert float(second.kwh) == pytest.approx(190.5 * taken_s / 3.6e6, rel=0.02)
    assert second.covered_s == pytest.approx(taken_s, abs=0.002)
    state = json.loads((facility / "meters.json").read_text())["meters"]
    assert {name: (one["scope"], one["problem"]) for name, one in state.items()} == {
        "n1-power": ("board", ""),
        "n1-energy": ("board", ""),
    }
    assert controller.made == 3
    assert not controller.sessions, "every session is deleted"
    assert controller.most_at_once == 1
