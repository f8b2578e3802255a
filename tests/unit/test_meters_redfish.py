"""Management controllers over Redfish: what is found in captured trees, what is read, and how each fails."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.audit import read_meter
from perun_hpc.archive.meter_readings import Metered, Row, between, read_series
from perun_hpc.cli.main import main
from perun_hpc.errors import AccessError, DataError, UnavailableError
from perun_hpc.meters import polling
from perun_hpc.meters import redfish as redfish_client
from perun_hpc.meters.finding import Found, RefusedError, find
from perun_hpc.meters.inventory import Bmc, Fixed, Pin, load_pins
from perun_hpc.meters.redfish import Redfish, Trust
from perun_hpc.meters.secret import Secret
from perun_hpc.meters.series import Series, follow
from tests import redfish
from tests.certificates import Authority
from tests.redfish import PASSWORD, USER, Controller, serving, tree

CHASSIS = "/redfish/v1/Chassis"
DELL = f"{CHASSIS}/System.Embedded.1"
SECRET = Secret("bmc", {"user": USER, "password": PASSWORD}, (9, 9))


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
        return [*map(str, options), "--limit", "60", "--archive", str(tmp_path / "archive")]

    return make


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    with serving(tmp_path, tree("dell-idrac10")) as running:
        yield running


def test_what_is_discovered_is_polled_into_the_archive(
    controller: Controller,
    site: Callable[[Controller], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
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
    assert main(["meters", "show", "--json", "--node", "n1", "--since", "now-1hour", *options]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {name: (one["readings"], one["verdict"]) for name, one in shown.items()} == {
        "n1-power": (2, "too coarse"),
        "n1-energy": (2, "too coarse"),
    }
    assert shown["n1-energy"]["tick_j"] == 3600
    assert controller.made == 3
    assert not controller.sessions, "every session is deleted"
    assert controller.most_at_once == 1


# ------------------------------------------------------------------------------------------------- how controllers fail

SENSOR = f"{DELL}/Sensors/SystemBoardPwrConsumption"


def test_controllers_that_hang_do_not_hold_up_discovery(
    controller: Controller,
    site: Callable[[Controller], list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Twenty whose packets nobody answers, beside one that does: each is named, and they wait beside each other."""
    words = site(controller)
    with contextlib.ExitStack() as silent:
        hosts = []
        for _ in range(20):
            listener = silent.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            hosts.append(f"127.0.0.1:{listener.getsockname()[1]}")
        config = tmp_path / "meters.yaml"
        more = [
            f"- {{nodes: d{n}, host: '{host}', credential: bmc, ca: {controller.ca}}}" for n, host in enumerate(hosts)
        ]
        config.write_text(config.read_text() + "\n".join(more) + "\n")
        words[words.index("--limit") + 1] = "10"
        began = time.monotonic()
        assert main(["meters", "discover", *words]) == 1
        took_s = time.monotonic() - began
    shown = capsys.readouterr()
    assert [line.split(":")[0] for line in shown.err.splitlines()] == ["perun"] * 20
    assert "name: 'n1-power'" in shown.out
    assert all(f"NOT PINNED d{n}:" in shown.out for n in range(20))
    assert took_s < 100, "one after the other they take 200 s"
    assert not controller.sessions


@pytest.fixture
def login(controller: Controller) -> Iterator[Callable[..., Redfish]]:
    """Clients of that controller, all closed at the end, after which it must have no session left."""
    made: list[Redfish] = []

    def make(limit_s: float = 60.0, secret: Callable[[], Secret] = lambda: SECRET, **trust: str) -> Redfish:
        made.append(Redfish(controller.host, Trust(**(trust or {"ca": str(controller.ca)})), secret, limit_s))
        return made[-1]

    yield make
    controller.answers.clear()
    for client in made:
        client.close()
    assert not controller.sessions, "a session was left"


