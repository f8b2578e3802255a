"""What the second user runs on a node: `bob.py CASE SECONDS JOB`, with the wire format of perun's own package.

Prints one JSON object: `n` tries and `bad`, those that came through (texts, at most twenty), and what a case measured.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from perun_hpc.wire.message import MAX_BYTES, Message, decode, encode

SOCKET = "/run/perun/agent.sock"
ROOT_ONLY = ("job-start", "job-end", "reload", "stop", "release-gpus")


class Tries:
    """Counts what was tried and keeps what came through."""

    def __init__(self) -> None:
        self.n = 0
        self.bad: list[str] = []
        self.more: dict[str, object] = {}

    def refused(self, what: str, reply: Message | None) -> None:
        """A try that must not be answered `ok`."""
        self.n += 1
        if reply is not None and reply.verb == "ok":
            self.bad.append(f"{what}: ok {dict(reply.fields)}"[:200])


def connect(timeout_s: float = 5.0) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(timeout_s)
    sock.connect(SOCKET)
    return sock


def exchange(packet: bytes, fds: Sequence[int] = ()) -> Message | None:
    """One packet on a connection of its own; None where the agent hung up."""
    try:
        with connect() as sock:
            more = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            sock.sendmsg([packet], more)
            reply = sock.recv(MAX_BYTES)
            return decode(reply) if reply else None
    except OSError:
        return None


def ask(verb: str, fds: Sequence[int] = (), **fields: str) -> Message | None:
    return exchange(encode(verb, fields), fds)


def _patiently(verb: str, fds: Sequence[int] = (), **fields: str) -> Message | None:
    """As `ask`, and again where the agent says that it heard enough of this user for now."""
    while (reply := ask(verb, fds, **fields)) is not None and "slow down" in reply.fields.get("reason", ""):
        time.sleep(0.05)
    return reply


def own_job() -> dict[str, str]:
    return {"job_id": os.environ["SLURM_JOB_ID"], "restart_count": "0"}


def enrol(rank: int = 0, step: int = 0) -> None:
    reply = _patiently(
        "rank-start", **own_job(), step_id=str(step), rank=str(rank), ntasks="1", nnodes="1", command="x", options=""
    )
    if reply is None or reply.verb != "ok":
        raise SystemExit(f"cannot register a rank of my own job: {reply}")


def verbs(seconds: float, job: str) -> Tries:
    """Words that are for root."""
    tries = Tries()
    for verb in ROOT_ONLY:
        for fields in (
            {},
            {"job_id": job, "restart_count": "0", "uid": "2002"},
            {"job_id": "999999", "uid": "0", "gid": "0"},
        ):
            tries.refused(verb, ask(verb, **fields))
    return tries


def forged(seconds: float, job: str) -> Tries:
    """Somebody else's job, under every spelling of its number."""
    tries = Tries()
    for job_id in (
        job,
        f"0{job}",
        f"+{job}",
        f" {job}",
        f"{job}\n",
        f"{job}.0",
        job.translate({48 + d: 0x660 + d for d in range(10)}),
        "-1",
        "9" * 19,
        "9" * 5000,
        "../1",
        "",
    ):
        for restart in ("0", "", "00", "1"):
            for verb in ("rank-start", "rank-data", "window", "summary"):
                fields = {
                    "job_id": job_id,
                    "restart_count": restart,
                    "step_id": "0",
                    "rank": "0",
                    "uid": "2001",
                    "pid": "1",
                }
                memory = os.memfd_create("x")
                tries.refused(
                    f"{verb} {job_id[:20]!r}.{restart}", ask(verb, (memory,) if verb == "rank-data" else (), **fields)
                )
                os.close(memory)
    reply = ask("status")
    if reply is None or f"{job}." in (reply.get("sessions") or ""):
        tries.bad.append(f"status shows {reply}")
    return tries


