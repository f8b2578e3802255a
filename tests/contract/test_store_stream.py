"""Parts handed to the collector over TCP, with a real munge daemon in between."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from perun_hpc.errors import AccessError, DataError, PerunError, UnavailableError
from perun_hpc.store import job_store, layout, stream
from perun_hpc.store.node_store import NodeStore
from tests.soak.store_data import START, sensors

S = layout.NS_PER_S
NODES = ("n1", "n2")


@pytest.fixture(scope="module")
def munge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stream.Munge]:
    if shutil.which("munged") is None or shutil.which("unmunge") is None:
        pytest.skip("munge is not installed")
    home = tmp_path_factory.mktemp("munge")
    key = home / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = [f"--{name}-file={home / name}" for name in ("key", "pid", "log", "seed")]
    daemon = subprocess.Popen(
        ["munged", "--foreground", "--force", f"--socket={home / 'socket'}", *files], stderr=subprocess.DEVNULL
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
def session(tmp_path: Path) -> Path:
    store = NodeStore.open(
        tmp_path / "session",
        cluster="c",
        job_id="9",
        restart_count=0,
        node="n2",
        sensors=sensors(8),
        period_ns=S,
        start_ns=START * S,
    )
    for index in range(700):
        store.append(START + index, [index] * 8)
    store.seal()
    return tmp_path / "session"


class Collector:
    """Answers one connection the way the collector does, after passing the bytes through `change`."""

    def __init__(
        self, tmp_path: Path, munge: stream.Munge, uids: tuple[int, ...], change: Callable[[bytes], bytes]
    ) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self.error: PerunError | None = None
        self._arguments = (tmp_path, munge, uids, change)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        tmp_path, munge, uids, change = self._arguments
        outside, _ = self._listener.accept()
        data = b""
        while block := outside.recv(1 << 20):
            data += block
        inside, ours = socket.socketpair()
        threading.Thread(target=lambda: (ours.sendall(change(data)), ours.shutdown(socket.SHUT_WR))).start()
        try:
            stream.receive(inside, munge, uids, lambda plan: tmp_path / f"job-{plan.job_id}", tmp_path)
        except PerunError as error:
            self.error = error
        outside.sendall(ours.recv(1 << 16))
        for connection in (outside, inside, ours):
            connection.close()

    def join(self) -> PerunError | None:
        self._thread.join()
        self._listener.close()
        return self.error


def test_parts_arrive_and_are_merged(tmp_path: Path, session: Path, munge: stream.Munge) -> None:
    collector = Collector(tmp_path, munge, (os.geteuid(),), bytes)
    stream.send(session, collector.address, NODES, munge)
    assert collector.join() is None
    job_store.finalise(tmp_path / "job-9", NODES, (START + 800) * S, (START + 800) * S)
    data = job_store.open_job(tmp_path / "job-9")
    np.testing.assert_allclose(data.energy.sel(node="n2").values, np.tile(np.arange(700) * 1e-6, (8, 1)))
    assert list(data.node_status.values) == ["missing: no data by the deadline", "complete"]


def tampered(data: bytes) -> bytes:
    line, _, rest = data.partition(b"\n")
    return line + b"\n" + rest[:-1] + bytes([rest[-1] ^ 1])


def renamed(data: bytes) -> bytes:
    line, _, rest = data.partition(b"\n")
    message = json.loads(line)
    message["files"][-1][0] = "job.zarr/../../escaped"
    return json.dumps(message).encode() + b"\n" + rest


@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [
        (tampered, DataError, "changed on the way"),
        (renamed, AccessError, "another manifest"),
        (lambda data: data[:-100], DataError, "connection ended"),
        (lambda data: b"nonsense\n", DataError, "no manifest"),
        (lambda data: data.replace(b"MUNGE:", b"MUNGE:A", 1), AccessError, "refuses"),
    ],
)
def test_what_was_changed_on_the_way_is_refused(
    tmp_path: Path, session: Path, munge: stream.Munge, change: Callable[[bytes], bytes], kind: type, why: str
) -> None:
    collector = Collector(tmp_path, munge, (os.geteuid(),), change)
    with pytest.raises(UnavailableError, match="refused"):
        stream.send(session, collector.address, NODES, munge)
    error = collector.join()
    assert isinstance(error, kind) and why in str(error)
    assert not (tmp_path / "job-9").exists()


def test_other_users_are_refused(tmp_path: Path, session: Path, munge: stream.Munge) -> None:
    collector = Collector(tmp_path, munge, (os.geteuid() + 1,), bytes)
    with pytest.raises(UnavailableError, match="may not hand over"):
        stream.send(session, collector.address, NODES, munge)
    assert isinstance(collector.join(), AccessError)


def test_a_credential_is_good_once(tmp_path: Path, munge: stream.Munge) -> None:
    credential = munge.encode(b"once")
    assert munge.decode(credential) == (os.geteuid(), b"once")
    with pytest.raises(AccessError, match="refuses"):
        munge.decode(credential)


def test_nobody_listening_leaves_the_parts_in_the_spool(session: Path, munge: stream.Munge) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()
    with pytest.raises(UnavailableError, match="stay in the spool"):
        stream.send(session, address, NODES, munge)
    assert list(session.rglob("c.*"))