def test_a_session_is_kept_and_one_that_ran_out_begun_anew(
    controller: Controller, login: Callable[..., Redfish]
) -> None:
    client = login()
    for _ in range(3):
        assert client.get(SENSOR).document["Reading"] == 181
    assert controller.made == 1
    controller.end_sessions()
    assert client.get(SENSOR).document["Reading"] == 181
    assert controller.made == 2


@pytest.mark.parametrize("how", [redfish.hang, redfish.drip], ids=["hangs", "drips"])
def test_a_controller_that_hangs_has_its_limit_as_a_whole_and_its_session_is_kept(
    controller: Controller, login: Callable[..., Redfish], how: redfish.Answer
) -> None:
    client = login(2.0)
    client.get(f"{DELL}")
    controller.answers[f"GET {SENSOR}"] = how
    began_s = time.monotonic()
    with pytest.raises(UnavailableError, match="within 2 s"):
        client.get(SENSOR)
    assert time.monotonic() - began_s < 20
    controller.answers.clear()
    assert client.get(SENSOR).document["Reading"] == 181
    assert controller.made == 1


def test_the_session_of_a_login_that_nobody_answered_is_deleted_later(
    controller: Controller, login: Callable[..., Redfish]
) -> None:
    def begin_and_hang(handler: Any) -> None:
        controller.made += 1
        controller.sessions[f"{redfish.SESSIONS}/{controller.made}"] = "of which nobody knows"
        redfish.hang(handler)

    client = login(2.0)
    controller.answers[f"POST {redfish.SESSIONS}"] = begin_and_hang
    with pytest.raises(UnavailableError):
        client.get(SENSOR)
    assert len(controller.sessions) == 1
    controller.answers.clear()
    assert client.get(SENSOR).document["Reading"] == 181
    assert list(controller.sessions) == [f"{redfish.SESSIONS}/2"]


def test_sessions_of_a_poller_that_was_killed_end_with_the_next_one(
    controller: Controller, login: Callable[..., Redfish]
) -> None:
    login().get(SENSOR)
    login().get(SENSOR)
    controller.sessions[f"{redfish.SESSIONS}/77"] = "an administrator's"
    controller.users[f"{redfish.SESSIONS}/77"] = "admin"
    assert len(controller.sessions) == 3
    tidy = Redfish(controller.host, Trust(ca=str(controller.ca)), lambda: SECRET, 60.0, tidy=True)
    tidy.get(SENSOR)
    assert sorted(controller.sessions) == [f"{redfish.SESSIONS}/3", f"{redfish.SESSIONS}/77"]
    tidy.close()
    del controller.sessions[f"{redfish.SESSIONS}/77"]


def test_a_controller_that_shows_nobody_its_sessions_is_read_all_the_same(
    controller: Controller, login: Callable[..., Redfish]
) -> None:
    for status in (401, 403, 500):
        controller.answers[f"GET {redfish.SESSIONS}"] = redfish.status(status)
        tidy = Redfish(controller.host, Trust(ca=str(controller.ca)), lambda: SECRET, 60.0, tidy=True)
        assert tidy.get(SENSOR).document["Reading"] == 181
        tidy.close()
        assert not controller.sessions


