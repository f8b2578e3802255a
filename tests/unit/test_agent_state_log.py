"""The file of the agent's state: what was written is read back, wherever its writer was killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import zlib
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perun_hpc import files
from perun_hpc.agent import state_log
from perun_hpc.agent.state_log import StateLog

KEYS = st.sampled_from(["a", "b", "sessions", "7", "é"])
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=4)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
NODES = st.dictionaries(st.sampled_from(["mono_ns", "done", "home"]), VALUES, max_size=3)
COUNTS = st.integers(0, 2)
ACCOUNTS = st.dictionaries(
    st.sampled_from(["package-0", "other"]), st.fixed_dictionaries({"energy_uj": COUNTS, "method": st.text(max_size=1)})
)
SUMS = st.fixed_dictionaries({"cpu_ns": COUNTS, "domains": ACCOUNTS})
SESSIONS = st.dictionaries(
    st.sampled_from(["1.0", "2.0", "2.0-1"]),
    st.builds(lambda one, sums: {**one, **sums}, st.dictionaries(KEYS, VALUES, max_size=4), SUMS),
    max_size=3,
)
STATES = st.lists(st.tuples(NODES, SESSIONS, st.booleans()), min_size=1, max_size=6)
State = tuple[dict[str, Any], dict[str, Any], bool]


def named(sessions: dict[str, Any]) -> dict[str, Any]:
    """Sessions as the agent has them: each knows its place."""
    return {place: {**one, "place": place} for place, one in sessions.items()}


def document(state: State) -> dict[str, Any]:
    """What a state is when it is read."""
    node, sessions, _ = state
    return {**node, "sessions": list(named(sessions).values())}


def same(found: dict[str, Any] | None, state: State) -> bool:
    """Whether that was read; the order of sessions is nobody's business."""
    if found is None:
        return False
    wanted = document(state)
    by_place = [sorted(one.pop("sessions"), key=lambda session: session["place"]) for one in (wanted, found)]
    return [wanted, by_place[0]] == [found, by_place[1]]


def write(log: StateLog, state: State) -> None:
    node, sessions, whole = state
    log.write(node, *parted(named(sessions)), whole)


def parted(sessions: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sessions without their sums, and these as tables."""
    domains: dict[tuple[str, ...], dict[str, list[Any]]] = {}
    for place, one in sessions.items():
        if accounts := one.get("domains"):
            rows = [(account["energy_uj"], account["method"]) for account in accounts.values()]
            domains.setdefault(tuple(accounts), {})[place] = rows
    counts = {place: (one["cpu_ns"],) for place, one in sessions.items() if "cpu_ns" in one}
    tables = {
        "": {"": state_log.table(list(counts), ["cpu_ns"], counts.values())},
        "domains": {
            str(number): state_log.table(list(rows), ["energy_uj", "method"], chain(*rows.values()), names)
            for number, (names, rows) in enumerate(sorted(domains.items()))
        },
    }
    rest = {
        place: {key: one[key] for key in one if key not in ("cpu_ns", "domains")} for place, one in sessions.items()
    }
    return rest, tables


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state") / "state.json"


@given(STATES)
def test_what_was_written_is_read(place: Path, states: list[State]) -> None:
    log = StateLog(place)
    for state in states:
        write(log, state)
        assert same(state_log.read(place), state)


@given(STATES)
def test_a_value_that_changes_after_it_was_written_is_seen_as_changed(place: Path, states: list[State]) -> None:
    """The agent writes its own objects, and goes on changing them."""
    node: dict[str, Any] = {}
    sessions: dict[str, Any] = {}
    log = StateLog(place)
    for state in states:
        for mine, theirs in ((node, state[0]), (sessions, named(state[1]))):
            for gone in mine.keys() - theirs.keys():
                del mine[gone]
            _overwrite(mine, theirs)
        log.write(node, *parted(sessions))
        assert same(state_log.read(place), state)


def _overwrite(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Bring an object to another's content without replacing what can be changed in place."""
    for key, value in theirs.items():
        held = mine.get(key)
        if isinstance(held, dict) and isinstance(value, dict):
            for gone in held.keys() - value.keys():
                del held[gone]
            _overwrite(held, value)
        elif isinstance(held, list) and isinstance(value, list):
            held[:] = value
        else:
            mine[key] = json.loads(json.dumps(value))


@settings(max_examples=10, deadline=None)
@given(STATES)
def test_torn_at_any_byte_it_is_the_state_before_or_the_one_that_was_written(place: Path, states: list[State]) -> None:
    log = StateLog(place)
    before: State | None = None
    for state in states:
        earlier = place.read_bytes() if before is not None else b""
        write(log, state)
        whole = place.read_bytes()
        if before is not None and whole.startswith(earlier):
            for length in range(len(earlier), len(whole)):
                torn = place.with_name("torn.json")
                torn.write_bytes(whole[:length])
                assert same(state_log.read(torn), before)
        before = state


@settings(max_examples=100, deadline=None)
@given(STATES.filter(lambda states: len(states) > 1), st.integers(0, 1500), st.booleans())
def test_killed_at_any_byte_and_any_step_it_is_the_state_before_or_the_one_that_was_written(
    place: Path, states: list[State], at: int, step: bool
) -> None:
    """A real process is killed: before its nth call that changes a name or opens a file, or at a file's nth byte."""
    place.unlink(missing_ok=True)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _write_until_killed(StateLog(place), states, writer, at % 12 if step else None, at)
    os.close(writer)
    with os.fdopen(reader, "rb") as acknowledged:
        written = len(acknowledged.read())
    os.waitpid(pid, 0)
    found = state_log.read(place)
    if written == 0 and found is None:
        return
    assert any(same(json.loads(json.dumps(found)), one) for one in states[max(0, written - 1) : written + 1])
    goes_on = StateLog(place)  # whoever comes next goes on, whatever the file ended with
    for state in states:
        write(goes_on, state)
        assert same(state_log.read(place), state)


def _write_until_killed(log: StateLog, states: list[State], told: int, step: int | None, most_b: int) -> None:
    """Write the states and tell each one that is written; ends this process."""
    if step is None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_b, most_b))
    else:
        left = iter(range(step))

        def count(event: str, args: object) -> None:
            if event in ("open", "os.rename", "os.remove", "os.truncate") and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
    try:
        for state in states:
            write(log, state)
            os.write(told, b".")
    finally:
        os._exit(0)


