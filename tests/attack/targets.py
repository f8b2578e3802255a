"""What is fuzzed: everything that reads bytes which somebody else wrote."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import socket
import struct
import tempfile
import threading
import zlib
from array import array
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from perun_hpc.accounting import comment
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.agent import state
from perun_hpc.agent.base.job_facts import job_fields, per_node
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.jobs import ranks
from perun_hpc.archive import handover, stream, taking
from perun_hpc.archive.learnt import LEARNT, Learnt
from perun_hpc.backend import cgroup, cray_pm, hwmon, powercap, procstat
from perun_hpc.backend.base import Discovery
from perun_hpc.config import policy
from perun_hpc.config.compile import compile_policy
from perun_hpc.config.resolve import JobFacts, resolve
from perun_hpc.data_model import rank_data
from perun_hpc.data_model.boundary import parse_boundary
from perun_hpc.data_model.job import SessionKey
from perun_hpc.data_model.record import from_json, to_json
from perun_hpc.energy.regions import by_region
from perun_hpc.energy.static import StaticPower
from perun_hpc.errors import DataError, PerunError
from perun_hpc.process.locks import Locks
from perun_hpc.report.job import job_report
from perun_hpc.report.screen import Style
from perun_hpc.slurm import hostlist, sacct
from perun_hpc.store import codec, create, journal, layout, merge, repair
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import ship
from perun_hpc.wire.message import MAX_BYTES, decode, encode
from tests import sysfs
from tests.accounting_data import boundary, domain, parsed, slurm_job
from tests.attack.fuzz import Target
from tests.soak.store_data import START, rows, sensors

ROOT = Path(__file__).parents[2]
PLAIN = Style(colour=False, unicode=True)


@cache
def _scratch() -> Path:
    """A directory of this process; whoever runs the target in a child says where, and removes it (`fuzz.run`)."""
    return Path(tempfile.mkdtemp())


# The wire.


def _messages() -> list[bytes]:
    job = {"job_id": "4711", "restart_count": "0", "uid": "2001", "user": "alice", "nodelist": "n[1-4]", "gpus": "0,1"}
    rank = {"job_id": "4711", "restart_count": "0", "step_id": "0", "rank": "3", "ntasks": "4", "command": "/bin/true"}
    return [
        encode("job-start", job),
        encode("rank-start", rank),
        encode("status", {}),
        encode("window", {"job_id": "1"}),
    ]


def _message(data: bytes) -> None:
    message = decode(data[:MAX_BYTES])
    assert decode(encode(message.verb, message.fields)) == message
    SessionKey.of(message.fields)
    job_fields(message.fields)
    per_node(message.fields.get("nodelist", ""))
    for key in ("rank", "step_id"):
        ranks.number(message.fields, key)


# What a rank hands over.


def _rank_data(calls: Sequence[int] = (0, 10, 20, 1, 15, -18, 0, 30, 0)) -> bytes:
    about = {"step_id": "0", "rank": 0}
    parts = rank_data.final(about, "exit", ["main", "solve"], array("q", calls).tobytes(), [(1, 2, 3)])
    return b"".join(parts)


def _rank(data: bytes) -> None:
    rank = rank_data.parse(data)
    json.dumps(rank.names).encode()
    for name in rank.names:
        name.encode()
    by_region(rank.calls, len(rank.names), 0, 100)


# The policy.


@cache
def _compiled() -> dict[str, Any]:
    text = b"monitor:\n  user_options: [off, notrace, period]\n  jobs: opt-in\n"
    return compile_policy(policy.parse(text, "p"))


def _options(data: bytes) -> None:
    text = data[:4096].decode("utf-8", "surrogateescape")
    json.dumps(resolve(_compiled(), JobFacts("main", "n1", "physics", "alice", text)).to_json())


def _policies() -> list[bytes]:
    """The sections of all documented policies, one or two at a time: the YAML library reads some 100 KiB a second."""
    small = (
        b"monitor: {jobs: all}\nsampling: {period: 1 s}\nstore: {spool_quota: 30 GiB}\n"
        b"partitions:\n  gpu:\n    sampling: {period: 2s}\n"
    )
    texts = [path.read_text() for path in sorted((ROOT / "site-configs").glob("*.yaml"))]
    bare = [re.sub(r"(?m)(^| +)#.*$", "", text) for text in texts]
    sections = [part.strip() for text in bare for part in re.split(r"(?m)^(?=\w)", text)]
    return [small, *(f"{section}\n".encode() for section in sections if section)]


# The kernel's files.


def _tree(name: str) -> Path:
    root = _scratch() / name
    if not root.exists():
        sysfs.build(name, root)
    return root


@cache
def _kernel_files() -> tuple[tuple[str, str, str], ...]:
    """(tree, path, content) of every file that is damaged in turn."""
    found = []
    for name in ("intel_two_sockets", "cray_ex", "gh200", "cgroup_v1", "cgroup_v2"):
        root = _tree(name)
        found += [(name, str(p.relative_to(root)), p.read_text()) for p in sorted(root.rglob("*")) if p.is_file()]
    return tuple(found)


def _kernel_seeds() -> list[bytes]:
    return [struct.pack("<H", at) + content.encode() for at, (_, _, content) in enumerate(_kernel_files())]


def _clock() -> int:
    return 1_000_000_000


READERS: tuple[tuple[str, Callable[[Path], Discovery]], ...] = (
    ("powercap", lambda root: powercap.discover(root, _clock, pause=lambda seconds: None)),
    ("hwmon", lambda root: hwmon.discover(root, _clock)),
    ("pm_counters", lambda root: cray_pm.discover(root, _clock, _clock)),
    ("proc/", lambda root: procstat.discover(root, _clock)),
)
"""Who reads which part of a tree; the control groups are read besides."""


def _kernel(data: bytes) -> None:
    """One file of a tree is damaged and whoever reads it looks for sensors and reads them."""
    files = _kernel_files()
    name, path, content = files[int.from_bytes(data[:2], "little") % len(files)]
    root = _tree(name)
    (root / path).write_bytes(data[2:])
    reads = [discover for part, discover in READERS if part in path]
    try:
        for discover in reads:
            for reader in discover(root).readers:
                reader.read()
                reader.close()
        for job in () if reads else (*(cgroup.find_job(root, one) for one in ("1", "7")), cgroup.find_parent(root)):
            if job is not None:
                job.read()
                job.cpus()
                job.peak_memory_b()
                job.suspended(root)
                job.close()
    finally:
        (root / path).write_text(content)


def _hostlist(data: bytes) -> None:
    hostlist.expand(data[:8192].decode("utf-8", "replace"))


# Records.


def _boundaries() -> list[bytes]:
    step = {
        "step_id": 0,
        "tasks": 2,
        "ranks": [{"rank": 0, "pid": 7, "start_ns": 1, "end_ns": 2}],
        "start_ns": 1,
        "end_ns": 9,
    }
    region = {"step_id": 0, "rank": 0, "name": "main", "calls": 3, "time_ns": 5, "energy_uj": 7, "u_uj": 1}
    gap = {"sensor": "s", "from_ns": 1, "to_ns": 2, "why": "agent"}
    domains = {"package-0": domain("cpu", 9_000_000), "dram-0": domain("dram", 4_000_000), "gpu-x": domain("gpu", None)}
    return [
        json.dumps(boundary()).encode(),
        json.dumps(boundary(nodelist="n[1-2]", domains=domains, steps=[step], regions=[region], gaps=[gap])).encode(),
    ]


@cache
def _ledger() -> Ledger:
    return open_ledger(str(_scratch() / "ledger.db"), create=True)


def _record(data: bytes) -> None:
    record = sum_boundaries([parse_boundary(data, "fuzz")])
    again = from_json(to_json(record), "fuzz")
    job_report(again, "fuzz", PLAIN)
    comment.encode(again)
    _ledger().put([again])


def _records() -> list[bytes]:
    return [to_json(sum_boundaries([parsed(boundary())])).encode()]


def _energy_record(data: bytes) -> None:
    record = from_json(data, "fuzz")
    assert not any(c < " " for line in job_report(record, "fuzz", PLAIN) for c in line)
    to_json(record)


def _comments() -> list[bytes]:
    return [comment.encode(sum_boundaries([parsed(one)])).encode() for one in (boundary(), boundary(nodelist="n[1-2]"))]


def _comment(data: bytes) -> None:
    """With a checksum that fits in half of all cases, as a forger would make it."""
    text = data[:8192].decode("utf-8", "replace")
    if len(data) % 2:
        body = text.rpartition(":crc=")[0]
        text = f"{body}:crc={zlib.crc32(body.encode()):08x}"
    record = comment.decode(text, slurm_job(), "c")
    assert not any(c < " " for line in job_report(record, "fuzz", PLAIN) for c in line)
    to_json(record)


DELIMITER = "\x1f0123456789abcdef\x1f"


def _sacct_rows() -> list[bytes]:
    return [b"stencil", b"a|b\nc\td", b"ab\x1f0123\x1f", b"\x1b]0;x\x07", b"4711|COMPLETED|0:0|\n4712|"]


def _sacct(data: bytes) -> None:
    """A job's name is anything; the rows around it stay what they are."""
    name = data.decode("utf-8", "replace")
    if DELIMITER in name:
        return
    row = dict.fromkeys(sacct.FIELDS, "")
    lines = []
    for job_id, shown in (("4711", name), ("4712", "plain")):
        row |= {"JobIDRaw": job_id, "JobID": job_id, "JobName": shown, "State": "COMPLETED", "NCPUS": "4"}
        lines.append(DELIMITER.join(row.values()) + DELIMITER + "\n")
    jobs = sacct.parse_sacct("".join(lines), DELIMITER)
    assert [(job.job_id, job.name) for job in jobs] == [(4711, name), (4712, "plain")]


