"""Tests that cannot run while libfaketime moves the clock, by id or folder, with the reason."""

from __future__ import annotations

SKIPS: dict[str, str] = {
    "tests/flow/test_monitor_bare.py::test_where_no_directory_will_do_the_ranks_meet_without_one": (
        "it takes /tmp and /dev/shm away, where libfaketime keeps what its processes share"
    ),
}