def test_a_disk_that_takes_nothing_costs_no_state_that_was_written(place: Path) -> None:
    log = StateLog(place)
    first, second, third = [({"mono_ns": n, "text": "x" * 600 * n}, {"1.0": {"a": n}}, False) for n in range(3)]
    write(log, first)
    room_b = place.stat().st_size + 10  # neither a line has its place there, nor all anew
    assert _refused(lambda: write(log, second), room_b)
    assert same(state_log.read(place), first)
    write(log, third)
    assert same(state_log.read(place), third)


def _refused(work: Callable[[], None], most_b: int) -> bool:
    """Whether a disk on which files end at a length refuses it (EFBIG, since Python ignores SIGXFSZ)."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_b, former[1]))
    try:
        work()
    except OSError:
        return True
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    return False


def test_what_costs_little_is_written_and_the_file_is_replaced_before_it_grows_without_end(place: Path) -> None:
    log = StateLog(place)
    sessions = {f"{job}.0": {"place": f"{job}.0", "text": "x" * 200} for job in range(100)}
    log.write({"mono_ns": 0}, sessions)
    whole_b = place.stat().st_size
    inodes = {place.stat().st_ino}
    for n in range(1, 5_000):
        before_b = place.stat().st_size
        log.write({"mono_ns": n}, {"5.0": {**sessions["5.0"], "n": n}, **dict.fromkeys(sessions.keys() - {"5.0"})})
        now_b = place.stat().st_size
        assert now_b - before_b < 100 and now_b < (state_log.GROWTH + 2) * whole_b
        inodes.add(place.stat().st_ino)
    assert len(inodes) > 1


def test_what_nobody_changed_costs_nothing_and_what_went_is_gone(place: Path) -> None:
    log = StateLog(place)
    log.write({"mono_ns": 1}, named({"1.0": {"a": 1}, "2.0": {"a": 2}}))
    whole = place.read_bytes()
    log.write({"mono_ns": 1}, {"1.0": None, "2.0": named({"2.0": {"a": 2}})["2.0"]})
    assert place.read_bytes() == whole
    assert "1.0" in log.held
    log.write({"mono_ns": 1}, {"2.0": None})
    assert "1.0" not in log.held
    assert same(state_log.read(place), ({"mono_ns": 1}, {"2.0": {"a": 2}}, False))


def test_an_older_agent_reads_what_was_written_whole_and_puts_the_rest_aside(place: Path) -> None:
    log = StateLog(place)
    first, second = [({"mono_ns": n}, {"1.0": {"a": n}}, False) for n in range(2)]
    write(log, first)
    assert files.read_json(place) == document(first)
    write(log, second)
    log.write(*second[:1], named(second[1]), whole=True)
    assert files.read_json(place) == document(second)
    write(log, first)
    assert files.read_json(place) is None and not place.exists()


@pytest.mark.parametrize("damage", ["a bit", "a line of zeros", "a line is missing"])
def test_behind_a_damaged_line_nothing_counts_and_the_file_is_kept(
    place: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    log = StateLog(place)
    states: list[State] = [({"mono_ns": n}, {"1.0": {"a": n}}, False) for n in range(4)]
    for state in states:
        write(log, state)
    lines = place.read_bytes().splitlines(keepends=True)
    if damage == "a bit":
        lines[2] = lines[2].replace(b'"a":2', b'"a":3')
    elif damage == "a line of zeros":
        lines[2] = bytes(len(lines[2]) - 1) + b"\n"
    else:
        del lines[2]
    place.write_bytes(b"".join(lines))
    assert same(state_log.read(place), states[1])
    assert "line 3 of" in capfd.readouterr().err
    assert place.with_name("state.json.damaged").read_bytes() == b"".join(lines)


@pytest.mark.parametrize("copy", ["refused", "a link"])
def test_what_stands_before_a_damaged_line_counts_whatever_becomes_of_the_copy(place: Path, copy: str) -> None:
    log = StateLog(place)
    states: list[State] = [({"mono_ns": n}, {"1.0": {"a": n}}, False) for n in range(4)]
    for state in states:
        write(log, state)
    damaged = place.read_bytes().replace(b'"a":3', b'"a":4')
    place.write_bytes(damaged)
    aside = place.with_name("state.json.damaged")
    aside.unlink(missing_ok=True)
    if copy == "refused":
        found: list[Any] = []
        assert not _refused(lambda: found.append(state_log.read(place)), 10)
        assert same(found[0], states[2]) and not aside.exists()
    else:
        theirs = place.with_name("theirs")
        theirs.write_text("theirs")
        aside.symlink_to(theirs)
        assert same(state_log.read(place), states[2])
        assert theirs.read_text() == "theirs" and aside.read_bytes() == damaged
        assert aside.stat().st_mode & 0o007 == 0


def test_the_file_that_somebody_else_put_there_is_not_written_on(place: Path) -> None:
    log = StateLog(place)
    states: list[State] = [({"mono_ns": n}, {}, False) for n in range(3)]
    write(log, states[0])
    place.write_text('{"sessions": []}\n')
    write(log, states[1])
    assert same(state_log.read(place), states[1])
    place.unlink()
    write(log, states[2])
    assert same(state_log.read(place), states[2])


def test_sums_that_were_not_given_are_those_of_before_and_those_of_one_session_cost_what_they_are(place: Path) -> None:
    log = StateLog(place)
    sessions = {f"{job}.0": {"place": f"{job}.0", "cpu_ns": 7, "domains": {}} for job in range(100)}
    first = ({"mono_ns": 1}, sessions, False)
    write(log, first)
    write(log, ({"mono_ns": 2}, sessions, False))
    before_b = place.stat().st_size
    write(log, ({"mono_ns": 3}, {**sessions, "5.0": {**sessions["5.0"], "cpu_ns": 8}}, False))
    log.write({"mono_ns": 4}, dict.fromkeys(sessions))
    assert place.stat().st_size - before_b < 400
    assert same(state_log.read(place), ({"mono_ns": 4}, {**sessions, "5.0": {**sessions["5.0"], "cpu_ns": 8}}, False))


def test_sums_that_were_not_given_stay_in_a_file_that_is_replaced(place: Path) -> None:
    log = StateLog(place)
    sessions = {"1.0": {"place": "1.0", "cpu_ns": 7, "domains": {"other": {"energy_uj": 1, "method": ""}}}}
    write(log, ({}, sessions, False))
    for number, whole in enumerate((True, True, False, True)):
        log.write({"mono_ns": number}, {"1.0": None}, whole=whole)
        assert same(state_log.read(place), ({"mono_ns": number}, sessions, False))
    sessions["1.0"]["cpu_ns"] = 8
    write(log, ({}, sessions, False))
    assert same(state_log.read(place), ({}, sessions, False))


def test_a_value_that_a_session_does_not_have_is_not_there(place: Path) -> None:
    log = StateLog(place)
    tables = {"": {"": state_log.table(["1.0", "2.0"], ["cpu_ns", "most_b"], [(1, None), (1, 5)])}}
    for number in range(2):
        log.write({"mono_ns": number}, {one: {"place": one} for one in ("1.0", "2.0")}, tables)
        found = state_log.read(place)
        assert found is not None
        assert found["sessions"] == [{"place": "1.0", "cpu_ns": 1}, {"place": "2.0", "cpu_ns": 1, "most_b": 5}]


def test_accounts_that_an_older_agent_wrote_as_lists_of_values_are_read(tmp_path: Path) -> None:
    path, names = tmp_path / "state.json", ["component", "energy_uj"]
    sessions = [{"place": "1.0", "domains": {"package-0": {"component": "cpu", "energy_uj": 3}}}, "damaged"]
    first = json.dumps({"accounts": names, "sessions": sessions}).encode()
    changed = {
        "sessions": {"1.0": {"domains": {"package-0": ["cpu", 5], "other": ["other", 1]}}, "2.0": {"domains": {}}}
    }
    line = json.dumps([changed, []]).encode()
    path.write_bytes(first + b"\n%08x %b\n" % (zlib.crc32(line, zlib.crc32(first)), line))
    accounts = {
        "package-0": {"component": "cpu", "energy_uj": 5},
        "other": {"component": "other", "energy_uj": 1},
    }
    assert state_log.read(path) == {"sessions": [{"place": "1.0", "domains": accounts}, "damaged", {"domains": {}}]}