# Stores.

BEGIN = START // layout.chunk_rows(layout.NS_PER_S) * layout.chunk_rows(layout.NS_PER_S) + 570


def _chunks() -> list[bytes]:
    raw = array("q", range(60)).tobytes()
    index = codec.encode_index([(16, 100), (codec.NONE, codec.NONE)])
    return [codec.blosc(raw, 8), codec.blosc(b"\x01" * 512, 1), index[:-4], codec.vlen_utf8(["n1", "n2"])]


def _chunk(data: bytes) -> None:
    for read in (codec.unblosc, codec.read_vlen_utf8):
        try:
            read(data, "fuzz")
        except DataError:
            continue
    if len(data) % 16 == 0:
        codec.decode_index(codec.with_crc(data), "fuzz")
    codec.decode_chunk(data, "fuzz")


@cache
def _sessions() -> Path:
    """A node's open session, with journal and shards; short, but across the end of a chunk."""
    home = _scratch() / "session"
    store = NodeStore.open(
        home,
        cluster="c",
        job_id="1",
        restart_count=0,
        node="n1",
        sensors=sensors(4),
        period_ns=layout.NS_PER_S,
        start_ns=BEGIN * layout.NS_PER_S,
        sync_ns=None,
    )
    for number, row in enumerate(rows(sensors(4), 60, seed=1)):
        store.append(BEGIN + number, row)
    store.flush()
    store.close()
    return home


