"""What nodes hand to the collector over TCP, with a real munge daemon and the collector's own listener."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.accounting.audit import set_aside
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.outbox import shipping
from perun_hpc.archive import stream
from perun_hpc.archive.addresses import REMEMBERED_S, Remembered, plain_address
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.handover import ALLOWED, StreamDelivery
from perun_hpc.archive.learnt import LEARNT, MOST_B, Learnt, keep_typical
from perun_hpc.archive.listener import AT_ONCE, WORKSPACE, Listener, workspace
from perun_hpc.archive.places import Archive
from perun_hpc.archive.refused import Refused
from perun_hpc.cli.main import main
from perun_hpc.energy.static import StaticPower
from perun_hpc.errors import AccessError, PerunError, UnavailableError
from perun_hpc.files import write_new
from perun_hpc.process import child
from perun_hpc.store import job_store
from tests.handed_over import HOSTS, S, everything_in, filled_spool, record
from tests.soak.store_data import START

NODES = ("n1", "n2")
ME = (os.geteuid(),)


@pytest.fixture(scope="module")
def munge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stream.Munge]:
    if shutil.which("munged") is None or shutil.which("unmunge") is None:
        pytest.skip("munge is not installed")
    key = tmp_path_factory.mktemp("munge") / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    with running_munge(key.parent, "--origin=127.0.0.1") as found:
        yield found


@pytest.fixture(scope="module")
def munge_elsewhere(munge: stream.Munge, tmp_path_factory: pytest.TempPathFactory) -> Iterator[stream.Munge]:
    """The munge daemon of another host of the same cluster: with its key."""
    assert munge.socket is not None
    home = tmp_path_factory.mktemp("munge")
    shutil.copy(munge.socket.with_name("key"), home)
    with running_munge(home, "--origin=192.0.2.9") as found:
        yield found


@contextlib.contextmanager
def running_munge(home: Path, *options: str) -> Iterator[stream.Munge]:
    files = [f"--{name}-file={home / name}" for name in ("key", "pid", "log", "seed")]
    daemon = subprocess.Popen(
        ["munged", "--foreground", "--force", f"--socket={home / 'socket'}", *files, *options],
        stderr=subprocess.DEVNULL,
    )
    try:
        found = stream.Munge(home / "socket")
        for _ in range(100):
            if (home / "socket").exists():
                break
            time.sleep(0.05)
        found.encode(b"up?")
        yield found
    finally:
        daemon.terminate()
        daemon.wait()


@pytest.fixture
def spool(tmp_path: Path) -> AgentPaths:
    return filled_spool(tmp_path)


@contextlib.contextmanager
def listening(archive: Path, munge: stream.Munge, uids: tuple[int, ...] = ME, hosts: Any = HOSTS) -> Iterator[Listener]:
    archive.mkdir(exist_ok=True)
    with contextlib.closing(Listener(0, archive, uids, munge, hosts.__getitem__, lambda: float(START))) as listener:
        yield listener


class _Weighed(socket.socket):
    """A connection that notes how much goes over it behind each first line."""

    noted: list[int]

    def sendall(self, data: Any, flags: int = 0) -> None:
        if data.startswith(b'{"schema"'):
            self.noted.append(0)
        else:
            self.noted[-1] += len(data)
        super().sendall(data, flags)


def test_of_a_days_ledger_only_what_is_new_goes_over_and_all_of_it_where_the_collector_has_something_else(
    tmp_path: Path, spool: AgentPaths, munge: stream.Munge
) -> None:
    sent: list[int] = []

    class Weighing(stream.Munge):
        def connect(self, connection: socket.socket, host: str) -> socket.socket:
            weighed = _Weighed(fileno=connection.detach())
            weighed.settimeout(stream.TIMEOUT_S)
            weighed.noted = sent
            return weighed

    weighing = Weighing(munge.socket)
    local, shipped = spool.node / "2025-11-24.jsonl", tmp_path / "archive/c/nodes/n2/2025-11-24.jsonl"
    local.write_bytes(b"".join(_interval(n) for n in range(50)))

    def delivers(*b: int) -> None:
        sent.clear()
        StreamDelivery(("127.0.0.1", listener.port), weighing).ledger(spool.node, "c", "n2")
        assert (shipped.read_bytes(), tuple(sent)) == (local.read_bytes(), b)

    def grows(first: int, count: int) -> int:
        more = b"".join(_interval(n) for n in range(first, first + count))
        with local.open("ab") as file:
            file.write(more)
        return len(more)

    with listening(tmp_path / "archive", munge) as listener:
        delivers(local.stat().st_size)
        delivers()
        delivers(grows(50, 3))
        more = grows(53, 1)
        shipped.write_bytes(shipped.read_bytes() + _interval(53)[:20])  # the collector died
        delivers(more)
        more = grows(54, 1)
        shipped.unlink()
        delivers(more, local.stat().st_size)
        (spool.node / "sent").write_bytes(b"")  # an agent of before left that
        delivers()
        more = grows(55, 1)
        os.utime(local, ns=(time.time_ns(), time.time_ns() + 10**9))
        (spool.node / "sent").write_bytes(b"")
        delivers(local.stat().st_size)
        local.write_bytes(b"".join(_interval(n) for n in range(20, 60)))  # the node lost its disk
        sent.clear()
        StreamDelivery(("127.0.0.1", listener.port), weighing).ledger(spool.node, "c", "n2")
        assert shipped.read_bytes() == b"".join(_interval(n) for n in range(60)) and len(sent) == 1


def _interval(number: int) -> bytes:
    line = {"t0_ns": number * 10, "t1_ns": number * 10 + 10, "domain": "package-0", "total_uj": number}
    return json.dumps(line).encode() + b"\n"


@pytest.mark.parametrize("places", ["", "7", "[]", '{"2025-11-24.jsonl": 7}', '{"2025-11-24.jsonl": [-1, ""]}',
                                    '{"2025-11-24.jsonl": [99999999999999999999, ""]}', "[" * 100_000])  # fmt: skip
def test_places_that_are_none_are_refused_and_change_nothing(tmp_path: Path, munge: stream.Munge, places: str) -> None:
    about = {"what": "ledger", "cluster": "c", "node": "n2"}
    with listening(tmp_path / "archive", munge) as listener:
        address = ("127.0.0.1", listener.port)
        stream.send({"2025-11-24.jsonl": _interval(1)}, about, address, munge)
        with pytest.raises(UnavailableError, match="places in days were expected"):
            stream.send({"2025-11-24.jsonl": _interval(2)}, {**about, "from": places}, address, munge)
    assert (tmp_path / "archive/c/nodes/n2/2025-11-24.jsonl").read_bytes() == _interval(1)


def test_a_nodes_addresses_are_asked_for_once_a_minute() -> None:
    now_s, hosts, asked = [0.0], {"n1": {"192.0.2.1"}}, []

    def ask(node: str) -> set[str]:
        asked.append(node)
        return hosts.get(node, set())

    known = Remembered(ask, lambda: now_s[0])
    assert [known("n1"), known("n1")] == [{"192.0.2.1"}] * 2 and asked == ["n1"]
    hosts["n1"] = {"192.0.2.7"}
    now_s[0] += REMEMBERED_S
    assert known("n1") == {"192.0.2.7"}
    assert known("n2") == set()
    hosts["n2"] = {"192.0.2.2"}
    assert known("n2") == {"192.0.2.2"}


def test_neither_end_holds_back_what_is_small(tmp_path: Path, munge: stream.Munge) -> None:
    """A second small piece would wait 40 ms for the first to be confirmed, and with it a place of the listener's."""

    def note(end: str, connection: socket.socket) -> None:
        (tmp_path / end).write_text(str(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)))

    class Seen(stream.Munge):
        def connect(self, connection: socket.socket, host: str) -> socket.socket:
            note("node", connection)
            return super().connect(connection, host)

        def accept(self, connection: socket.socket) -> tuple[socket.socket, stream.Check]:
            note("collector", connection)
            return super().accept(connection)

    seen = Seen(munge.socket)
    about = {"what": "ledger", "cluster": "c", "node": "n2"}
    with listening(tmp_path / "archive", seen) as listener:
        stream.send({"2025-11-24.jsonl": b'{"t0_ns":1}\n'}, about, ("127.0.0.1", listener.port), seen)
    assert ((tmp_path / "node").read_text(), (tmp_path / "collector").read_text()) == ("1", "1")


