"""Tests that cannot run while libfaketime moves the clock, by id or folder, with the reason."""

from __future__ import annotations

SKIPS: dict[str, str] = {
    "tests/flow/test_monitor_bare.py::test_where_no_directory_will_do_the_ranks_meet_without_one": (
        "it takes /tmp and /dev/shm away, where libfaketime keeps what its processes share"
    ),
    "tests/flow/test_agent_confined.py::test_the_agent_and_its_children_hold_nothing_that_they_do_not_need": (
        "its worker may write in /dev alone, and a program that it starts ends where libfaketime finds no semaphore"
    ),
    "tests/contract/test_ledger_partitions.py::test_a_reader_that_stays_is_not_waited_for": (
        "PostgreSQL's alarm while it waits for a lock asks for the time, and libfaketime tells it the real one"
    ),
}