def malformed(seconds: float, job: str) -> Tries:
    """Packets of every length and form."""
    tries = Tries()
    random_ = random.Random(1)
    for size in (0, 1, 6, 7, 8, 100, MAX_BYTES - 1, MAX_BYTES, MAX_BYTES + 1, 2 * MAX_BYTES, 200_000):
        for fill in (b"\0", b"a", b"\xff", b"perun1\0"):
            tries.refused(f"{size} x {fill!r}", exchange((fill * size)[:size]))
    for packet in (
        b"perun2\0status\0",
        b"perun1\0status\0a\0",
        b"perun1\0status",
        b"perun1\0STATUS\0",
        b"perun1\0status\0a\0b\0a\0c\0",
    ):
        tries.refused(repr(packet), exchange(packet))
    seed = encode("rank-start", {**own_job(), "step_id": "0", "rank": "0", "command": "x"})
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        packet = bytearray(seed)
        for _ in range(random_.randrange(1, 5)):
            packet[random_.randrange(len(packet))] = random_.randrange(256)
        exchange(bytes(packet))
        tries.n += 1
    return tries


@contextlib.contextmanager
def odd_files() -> Iterator[list[tuple[str, int]]]:
    """Descriptors that are no memory file, or an unpleasant one."""
    home = str(Path.home())
    Path(f"{home}/plain").write_bytes(b"x" * 1000)
    pipe = os.pipe()
    fifo = f"{home}/fifo"
    with contextlib.suppress(FileExistsError):
        os.mkfifo(fifo)
    sparse, small = os.memfd_create("sparse"), os.memfd_create("small")
    os.ftruncate(sparse, 1 << 40)
    os.write(small, b"no header")
    pair = socket.socketpair()
    found = [
        ("a pipe", pipe[0]),
        ("a fifo", os.open(fifo, os.O_RDWR)),
        ("a directory", os.open("/", os.O_RDONLY)),
        ("a path", os.open("/", os.O_PATH)),
        ("/dev/zero", os.open("/dev/zero", os.O_RDONLY)),
        ("/dev/null", os.open("/dev/null", os.O_RDWR)),
        ("a plain file", os.open(f"{home}/plain", os.O_RDONLY)),
        ("/proc/self/mem", os.open("/proc/self/mem", os.O_RDONLY)),
        ("a socket", pair[0].fileno()),
        ("an event", os.eventfd(0)),
        ("1 TiB of nothing", sparse),
        ("no header", small),
    ]
    yield found
    for _, fd in found:
        if fd != pair[0].fileno():
            os.close(fd)


def memory(seconds: float, job: str) -> Tries:
    """What a rank hands over that is no good memory file."""
    tries = Tries()
    enrol()
    fields = {**own_job(), "step_id": "0", "rank": "0"}
    good_enough = {"1 TiB of nothing", "no header"}
    with odd_files() as files:
        for live in ("0", "1"):
            for what, fd in files:
                reply = ask("rank-data", (fd,), **fields, live=live)
                tries.n += 1
                if reply is None or (reply.verb == "ok") != (what in good_enough):
                    tries.bad.append(f"{what}: {reply}"[:200])
        for count in (0, 2, 4, 5, 100, 250):
            tries.refused(f"{count} descriptors", ask("rank-data", [files[-1][1]] * count, **fields))
    changing = os.memfd_create("changing")
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for size in (0, 64 << 20, 1, 40 << 20):
                os.ftruncate(changing, size)

    thread = threading.Thread(target=change)
    thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ask("rank-data", (changing,), **fields)
        tries.n += 1
    stop.set()
    thread.join()
    return tries


def connections(seconds: float, job: str) -> Tries:
    """Ten thousand connections, as many as possible of them kept open; nobody speaks."""
    tries = Tries()
    kept: list[socket.socket] = []
    end = time.monotonic() + seconds
    while tries.n < 10_000 or time.monotonic() < end:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.setblocking(False)
        try:
            sock.connect(SOCKET)
            kept.append(sock)
        except OSError:
            sock.close()
        tries.n += 1
        if len(kept) > 900:
            kept.pop(random.randrange(len(kept))).close()
    return tries