def test_what_is_handed_over_lies_where_a_node_itself_would_have_put_it(
    tmp_path: Path, spool: AgentPaths, munge: stream.Munge
) -> None:
    shutil.copytree(spool.spool, tmp_path / "again")
    with listening(tmp_path / "archive", munge) as listener:
        to = StreamDelivery(("127.0.0.1", listener.port), munge)
        assert shipping.ship_all(spool, to, ("c", "n2"))
    assert sorted(path.name for path in spool.sessions.iterdir()) == ["10.0"]
    assert not list(spool.session("10.0").iterdir())
    same = AgentPaths(spool.run_dir, tmp_path / "again")
    (tmp_path / "other").mkdir()
    assert shipping.ship_all(same, ArchiveDelivery(tmp_path / "other"), ("c", "n2"))
    ours, theirs = everything_in(tmp_path / "archive"), everything_in(tmp_path / "other")
    assert ours == theirs
    assert "c/incoming/9.0/n2.json" in ours and "c/running/10.0/n2.json" in ours
    job = tmp_path / "archive" / "c" / "jobs" / "0" / "9.0"
    job_store.finalise(job, NODES, (START + 800) * S, (START + 800) * S)
    data = job_store.open_job(job)
    np.testing.assert_allclose(data.energy.sel(node="n2").values, np.tile(np.arange(700) * 1e-6, (8, 1)))
    assert list(data.node_status.values) == ["missing: no data by the deadline", "complete"]


