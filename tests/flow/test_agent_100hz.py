"""A row every 10 ms for 20 s: every tick is there, or the record says that it was skipped."""

from __future__ import annotations

import pytest

from tests.soak.sampler import sample


@pytest.mark.slow
@pytest.mark.alone
def test_every_tick_is_there_or_recorded(tmp_path):
    seen = sample(tmp_path, 20)
    assert seen.rows == seen.recorded_rows > 500
    assert seen.missing <= seen.recorded_skipped
    assert seen.late == seen.recorded_late
    assert min(seen.offsets_us) >= 0
