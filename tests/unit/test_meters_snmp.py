"""PDUs over SNMPv3: what is found in captured tables, what is read, and how each fails."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.archive.meter_readings import read_series
from perun_hpc.cli.main import main
from perun_hpc.errors import AccessError, UnavailableError
from perun_hpc.meters.finding import RefusedError
from perun_hpc.meters.inventory import Object, Pdu, Pin, load_pins, write_pins
from perun_hpc.meters.numbers import number
from perun_hpc.meters.outlets import Outlets, find_outlets
from perun_hpc.meters.polling import Reading
from perun_hpc.meters.secret import Secret
from perun_hpc.meters.snmp import Loop, Snmp
from tests.snmp import AUTH, PRIVACY, USER, objects, responding

APC = "1.3.6.1.4.1.318.1.1.26.4.3.1"
PATIENCE_S = 60.0
SECRET = Secret("pdu", {"user": USER, "auth": AUTH, "privacy": PRIVACY}, (1, 1))


def pins_of(name: str, feeds: dict[str, tuple[str, ...]] | None = None, **more: Any) -> list[tuple[Any, ...]]:
    """Name, node, W or J, scope and since of what is found in a captured table."""
    table = objects(name)
    with responding(table) as responder:
        snmp = Snmp(responder.host, lambda: SECRET, Loop(), PATIENCE_S)
        try:
            found = find_outlets(Pdu("r1", responder.host, "pdu", feeds or {}, **more), snmp)
        finally:
            snmp.close()
    return [(pin.name, pin.node, _base(pin, table), pin.scope, bool(pin.since)) for pin in found.pins]


def _base(pin: Pin, table: dict[str, Any]) -> float:
    return float(number(int(table[pin.read[0]])) or 0) * float(pin.base)


TABLES: tuple[tuple[str, dict[str, tuple[str, ...]], list[tuple[Any, ...]]], ...] = (
    ("pdu-apc-ap8853", {}, [
        ("r1-1-power", "", 1140, "wall", False),
        ("r1-1-energy", "", 3512.8 * 3.6e6, "wall", True),
    ]),
    ("pdu-eaton-ema", {}, [
        ("r1-0.1-power", "", 1584, "wall", False),
        ("r1-0.1-energy", "", 8185493 * 3600, "wall", True),
    ]),
    ("pdu-servertech-sentry4", {"n1": ("1.1", "2.1")}, [
        ("r1-1.1-power", "n1", 1701, "wall", False),
        ("r1-1.1-energy", "n1", 893.7 * 3.6e6, "wall", False),
        ("r1-2.1-power", "n1", 1265, "wall", False),
        ("r1-2.1-energy", "n1", 2565.9 * 3.6e6, "wall", False),
    ]),
    ("pdu-raritan-px3", {"n1": ("1.2",), "n2": ("5",)}, [
        ("r1-1.2-power", "n1", 207, "wall", False),
        ("r1-1.2-energy", "n1", 6564342 * 3600, "wall", False),
        ("r1-1.5-power", "n2", 0, "wall", False),
        ("r1-1.5-energy", "n2", 0, "wall", False),
    ]),
    ("pdu-eaton-outlets", {"n1": ("0.1",)}, [
        ("r1-0.1-power", "n1", 51, "wall", False),
        ("r1-0.1-energy", "n1", 1178507 * 3600, "wall", True),
    ]),
    ("pdu-sentry4-outlets", {"n1": ("1.1.1", "2.1.1")}, [
        ("r1-1.1.1-power", "n1", 0, "wall", False),
        ("r1-1.1.1-energy", "n1", 2 * 3600, "wall", False),
        ("r1-2.1.1-power", "n1", 575, "wall", False),
        ("r1-2.1.1-energy", "n1", 120000 * 3600, "wall", False),
    ]),
    ("pdu-schleifenbauer", {}, [
        ("r1-210.1-energy", "", 66 * 3.6e6, "wall", False),
        ("r1-210.2-energy", "", 0, "wall", False),
        ("r1-210.3-energy", "", 66 * 3.6e6, "wall", False),
    ]),
    ("pdu-vertiv-v5", {"n1": ("1", "2")}, [
        ("r1-1-power", "n1", 412, "wall", False),
        ("r1-1-energy", "n1", 2718281 * 3600, "wall", False),
        ("r1-2-power", "n1", 0, "wall", False),
        ("r1-2-energy", "n1", 17 * 3600, "wall", False),
    ]),
)  # fmt: skip


@pytest.mark.parametrize(("name", "feeds", "expected"), TABLES, ids=[row[0] for row in TABLES])
def test_a_captured_table_is_read_as_what_it_is(
    name: str, feeds: dict[str, tuple[str, ...]], expected: list[tuple[Any, ...]]
) -> None:
    assert pins_of(name, feeds) == [(*row[:2], pytest.approx(row[2]), *row[3:]) for row in expected]


def test_a_pdu_that_supports_no_reading_is_refused() -> None:
    with pytest.raises(RefusedError, match="which is no reading"):
        pins_of("pdu-apc-ap7900b")


def test_an_outlet_that_is_not_there_is_refused() -> None:
    with pytest.raises(RefusedError, match="outlet 9 of n1: none is called so"):
        pins_of("pdu-raritan-px3", {"n1": ("9",)})


def test_the_site_declares_what_no_table_has() -> None:
    declared = Object("inrow", "1.3.6.1.4.1.318.1.1.12.1.16.0", "W", "PowerNet-MIB", "n7")
    assert pins_of("pdu-apc-ap7900b", objects=(declared,)) == [("r1-inrow", "n7", 312, "wall", False)]


def test_a_counter_that_stays_at_its_greatest_number_is_no_reading() -> None:
    table = objects("pdu-vertiv-v5")
    with responding(table) as responder:
        snmp = Snmp(responder.host, lambda: SECRET, Loop(), PATIENCE_S)
        pins = find_outlets(Pdu("r1", responder.host, "pdu", {}), snmp).pins
        read = Outlets(snmp).read(pins)
        snmp.close()
    assert [(pin.name, pin.most) for pin in pins] == [("r1-1-power", None), ("r1-1-energy", 9_999_000)]
    power, energy = read["r1-1-power"], read["r1-1-energy"]
    assert isinstance(power, Reading)
    assert power.value == 1830
    assert (
        energy
        == "1.3.6.1.4.1.21239.5.2.3.1.1.12.1 shows 9999000, the most that it can: reset that counter at the device"
    )
    again = load_pins_of(pins)
    assert again == pins, "a pinned file keeps every digit"


def load_pins_of(pins: tuple[Pin, ...]) -> tuple[Pin, ...]:
    with tempfile.TemporaryDirectory() as place:
        write_pins(Path(place, "pinned.yaml"), pins)
        return load_pins(Path(place, "pinned.yaml"))


def test_a_wrong_key_is_sent_twice_and_never_shown() -> None:
    wrong = Secret("pdu", {"user": USER, "auth": "wrong and shown nowhere", "privacy": PRIVACY}, (2, 2))
    told = [wrong]
    with responding(objects("pdu-apc-ap8853")) as responder:
        snmp = Snmp(responder.host, lambda: told[0], Loop(), PATIENCE_S)
        said = []
        for _ in range(3):
            with pytest.raises(AccessError) as refused:
                snmp.get([f"{APC}.5.1"])
            said.append(str(refused.value))
        assert "left alone" in said[2]
        assert not [text for text in said if "shown nowhere" in text or PRIVACY in text]
        assert "shown nowhere" not in repr(wrong)
        assert responder.asked == []
        told[0] = SECRET  # the file was replaced
        assert snmp.get([f"{APC}.5.1"])[0] == {f"{APC}.5.1": 114}
        snmp.close()


def test_a_pdu_that_does_not_answer_has_its_limit() -> None:
    import socket
    import time

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        snmp = Snmp(f"127.0.0.1:{silent.getsockname()[1]}", lambda: SECRET, Loop(), 1.0)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=r"no answer|No SNMP response"):
            snmp.get([f"{APC}.5.1"])
        assert time.monotonic() - began < 20
        snmp.close()


def test_outlets_are_polled_into_the_archive(tmp_path: Path) -> None:
    (tmp_path / "archive" / "c1").mkdir(parents=True)
    (tmp_path / "credentials").mkdir()
    secret = tmp_path / "credentials" / "pdu"
    secret.write_text(f"user: {USER}\nauth: {AUTH}\nprivacy: {PRIVACY}\n")
    secret.chmod(0o600)
    table = objects("pdu-apc-ap8853")
    with responding(table) as responder:
        config = tmp_path / "meters.yaml"
        config.write_text(f"pdus:\n- {{name: r1, host: '{responder.host}', credential: pdu}}\n")
        options = ["--config", config, "--pinned", tmp_path / "pinned.yaml", "--credentials", secret.parent]
        words = [*map(str, options), "--limit", str(PATIENCE_S), "--archive", str(tmp_path / "archive")]
        assert main(["meters", "discover", "--write", *words]) == 0
        assert main(["meters", "poll", "--once", *words]) == 0
        table[f"{APC}.9.1"] = table[f"{APC}.9.1"].clone(35129)
        assert main(["meters", "poll", "--once", *words]) == 0
        table[f"{APC}.10.1"] = table[f"{APC}.10.1"].clone("01/02/2027 00:00:00")
        table[f"{APC}.9.1"] = table[f"{APC}.9.1"].clone(35130)
        table[f"{APC}.5.1"] = table[f"{APC}.5.1"].clone(-1)
        assert main(["meters", "poll", "--once", *words]) == 1, "a power that shows -1 has no reading"
    facility = tmp_path / "archive" / "c1" / "facility"
    kwh = [f"{row.kwh:.1f}" for row in read_series(facility / "r1-1-energy.csv")]
    assert kwh == ["0.0", "0.1", "0.1"], "a new start is a reset: what was counted by then is not known"
    assert [int(row.reading) for row in read_series(facility / "r1-1-power.csv")] == [114, 114]