def test_a_poller_that_is_stopped_leaves_no_session(
    controller: Controller, site: Callable[[Controller], list[str]], tmp_path: Path
) -> None:
    words = site(controller)
    assert main(["meters", "discover", "--write", *words]) == 0
    command = [sys.executable, "-m", "perun_hpc.cli.main", "meters", "poll", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as poller:
        until_s = time.monotonic() + 90
        while not list(tmp_path.glob("archive/c1/facility/n1-*.csv")) and time.monotonic() < until_s:
            time.sleep(0.1)
        assert len(controller.sessions) == 1
        poller.terminate()
        _, said = poller.communicate(timeout=60)
    assert poller.returncode == 0, said
    assert not controller.sessions
    assert PASSWORD not in said


def test_a_controller_that_resets_its_counter_loses_that_step_alone(
    controller: Controller, login: Callable[..., Redfish], tmp_path: Path
) -> None:
    readings = iter([704.729, 704.730, 0.0, 0.001, None, 0.002])

    class Device(polling.Controller):
        def read(self, pins: Any) -> Any:
            controller.documents[SENSOR]["LifetimeReading"] = next(readings)
            time.sleep(0.01)  # a step in which a Wh may be
            return super().read(pins)

    reader = Device(login())
    poller = polling.Poller([pin(**COUNTER)], lambda host: reader, tmp_path, 0.0, NoWait())
    poller.run(rounds=6)
    rows = read_series(tmp_path / "n1-energy.csv")
    assert [f"{row.reading:.3f}" for row in rows] == ["704.729", "704.730", "0.000", "0.001", "0.002"]
    steps = [float(after.kwh - before.kwh) for before, after in zip(rows, rows[1:], strict=False)]
    assert steps == pytest.approx([0.001, 0.0, 0.001, 0.001])


class NoWait(threading.Event):
    """A poller's rounds, one after the other."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


def test_a_wrong_password_is_sent_twice_and_never_shown(controller: Controller, login: Callable[..., Redfish]) -> None:
    told = [Secret("bmc", {"user": USER, "password": "wrong and shown nowhere"}, (1, 1))]
    client = login(secret=lambda: told[0])
    said = []
    for _ in range(4):
        with pytest.raises(AccessError) as refused:
            client.get(SENSOR)
        said.append(str(refused.value))
    assert controller.statuses("POST") == [401, 401]
    assert not [text for text in [*said, repr(told)] if "shown nowhere" in text]
    told[0] = SECRET  # the file was replaced
    assert client.get(SENSOR).document["Reading"] == 181


def test_a_controller_that_lets_nobody_read_is_left_alone(
    controller: Controller, login: Callable[..., Redfish]
) -> None:
    controller.answers[f"GET {SENSOR}"] = redfish.status(401, b"{}")
    client = login()
    for _ in range(5):
        with pytest.raises(AccessError):
            client.get(SENSOR)
    assert controller.statuses("GET", SENSOR) == [401, 401]


def test_without_sessions_it_is_asked_by_name_and_password(
    controller: Controller, login: Callable[..., Redfish]
) -> None:
    seen = []

    def basic(handler: Any) -> None:
        seen.append(handler.headers.get("Authorization"))
        handler.send(200, b'{"Reading": 7}', {})

    controller.answers |= {f"POST {redfish.SESSIONS}": redfish.status(405), f"GET {SENSOR}": basic}
    assert login().get(SENSOR).document == {"Reading": 7}
    assert seen == ["Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()]


def test_nothing_is_sent_to_another_than_the_pinned_certificate(
    controller: Controller, login: Callable[..., Redfish]
) -> None:
    with pytest.raises(AccessError, match="another one"):
        login(fingerprint=":".join(["00"] * 32)).get(SENSOR)
    assert controller.log == []
    own = redfish_client.shown_fingerprint(controller.host)
    assert login(fingerprint=own).get(SENSOR).document["Reading"] == 181


def test_a_controller_of_a_strange_ca_gets_nothing(
    controller: Controller, login: Callable[..., Redfish], tmp_path: Path
) -> None:
    other = Authority.begin(tmp_path / "other", "other")
    with pytest.raises(UnavailableError, match="certificate is not accepted"):
        login(ca=str(other.ca)).get(SENSOR)
    assert controller.log == []


def test_it_goes_nowhere_else(controller: Controller, login: Callable[..., Redfish]) -> None:
    controller.answers[f"GET {SENSOR}"] = redfish.status(302, Location="https://127.0.0.1:1/redfish/v1")
    client = login()
    with pytest.raises(DataError, match="302"):
        client.get(SENSOR)
    with pytest.raises(DataError, match="no URI"):
        client.get("https://127.0.0.1:1/redfish/v1")


# -------------------------------------------------------------------------------------------------- what is polled then


def pin(**more: Any) -> Pin:
    values = {"name": "n1-power", "node": "n1", "kind": "power", "scope": "board", "read": (f"{SENSOR}#/Reading",),
              "unit": "W", "on": "/redfish/v1/Systems/System.Embedded.1", "firmware": "1.20.0",
              "firmware_at": "/redfish/v1/#/RedfishVersion"}  # fmt: skip
    return Pin(**({"device": "bmc"} | values | more))


COUNTER = {"name": "n1-energy", "kind": "energy", "unit": "kWh", "on": "", "read": (f"{SENSOR}#/LifetimeReading",)}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "shows nothing"),
        ("N/A", "no number"),
        (-1, "no number"),
        (True, "no number"),
        ([181], "no number"),
        (0, "0 W while the node is On"),
        (1e9, "more than any node takes"),
    ],
    ids=str,
)
def test_what_is_no_reading_is_none(
    controller: Controller, login: Callable[..., Redfish], value: Any, why: str
) -> None:
    controller.documents[SENSOR]["Reading"] = value
    said = polling.Controller(login()).read([pin()])["n1-power"]
    assert isinstance(said, str)
    assert why in said


@pytest.mark.parametrize(("value", "watts"), [(181, "181"), (181.25, "181.25"), ("181.5", "181.5")], ids=str)
def test_a_number_is_read_however_it_is_written(
    controller: Controller, login: Callable[..., Redfish], value: Any, watts: str
) -> None:
    controller.documents[SENSOR]["Reading"] = value
    reading = polling.Controller(login()).read([pin()])["n1-power"]
    assert isinstance(reading, polling.Reading)
    assert str(reading.value) == watts
    assert abs(reading.time_s - time.time()) < 60


def test_zero_watts_of_a_node_that_is_off_are_zero(controller: Controller, login: Callable[..., Redfish]) -> None:
    controller.documents[SENSOR]["Reading"] = 0
    controller.documents["/redfish/v1/Systems/System.Embedded.1"]["PowerState"] = "Off"
    reading = polling.Controller(login()).read([pin()])["n1-power"]
    assert isinstance(reading, polling.Reading)
    assert reading.value == 0


def test_another_firmware_without_the_property_is_named(controller: Controller, login: Callable[..., Redfish]) -> None:
    reader = polling.Controller(login())
    assert isinstance(reader.read([pin()])["n1-power"], polling.Reading)
    controller.documents["/redfish/v1"]["RedfishVersion"] = "1.21.0"
    del controller.documents[SENSOR]
    said = reader.read([pin()])["n1-power"]
    assert "the firmware is 1.21.0, it was 1.20.0 when pinned: perun meters discover" in str(said)


@pytest.mark.parametrize(
    ("answer", "waits_s"),
    [
        (redfish.status(500), 60),
        (redfish.status(503, Retry_After="300"), 300),
        (redfish.status(200, b"<html>busy</html>"), 60),
        (redfish.status(200, b"null"), 60),
    ],
    ids=["500", "503", "text", "null"],
)
def test_a_failing_controller_leaves_no_reading_and_is_asked_later(
    controller: Controller, login: Callable[..., Redfish], tmp_path: Path, answer: redfish.Answer, waits_s: float
) -> None:
    waited: list[float] = []

    class Stop(threading.Event):
        """Ends the poller once it has waited three times, as fast as it may."""

        def wait(self, timeout: float | None = None) -> bool:
            waited.append(timeout or 0.0)
            if len(waited) == 3:
                controller.answers.clear()
            if len(waited) == 4:
                self.set()
            return self.is_set()

    controller.answers[f"GET {SENSOR}"] = answer
    poller = polling.Poller([pin()], lambda host: polling.Controller(login()), tmp_path, 60.0, Stop())
    poller.run()
    assert len(read_series(tmp_path / "n1-power.csv")) == 1, "the round after it had recovered"
    jitter = 1 + polling.JITTER
    assert 0 <= waited[0] <= 60
    assert waits_s * 0.7 <= waited[1] <= waits_s * jitter
    assert max(waits_s, 120) * 0.7 <= waited[2] <= max(waits_s, 120) * jitter
    assert waited[3] <= 60 * jitter
    assert poller.states["n1-power"].problem == ""
    assert not controller.sessions
    assert controller.most_at_once == 1


def test_a_controller_that_hangs_keeps_no_other_waiting(
    controller: Controller, login: Callable[..., Redfish], tmp_path: Path
) -> None:
    stop = threading.Event()
    hanging = tree("dell-idrac10")
    with serving(tmp_path / "other", hanging) as other:
        other.answers[f"GET {SENSOR}"] = redfish.hang

        def open_device(host: str) -> polling.Device:
            if host == "bmc":
                return polling.Controller(login())
            return polling.Controller(Redfish(other.host, Trust(ca=str(other.ca)), lambda: SECRET, 5.0))

        pins = [pin(), pin(name="n2-power", node="n2", device="hangs")]
        poller = polling.Poller(pins, open_device, tmp_path, 1.0, stop)
        thread = threading.Thread(target=poller.run)
        thread.start()
        until_s = time.monotonic() + 60
        while poller.states["n2-power"].problem == "" and time.monotonic() < until_s:
            time.sleep(0.05)
        read_by_then = len(read_series(tmp_path / "n1-power.csv"))
        stop.set()
        thread.join()
        assert not other.sessions
    assert "no answer within 5 s" in poller.states["n2-power"].problem
    assert read_by_then >= 2
    assert not (tmp_path / "n2-power.csv").exists()


# --------------------------------------------------------------------------------------------------------------- series


def rows(kind: dict[str, Any], *readings: tuple[float, str, str]) -> list[Row]:
    """The rows of readings at a time in s, of a value and a start, in periods of 60 s."""
    found: list[Row] = []
    for time_s, value, since in readings:
        found.append(follow(pin(**kind), 60.0, found[-1] if found else None, time_s, Decimal(value), since))
    return found


def test_a_power_is_integrated_over_three_periods_at_most() -> None:
    last = rows({}, (0, "100", ""), (60, "200", ""), (240, "200", ""), (421, "900", ""), (481, "900", ""))[-1]
    assert (float(last.kwh) * 3.6e6, last.covered_s) == (pytest.approx(150 * 60 + 200 * 180 + 900 * 60), 300)


def test_a_counter_counts_over_a_gap_and_not_over_its_reset() -> None:
    counted = rows(
        COUNTER, (0, "704.7", "a"), (7200, "705.2", "a"), (7260, "0.1", "a"), (7320, "0.2", "a"), (7380, "9.9", "b"),
        (7440, "10.0", "b"), (7500, "5000", "b"),
    )  # fmt: skip
    assert [f"{row.kwh:.1f}" for row in counted] == ["0.0", "0.5", "0.5", "0.6", "0.6", "0.7", "0.7"]
    assert counted[-1].covered_s == 7200 + 60 + 60


def test_a_counter_of_32_bits_that_wraps_goes_on_and_one_that_was_reset_does_not() -> None:
    outlet = {**COUNTER, "read": ("1.3.6.1.4.1.318.1",), "unit": "Wh"}
    top = 2**32

    def counted(*readings: tuple[float, str, str], kind: dict[str, Any] = outlet) -> list[float]:
        return [round(float(row.kwh) * 1000) for row in rows(kind, *readings)]

    assert counted((0, str(top - 5), ""), (60, "5", ""), (120, "6", "")) == [0, 10, 11]
    assert counted((0, str(top - 5), "a"), (90_000, "5", "a")) == [0, 10], "its start says that it is the same"
    assert counted((0, str(top - 5), "a"), (60, "5", "b")) == [0, 0], "its start says that it is another"
    assert counted((0, "5000", ""), (60, "5", ""), (120, "6", "")) == [0, 0, 1], "far from its end: a reset"
    assert counted((0, str(top - 5), ""), (90_000, "5", "")) == [0, 0], "a day without a reading, and no start"
    assert counted((0, str(top - 5), ""), (60, "5", ""), kind={**COUNTER, "unit": "Wh"}) == [0, 0], "no such counter"


def test_each_month_has_its_file_and_sums_go_on(tmp_path: Path) -> None:
    first = tmp_path / "n1-power.csv"
    december_s = 1_796_083_200.0  # 2026-12-01 00:00 UTC
    series = Series(first, pin(), 60.0)
    for minute in range(-3, 2):
        series.add(december_s + 60 * minute, Decimal(600))
    Series(first, pin(), 60.0).add(december_s + 120, Decimal(600))
    kept = tmp_path / "n1-power.2026-11.csv"
    assert [len(path.read_text().splitlines()) for path in (kept, first)] == [4, 5], "the last reading stands in both"
    assert [round(float(row.kwh) * 1000) for row in read_series(first)] == [0, 10, 20, 30, 40, 50]
    assert between(read_series(first, december_s - 60, december_s + 60), december_s - 60, december_s + 60) == Metered(
        pytest.approx(600 * 120), pytest.approx(1.0), 3, 0.0
    )
    first.unlink()  # the machine went down between the two names
    again = Series(first, pin(), 60.0)
    again.add(december_s + 60, Decimal(600))
    assert [round(float(row.kwh) * 1000) for row in read_series(first)] == [0, 10, 20, 40]
    november = read_series(first, december_s - 200, december_s - 100)
    assert november[0].time_s == december_s - 180
    other = tmp_path / "n1-power.of-rack-7.csv"
    other.write_text("no readings")
    assert read_series(first) == read_series(first, 0, 2 * december_s)


def test_a_time_within_a_long_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "n1-power.csv"
    minutes = rows({}, *((60.0 * n, str(n % 500), "") for n in range(20_000)))
    path.write_text("time,kwh,covered_s,reading,since\n" + "".join(row.line for row in minutes))
    part = read_series(path, 600_000, 660_000)
    assert part[0].time_s <= 600_000
    assert part[-1].time_s >= 660_000
    assert len(part) < 1300
    assert between(part, 600_000, 660_000) == between(read_series(path), 600_000, 660_000)


def test_a_time_of_fewer_than_ten_readings_is_too_coarse() -> None:
    minutes = rows({}, *((60.0 * n, "300", "") for n in range(100)))
    short, long = between(minutes, 600, 1100), between(minutes, 600, 1200)
    assert (short.readings, short.coarse, long.readings, long.coarse) == (9, True, 11, False)
    assert (long.energy_j, long.covered) == (pytest.approx(300 * 600), 1.0)
    ticks = rows(COUNTER, *((60.0 * n, f"{n // 20 / 10}", "") for n in range(100)))
    assert between(ticks, 600, 3000, 360_000).coarse, "two ticks of 360 kJ"


def test_the_next_process_goes_on_where_a_torn_line_is(tmp_path: Path) -> None:
    file = tmp_path / "n1-power.csv"
    first = Series(file, pin(), 60.0)
    first.add(1000.0, Decimal(100))
    first.add(1060.0, Decimal(100))
    with file.open("a") as out:
        out.write("1120.000,0.0033")
    Series(file, pin(), 60.0).add(1120.0, Decimal(100))
    assert [f"{row.kwh:.6f}" for row in read_series(file)] == ["0.000000", "0.001667", "0.003333"]
    assert read_meter(file, 1000, 1120) == pytest.approx(12_000e6, rel=1e-6)


# ---------------------------------------------------------------------- further trees, made by hand


def lenovo(*controls: dict[str, Any], systems: int = 1) -> dict[str, Any]:
    """A tree in the shape of a Lenovo XCC's: several power controls in one chassis."""
    nodes = [{"@odata.id": f"/redfish/v1/Systems/{n + 1}"} for n in range(systems)]
    made: dict[str, Any] = {
        "/redfish/v1": {"Systems": {"@odata.id": "/redfish/v1/Systems"}, "Chassis": {"@odata.id": CHASSIS}},
        "/redfish/v1/Systems": {"Members": nodes},
        CHASSIS: {"Members": [{"@odata.id": f"{CHASSIS}/1"}]},
        f"{CHASSIS}/1": {"Links": {"ComputerSystems": nodes}, "Power": {"@odata.id": f"{CHASSIS}/1/Power"}},
        f"{CHASSIS}/1/Power": {"PowerControl": list(controls)},
    }
    return made | {node["@odata.id"]: {"PowerState": "On"} for node in nodes}


SERVER = {"Name": "Server Power Control", "PowerConsumedWatts": 263, "RelatedItem": [{"@odata.id": f"{CHASSIS}/1"}]}
PARTS = (
    {"Name": "CPU Sub-system Power", "PowerConsumedWatts": 155},
    {"Name": "Memory Sub-system Power", "PowerConsumedWatts": 49},
)


def test_power_controls_of_parts_are_never_summed() -> None:
    documents = lenovo(*PARTS, SERVER)
    (power,) = found_in(documents).pins
    assert [value_at(documents, place) for place in power.read] == [263]


def test_two_candidates_are_refused_unless_the_site_says_which() -> None:
    documents = lenovo({"Name": "Feed A", "PowerConsumedWatts": 263}, {"Name": "Feed B", "PowerConsumedWatts": 250})
    with pytest.raises(RefusedError, match=r"263 W.* and .*250 W.*say which by `power`"):
        found_in(documents)
    places = tuple(f"{CHASSIS}/1/Power#/PowerControl/{n}/PowerConsumedWatts" for n in range(2))
    (power,) = found_in(documents, power=Fixed(places, "W", "wall", "the manual")).pins
    assert (power.read, power.scope, power.basis) == (places, "wall", "site: the manual")


def test_less_than_a_part_of_it_is_no_node() -> None:
    with pytest.raises(RefusedError, match="less than a part of it"):
        found_in(lenovo(*PARTS, SERVER | {"PowerConsumedWatts": 120}))


def test_a_chassis_of_four_nodes_is_no_nodes_meter() -> None:
    with pytest.raises(RefusedError, match="Say it by `system`"):
        found_in(lenovo(SERVER, systems=4))
    with pytest.raises(RefusedError, match=r"feeds .* as well"):
        found_in(lenovo(SERVER, systems=4), system="/redfish/v1/Systems/2")


def supplies(*watts: tuple[float | None, float | None]) -> dict[str, Any]:
    documents = lenovo()
    documents[f"{CHASSIS}/1/Power"]["PowerSupplies"] = [
        {"PowerInputWatts": into, "LastPowerOutputWatts": out} for into, out in watts
    ]
    return documents


def shaped(chassis: str, power: dict[str, Any], maker: str = "", **more: Any) -> dict[str, Any]:
    """A tree of one node and one chassis with this Power document."""
    node, at = "/redfish/v1/Systems/0", f"{CHASSIS}/{chassis}"
    return {
        "/redfish/v1": {"Systems": {"@odata.id": "/redfish/v1/Systems"}, "Chassis": {"@odata.id": CHASSIS}},
        "/redfish/v1/Systems": {"Members": [{"@odata.id": node}]},
        CHASSIS: {"Members": [{"@odata.id": at}]},
        at: {"Links": {"ComputerSystems": [{"@odata.id": node}]}, "Power": {"@odata.id": f"{at}/Power"}, **more},
        f"{at}/Power": power,
        node: {"PowerState": "On", "Manufacturer": maker},
    }


OTHERS = (
    # Fujitsu iRMC, RX2530 M7: mrlhansen/idrac_exporter, issue 121
    ("fujitsu", shaped("0", {"Oem": {"ts_fujitsu": {
        "ChassisPowerConsumption": {"CurrentPowerConsumptionW": 150, "PeakPowerW": 195, "CurrentMaximumPowerW": 1720},
        "ChassisPowerSensors": [{"Designation": "PSU1 Power", "CurrentPowerConsumptionW": 80},
                                {"Designation": "PSU2 Power", "CurrentPowerConsumptionW": 70}],
    }}}, "FUJITSU"), 150, "unknown", "Fujitsu's own property"),
    # Lenovo XCC: the vendor's REST reference, "Power management properties"
    ("lenovo", shaped("1", {"PowerControl": [
        {"Name": "Server Power Control", "PhysicalContext": "Chassis", "PowerConsumedWatts": 150,
         "PowerCapacityWatts": 200, "RelatedItem": [{"@odata.id": f"{CHASSIS}/1"}]},
    ]}), 150, "unknown", "PowerControl"),
    # IBM's OpenBMC: openbmc/openbmc-test-automation, issue 1593 (inputs of supplies are 0)
    ("openbmc", shaped("chassis", {
        "PowerControl": [{"Name": "Chassis Power Control", "PowerConsumedWatts": 342.0,
                          "PowerMetrics": {"AverageConsumedWatts": 433, "MaxConsumedWatts": 778}}],
        "PowerSupplies": [{"MemberId": "powersupply0", "PowerInputWatts": 0.0, "EfficiencyPercent": 90}],
    }), 342, "unknown", "PowerControl"),
    # HPE iLO 4: jenningsloy318/redfish_exporter, issue 29 (the same number stands above the list as well)
    ("ilo4", shaped("1", {"PowerConsumedWatts": 93, "PowerControl": [
        {"PowerConsumedWatts": 93, "PowerCapacityWatts": 1600, "PowerMetrics": {"AverageConsumedWatts": 92}},
    ]}), 93, "unknown", "PowerControl"),
    # Dell iDRAC 8: dell/iDRAC-Redfish-Scripting, issue 34
    ("idrac8", shaped("System.Embedded.1", {"PowerControl": [
        {"MemberId": "PowerControl", "Name": "System Power Control", "PowerConsumedWatts": 135,
         "PowerAllocatedWatts": 750, "PowerRequestedWatts": 488, "PowerLimit": {"LimitInWatts": 152}},
    ]}), 135, "unknown", "PowerControl"),
    # ASUS with AMI's controller, one supply standing by: bb-Ricardo/check_redfish, issue 154 (inputs are made up)
    ("asus", shaped("Self", {"PowerSupplies": [
        {"LastPowerOutputWatts": 201, "PowerInputWatts": 221}, {"LastPowerOutputWatts": 0, "PowerInputWatts": 0},
    ]}), 221, "wall", "inputs"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("documents", "watts", "scope", "basis"), [row[1:] for row in OTHERS], ids=[r[0] for r in OTHERS]
)
def test_a_tree_of_another_vendor_is_read(documents: dict[str, Any], watts: float, scope: str, basis: str) -> None:
    power, *energy = found_in(documents).pins
    assert sum(value_at(documents, place) for place in power.read) == watts
    assert (power.scope, energy) == (scope, [])
    assert basis in power.basis


def test_a_vendor_s_property_that_shows_nothing_is_no_meter() -> None:
    documents = shaped("0", {"Oem": {"ts_fujitsu": {"ChassisPowerConsumption": {"CurrentPowerConsumptionW": None}}}})
    with pytest.raises(RefusedError, match="no power of n1"):
        found_in(documents)


def test_an_enclosure_of_cisco_s_that_lists_supplies_without_inputs_is_no_meter() -> None:
    """RackHD/RackHD, pull request 674: a UCS chassis whose list of power controls is empty."""
    supplies = [{"LastPowerOutputWatts": watts, "Name": f"PS{n} Power In"} for n, watts in enumerate((420, 10))]
    with pytest.raises(RefusedError, match="no power of n1"):
        found_in(shaped("1", {"PowerControl": [], "PowerSupplies": supplies}))


def test_power_supplies_are_summed_where_their_inputs_are_ones() -> None:
    documents = supplies((230, 210), (120, 108.5))
    (power,) = found_in(documents).pins
    assert ([value_at(documents, place) for place in power.read], power.scope) == ([230, 120], "wall")
    with pytest.raises(RefusedError, match="beside an output of nothing is no input"):
        found_in(supplies((900, None), (900, None)))