@pytest.mark.parametrize("more", [False, True])
def test_two_hand_overs_of_a_node_put_its_ledger_one_after_the_other(
    tmp_path: Path, spool: AgentPaths, munge: stream.Munge, more: bool
) -> None:
    """The first one hangs at the archive, its agent has given it up; `more`: the next one is of what is new only."""
    day = spool.node / "2025-11-24.jsonl"
    with listening(tmp_path / "archive", munge) as listener:
        to = StreamDelivery(("127.0.0.1", listener.port), munge)
        day.write_bytes(b"".join(_interval(n) for n in range(3)))
        to.ledger(spool.node, "c", "n2")
        shipped, hangs = tmp_path / "archive/c/nodes/n2" / day.name, tmp_path / "hangs"
        kept = shipped.read_bytes()
        shipped.unlink()
        os.mkfifo(hangs)
        os.link(hangs, shipped)
        parts = {day.name: b"".join(_interval(n) for n in range(3, 5))}
        about = {"what": "ledger", "cluster": "c", "node": "n2"}
        begun = {"from": json.dumps({day.name: (len(kept), kept[-512:].decode())})}

        def hand_over(said: dict[str, str]) -> None:
            with contextlib.suppress(UnavailableError):
                stream.send(parts, {**about, **said}, to.address, munge)

        first, second = (threading.Thread(target=hand_over, args=(one,)) for one in (begun, begun if more else {}))
        first.start()
        while not list(workspace(tmp_path / "archive").glob(f"*/{day.name}")):
            time.sleep(0.01)
        try:
            first.join(1)
            assert first.is_alive()  # it opens the day
            shipped.unlink()
            shipped.write_bytes(kept)
            second.start()
            second.join(1)
            assert second.is_alive() and shipped.read_bytes() == kept
        finally:
            os.close(os.open(hangs, os.O_WRONLY))
        first.join(60)
        second.join(60)
        assert shipped.read_bytes() == kept + parts[day.name]


def test_a_ledger_that_did_not_grow_is_not_sent_again(tmp_path: Path, spool: AgentPaths, munge: stream.Munge) -> None:
    with listening(tmp_path / "archive", munge) as listener:
        to = StreamDelivery(("127.0.0.1", listener.port), munge)
        assert shipping.ship_all(spool, to, ("c", "n2"))
        arrived = tmp_path / "archive" / "c" / "nodes" / "n2" / "2025-11-24.jsonl"
        arrived.unlink()
        assert shipping.ship_all(spool, to, ("c", "n2"))
        assert not arrived.exists()
        with (spool.node / "2025-11-24.jsonl").open("a") as file:
            file.write('{"t0_ns":2}\n')
        assert shipping.ship_all(spool, to, ("c", "n2"))
        assert arrived.read_text() == '{"t0_ns":1}\n{"t0_ns":2}\n'


@pytest.mark.parametrize("damage", [b"[]", b'{"2025-11-2', bytes(20)])
def test_where_it_is_not_known_what_was_sent_all_is_sent(
    tmp_path: Path, spool: AgentPaths, munge: stream.Munge, damage: bytes
) -> None:
    day = spool.node / "2025-11-24.jsonl"
    with listening(tmp_path / "archive", munge) as listener:
        to = StreamDelivery(("127.0.0.1", listener.port), munge)
        to.ledger(spool.node, "c", "n2")
        with day.open("ab") as file:
            file.write(_interval(2))
        (spool.node / "sent").write_bytes(damage)  # younger than a line that came while the rest went over
        to.ledger(spool.node, "c", "n2")
    assert (tmp_path / "archive/c/nodes/n2" / day.name).read_bytes() == day.read_bytes()


class Between:
    """A wire to the listener that changes what the node says, and where it is given an answer passes on that one."""

    def __init__(self, port: int, change: Callable[[bytes], bytes], answer: bytes | None = None) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._server.getsockname()
        self._thread = threading.Thread(target=self._serve, args=(port, change, answer), daemon=True)
        self._thread.start()

    def _serve(self, port: int, change: Callable[[bytes], bytes], answer: bytes | None) -> None:
        with self._server:
            while True:
                outside, _ = self._server.accept()
                with outside, socket.create_connection(("127.0.0.1", port)) as inside:
                    with outside.makefile("rb") as reader:
                        line = reader.readline()
                        said = line + reader.read(sum(size for _, size, _ in json.loads(line)["files"]))
                    with contextlib.suppress(OSError):
                        inside.sendall(change(said))
                        inside.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(OSError):
                        said = inside.recv(1 << 16)
                        outside.sendall(said if answer is None else answer)


def tampered(data: bytes) -> bytes:
    line, _, rest = data.partition(b"\n")
    return line + b"\n" + rest[:-1] + bytes([rest[-1] ^ 1])