@cache
def _job() -> Path:
    """A job's merged store."""
    home, job = _scratch() / "sealed", _scratch() / "job"
    shutil.copytree(_sessions(), home)
    for store in NodeStore.recover(home):
        store.seal()
    ship(home, job, ["n1"])
    merge.finalise(job, ["n1"], (BEGIN + 10_000) * layout.NS_PER_S)
    return job


@cache
def _files(tree: Path) -> dict[str, bytes]:
    """The content of every file of a tree, by path; directories end in a slash and come first."""
    paths = sorted(tree.rglob("*"), key=lambda path: (path.is_file(), path))
    return {f"{path}" if path.is_file() else f"{path}/": path.read_bytes() if path.is_file() else b"" for path in paths}


def _names(tree: Path) -> list[str]:
    return [name for name in _files(tree) if not name.endswith("/")]


def _file_seeds(tree: Path) -> list[bytes]:
    return [struct.pack("<H", at) + _files(tree)[name][:20_000] for at, name in enumerate(_names(tree))]


def _with_damage(tree: Path, data: bytes) -> Path:
    """A copy of a tree in which the content of one file is `data`, made without pathlib's third of the time."""
    copy = _scratch() / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    names = _names(tree)
    damaged = names[int.from_bytes(data[:2], "little") % len(names)]
    for name, content in _files(tree).items():
        target = f"{copy}{name[len(str(tree)) :]}"
        if name.endswith("/"):
            os.mkdir(target)  # noqa: PTH102
        else:
            with open(target, "wb", buffering=0) as file:  # noqa: PTH123
                file.write(data[2:] if name == damaged else content)
    return copy


def _session(data: bytes) -> None:
    home = _with_damage(_sessions(), data)
    for store in NodeStore.recover(home):
        store.append(store.last_tick + 1, [None] * len(store.sensors))
        store.seal()
    job = _scratch() / "shipped"
    shutil.rmtree(job, ignore_errors=True)
    ship(home, job, ["n1"])


def _store(data: bytes) -> None:
    job = _with_damage(_job(), data)
    now_ns = (BEGIN + 20_000) * layout.NS_PER_S
    try:
        merge.finalise(job, ["n1"], now_ns)
    except DataError:
        repair.repair(job, now_ns)
        create.read_plan(job)


