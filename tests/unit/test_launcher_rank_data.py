"""Reading what a rank handed in: the sender is the user, so everything is checked."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from perun_hpc.data_model import rank_data
from perun_hpc.errors import DataError
from perun_hpc.inject import rank
from perun_hpc.monitoring.ranks import RankServer, read_ranks
from perun_hpc.wire.client import request


def content(calls=((0, 10, 20), (1, 30, -40)), live=False, **changes) -> bytes:
    """Rank data as it comes at a rank's end, or while it lives: then the table of calls goes on to the end."""
    tables = [{"name": "calls", "columns": rank_data.CALLS, "rows": -1 if live else len(calls)}]
    if not live:
        tables.append({"name": "samples", "columns": rank_data.SAMPLES, "rows": 1})
    head = {
        "schema": rank_data.SCHEMA, "rank": 2, "live": live, "mpi": None, "regions": ["a", "b"], "dropped": 0,
        "tables": tables,
    }  # fmt: skip
    head.update(changes)
    body = b"".join(struct.pack("<3q", *row) for row in (calls if live else (*calls, (1, 2, 3))))
    return json.dumps(head).encode() + b"\n" + body


def test_tables_come_in_order():
    data = rank_data.parse(content())
    assert list(data.calls) == [0, 10, 20, 1, 30, -40]
    assert list(data.samples) == [1, 2, 3]
    assert data.names == ("a", "b")


def test_mpi_knows_the_rank_better_than_the_environment():
    assert rank_data.parse(content(mpi={"rank": 7, "size": 8})).rank == 7


def test_a_live_table_ends_at_the_first_row_without_a_start():
    data = rank_data.parse(content(calls=((0, 10, 20), (0, 30, 0), (0, 0, 0)), live=True) + bytes(48))
    assert list(data.calls) == [0, 10, 20, 0, 30, 0]
    assert not data.whole


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"no json\n",
        b"[]\n",
        content(schema="other/1"),
        content()[:-1],
        content(tables=[{"name": "calls", "rows": 10**9}]),
        content(regions=None),
        content(tables=[{"name": "calls"}]),
        json.dumps({"schema": rank_data.SCHEMA}).encode(),
        b"\xff\xfe\n",
    ],
    ids=lambda data: data[:20].decode("latin1") or "empty",
)
def test_damaged_data_is_refused_in_one_line(damaged):
    with pytest.raises(DataError) as caught:
        rank_data.parse(damaged)
    assert "\n" not in str(caught.value)


class Host:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.answers: list[tuple[int | None, int]] = []

    def energy_uj(self) -> tuple[int | None, int]:
        return self.answers.pop(0) if self.answers else (1234, 5)

    def write_summary(self) -> str:
        return str(self.directory)


@pytest.fixture
def rank_server(tmp_path):
    path = tmp_path / "s"
    path.mkdir()
    rank_server = RankServer(str(path / "rank server"), tmp_path / "ranks", Host(tmp_path))
    yield rank_server, str(path / "rank server")
    rank_server.close()


def memory(data: bytes) -> int:
    fd = rank.memory_file("test")
    os.write(fd, data)
    return fd


def test_a_desk_keeps_final_data_and_forgets_the_live_one(rank_server, tmp_path):
    the_desk, path = rank_server
    live, final = memory(content(live=True)), memory(content())
    assert request("rank-data", {"rank": "2", "live": "1"}, (live,), path=path).verb == "ok"
    assert request("rank-data", {"rank": "2"}, (final,), path=path).verb == "ok"
    the_desk.finish(lambda: False)
    the_desk.close()
    found, problems = read_ranks(tmp_path / "ranks")
    assert [data.whole for data in found] == [True]
    assert problems == []
    os.close(live)
    os.close(final)


def test_a_desk_falls_back_to_the_live_data_of_a_rank_that_never_came_back(rank_server, tmp_path):
    the_desk, path = rank_server
    live = memory(content(live=True))
    request("rank-data", {"rank": "2", "live": "1"}, (live,), path=path)
    os.close(live)
    the_desk.close()
    found, _ = read_ranks(tmp_path / "ranks")
    assert [data.whole for data in found] == [False]


def test_64_ranks_of_a_host_hand_in_at_once(tmp_path):
    """What a rank does at its end, from 64 threads: no MPI, so that two cores can show it."""
    path = tmp_path / "s"
    path.mkdir()
    the_desk = RankServer(str(path / "rank server"), tmp_path / "ranks", Host(tmp_path), 64)
    ends = [os.pipe() for _ in range(64)]

    def live(number: int) -> None:
        readable, writable = ends[number]
        data = memory(content(rank=number))
        request("rank-start", {"rank": str(number)}, (readable,), 20.0, str(path / "rank server"))
        request("rank-data", {"rank": str(number)}, (data,), 20.0, str(path / "rank server"))
        os.close(data)
        os.close(writable)  # a pidfd becomes readable when its process ends, as this pipe does now

    threads = [threading.Thread(target=live, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    the_desk.finish(lambda: False)
    the_desk.close()
    for thread in threads:
        thread.join()
    found, problems = read_ranks(tmp_path / "ranks")
    assert problems == []
    assert [data.header["rank"] for data in found] == list(range(64))


def test_a_desk_answers_windows_and_refuses_the_rest(rank_server):
    _, path = rank_server
    assert request("window", {}, path=path).fields["energy_uj"] == "1234"
    assert request("rank-data", {"rank": "../../x"}, path=path).verb == "error"
    assert request("job-start", {"job_id": "1"}, path=path).verb == "error"


@pytest.mark.parametrize(
    ("answers", "shown"),
    [
        ([(100, 10), (175, 20)], "75"),
        ([(100, 10), (100, 20)], "0"),
        ([(100, 10), (100, 10)], "None"),  # both as of one moment: a shared node, seen coarsely
        ([(None, 10), (175, 20)], "None"),
        ([(100, 10), (None, 20)], "None"),
    ],
)
def test_a_window_knows_its_energy_once_later_figures_came(tmp_path, answers, shown):
    host = Host(tmp_path)
    host.answers = list(answers)
    (tmp_path / "s").mkdir()
    rank_server = RankServer(str(tmp_path / "s" / "rank server"), tmp_path / "ranks", host)
    lines = (
        "import sys\nfrom perun_hpc.inject import rank\nrank.arm({'PERUN_SOCKET': sys.argv[1]})\n"
        "from perun_hpc import window\nwith window('w') as w: assert w.energy_uj is None\nprint(w.energy_uj)\n"
    )
    command = [sys.executable, "-c", lines, str(tmp_path / "s" / "rank server")]
    try:
        assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == shown + "\n"
    finally:
        rank_server.close()


def test_a_malformed_packet_does_not_stop_a_desk(rank_server):
    _, path = rank_server
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path)
        connection.send(b"\0\0garbage")
        assert connection.recv(100) == b""
    assert request("window", {}, path=path).verb == "ok"


def test_a_damaged_file_is_named_and_the_others_are_read(tmp_path):
    (tmp_path / "0.rank").write_bytes(content())
    (tmp_path / "1.rank").write_bytes(b"torn")
    found, problems = read_ranks(tmp_path)
    assert len(found) == 1
    assert problems[0].startswith("1.rank")
