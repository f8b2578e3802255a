"""Which ids a user means by what was typed."""

from __future__ import annotations

import pytest

from perun_hpc.errors import NotFoundError, UsageError
from perun_hpc.slurm.job_ids import MOST, expand_ids


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["4711"], ["4711"]),
        (["4711,4712", "4713"], ["4711", "4712", "4713"]),
        (["100-103"], ["100", "101", "102", "103"]),
        (["4711_[1-3,7]"], ["4711_1", "4711_2", "4711_3", "4711_7"]),
        (["4711_[0-6:3%2],5"], ["4711_0", "4711_3", "4711_6", "5"]),
        (["4711_*"], ["4711"]),
        (["4711+1", "4711_3"], ["4711+1", "4711_3"]),
        (["5", "4-6"], ["5", "4", "6"]),
    ],
)
def test_ids_are_read_as_slurm_writes_them(words: list[str], ids: list[str]) -> None:
    assert list(expand_ids(words)[0]) == ids


def test_an_id_that_was_named_on_its_own_must_be_there_whatever_range_it_is_in() -> None:
    assert expand_ids(["4-6", "5"])[1] == {"4", "6"}
    assert expand_ids(["7"])[1] == frozenset()


@pytest.mark.parametrize("word", ["105-100", "1-20001", "4711_[3-1]", "4711_[x]", "4711_[]"])
def test_a_range_that_cannot_be_is_refused(word: str) -> None:
    with pytest.raises(UsageError):
        expand_ids([word])


def test_ranges_together_are_bounded_too() -> None:
    with pytest.raises(UsageError, match=str(MOST)):
        expand_ids(["1-6000", "10001-16000"])


@pytest.mark.parametrize("word", ["0", "0-3", "x", "4711_[1", "--all", "4711_3_4", "", " ", ","])
def test_what_is_no_id_is_refused(word: str) -> None:
    with pytest.raises(NotFoundError):
        expand_ids([word])