def _journals() -> list[bytes]:
    return [content[:4000] for name, content in _files(_sessions()).items() if "journal" in Path(name).name]


def _journal(data: bytes) -> None:
    path = _scratch() / "journal"
    path.write_bytes(data)
    journal.read(path, 4)


# Hand-overs.


class _Signs(stream.Munge):
    """A munge that lets root sign whatever is asked: the sender is an agent that went wrong."""

    def decode(self, credential: str) -> stream.Signed:
        return stream.Signed(0, credential.encode("utf-8", "replace"), "127.0.0.1")


class _Told(logging.Handler):
    """What the collector logs of inputs that it did not expect."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            self.failures.append(record.exc_info[1])


class _Collector:
    """A collector that listens, its archive, and what it logged."""

    def __init__(self) -> None:
        self.base = _scratch() / "handed"
        self.archive = self.base / "archive"
        self.archive.mkdir(parents=True)
        self.told = _Told()
        logger = taking.log
        logger.addHandler(self.told)
        logger.propagate = False
        self.taker = taking.Taker(self.archive, {0}, _Signs(), Locks(taking.LOCKS))

    def tidy(self) -> None:
        """Empty the archive when it has grown."""
        grown = list(self.archive.glob("[!.]*/*/*"))
        for path in grown if len(grown) > 200 else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@cache
def _collector() -> _Collector:
    return _Collector()


def _framed(about: dict[str, Any], files: dict[str, Any]) -> bytes:
    """A hand-over whose sizes, sums and credential are right; what is no text in `files` goes as JSON."""
    texts = {str(name): one if isinstance(one, str) else json.dumps(one) for name, one in files.items()}
    contents = {name: text.encode("latin-1", "replace") for name, text in texts.items()}
    listed = [[name, len(text), hashlib.sha256(text).hexdigest()] for name, text in contents.items()]
    said = {str(key): str(value) for key, value in about.items()}
    covered = json.dumps([said, listed], separators=(",", ":"), sort_keys=True)
    credential = hashlib.sha256(covered.encode()).hexdigest()
    head = {"schema": stream.SCHEMA, "credential": credential, "about": about, "files": listed}
    return json.dumps(head).encode() + b"\n" + b"".join(contents.values())


def _handovers() -> list[bytes]:
    home = _scratch() / "handing"
    if not home.exists():
        shutil.copytree(_sessions(), home)
        for store in NodeStore.recover(home):
            store.seal()
    names = [str(Path(name).relative_to(home)) for name in _names(home)]
    trace = {name: (home / name).read_bytes().decode("latin-1") for name in names if handover.ALLOWED.fullmatch(name)}
    record = {handover.RECORD: boundary()}
    learnt = Learnt("m", {"package-0": StaticPower({20_000: {310: 10**10}})}).encode().decode()
    whole = [
        {"about": {"what": "session", "name": "4711.0"}, "files": record | trace},
        {"about": {"what": "session", "name": "4711.0"}, "files": record},
        {"about": {"what": "progress", "name": "4711.0"}, "files": record},
        {"about": {"what": "ledger", "cluster": "c", "node": "n1"}, "files": {"2026-11-22.jsonl": '{"t0_ns":1}\n'}},
        {"about": {"what": "learnt", "cluster": "c", "node": "localhost"}, "files": {}},
        {"about": {"what": "learnt", "cluster": "c", "node": "localhost"}, "files": {LEARNT: learnt}},
    ]
    return [*(json.dumps(one).encode() for one in whole[1:]), *(_framed(one["about"], one["files"]) for one in whole)]


def _handover(data: bytes) -> None:
    """What is JSON is framed as a hand-over should be, all else is sent as it is; the collector answers either way."""
    try:
        one = json.loads(data)
        data = _framed(dict(one["about"]), dict(one["files"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    collector = _collector()
    answer = b""
    connection, theirs = socket.socketpair()
    connection.settimeout(30)
    taking_it = threading.Thread(target=collector.taker.take_one, args=(theirs, "127.0.0.1", collector.archive, ".h"))
    taking_it.start()
    with connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while block := connection.recv(4096):
                answer += block
        except TimeoutError:
            raise
        except OSError:  # it had heard enough and hung up
            answer = answer or b"error \n"
    taking_it.join()
    if collector.told.failures:
        raise collector.told.failures.pop()
    assert answer.startswith((b"ok\n", b"ok {", b"error ")), answer
    assert [path.name for path in collector.base.iterdir()] == ["archive"]
    collector.tidy()
    if answer != b"ok\n":
        raise DataError(answer.decode("utf-8", "replace"))


def _states() -> list[bytes]:
    edge = {"real_ns": 1, "mono_ns": 1, "late_ns": 0, "source": "hook"}
    session = {
        "key": "4711.0",
        "job": {"uid": "2001"},
        "settings": {},
        "policy_hash": "",
        "boot_id": "b",
        "start": edge,
        "end": None,
        "domains": {},
        "steps": {},
        "gaps": [],
    }
    value = {
        "schema": state.SCHEMA,
        "boot_id": "b",
        "mono_ns": 5,
        "real_ns": 6,
        "readings": {"s": [7, 5]},
        "busy_ns": {"0": 1},
        "uses": {"4711.0": 3},
        "parent_cpu_ns": None,
        "ledger": ["2026-11-22", 10],
        "sessions": [session],
        "done": {"4710.0": 4},
        "static": {},
        "home": ["c", "n1"],
    }
    document = json.dumps(value).encode()
    body = json.dumps([{"mono_ns": 6, "sessions": {"4711.0": {"gaps": []}}, "done": {"4709.0": 5}}, []]).encode()
    return [document, b"%b\n%08x %b\n" % (document, zlib.crc32(body, zlib.crc32(document)), body)]


def _state(data: bytes) -> None:
    base = _scratch()
    paths = AgentPaths(base / "run", base / "spool")
    paths.node.mkdir(parents=True, exist_ok=True)
    paths.state.write_bytes(data)
    state.load(paths)


TARGETS = (
    Target(
        "wire-python",
        "packets for the agent",
        _messages,
        _message,
        (DataError,),
        ("wire.message", "agent.base.session", "agent.jobs.ranks"),
    ),
    Target(
        "rank-data",
        "what a rank hands over",
        lambda: [_rank_data(), _rank_data(range(300))],
        _rank,
        (DataError,),
        ("data_model.rank_data", "energy.regions"),
    ),
    Target(
        "flag-options",
        "text after --perun=",
        lambda: [b"period=100ms", b"off,notrace,period=1 s"],
        _options,
        (),
        ("config.resolve", "config.compile"),
    ),
    Target(
        "admin-comment",
        "lines in AdminComment, half with a right checksum",
        _comments,
        _comment,
        (DataError,),
        ("accounting.comment", "report.job"),
    ),
    Target("sacct-name", "job names in sacct's answer", _sacct_rows, _sacct, (), ("slurm.sacct",)),
    Target(
        "policy",
        "YAML of the policy",
        _policies,
        lambda data: policy.parse(data, "fuzz"),
        (policy.PolicyError,),
        ("config.policy",),
    ),
    Target(
        "sysfs",
        "one file of powercap, hwmon, pm_counters, cgroups",
        _kernel_seeds,
        _kernel,
        (),
        ("backend.powercap", "backend.hwmon", "backend.cray_pm", "backend.procstat", "backend.cgroup"),
    ),
    Target(
        "hostlist",
        "node lists",
        lambda: [b"n[01-03,7],login", b"a[1-2]b[3-4]"],
        _hostlist,
        (ValueError,),
        ("slurm.hostlist",),
    ),
    Target(
        "boundary",
        "boundary records up to the ledger and the report",
        _boundaries,
        _record,
        (DataError,),
        (
            "data_model.boundary",
            "accounting.summing",
            "data_model.record",
            "accounting.comment",
            "accounting.ledger",
            "report.job",
        ),
    ),
    Target("record", "record.json", _records, _energy_record, (DataError,), ("data_model.record", "report.job")),
    Target("chunks", "chunks and indexes of shards", _chunks, _chunk, (DataError,), ("store.codec",)),
    Target("journal", "journals of a node", _journals, _journal, (DataError,), ("store.journal",)),
    Target(
        "hand-over",
        "hand-overs of nodes without a shared file system, by an agent that went wrong",
        _handovers,
        _handover,
        (DataError,),
        ("archive.taking",),
    ),
    Target("agent-state", "the agent's own state", _states, _state, (), ("agent.state",)),
    Target(
        "session",
        "one file of a node's open session, recovered and shipped",
        lambda: _file_seeds(_sessions()),
        _session,
        (DataError,),
        ("store.node_store", "store.description", "store.columns", "store.node_shards", "store.ship"),
    ),
    Target(
        "store",
        "one file of a job's store, merged and repaired",
        lambda: _file_seeds(_job()),
        _store,
        (PerunError,),
        ("store.merge", "store.repair", "store.create"),
    ),
)
