"""A spool above its quota loses its oldest traces and says so in their records; the records stay."""

from __future__ import annotations

import json
import os
from pathlib import Path

from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.spool import size_b
from perun_hpc.agent.traces import quota


def sealed(paths: AgentPaths, name: str, at_s: int) -> Path:
    directory = paths.sessions / name
    (directory / "tracks/1s").mkdir(parents=True)
    (directory / "tracks/1s/track.json").write_bytes(bytes(400))
    (directory / "job.zarr/energy").mkdir(parents=True)
    (directory / "job.zarr/energy/c.0.0.0").write_bytes(bytes(600))
    (directory / "curve.bin").write_bytes(bytes(50))
    record = directory / "boundary.json"
    record.write_text(json.dumps({"job_id": name, "trace": {"stored": True, "rows": 9}}))
    os.utime(record, (at_s, at_s))
    return directory


def test_the_oldest_traces_go_until_enough_is_free(tmp_path: Path) -> None:
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    young, old, middle = (sealed(paths, f"{job}.0", at) for job, at in ((1, 300), (2, 100), (3, 200)))
    before_b = size_b(paths.spool)
    assert quota.drop_waiting(paths, 1001) == (["2.0", "3.0"], 2000)
    for directory in (old, middle):
        assert sorted(path.name for path in directory.iterdir()) == ["boundary.json", "curve.bin"]
        record = json.loads((directory / "boundary.json").read_text())
        assert record["trace"] == {"stored": False, "rows": 9, "why": quota.WHY}
        assert record["job_id"] == directory.name
    assert size_b(young / "job.zarr") == 600
    assert before_b - 2000 < size_b(paths.spool) < before_b - 1900
    assert quota.drop_waiting(paths, 1) == (["1.0"], 1000)
    assert quota.drop_waiting(paths, 1) == ([], 0)


def test_a_damaged_record_is_left_to_others(tmp_path: Path) -> None:
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    (sealed(paths, "1.0", 1) / "boundary.json").write_text("{")
    assert quota.drop_waiting(paths, 1) == ([], 0)
    assert size_b(paths.sessions / "1.0/job.zarr") == 600


def test_a_session_without_shards_has_nothing_but_its_tracks_to_give(tmp_path: Path) -> None:
    tracks = tmp_path / "tracks/1s"
    tracks.mkdir(parents=True)
    (tracks / "track.json").write_bytes(bytes(400))
    assert quota.drop_trace(tmp_path) == 400
    assert list(tmp_path.iterdir()) == []
