"""The bench of events by cgroup counts what it says it counts, on the kernel's own events."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.counting import counted, sums


def test_switches_of_a_cgroup_are_counted_and_no_others() -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    top = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    if top is None or os.geteuid() != 0:
        pytest.skip("needs root and a cgroup2 file system")
    cgroups = [top / f"perun-counting-test-{os.getpid()}-{number}" for number in range(2)]
    try:
        for cgroup in cgroups:
            cgroup.mkdir()
        try:
            with counted(cgroups, "software") as leaders:
                child = os.fork()
                if child == 0:
                    (cgroups[0] / "cgroup.procs").write_text(str(os.getpid()))
                    for _ in range(50):
                        os.sched_yield()
                        os.posix_spawn("/bin/true", ["true"], {})
                        os.wait()
                    os._exit(0)
                os.waitpid(child, 0)
                half = len(leaders) // 2
                busy, idle = sums(leaders[:half]), sums(leaders[half:])
        except PermissionError as error:
            pytest.skip(f"perf_event_open: {error}")
        assert busy[0] > 0
        assert busy[1] >= 50
        assert busy[2] >= 50
        assert idle == [0, 0, 0]
    finally:
        for cgroup in cgroups:
            cgroup.rmdir()
