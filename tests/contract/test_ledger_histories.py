"""Random histories, with a crash before any write, rename, link, removal and commit: see `tests.histories`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.histories import FATE, KilledHistory, Player

BLOCK = 25


@pytest.mark.parametrize("first", range(0, 200, BLOCK))
def test_whatever_happens_the_ledger_holds_all_that_ever_arrived(tmp_path: Path, first: int) -> None:
    player, deaths = Player(tmp_path), FATE.deaths
    try:
        for seed in range(first, first + BLOCK):
            player.play(seed)
    finally:
        player.close()
    assert FATE.deaths > deaths


@pytest.mark.parametrize("seed", [2440, 3769, 7639, 8287, 9899])
def test_a_run_whose_clocks_were_wrong_and_that_slurm_called_unreported_is_one_row_in_the_end(
    tmp_path: Path, seed: int
) -> None:
    player = Player(tmp_path)
    try:
        player.play(seed)
    finally:
        player.close()


def test_real_processes_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    player, deaths = Player(tmp_path, KilledHistory), FATE.deaths
    try:
        for seed in range(10):
            player.play(seed)
    finally:
        player.close()
    assert FATE.deaths > deaths
