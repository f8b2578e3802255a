"""A node stops at any moment of making a job's trace, or others come between its steps: nothing raises or is lost.

`tests.store_story` is what the node does; `tests.power` lays out what lies there after each of its steps, and
`tests.histories.FATE` lets a second one do all of its work before any write of the first.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perun_hpc.cli.main import main
from perun_hpc.errors import PerunError
from perun_hpc.store import create, job_store, layout
from perun_hpc.store.adopt import adopt
from perun_hpc.store.merge import finalise
from perun_hpc.store.recode import drop_sources, is_recoded
from perun_hpc.store.ship import put_apart, ship
from perun_hpc.store.thin import thin
from tests import store_story as story
from tests.histories import FATE
from tests.power import Lost, Recording, after, record
from tests.soak.store_data import START

NOW = (START + 100_000) * layout.NS_PER_S
EVERY = 17
"""Between so many writes of one the other one comes; any other number tries others."""
TABLES: Any = [{"node": "n1", "steps": [{"step_id": 0, "tasks": 1, "ranks": [{"rank": 0, "pid": 7}]}]}]
Found = dict[str, Any]


def home_of(root: Path) -> Path:
    """Where the run's directory is that once had the bare name."""
    return story.job_of(root).with_name("1.0@5")


def adopts(root: Path) -> None:
    """As the collector does where a node wrote under the bare name, and gives it the name back."""
    job = story.job_of(root)
    with suppress(FileExistsError):
        home_of(root).mkdir()
    if (job / layout.PLAN).exists():
        adopt(job, home_of(root))


def adopts_and_back(root: Path) -> None:
    adopts(root)
    if home_of(root).exists():
        left = [path for path in story.job_of(root).rglob("*") if path.is_file()]
        assert not left or not any(home_of(root).iterdir()), left
        shutil.rmtree(story.job_of(root) if not left else home_of(root), ignore_errors=True)
        if not left:
            home_of(root).rename(story.job_of(root))


def by_command(*words: str) -> Callable[[Path], object]:
    return lambda root: main(["collect", "--archive", str(root / "archive"), *words, "1"])


ACTORS: dict[str, Callable[[Path], object]] = {
    "nobody": lambda root: None,
    "merges": lambda root: finalise(story.job_of(root), story.NODES, NOW),
    "closes": lambda root: finalise(story.job_of(root), story.NODES, NOW, NOW, records=TABLES),
    "repairs": lambda root: job_store.repair(story.job_of(root), NOW),
    "recodes": lambda root: job_store.recode(story.job_of(root), NOW),
    "thins": lambda root: thin(story.job_of(root), 2, NOW),  # rows are at even ticks
    "drops": lambda root: drop_sources(story.job_of(root), NOW, 0),
    "adopts": adopts_and_back,
    "commands repair": by_command("--repair"),
    "commands recode": by_command("--recode"),
    "reports": lambda root: main(["report", "1", "--archive", str(root / "archive"), "--cluster", "c"]),
}


def said(work: Callable[[], object]) -> str:
    """Do it; what is said where it cannot be, which is one line."""
    try:
        work()
    except PerunError as error:
        assert str(error)
        assert "\n" not in str(error)
        return str(error)
    return ""


def look_at(job: Path) -> None:
    """All that readers do, at any time."""
    said(lambda: job_store.open_job(job).load())
    said(lambda: job_store.open_tracks(job))
    said(lambda: job_store.groups(job))
    said(lambda: job_store.read_tables(job))


def read_whole(root: Path) -> Found:
    """Everything in the store once it is merged, and recoded again where something came late, as each night."""
    job = story.job_of(root)
    finalise(job, story.NODES, NOW, NOW)
    if (job / layout.RECODED).exists() and not is_recoded(job):
        job_store.recode(job, NOW)
    data = job_store.open_job(job).load()
    return {str(name): data[name].values for name in [*data.data_vars, *data.coords]}


def all_done(root: Path, kind: str) -> Found:
    """Both nodes do what is left of their parts: what is read then."""
    for node in story.NODES:
        story.go_on(root, kind, node)
    return read_whole(root)


def check(found: Found, expected: Found) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.fixture(scope="module", params=story.KINDS)
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Recording]:
    base = tmp_path_factory.mktemp("states")
    story.prepare(base / "root", request.param)
    command = [sys.executable, "-m", "tests.store_story", str(base / "root"), request.param]
    return request.param, base / "root", record(command, base / "root", base / "log")


def states(recording: Recording, root: Path) -> Iterator[int]:
    """After how many steps something else lies below `root`, where it is laid out: rows of a journal are one state."""
    seen = set()
    for count in range(len(recording.steps) + 1):
        shutil.rmtree(root, ignore_errors=True)
        after(recording, count, Lost.NOTHING, 0, root)
        state = frozenset((path, content(path)) for path in root.rglob("*") if not path.name.endswith(".partial"))
        if state not in seen:
            seen.add(state)
            yield count


def content(path: Path) -> bytes:
    data = path.read_bytes() if path.is_file() else b""
    return data[:1] if path.suffix == ".journal" else data