def renamed(data: bytes) -> bytes:
    line, _, rest = data.partition(b"\n")
    message = json.loads(line)
    message["files"][-1][0] = "job.zarr/../../escaped"
    return json.dumps(message).encode() + b"\n" + rest


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (tampered, "changed on the way"),
        (renamed, "another list of files"),
        (lambda data: data.replace(b'"9.0"', b'"8.0"', 1), "another list of files"),
        (lambda data: data[:-100], "connection ended"),
        (lambda data: b"nonsense\n", "no list of files"),
        (lambda data: b"{" * 2_000_000, "no list of files"),
        (lambda data: data[:50], "no list of files"),
        (lambda data: data.replace(b"MUNGE:", b"MUNGE:A", 1), "refuses"),
    ],
)
def test_what_was_changed_on_the_way_is_refused(
    tmp_path: Path, spool: AgentPaths, munge: stream.Munge, change: Callable[[bytes], bytes], why: str
) -> None:
    with listening(tmp_path / "archive", munge) as listener:
        to = StreamDelivery(Between(listener.port, change).address, munge)
        with pytest.raises(UnavailableError, match=why):
            to.session(spool.session("9.0"), record(9, stored=True))
    assert not everything_in(tmp_path / "archive")
    assert not list(workspace(tmp_path / "archive").iterdir())


@pytest.mark.parametrize(
    ("about", "files", "why"),
    [
        ({"what": "session", "name": "../9.0"}, {"record.json": b"{}"}, "number was expected"),
        ({"what": "session", "name": "9.0"}, {"record.json": b"{}"}, "damaged boundary record"),
        ({"what": "session", "name": "9.0"}, {}, "record.json"),
        (
            {"what": "session", "name": "9.0"},
            {"record.json": json.dumps(record(8, stored=False)).encode()},
            "not of 9.0",
        ),
        (
            {"what": "session", "name": "9.0"},
            {"record.json": json.dumps({**record(9, stored=False), "node": 7}).encode()},
            "no record that an agent writes",
        ),
        (
            {"what": "session", "name": "9.0"},
            {"record.json": json.dumps({**record(9, stored=False), "start": {"real_ns": 1}}).encode()},
            "no record that an agent writes",
        ),
        ({"what": "else"}, {}, "unknown to this collector"),
        ({"what": "ledger", "cluster": "..", "node": "n"}, {}, "letters, digits"),
        ({"what": "ledger", "cluster": "c", "node": "n"}, {"../x.jsonl": b""}, "no file that is handed over"),
        ({"what": "session", "name": "9.0"}, {"tracks/../track.json": b""}, "no file that is handed over"),
        ({"what": "session", "name": "9.0"}, {"job.zarr/energy/.x": b""}, "no file that is handed over"),
    ],
)
def test_what_no_agent_says_is_refused(
    tmp_path: Path, munge: stream.Munge, about: dict[str, str], files: dict[str, bytes], why: str
) -> None:
    with listening(tmp_path / "archive", munge) as listener, pytest.raises(UnavailableError, match=why):
        stream.send(files, about, ("127.0.0.1", listener.port), munge)
    assert not everything_in(tmp_path / "archive")


def test_more_than_the_collector_has_room_for_is_refused(tmp_path: Path, munge: stream.Munge) -> None:
    huge = [("record.json", shutil.disk_usage(tmp_path).total, "0")]
    about = {"what": "session", "name": "9.0"}
    credential = munge.encode(stream._covered(about, huge).encode())
    line = json.dumps({"schema": stream.SCHEMA, "credential": credential, "about": about, "files": huge})
    with (
        listening(tmp_path / "archive", munge) as listener,
        socket.create_connection(("127.0.0.1", listener.port)) as wire,
    ):
        wire.sendall(line.encode() + b"\n")
        assert "too much" in wire.makefile().readline()


def test_what_a_node_hands_over_in_a_row_goes_over_one_connection(
    tmp_path: Path, spool: AgentPaths, munge: stream.Munge
) -> None:
    """Sixty-four at most, then another one has the place; what comes after more than a second has one of its own."""
    made: list[socket.socket] = []

    class Counting(stream.Munge):
        def connect(self, connection: socket.socket, host: str) -> socket.socket:
            made.append(connection)
            return super().connect(connection, host)

    archive = tmp_path / "archive"
    with listening(archive, munge) as listener:
        to = StreamDelivery(("127.0.0.1", listener.port), Counting(munge.socket))
        assert shipping.ship_all(spool, to, ("c", "n2"))
        assert len(everything_in(archive)) > 3 and len(made) == 1
        for _ in range(stream.IN_A_ROW):
            to.progress(spool.session("10.0"), record(10, stored=False), grow=False)
        assert len(made) == 2
        while made[-1].recv(1, socket.MSG_PEEK):
            pass
        to.progress(spool.session("10.0"), record(10, stored=False), grow=False)
        assert len(made) == 3
        own = child.start("hands over", lambda: to.progress(spool.session("10.0"), record(10, stored=False), False))
        assert own.wait() == 0
        to.progress(spool.session("10.0"), record(10, stored=False), grow=False)
        assert len(made) == 3
        with pytest.raises(UnavailableError, match="unknown to this collector"):
            to.channel.send({}, {"what": "else"})
        to.progress(spool.session("10.0"), record(10, stored=False), grow=False)
        assert len(made) == 4