def _hammer(seconds: float, speak: Callable[[socket.socket], None], many: int) -> Tries:
    """Many connections that speak as fast as they can and never read an answer before the next word."""
    tries = Tries()
    end = time.monotonic() + seconds

    def one() -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError), connect(0.5) as sock:
                while time.monotonic() < end:
                    speak(sock)
                    tries.n += 1

    threads = [threading.Thread(target=one) for _ in range(many)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tries


def messages(seconds: float, job: str) -> Tries:
    """A hundred connections that ask without listening to the answer."""
    packet = encode("status", {})
    return _hammer(seconds, lambda sock: sock.sendall(packet), 100)


def slow(seconds: float, job: str) -> Tries:
    """Clients that connect and never say anything, or never read."""
    tries = Tries()
    kept = []
    for number in range(500):
        with contextlib.suppress(OSError):
            sock = connect(0.2)
            kept.append(sock)
            if number % 2:
                sock.send(encode("status", {}))
        tries.n += 1
    time.sleep(seconds)
    return tries


def ranks(seconds: float, job: str) -> Tries:
    """As many ranks as possible, the same one again and again, and ranks that end at once."""
    tries = Tries()
    end = time.monotonic() + seconds
    for number in range(6000):
        ask(
            "rank-start",
            **own_job(),
            step_id=str(number % 7),
            rank=str(number),
            command="\udcff" * 400,
            options="period=0s,x" * 40,
        )
        tries.n += 1
    while time.monotonic() < end:
        child = os.fork()
        if child == 0:
            ask("rank-start", **own_job(), step_id="9", rank="1", command="y", options="")
            os._exit(0)
        os.waitpid(child, 0)
        tries.n += 1
    return tries


def heavy(seconds: float, job: str) -> Tries:
    """32 MiB of rank data, again and again on many connections."""
    enrol()
    data = os.memfd_create("heavy")
    os.write(data, b"{" * (32 << 20))
    packet = encode("rank-data", {**own_job(), "step_id": "0", "rank": "0"})
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [data]))]

    def speak(sock: socket.socket) -> None:
        sock.sendmsg([packet], rights)
        sock.recv(MAX_BYTES)

    return _hammer(seconds, speak, 60)


def window(seconds: float, job: str) -> Tries:
    """The energy of the own job as often as possible, with ranks that begin and end to provoke readings in between."""
    tries = Tries()
    seen: list[tuple[int, int]] = []
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        child = os.fork()
        if child == 0:
            ask("rank-start", **own_job(), step_id="0", rank=str(number % 1000), command="w", options="period=100ms")
            os._exit(0)
        os.waitpid(child, 0)
        reply = ask("window", **own_job())
        tries.n += 1
        if reply is not None and reply.verb == "ok":
            point = (int(reply.fields["mono_ns"]), int(reply.fields["energy_uj"]))
            if not seen or seen[-1] != point:
                seen.append(point)
        time.sleep(0.02)
    for before, after in zip(seen, seen[1:], strict=False):
        if after[0] - before[0] < 9_000_000_000:
            tries.bad.append(f"two values {(after[0] - before[0]) / 1e9:.3f} s apart")
    if len(seen) < 2:
        tries.bad.append(f"only {len(seen)} values")
    return tries


def _calls(names: Sequence[str], calls: array.array[int]) -> int:
    """A memory file as a rank hands it over that was killed: its calls go on until the memory ends."""
    fd = os.memfd_create("calls")
    table = {"name": "calls", "columns": ["region", "start_ns", "end_ns"], "rows": -1}
    about = {"schema": "perun.rank-data/1", "rank": 0, "live": True}
    head = json.dumps({**about, "regions": list(names), "tables": [table]}).encode() + b"\n"
    for data in (head, calls.tobytes()):
        os.write(fd, data)
    return fd


def _enrolled(count: int, speak: Callable[[int], None]) -> Tries:
    """So many ranks, all of them this process; they end with it."""
    tries = Tries()
    for rank in range(count):
        _patiently("rank-start", **own_job(), step_id="0", rank=str(rank), ntasks=str(count), command="x", options="")
        speak(rank)
        tries.n += 1
    return tries


