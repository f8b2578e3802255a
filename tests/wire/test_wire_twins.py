"""The C and the Python side of the wire agree on every packet."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from perun_hpc.errors import DataError
from perun_hpc.wire.message import MAX_BYTES, decode, encode
from tests.examples import examples

from .test_wire_message import FIELDS, MALFORMED, VERBS

REFUSED = 0xFFFFFFFF


def python_answer(packet: bytes) -> bytes | None:
    try:
        message = decode(packet)
    except DataError:
        return None
    return encode(message.verb, message.fields)


def c_answers(built: Path, packets: list[bytes]) -> list[bytes | None]:
    """What the C reader makes of packets: the message encoded anew by the C writer, None if it is refused."""
    stream = b"".join(struct.pack("=I", len(packet)) + packet for packet in packets)
    done = subprocess.run([built / "build" / "reencode"], input=stream, capture_output=True, timeout=60, check=True)
    answers: list[bytes | None] = []
    at = 0
    while at < len(done.stdout):
        (size,) = struct.unpack_from("=I", done.stdout, at)
        at += 4
        if size == REFUSED:
            answers.append(None)
        else:
            answers.append(done.stdout[at : at + size])
            at += size
    assert len(answers) == len(packets)
    return answers


DAMAGE = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([b"", b"\0", b"a", b"\0\0", b"k\0v\0"])), max_size=3)


@examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(VERBS, FIELDS, DAMAGE), min_size=1, max_size=10))
def test_both_sides_read_the_same(
    built: Path, messages: list[tuple[str, dict[str, str], list[tuple[float, bytes]]]]
) -> None:
    packets = []
    for verb, fields, damage in messages:
        packet = encode(verb, fields)
        for where, what in damage:
            at = int(where * len(packet))
            packet = packet[:at] + what + packet[at + 1 :]
        packets.append(packet)
    assert c_answers(built, packets) == [python_answer(packet) for packet in packets]


def test_both_sides_refuse_the_same(built: Path) -> None:
    packets = [bytes(case.values[0]) for case in MALFORMED]  # type: ignore[arg-type]
    assert c_answers(built, packets) == [None] * len(packets)


def test_both_sides_have_the_same_limit(built: Path) -> None:
    room = MAX_BYTES - len(encode("ok", {"k": ""}))
    largest = encode("ok", {"k": "x" * room})
    assert c_answers(built, [largest, largest[:-1] + b"x\0"]) == [largest, None]


def test_the_fuzzers_find_nothing(built: Path) -> None:
    for name in ("fuzz", "fuzz_mpmd"):
        subprocess.run([built / "build" / name, "50000"], check=True, timeout=120, capture_output=True)