def test_a_collector_of_before_ends_each_connection_and_a_node_of_before_does(
    tmp_path: Path, spool: AgentPaths, munge: stream.Munge
) -> None:
    """Neither knows of `more`."""
    archive = tmp_path / "archive"
    with listening(archive, munge) as listener:
        between = Between(listener.port, lambda said: said.replace(b', "more": true', b"", 1))
        assert shipping.ship_all(spool, StreamDelivery(between.address, munge), ("c", "n2"))
    assert "c/incoming/9.0/n2.json" in everything_in(archive)


def test_other_users_are_refused(tmp_path: Path, spool: AgentPaths, munge: stream.Munge) -> None:
    with listening(tmp_path / "archive", munge, (os.geteuid() + 1,)) as listener:
        assert not shipping.ship_all(spool, StreamDelivery(("127.0.0.1", listener.port), munge), ("c", "n2"))
    assert not everything_in(tmp_path / "archive")
    assert spool.boundary("9.0").exists() and list(spool.session("9.0").rglob("c.*"))


def test_a_recorded_hand_over_cannot_be_played_again(tmp_path: Path, spool: AgentPaths, munge: stream.Munge) -> None:
    recorded: list[bytes] = []

    def keep(data: bytes) -> bytes:
        recorded.append(data)
        return data

    with listening(tmp_path / "archive", munge) as listener:
        to = StreamDelivery(Between(listener.port, keep).address, munge)
        to.session(spool.session("9.0"), record(9, stored=True))
        shutil.rmtree(tmp_path / "archive" / "c")
        with socket.create_connection(("127.0.0.1", listener.port)) as wire:
            wire.sendall(recorded[0])
            wire.shutdown(socket.SHUT_WR)
            assert "refuses the sender's credential" in wire.makefile().readline()
    assert not everything_in(tmp_path / "archive")


def test_a_credential_is_good_once(munge: stream.Munge) -> None:
    credential = munge.encode(b"once")
    signed = munge.decode(credential)
    assert (signed.uid, signed.payload) == (os.geteuid(), b"once")
    assert ipaddress.ip_address(signed.origin)
    with pytest.raises(AccessError, match="refuses"):
        munge.decode(credential)