def shared_memory(seconds: float, job: str) -> Tries:
    """500 ranks that hand over the same 32 MiB and end at once."""
    now = time.monotonic_ns()
    fd = _calls(["f"], array.array("q", [0, now, now + 1000] * ((32 << 20) // 24 - 100)))
    return _enrolled(500, lambda rank: ask("rank-data", (fd,), **own_job(), step_id="0", rank=str(rank), live="1"))


def long_steps(seconds: float, job: str) -> Tries:
    """More steps than are kept, each with a command as long as a message takes; they live on for a while."""
    tries = Tries()
    for step in range(5000):
        words = {"command": "\U0001f600" * 6000, "options": "x" * 5000}
        reply = ask("rank-start", **own_job(), step_id=str(step), rank="0", ntasks="1", **words)
        tries.n += 1
        if reply is not None and "slow down" in reply.fields.get("reason", ""):
            time.sleep(0.05)
    time.sleep(seconds)
    return tries


def many_calls(seconds: float, job: str) -> Tries:
    """Eight ranks with 32 MiB of valid calls each, all that one job may hand over."""
    now = time.monotonic_ns()
    block = array.array("q", [n for at in range(50_000) for n in (at % 7, now + 2 * at, now + 2 * at + 1)])

    def speak(rank: int) -> None:
        fd = _calls([str(number) for number in range(7)], block * ((32 << 20) // (24 * 50_000) - 1))
        ask("rank-data", (fd,), **own_job(), step_id="0", rank=str(rank), live="1")
        os.close(fd)

    return _enrolled(8, speak)


def long_names(seconds: float, job: str) -> Tries:
    """Twenty ranks with a thousand regions each, under long names whose letters cost six bytes in JSON."""
    now = time.monotonic_ns()
    calls = array.array("q", [n for at in range(1000) for n in (at, now, now + 1000 + at)])

    def speak(rank: int) -> None:
        fd = _calls([f"{at:04d}" + "\x01" * 150 for at in range(1000)], calls)
        ask("rank-data", (fd,), **own_job(), step_id="0", rank=str(rank), live="1")
        os.close(fd)

    return _enrolled(20, speak)


def other_job(seconds: float, job: str) -> Tries:
    """A rank in another job of the same user: the process is not of that job."""
    tries = Tries()
    for verb in ("rank-start", "window"):
        tries.refused(verb, ask(verb, job_id=job, restart_count="0", step_id="0", rank="0"))
    return tries


def outside(seconds: float, job: str) -> Tries:
    """A process of the job's own user that is in no job at all."""
    return other_job(seconds, job)


def alone(seconds: float, job: str) -> Tries:
    """The energy of the own job as often as possible; what came is told, not judged."""
    tries = Tries()
    points: list[tuple[int, int]] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        reply = ask("window", **own_job())
        tries.n += 1
        if reply is not None and reply.verb == "ok":
            point = (int(reply.fields["mono_ns"]), int(reply.fields["energy_uj"]))
            if not points or points[-1] != point:
                points.append(point)
        time.sleep(0.05)
    tries.more = {"points": points, "job": os.environ["SLURM_JOB_ID"]}
    return tries


def _steps(said: Sequence[tuple[float, float, str]]) -> int:
    """How often what was said became something else."""
    words = [word for _, _, word in said]
    return sum(a != b for a, b in zip(words, words[1:], strict=False))


def slurm_figures(seconds: float, job: str) -> Tries:
    """What Slurm's own commands show, each asked without pause: no two steps of a figure nearer than moments are.

    Of a step it is known between which two questions it was, so that it is at most as far from the next one as told.
    """
    tries = Tries()
    own, node = os.environ["SLURM_JOB_ID"], os.environ["SLURMD_NODENAME"]
    sacct = ["sacct", "-n", "-P", "-a", "-o", "JobID,ConsumedEnergyRaw", "-j"]
    asked = {
        "sstat of hers": ["sstat", "-a", "-n", "-P", "-o", "ConsumedEnergyRaw", "-j", f"{job}.extern"],
        "sstat of his": ["sstat", "-a", "-n", "-P", "-o", "ConsumedEnergyRaw", "-j", f"{own}.extern"],
        "scontrol": ["sh", "-c", f"scontrol show node {node} -o | grep -o 'CurrentWatts=[^ ]*'"],
        "sacct": [*sacct, f"{job},{own}"],
    }
    looks: dict[str, list[tuple[float, float, str]]] = {what: [] for what in asked}
    told = ("sstat of his", "scontrol")  # Slurm may refuse him hers
    end = time.monotonic() + seconds
    last = end + 3 * seconds  # beside other tests one mean may be as the one before it

    def look(what: str) -> None:
        while (before := time.monotonic()) < end or (before < last and any(_steps(looks[one]) < 2 for one in told)):
            said = subprocess.run(asked[what], capture_output=True, text=True, check=False).stdout.strip()
            looks[what].append((before, time.monotonic(), said))

    threads = [threading.Thread(target=look, args=(what,)) for what in asked]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    seen = []
    for what, said in looks.items():
        tries.n += len(said)
        steps = [(a[0], b[1]) for a, b in zip(said, said[1:], strict=False) if a[2] != b[2]]
        most = [after[1] - before[0] for before, after in zip(steps, steps[1:], strict=False)]
        tries.bad += [f"{what}: steps at most {one:.1f} s apart" for one in most if one < 9.0]
        seen.append((what, len({one for _, _, one in said}), min(most, default=0.0)))
        if what in told and len(steps) < 2:
            tries.bad.append(f"{what}: only {len(steps)} steps, {said[-1:]}")
    tries.more = {"seen": seen}
    return tries


def rank_slots(seconds: float, job: str) -> Tries:
    """Living ranks, each with a memory file of its own, until the agent takes no more; held for so many seconds."""
    tries, held = Tries(), 0
    now = time.monotonic_ns()
    for rank in range(6000):
        words = {"ntasks": "6000", "command": "x", "options": ""}
        reply = _patiently("rank-start", **own_job(), step_id="0", rank=str(rank), **words)
        tries.n += 1
        if reply is None or reply.verb != "ok":
            break
        fd = _calls(["f"], array.array("q", [0, now, now + 1000]))
        answer = _patiently("rank-data", (fd,), **own_job(), step_id="0", rank=str(rank), live="1")
        held += answer is not None and answer.verb == "ok"
        os.close(fd)
    Path("/shared/attack/marks/slots").touch()
    time.sleep(seconds)
    tries.more = {"held": held}
    return tries


def wake(seconds: float, job: str) -> Tries:
    """Knocks at the collector without pause, and whatever could take its socket's place."""
    tries = Tries()
    path = "/run/perun-collect/wake"
    attempts: dict[str, Callable[[], object]] = {
        "unlink": lambda: Path(path).unlink(),
        "rename": lambda: Path(path).rename(f"{path}.old"),
        "replace": lambda: Path(f"{path}.link").symlink_to("/etc/passwd"),
        "write": lambda: Path(path).write_bytes(b"x"),
        "bind": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).bind(f"{path}.mine"),
        "plant": lambda: Path("/run/perun-collect/planted").write_text("x"),
    }
    for what, attempt in attempts.items():
        tries.n += 1
        with contextlib.suppress(OSError):
            attempt()
            tries.bad.append(what)
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        while time.monotonic() < end and (tries.n % 1000 or not Path("/shared/attack/wake.stop").exists()):
            with contextlib.suppress(OSError):
                sender.sendto(b"x" * (tries.n % 1000), path)
            tries.n += 1
    return tries


def reach(seconds: float, job: str) -> Tries:
    """Paths on standard input: which of them can be written, which can be read. Bad is what can be written."""
    tries = Tries()
    readable = []
    for path in sys.stdin.read().splitlines():
        tries.n += 1
        try:
            if Path(path).is_symlink() or path == SOCKET:
                continue
        except PermissionError:
            continue
        if os.access(path, os.W_OK):
            tries.bad.append(f"writable: {path}")
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            readable.append(path)
        for make in (os.link, os.symlink):
            with contextlib.suppress(OSError):
                if Path(path).is_dir():
                    make("/etc/passwd", f"{path}/planted")
                    tries.bad.append(f"planted in {path}")
    print(json.dumps({"readable": readable}))
    return tries


if __name__ == "__main__":
    made = globals()[sys.argv[1]](float(sys.argv[2]), sys.argv[3])
    print(json.dumps({"n": made.n, "bad": made.bad[:20], **made.more}))
