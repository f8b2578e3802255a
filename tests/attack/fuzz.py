"""A small fuzzer: inputs made from seeds by damage, the n-th one always the same; each target in a process of its own
whose memory and time are bounded."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

MEMORY_B = 512 << 20
"""What a target may take beyond what the process held before the first input."""
INPUT_S = 5.0
"""CPU time of an input."""
WAIT_S = 60.0
"""What it may last in all: a busy machine is no hang."""
SCRATCH = "/dev/shm"
"""Where targets keep their files: memory, so that no disk is measured."""

WORDS = (
    b"-1",
    b"0",
    b"1e999",
    b"9223372036854775808",
    b"18446744073709551615",
    b"340282366920938463463374607431768211456",
    b"null",
    b"true",
    b"NaN",
    b"Infinity",
    b"[]",
    b"{}",
    b'""',
    b"\x00",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b'"\\ud800"',
    b'"\\u0000"',
    b"../",
    b"/",
    b"\n",
    b"\r",
    b"\x1b[2J",
    b"<script>",
    b"';--",
    b"%s%n",
    b"&a",
    b"*a",
    b"!!python/object:os.system",
    b"[" * 2000,
    b"{" * 2000,
    b"9" * 5000,
    b"A" * 70000,
    b"n[0-999999999]",
    "\u202e\u0661".encode(),
)


@dataclass(frozen=True)
class Target:
    """What is fed.

    seeds : well-formed inputs to start from.
    feed : takes one input; anything that it raises but `allowed` is a finding.
    code : modules of perun_hpc that the inputs go to; these and what they import is what was fuzzed.
    n : inputs after which it has had enough, until that code changes.
    """

    name: str
    tried: str
    seeds: Callable[[], Sequence[bytes]]
    feed: Callable[[bytes], object]
    allowed: tuple[type[BaseException], ...]
    code: tuple[str, ...] = ()
    n: int = 1_000_000


@dataclass(frozen=True)
class Finding:
    """What a target did that it must not do, and the first input (by its number) at which it did."""

    what: str
    data: bytes
    index: int = -1


@dataclass(frozen=True)
class Run:
    """A finished run of a target: inputs, how many were refused, memory that it took, findings (one per kind)."""

    inputs: int
    refused: int
    memory_b: int
    seconds: float
    findings: tuple[Finding, ...]


VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1 << 40,
    1 << 63,
    1 << 200,
    1e308,
    "",
    "\ud800",
    "\x00",
    "\udcff",
    "../../etc/passwd",
    "\x1b[2J\n",
    "n[1-99999]",
    "A" * 70_000,
    "1",
    [],
    {},
    [[]],
    {"a": 1},
)


def _document(data: bytes, random_: random.Random) -> bytes:
    """JSON on the first line in which one value is another one, or is not there; other data as it is."""
    line, newline, rest = data.partition(b"\n")
    for text, tail in ((data, b""), (line, newline + rest)):
        try:
            root = json.loads(text)
        except (ValueError, RecursionError):
            continue
        places: list[tuple[Any, Any]] = []
        todo = [root]
        while todo:
            node = todo.pop()
            pairs = (
                list(node.items())
                if isinstance(node, dict)
                else list(enumerate(node))
                if isinstance(node, list)
                else []
            )
            places += [(node, key) for key, _ in pairs]
            todo += [value for _, value in pairs]
        if not places:
            return data
        holder, key = random_.choice(places)
        if random_.random() < 0.2:
            del holder[key]
        else:
            holder[key] = random_.choice(VALUES)
        return json.dumps(root).encode() + tail
    return data


def damaged(data: bytes, seeds: Sequence[bytes], random_: random.Random) -> bytes:
    """A copy in which a few things are changed, cut, doubled, taken out, or put in."""
    if b"{" in data[:3] and random_.random() < 0.5:
        return data[: data.index(b"{")] + _document(data[data.index(b"{") :], random_)
    out = bytearray(data)
    for _ in range(random_.choice((1, 1, 1, 2, 3, 6))):
        at = random_.randrange(len(out) + 1)
        length = random_.choice((1, 2, 4, 8, 24, 200))
        what = random_.randrange(8)
        if what == 0 and at < len(out):
            out[at] = random_.randrange(256)
        elif what == 1 and at < len(out):
            out[at] ^= 1 << random_.randrange(8)
        elif what == 2:
            del out[at : at + length]
        elif what == 3:
            out[at:at] = out[at : at + length]
        elif what == 4:
            out[at:at] = random_.choice(WORDS)
        elif what == 5:
            end = at
            while end < len(out) and out[end] in b"0123456789.":
                end += 1
            out[at:end] = random_.choice(WORDS)
        elif what == 6:
            other = random_.choice(seeds)
            begin = random_.randrange(len(other) + 1)
            out[at : at + length] = other[begin : begin + length]
        else:
            del out[random_.choice((at, len(out) // 2)) :]
    return bytes(out[: 1 << 20])


class Hang(BaseException):
    """An input took too long."""


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang


def input_at(target: Target, seeds: Sequence[bytes], seed: int, index: int) -> bytes:
    """The input of this number: it depends on the target, the seed and the number alone."""
    random_ = random.Random(f"{target.name} {seed} {index}")
    return damaged(random_.choice(seeds), seeds, random_)


def feed(target: Target, inputs: int, seed: int, most_s: float, first: int) -> Run:
    """Feed a target here and now, for so long at most; what breaks it is kept, once per place."""
    seeds = target.seeds()
    for one in seeds:
        with contextlib.suppress(*target.allowed):
            target.feed(one)
    before_b = _resident_b()
    resource.setrlimit(resource.RLIMIT_AS, (_virtual_b() + MEMORY_B,) * 2)
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _hang)
    found: dict[str, Finding] = {}
    refused = fed = 0
    started_s = time.monotonic()
    while fed < inputs and time.monotonic() < started_s + most_s:
        index = first + fed
        data = input_at(target, seeds, seed, index)
        fed += 1
        signal.setitimer(signal.ITIMER_PROF, INPUT_S)
        signal.setitimer(signal.ITIMER_REAL, WAIT_S)
        try:
            target.feed(data)
        except target.allowed:
            refused += 1
        except BaseException as error:
            place = traceback.extract_tb(error.__traceback__)[-2 if isinstance(error, Hang) else -1]
            what = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {str(error)[:100]}"
            found.setdefault(f"{type(error).__name__} {place.filename}:{place.lineno}", Finding(what, data, index))
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    grown_b = max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before_b)
    return Run(fed, refused, grown_b, time.monotonic() - started_s, tuple(found.values()))


def run(target: Target, inputs: int, seed: int = 1, most_s: float = math.inf, first: int = 0) -> Run:
    """Feed a target the inputs from number `first` on, in a child, for `most_s` at most; a child that dies is a
    finding, too. What the target writes goes when the child has ended."""
    with tempfile.TemporaryDirectory(prefix="perun-attack-", dir=SCRATCH) as scratch:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                tempfile.tempdir = scratch
                told = os.dup(2)
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the product logs of such inputs is nobody's news
                try:
                    done = feed(target, inputs, seed, most_s, first)
                finally:
                    os.dup2(told, 2)
                findings = [[one.what, one.data.hex(), one.index] for one in done.findings[:20]]
                with os.fdopen(writing, "w") as pipe:
                    json.dump([done.inputs, done.refused, done.memory_b, done.seconds, findings], pipe)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
    if status or not text:
        return Run(inputs, 0, 0, 0.0, (Finding(f"the process ended with status {status}", b"", first),))
    count, refused, memory_b, seconds, findings = json.loads(text)
    return Run(
        count,
        refused,
        memory_b,
        seconds,
        tuple(Finding(what, bytes.fromhex(data), index) for what, data, index in findings),
    )


def _virtual_b() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _resident_b() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
