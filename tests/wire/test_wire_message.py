from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perun_hpc.errors import DataError, UnavailableError
from perun_hpc.wire.client import connect, request
from perun_hpc.wire.message import MAX_BYTES, Message, decode, encode
from perun_hpc.wire.packet import receive_packet, send_packet

VERBS = st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True)
KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True)
# What os.environ can hold: any bytes but NUL, decoded with surrogate escapes.
VALUES = st.binary(max_size=60).map(lambda raw: raw.replace(b"\0", b"").decode("utf-8", "surrogateescape"))
FIELDS = st.dictionaries(KEYS, VALUES, max_size=20)


@given(VERBS, FIELDS)
def test_decode_returns_what_was_encoded(verb: str, fields: dict[str, str]) -> None:
    assert decode(encode(verb, fields)) == Message(verb, fields)


def test_the_bytes_are_those_of_the_architecture_page() -> None:
    assert encode("job-start", {"job_id": "4711", "uid": "2001"}) == b"perun1\0job-start\0job_id\x004711\0uid\x002001\0"


MALFORMED = [
    pytest.param(b"", id="empty"),
    pytest.param(b"\0", id="one nul"),
    pytest.param(b"perun1", id="no nul"),
    pytest.param(b"perun1\0", id="no verb"),
    pytest.param(b"perun1\0ok", id="cut in the verb"),
    pytest.param(b"perun1\0\0", id="empty verb"),
    pytest.param(b"perun1\0Ok\0", id="upper case verb"),
    pytest.param(b"perun1\0" + b"a" * 33 + b"\0", id="long verb"),
    pytest.param(b"perun2\0ok\0", id="other version"),
    pytest.param(b"perun1\0ok\0key\0", id="key without value"),
    pytest.param(b"perun1\0ok\0key\0value", id="cut in a value"),
    pytest.param(b"perun1\0ok\0\0value\0", id="empty key"),
    pytest.param(b"perun1\0ok\0../x\0value\0", id="path as key"),
    pytest.param(b"perun1\0ok\0" + b"k" * 65 + b"\0v\0", id="long key"),
    pytest.param(b"perun1\0ok\0k\0a\0k\0b\0", id="key twice"),
    pytest.param(b"perun1\0ok\0k\n\0a\0", id="key with newline"),
    pytest.param(b"perun1\0ok\0k\0" + b"x" * MAX_BYTES + b"\0", id="too long"),
]


@pytest.mark.parametrize("packet", MALFORMED)
def test_a_malformed_packet_is_refused(packet: bytes) -> None:
    with pytest.raises(DataError):
        decode(packet)


@given(st.binary(max_size=200))
def test_random_bytes_decode_or_are_refused(raw: bytes) -> None:
    for packet in (raw, b"perun1\0" + raw, b"perun1\0ok\0" + raw + b"\0"):
        try:
            message = decode(packet)
        except DataError:
            continue
        assert encode(message.verb, message.fields) == packet


@pytest.mark.parametrize(
    ("verb", "fields"),
    [("", {}), ("ok\n", {}), ("ok", {"Key": "x"}), ("ok", {"k": "a\0b"}), ("ok", {"k": "x" * MAX_BYTES})],
)
def test_what_cannot_travel_is_not_encoded(verb: str, fields: dict[str, str]) -> None:
    with pytest.raises(DataError):
        encode(verb, fields)


def test_the_largest_packet_travels() -> None:
    room = MAX_BYTES - len(encode("ok", {"k": ""}))
    packet = encode("ok", {"k": "x" * room})
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        send_packet(left, packet)
        assert receive_packet(right) == (packet, ())


def test_an_oversized_packet_is_refused_and_its_descriptors_closed() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    with left, right:
        send_packet(left, b"x" * (MAX_BYTES + 1), [writer])
        os.close(writer)
        with pytest.raises(DataError):
            receive_packet(right)
    assert os.read(reader, 1) == b""  # the end of file: no copy of the writing end is left
    os.close(reader)


def test_descriptors_arrive_closed_on_exec() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    with left, right:
        send_packet(left, encode("ok", {}), [writer])
        _, (copy,) = receive_packet(right)
    assert not os.get_inheritable(copy)
    os.write(copy, b"hello")
    assert os.read(reader, 5) == b"hello"
    for fd in (reader, writer, copy):
        os.close(fd)


def serve(path: Path, answer: Callable[[socket.socket], None]) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(path))
    listener.listen(4)

    def run() -> None:
        with listener:
            connection, _ = listener.accept()
            with connection:
                connection.recv(MAX_BYTES)
                answer(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_a_request_is_answered(tmp_path: Path) -> None:
    thread = serve(tmp_path / "s", lambda peer: send_packet(peer, encode("ok", {"sessions": "2"})))
    assert request("status", {}, path=str(tmp_path / "s")) == Message("ok", {"sessions": "2"})
    thread.join()


def test_an_error_reply_is_returned_with_its_reason(tmp_path: Path) -> None:
    thread = serve(tmp_path / "s", lambda peer: send_packet(peer, encode("error", {"reason": "not yours"})))
    assert request("window", {}, path=str(tmp_path / "s")).get("reason") == "not yours"
    thread.join()


def test_a_closed_connection_is_an_unavailable_agent(tmp_path: Path) -> None:
    thread = serve(tmp_path / "s", lambda peer: None)
    with pytest.raises(UnavailableError):
        request("status", {}, path=str(tmp_path / "s"))
    thread.join()


def test_a_silent_agent_is_given_up(tmp_path: Path) -> None:
    release = threading.Event()
    thread = serve(tmp_path / "s", lambda peer: (release.wait(60), None)[1])
    with pytest.raises(UnavailableError):
        request("status", {}, timeout_s=0.05, path=str(tmp_path / "s"))
    release.set()
    thread.join()


@pytest.mark.parametrize("reply", [b"perun1\0hello\0", b"garbage"])
def test_a_damaged_reply_is_a_data_error(tmp_path: Path, reply: bytes) -> None:
    thread = serve(tmp_path / "s", lambda peer: send_packet(peer, reply))
    with pytest.raises(DataError):
        request("status", {}, path=str(tmp_path / "s"))
    thread.join()


def test_no_agent_is_an_unavailable_agent(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        request("status", {}, path=str(tmp_path / "nothing"))


def test_an_overlong_socket_path_is_an_unavailable_agent(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        connect("/" + "x" * 200)


def test_a_full_queue_is_given_up(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(0)
        waiting = connect(path)  # fills the queue of length one
        with pytest.raises(UnavailableError):
            connect(path, timeout_s=0.05)
        waiting.close()
