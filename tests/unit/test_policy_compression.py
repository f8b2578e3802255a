"""How hard traces are compressed is the policy's choice; every reader reads all of them."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from perun_hpc.store import codec, layout
from perun_hpc.store.node_store import NodeStore
from tests.soak.store_data import START, rows, sensors

RAW = array("q", [number * number % 1000 for number in range(4000)]).tobytes()


def test_every_level_reads_back_and_more_effort_takes_no_more_room() -> None:
    chunks = [codec.encode_chunk(RAW, 8, level) for level in (0, 1, 6, 9)]
    assert [codec.decode_chunk(chunk, "here") for chunk in chunks] == [RAW] * 4
    sizes = [len(chunk) for chunk in chunks]
    assert sizes[0] >= len(RAW) > sizes[1] >= sizes[2] >= sizes[3]


@pytest.mark.parametrize("level", [0, 9])
def test_an_interrupted_trace_goes_on_at_its_level(tmp_path: Path, level: int) -> None:
    made = sensors(4)
    store = NodeStore.open(
        tmp_path,
        cluster="c",
        job_id="1",
        restart_count=0,
        node="n1",
        sensors=made,
        period_ns=layout.NS_PER_S,
        start_ns=START * layout.NS_PER_S,
        sync_ns=None,
        level=level,
    )
    values = list(rows(made, 900, seed=1))
    for number, row in enumerate(values[:400]):
        store.append(START + number, row)
    store.close()
    (again,) = NodeStore.recover(tmp_path)
    for number, row in enumerate(values[400:], 400):
        again.append(START + number, row)
    sealed = again.seal()
    assert sealed.rows == 900
    raw_b = 900 * 4 * 8
    assert (sealed.bytes > raw_b) == (level == 0)
