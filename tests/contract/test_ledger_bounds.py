"""What one job may put into incoming/ takes bounded memory of the collector, and its energies count all the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.collect import Collector, Tools, Waits
from perun_hpc.accounting.keeping import read_records
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.archive.places import Archive, Run
from perun_hpc.data_model import boundary as reading
from perun_hpc.data_model.boundary import read_boundary
from perun_hpc.data_model.record import from_json
from perun_hpc.data_model.trimmed import PIECE_B, without
from perun_hpc.errors import DataError
from tests.accounting_data import START_S, boundary, put_incoming

#: Everything in incoming/, swept in a process of its own, which says how much memory it took at most.
SWEEP = """
import sys
from pathlib import Path
from perun_hpc.archive.places import Archive
from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.ledger import open_ledger
ledger = open_ledger(f"sqlite:///{sys.argv[1]}/ledger.db", create=True)
archive = Archive(Path(sys.argv[1]) / "archive", "c")
print(Collector(archive, ledger, Tools(clock=lambda: 1_795_360_000.0), 0).sweep())
status = Path("/proc/self/status").read_text()  # getrusage would tell of the process before exec, too
print(int(status.partition("VmHWM:")[2].split()[0]) << 10)
"""
MOST_B = 200 << 20


def rows(count: int, name: str) -> list[dict[str, Any]]:
    one = {"step_id": 0, "rank": 0, "calls": 1, "time_ns": 10, "energy_uj": 1, "u_uj": 1}
    return [{**one, "name": f"{number} {name}"} for number in range(count)]


def swept(tmp_path: Path) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", SWEEP, str(tmp_path)], capture_output=True, text=True, check=True)
    said, most_b = done.stdout.splitlines()
    return said, int(most_b)


@pytest.mark.parametrize(
    ("jobs", "regions", "letters"),
    [
        (1, 20_000, 2_000),  # long names: 40 MB a record
        (25, 8_000, 20),  # just below what is read whole
    ],
)
def test_jobs_with_many_regions_do_not_fill_the_collectors_memory(
    tmp_path: Path, jobs: int, regions: int, letters: int
) -> None:
    many = rows(regions, "x" * letters)
    for number in range(jobs):
        put_incoming(tmp_path / "archive", boundary(job_id=100 + number, regions=many))
    put_incoming(tmp_path / "archive", boundary(job_id=900))
    said, most_b = swept(tmp_path)
    assert said.startswith(f"{jobs + 1} records stored")
    assert most_b < MOST_B
    for number in (*range(100, 100 + jobs), 900):
        record = from_json((Archive(tmp_path / "archive", "c").job(Run(number, 0)) / "record.json").read_bytes())
        assert record.energy_uj == 8_000_000_000


def test_a_run_of_many_nodes_takes_the_regions_that_there_is_room_for(tmp_path: Path) -> None:
    many, nodes = rows(8_000, "x" * 20), [f"n{number}" for number in range(40)]
    for node in nodes:
        put_incoming(tmp_path / "archive", boundary(node=node, nodelist="n[0-39]", num_nodes=40, regions=many))
    said, most_b = swept(tmp_path)
    assert said.startswith("1 record stored")
    assert most_b < MOST_B
    record = from_json((Archive(tmp_path / "archive", "c").job(Run(4711, 0)) / "record.json").read_bytes())
    assert record.energy_uj == 40 * 8_000_000_000
    assert record.regions
    assert any("regions and ranks left out" in note for note in record.notes)


def test_a_run_of_many_nodes_takes_the_steps_that_there_is_room_for(tmp_path: Path) -> None:
    nodes = [f"n{number:02}" for number in range(14)]
    steps = [
        {"step_id": number, "tasks": 1, "nodes": 14, "start_ns": 1, "end_ns": 2, "energy_uj": 3,
         "command": "x" * 200, "options": "y" * 200, "ranks": [{"rank": number}]}
        for number in range(4096)
    ]  # fmt: skip
    for node in nodes:
        more = {"steps": steps, "notes": [f"{number} of {node} {'z' * 1000}" for number in range(1000)]}
        put_incoming(tmp_path, boundary(node=node, nodelist="n[00-13]", num_nodes=14, **more))
    good, damaged = read_records(Archive(tmp_path, "c").base / "incoming" / "4711.0")
    assert damaged == []
    held = [record.raw["steps"] for _, record in good]
    assert held[0] == steps
    assert [len(of_one) for of_one in held] == [4096] * 12 + [0] * 2
    assert not any({"command", "options", "ranks"} & step.keys() for step in held[11])
    assert good[-1][1].raw["notes"][-1] == "steps left out: the nodes of the job have too many together"
    assert max(len(note) for _, record in good for note in record.raw["notes"]) <= 300
    whole = sum_boundaries([record for _, record in good])
    assert (whole.energy_uj, whole.steps[0].energy_uj) == (14 * 8_000_000_000, 12 * 3)


def test_a_long_record_is_read_without_its_regions_and_says_so(tmp_path: Path) -> None:
    steps = [{"step_id": 0, "tasks": 1, "nodes": 1, "start_ns": 1, "end_ns": 2, "ranks": []}]
    path = put_incoming(tmp_path, boundary(steps=steps, regions=rows(20_000, "x" * 300)))
    whole = read_boundary(path)
    assert whole.domains[0].energy_uj == 8_000_000_000
    assert whole.digest == sha256(path.read_bytes()).hexdigest()
    assert whole.raw["regions"] == []
    assert whole.raw["steps"] == steps
    assert whole.raw["notes"][-1].startswith("regions left out: the node's record has")
    data = boundary(steps=[{**steps[0], "command": "x" * 300} for _ in range(20_000)], regions=rows(10, "x"))
    raw = read_boundary(put_incoming(tmp_path, data)).raw
    assert (raw["steps"], raw["regions"]) == ([], [])
    with pytest.raises(DataError, match="longer than"):
        read_boundary(put_incoming(tmp_path, boundary(notes=["x" * (reading.MAX_READ_B + 1)])))


@pytest.mark.parametrize("shift", range(PIECE_B - 40, PIECE_B + 2))
def test_what_is_left_out_is_found_wherever_pieces_end(tmp_path: Path, shift: int) -> None:
    value = {
        "pad": "p" * shift,
        'a"\\': [1, {"regions": ["x"]}],
        "regions": [{"n": 'a\\"]}'}, [[]]],
        "z": {"y": "\\\\"},
    }
    path = tmp_path / "value.json"
    path.write_text(json.dumps(value))
    with path.open("rb") as file:
        kept = json.loads(without(file, (b"regions",), 1 << 20))
    assert kept == {**value, "regions": []}


def test_what_waits_for_nodes_is_not_read_again_before_there_is_something_new(tmp_path: Path) -> None:
    archive, now = Archive(tmp_path / "archive", "c"), [START_S + 200.0]
    first = put_incoming(tmp_path / "archive", boundary(nodelist="n[1-2]", num_nodes=2))
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db", create=True)
    waits: Waits = {}

    def sweep() -> tuple[int, int]:
        done = Collector(archive, ledger, Tools(lambda: now[0]), 900, waits=waits).sweep()
        return done.waiting, done.stored

    def put(data: bytes) -> None:
        """Other bytes, of which nothing but the content tells."""
        first.write_bytes(data)
        os.utime(first, ns=(at_ns, at_ns))

    data, at_ns = first.read_bytes(), first.stat().st_mtime_ns
    assert sweep() == (1, 0)
    put(b"x" * len(data))  # whoever reads it finds it damaged
    now[0] += 60
    assert sweep() == (1, 0)
    assert first.exists()
    put(data)
    put_incoming(tmp_path / "archive", boundary(node="n2", nodelist="n[1-2]", num_nodes=2))
    assert sweep() == (0, 1)
    assert waits == {}
    put_incoming(tmp_path / "archive", boundary(job_id=9, nodelist="n[1-2]", num_nodes=2))
    assert sweep() == (1, 0)
    now[0] += 900
    assert sweep() == (0, 1)


def test_a_job_that_lacks_nodes_is_not_read_again_for_each_that_reports(tmp_path: Path) -> None:
    root, now, waits = tmp_path / "archive", [START_S + 200.0], Waits()
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db", create=True)

    def sweep() -> tuple[int, int]:
        done = Collector(Archive(root, "c"), ledger, Tools(lambda: now[0]), 900, waits=waits).sweep()
        return done.waiting, done.stored

    def put(node: str, job: int) -> Path:
        return put_incoming(root, boundary(job, node=node, nodelist="n[1-4]", num_nodes=4))

    for job in (1, 2):
        put("n1", job)
    assert sweep() == (2, 0)
    torn = [put("n2", job) for job in (1, 2)]
    for path in torn:
        path.write_bytes(b"torn")
    put("n3", 1)
    assert sweep() == (2, 0)
    assert all(path.exists() for path in torn)  # whoever reads one of them sets it aside
    put("n4", 1)
    assert sweep() == (2, 0)
    assert [path.exists() for path in torn] == [False, True]
    now[0] += 900
    assert sweep() == (0, 2)
    assert not torn[1].exists()