def test_whoever_meets_a_store_in_the_making_harms_nothing(told: tuple[str, Path, Recording]) -> None:
    kind, root, recording = told
    shutil.rmtree(root)
    after(recording, len(recording.steps), Lost.NOTHING, 0, root)
    expected = all_done(root, kind)
    assert set(expected["node_status"]) == {"complete"}
    turns = itertools.cycle(ACTORS.items())
    met = 0
    for count in itertools.islice(states(recording, root), 0, None, 2):
        name, act = next(turns)
        try:
            said(lambda: act(root))  # noqa: B023
            look_at(story.job_of(root))
            check(all_done(root, kind), expected)
        except Exception as error:
            raise AssertionError(f"after {count} of {len(recording.steps)} steps, somebody {name}: {error}") from error
        met += 1
    assert met > len(ACTORS)


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """Two sealed sessions that wait to be shipped."""
    FATE.root = str(tmp_path / "archive")
    story.prepare(tmp_path, "ship")
    story.append(story.begin(tmp_path, "n2", "ship"), "n2", story.ROWS).seal()
    return tmp_path


def shipped(root: Path, node: str) -> None:
    """Shipped, and shipped again where that could not be, as an agent does."""
    for _ in range(3):
        try:
            ship(root / node, story.job_of(root), story.NODES)
            return
        except OSError:
            continue
    raise AssertionError(f"{node} cannot be shipped")


def again(root: Path) -> None:
    """What lay there is away, nothing is shipped yet."""
    shutil.rmtree(root / "archive")
    story.job_of(root).mkdir(parents=True)


FIRST: dict[str, Callable[[Path], object]] = {
    "ships": lambda root: shipped(root, "n1"),
    **{name: ACTORS[name] for name in ("closes", "repairs", "recodes", "thins")},
    "adopts": adopts,
}
SECOND: dict[str, Callable[[Path], object]] = {**FIRST, "ships": lambda root: shipped(root, "n2")}


@pytest.mark.parametrize("first", FIRST)
def test_two_at_once_lose_nothing(both: Path, first: str) -> None:
    """One does all of its work between two steps of another one; then a node ships that has not, and all is merged."""
    for node in story.NODES:
        ship(both / node, story.job_of(both), story.NODES)
    expected = read_whole(both)
    for turn, second in enumerate(SECOND):
        for number in itertools.count(1 + turn, EVERY):
            again(both)
            if first != "ships":
                ship(both / "n1", story.job_of(both), story.NODES)
            one, other = partial(told_if_not, FIRST[first], both), partial(told_if_not, SECOND[second], both)
            more = FATE.come_between(number, one, other)
            shipped(both, "n2")
            adopts_and_back(both)
            try:
                check(read_whole(both), expected)
            except Exception as error:
                raise AssertionError(f"somebody {second} before write {number}: {error}") from error
            if not more:
                break
        assert number > 3


def told_if_not(act: Callable[[Path], object], root: Path) -> None:
    """Do it; the directory may be taken away under it, which is an OSError that its caller tells."""
    with suppress(OSError):
        said(lambda: act(root))


def test_an_adoption_that_is_killed_anywhere_is_gone_on_with(both: Path) -> None:
    for node in story.NODES:
        ship(both / node, story.job_of(both), story.NODES)
    expected = read_whole(both)
    for beside in ("", "n2"):
        died = number = 1
        while died:
            again(both)
            if beside:
                ship(both / beside, home_of(both), story.NODES)
            for node in story.NODES:
                if node != beside:
                    ship(both / node, story.job_of(both), story.NODES)
            died = not FATE.may_kill(number, lambda: adopts(both))
            adopts_and_back(both)
            check(read_whole(both), expected)
            number += 3
        assert number > 20


def test_adopting_takes_along_what_lies_apart(both: Path) -> None:
    for node in story.NODES:
        ship(both / node, story.job_of(both), story.NODES)
    expected = read_whole(both)
    again(both)
    ship(both / "n2", home_of(both), story.NODES)
    create.agree(story.job_of(both), create.read_plan(home_of(both)))
    put_apart(both / "n1", story.job_of(both), "n1")
    adopts_and_back(both)
    check(read_whole(both), expected)


def test_a_table_that_is_half_written_costs_no_reader_the_store(both: Path) -> None:
    for node in story.NODES:
        ship(both / node, story.job_of(both), story.NODES)
    expected = read_whole(both)
    died = number = 1
    while died:
        again(both)
        for node in story.NODES:
            ship(both / node, story.job_of(both), story.NODES)
        died = not FATE.may_kill(number, lambda: ACTORS["closes"](both))
        check(read_whole(both), expected)
        number += 5
    assert number > 20


def test_two_merges_take_in_what_lies_apart(both: Path) -> None:
    for node in story.NODES:
        ship(both / node, story.job_of(both), story.NODES)
    expected = read_whole(both)
    number, more = 1, True
    while more:
        again(both)
        ship(both / "n2", story.job_of(both), story.NODES)
        put_apart(both / "n1", story.job_of(both), "n1")
        more = FATE.come_between(number, lambda: ACTORS["closes"](both), lambda: ACTORS["closes"](both))
        check(read_whole(both), expected)
        number += 6
