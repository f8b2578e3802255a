"""A writer is killed at random instants; what it had acknowledged is read back, value by value."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.soak import store_agents, store_kill


def test_a_killed_writer_loses_no_acknowledged_row(tmp_path: Path) -> None:
    def run(seed: int) -> store_kill.Trial:
        directory = tmp_path / str(seed)
        directory.mkdir()
        return store_kill.trial(directory, seed, direct=seed % 2 == 1, kills=1 + seed % 2)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(run, range(20)))
    assert [result.wrong for result in results] == [""] * 20
    assert sum(result.acknowledged for result in results) > 1000


def test_the_check_notices_a_row_that_is_missing(tmp_path: Path) -> None:
    trial = store_kill.trial(tmp_path, seed=99, direct=False)
    assert store_kill.check(tmp_path / "session", tmp_path / "job", store_kill.START + trial.read).wrong


def test_eight_agents_on_one_store_lose_nothing(tmp_path: Path) -> None:
    assert store_agents.run(tmp_path, rounds=10) == []