def test_a_collector_that_dies_in_the_middle_takes_it_the_next_time(
    tmp_path: Path, spool: AgentPaths, munge: stream.Munge
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as dying:

        def die() -> None:
            connection, _ = dying.accept()
            connection.recv(1000)
            connection.close()  # with unread bytes: the sender's next write is refused, as by a killed process

        thread = threading.Thread(target=die)
        thread.start()
        to = StreamDelivery(dying.getsockname(), munge)
        with pytest.raises(UnavailableError):
            to.session(spool.session("9.0"), record(9, stored=True))
        thread.join()
    archive = tmp_path / "archive"
    left = [workspace(archive) / "half", archive / WORKSPACE / "tmp_of_an_older_one"]
    elsewhere = archive / WORKSPACE / "of-another-host" / "half"
    for one in (*left, elsewhere):
        one.mkdir(parents=True)
    with listening(archive, munge) as listener:
        assert elsewhere.exists() and not any(one.exists() for one in left)
        assert shipping.ship_all(spool, StreamDelivery(("127.0.0.1", listener.port), munge), ("c", "n2"))
    assert "c/incoming/9.0/n2.json" in everything_in(tmp_path / "archive")


@pytest.mark.parametrize("said", [b"", b"mor", b"ok who"])
def test_half_of_an_answer_is_none(tmp_path: Path, spool: AgentPaths, munge: stream.Munge, said: bytes) -> None:
    """`ok whole` asks for the day's beginning: the node may not take its half for an `ok`."""
    (spool.node / "2025-11-24.jsonl").write_bytes(_interval(1))
    with listening(tmp_path / "archive", munge) as listener:
        to = StreamDelivery(Between(listener.port, lambda data: data, said).address, munge)
        with pytest.raises(UnavailableError, match="closed the connection"):
            to.ledger(spool.node, "c", "n2")
        StreamDelivery(("127.0.0.1", listener.port), munge).ledger(spool.node, "c", "n2")
    assert (tmp_path / "archive/c/nodes/n2/2025-11-24.jsonl").read_bytes() == _interval(1)


def test_silent_callers_do_not_keep_nodes_out(tmp_path: Path, spool: AgentPaths, munge: stream.Munge) -> None:
    with listening(tmp_path / "archive", munge) as listener, contextlib.ExitStack() as silent:
        for _ in range(AT_ONCE):
            silent.enter_context(socket.create_connection(("127.0.0.1", listener.port)))
        to = StreamDelivery(("127.0.0.1", listener.port), munge)
        begin = time.monotonic()
        to.progress(spool.session("10.0"), record(10, stored=False), grow=False)
        assert time.monotonic() - begin < 3 * stream.MANIFEST_S


def test_nobody_listening_leaves_the_parts_in_the_spool(spool: AgentPaths, munge: stream.Munge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    assert not shipping.ship_all(spool, StreamDelivery(address, munge), ("c", "n2"))
    assert spool.boundary("9.0").exists() and list(spool.session("9.0").rglob("c.*"))


class Believer(stream.Munge):
    """Vouches for root and for whatever the manifest says: what is left is what the manifest's own checks refuse."""

    def decode(self, credential: str) -> stream.Signed:
        return stream.Signed(0, credential.encode(), "127.0.0.1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
NAMES = st.text(max_size=30) | st.sampled_from(
    ["record.json", "../record.json", "tracks/1s/track.json", "tracks/../track.json", "job.zarr/energy/c.0.0.0",
     "job.zarr//c.0", "/record.json", "record.json/", "job.zarr/energy/../../x", "2025-01-01.jsonl", "record.json\n"]
)  # fmt: skip


@given(
    files=st.lists(
        st.tuples(NAMES, st.integers(-2, 9) | st.sampled_from([float("inf"), 1 << 80]), st.text(max_size=3)).map(list),
        max_size=4,
    )
    | JSON,
    about=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3) | JSON,
    schema=st.just(stream.SCHEMA) | JSON,
)
def test_no_manifest_names_a_file_outside_its_directory(files: Any, about: Any, schema: Any) -> None:
    credential = ""
    with contextlib.suppress(Exception):
        credential = stream._covered({str(k): str(v) for k, v in about.items()}, [tuple(file) for file in files])
    line = json.dumps({"schema": schema, "credential": credential, "about": about, "files": files})
    try:
        listed = stream._manifest(line.encode(), Believer().check, (0,), ALLOWED).files
    except PerunError:
        return
    for name, size, _ in listed:
        assert size >= 0 and os.path.normpath(name) == name and not name.startswith((".", "/"))
        assert all(part not in ("", ".", "..") for part in name.split("/"))


@given(st.binary(max_size=200))
def test_no_bytes_are_a_manifest(data: bytes) -> None:
    with pytest.raises(PerunError):
        stream._manifest(data, Believer().check, (0,), ALLOWED)


def test_a_machine_hands_over_nothing_of_another_node(tmp_path: Path, munge: stream.Munge) -> None:
    """Root there has the cluster's munge key: what counts is where it comes from. Refused, told, and left with it."""
    own = record(9, stored=False)
    with listening(tmp_path / "archive", munge) as listener:
        to = StreamDelivery(("127.0.0.1", listener.port), munge)
        (tmp_path / "9.0").mkdir()
        for node in ("n1", "unheard-of"):
            for send in (to.session, partial(to.progress, grow=False)):
                with pytest.raises(UnavailableError, match=f"node {node} has .*, and this is from 127.0.0.1"):
                    send(tmp_path / "9.0", {**own, "node": node})
            with pytest.raises(UnavailableError, match=r"from 127\.0\.0\.1"):
                about = {"what": "ledger", "cluster": "c", "node": node}
                stream.send({"2025-11-24.jsonl": b"{}\n"}, about, to.address, munge)
        assert not everything_in(tmp_path / "archive")
        to.session(tmp_path / "9.0", own)
    assert set(everything_in(tmp_path / "archive")) == {"c/incoming/9.0/n2.json"}
    ((sender, (last_s, times, why)),) = Refused(tmp_path / "archive").read().items()
    assert (sender, last_s, times) == ("127.0.0.1", START, 6) and "unheard-of" in why


def test_a_node_hands_over_no_rows_of_another_node(tmp_path: Path, spool: AgentPaths, munge: stream.Munge) -> None:
    """The record is n2's, the track beside it says that its rows are n1's: the record counts, the rows do not."""
    (track,) = spool.session("9.0").glob("tracks/*/track.json")
    told = json.loads(track.read_text())
    told["plan"]["nodes"] = [told["node"]] = ["n1"]
    track.write_text(json.dumps(told))
    with listening(tmp_path / "archive", munge) as listener:
        assert shipping.ship_all(spool, StreamDelivery(("127.0.0.1", listener.port), munge), ("c", "n2"))
    found = everything_in(tmp_path / "archive")
    trace = json.loads(found["c/incoming/9.0/n2.json"])["trace"]
    assert (trace["stored"], trace["why"]) == (False, "1s: a track of node 'n1': see who wrote it")
    assert not [name for name in found if "job.zarr" in name]


def test_what_another_hosts_munge_vouches_for_is_set_aside_until_it_is_allowed(
    tmp_path: Path, spool: AgentPaths, munge_elsewhere: stream.Munge, capsys: pytest.CaptureFixture[str]
) -> None:
    """The connection comes from the node's address, the credential from 192.0.2.9: kept, named, counted nowhere."""
    shutil.copytree(spool.spool, tmp_path / "again")
    archive = tmp_path / "archive"
    place = archive / "c" / "aside" / "n2-from-192.0.2.9"
    with listening(archive, munge_elsewhere) as listener:
        to = StreamDelivery(("127.0.0.1", listener.port), munge_elsewhere)
        assert shipping.ship_all(spool, to, ("c", "n2"))
        listener.take_allowed()
        assert all(name.startswith("c/aside/") for name in everything_in(archive))
        (finding,) = set_aside(Archive(archive, "c"))
        assert finding.where == f"aside/{place.name}" and "munge on 192.0.2.9 vouches" in finding.what
        assert main(["collect", "--status", "--archive", str(archive)]) == 1
        assert place.name in "".join(capsys.readouterr().out.split())
        (place / "allowed").touch()
        listener.take_allowed()
        to.progress(spool.session("10.0"), record(10, stored=False), grow=False)
    assert set_aside(Archive(archive, "c")) == []
    same = AgentPaths(spool.run_dir, tmp_path / "again")
    (tmp_path / "other").mkdir()
    assert shipping.ship_all(same, ArchiveDelivery(tmp_path / "other"), ("c", "n2"))
    found, expected = everything_in(archive), everything_in(tmp_path / "other")
    assert found.keys() - expected.keys() == {f"c/aside/{place.name}/{name}" for name in ("allowed", "why")}
    running = "c/running/10.0/n2.json"  # is no evidence: what was not allowed then comes again while the job runs
    assert {name: found[name] for name in expected if name != running} == {
        name: text for name, text in expected.items() if name != running
    }


def test_what_was_set_aside_is_taken_once_the_address_is_known(
    tmp_path: Path, spool: AgentPaths, munge_elsewhere: stream.Munge
) -> None:
    """A node with several addresses: all of them are its own once the collector's host knows them."""
    hosts = {"n2": ["127.0.0.1"]}
    with listening(tmp_path / "archive", munge_elsewhere, hosts=hosts) as listener:
        to = StreamDelivery(("127.0.0.1", listener.port), munge_elsewhere)
        assert shipping.ship_all(spool, to, ("c", "n2"))
        assert "c/incoming/9.0/n2.json" not in everything_in(tmp_path / "archive")
        hosts["n2"].append("192.0.2.9")
        listener.take_allowed()
    found = everything_in(tmp_path / "archive")
    assert {"c/incoming/9.0/n2.json", "c/nodes/n2/2025-11-24.jsonl"} < found.keys()
    assert not [name for name in found if name.startswith("c/aside/") and not name.endswith("/why")]


@pytest.mark.parametrize(("other", "stays"), [({}, True), ({"boot_id": "later"}, False), ({"start": 7}, False)])
def test_what_was_held_up_takes_no_figure_of_a_running_job_back(
    tmp_path: Path, other: dict[str, Any], stays: bool
) -> None:
    """Of one run of one boot the later word stays; a clock of another boot says nothing about it."""
    to, directory = ArchiveDelivery(tmp_path), tmp_path / "spool" / "9.0"

    def word(mono_ns: int, boot_id: str = "b", start: int = 1) -> dict[str, Any]:
        told = record(9, stored=False)
        edges = {"start": {**told["start"], "mono_ns": start}, "end": {**told["end"], "mono_ns": mono_ns}}
        return {**told, **edges, "boot_id": boot_id}

    directory.mkdir(parents=True)
    path = tmp_path / "c" / "running" / "9.0" / "n2.json"
    to.progress(directory, word(200), grow=False)
    to.progress(directory, word(100, **other), grow=False)
    assert json.loads(path.read_text())["end"]["mono_ns"] == (200 if stays else 100)
    to.progress(directory, word(300, **other), grow=False)
    assert json.loads(path.read_text())["end"]["mono_ns"] == 300


def test_status_names_who_was_refused_lately(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sender, age_s in (("192.0.2.7", 60), ("192.0.2.8", 10**6)):
        Refused(tmp_path, lambda age_s=age_s: time.time() - age_s).note(sender, "node n1 is 192.0.2.1")
    open_ledger(f"sqlite:///{tmp_path}/ledger.db", create=True).close()
    where = ["--archive", str(tmp_path), "--ledger", f"sqlite:///{tmp_path}/ledger.db", "--cluster", "c"]
    for command in (["collect", "--status", "--archive", str(tmp_path)], ["audit", "--no-slurm", *where]):
        assert main(command) == 1
        shown = " ".join(capsys.readouterr().out.split())
        assert "refused 1 hand-over from 192.0.2.7: node n1 is 192.0.2.1" in shown and "192.0.2.8" not in shown


@pytest.mark.parametrize(
    ("text", "plain"),
    [("::ffff:192.0.2.1", "192.0.2.1"), ("fe80::1%eth0", "fe80::1"), ("192.0.2.1", "192.0.2.1"), ("::1", "::1")],
)
def test_one_address_in_several_spellings(text: str, plain: str) -> None:
    assert str(plain_address(text)) == plain


LEARNT_BEFORE = Learnt("a machine", {"package-0": StaticPower({20_000: {310: S}})})


def test_what_a_node_learnt_is_given_back_to_it_alone(tmp_path: Path, munge: stream.Munge) -> None:
    """n2 is here, n1 is not; whoever has the cluster's munge key on n2 learns and changes nothing of n1's."""
    ArchiveDelivery(tmp_path).keep_learnt(LEARNT_BEFORE, "c", "n1")
    with listening(tmp_path, munge) as listener:
        to = StreamDelivery(("127.0.0.1", listener.port), munge)
        assert to.learnt_of("c", "n2") is None
        to.keep_learnt(LEARNT_BEFORE, "c", "n2")
        assert to.learnt_of("c", "n2") == LEARNT_BEFORE
        assert to.learnt_of("d", "n2") is None
        with pytest.raises(UnavailableError, match="node n1 has 192"):
            to.learnt_of("c", "n1")
        with pytest.raises(UnavailableError, match="node n1 has 192"):
            to.keep_learnt(Learnt("forged", {}), "c", "n1")
    assert ArchiveDelivery(tmp_path).learnt_of("c", "n1") == LEARNT_BEFORE


def test_a_node_by_many_names_decides_nothing_for_the_others(tmp_path: Path, munge: stream.Munge) -> None:
    """A resolver knows a node as N2 as well as n2, and by its address."""
    hosts, idle = {name: {"127.0.0.1"} for name in ("n2", "N2", "127.0.0.1")}, StaticPower({20_000: {310: 3600 * S}})
    with listening(tmp_path, munge, hosts=hosts) as listener:
        to = StreamDelivery(("127.0.0.1", listener.port), munge)
        for name in hosts:
            to.keep_learnt(Learnt("a machine", {"package-0": idle}, sender=f"forged {name}"), "c", name)
        keep_typical(tmp_path / "c", write_new)
        assert to.learnt_of("c", "n2", "a machine") == Learnt("a machine", {"package-0": idle})


def test_what_another_hosts_munge_vouches_for_is_neither_learnt_nor_told(
    tmp_path: Path, munge: stream.Munge, munge_elsewhere: stream.Munge
) -> None:
    ArchiveDelivery(tmp_path).keep_learnt(LEARNT_BEFORE, "c", "n2")
    with listening(tmp_path, munge) as listener:
        to = StreamDelivery(("127.0.0.1", listener.port), munge_elsewhere)
        assert to.learnt_of("c", "n2") is None
        to.keep_learnt(Learnt("x", {}), "c", "n2")
    assert ArchiveDelivery(tmp_path).learnt_of("c", "n2") == LEARNT_BEFORE


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (b"{}", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b" " * (MOST_B + 1), "more than"),
        (b'{"schema": "perun.learnt/2"}', "another version"),
        (b'{"schema": "perun.learnt/1", "machine": 1, "static": {}}', "damaged"),
        (b'{"schema": "perun.learnt/1", "machine": "", "static": {"p": {"x": {"1": 1}}}}', "damaged"),
        (b'{"schema": "perun.learnt/1", "machine": "", "static": {"p": {"1": {"1": 1e300}}}}', "damaged"),
        (b'{"schema": "perun.learnt/1", "machine": "", "static": {"p": {"1": {"1": -1}}}}', "no node can have"),
        (b'{"schema": "perun.learnt/1", "machine": "", "static": {"p": {"-1": {"1": 1}}}}', "no node can have"),
        (b'{"schema": "perun.learnt/1", "machine": "", "static": {"p": {"1": {"-1": 1}}}}', "no node can have"),
        (
            b'{"schema": "perun.learnt/1", "machine": "", "static": {"p": {"1": {"99999999999": 1}}}}',
            "no node can have",
        ),
        (
            b'{"schema": "perun.learnt/1", "machine": "", "static": {"p": {"1": {"1": 99999999999999999}}}}',
            "no node can",
        ),
        (b'{"schema": "perun.learnt/1", "machine": "", "static": {"": {}}}', "no node can have"),
    ],
)
def test_what_no_node_can_have_learnt_is_refused(tmp_path: Path, munge: stream.Munge, told: bytes, why: str) -> None:
    about = {"what": "learnt", "cluster": "c", "node": "n2"}
    with listening(tmp_path, munge) as listener:
        with pytest.raises(UnavailableError, match=why):
            stream.send({LEARNT: told}, about, ("127.0.0.1", listener.port), munge)
        assert StreamDelivery(("127.0.0.1", listener.port), munge).learnt_of("c", "n2") is None
