"""What a site of 100, 1,000 and 10,000 nodes asks of the collector's host, each figure from a run.

So many identities (`node_load.py`) hand over what fifty jobs a node and a day (`site_jobs.py`) make their agents hand
over, at its own rate: to the command `perun collect --daemon`, with a certificate each and from an address each, into
a ledger on PostgreSQL that syncs; sacct is simulated. CPU time is each process's own. Needs root, for a mount namespace
of the collector's own in which /etc/hosts knows the nodes.

`PERUN_BENCH_NODES` (100,1000,10000) are the sizes, `PERUN_BENCH_SECONDS` (120) how long each run lasts,
`PERUN_BENCH_SPEED` (1) so many times faster than at its own rate all of it goes, `PERUN_BENCH_PROGRESS` (60) what
`store.progress` says, 0 for never, `PERUN_BENCH_OVER` (tls) how it goes: tls, or files, a file system that all share.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.against import ROOT
from bench.drain import counted, shim_in
from bench.inodes import Size, size
from bench.node_load import address_of
from bench.result import Result, Skipped
from bench.running import ended_cpu_s, memory_b, tree_cpu_s
from bench.site_jobs import A_DAY_S, JOBS_A_NODE_A_DAY, Site, install, name
from perun_hpc.accounting.ledger import open_ledger
from tests import postgres

SIZES = tuple(int(size) for size in os.environ.get("PERUN_BENCH_NODES", "100,1000,10000").split(","))
SECONDS = float(os.environ.get("PERUN_BENCH_SECONDS", "120"))
SPEED = float(os.environ.get("PERUN_BENCH_SPEED", "1"))
PROGRESS_S = float(os.environ.get("PERUN_BENCH_PROGRESS", "60"))
LEDGER_S = float(os.environ.get("PERUN_BENCH_LEDGER", "0"))
"""How old the day is when the run begins: so much of each node's ledger is there."""
OVER = os.environ.get("PERUN_BENCH_OVER", "tls")
ENOUGH = 1000
"""Jobs without which the growth of a database, which is by pages, says nothing."""
DRAINED_S = 600
A_YEAR_S = 365 * A_DAY_S
TICKS = os.sysconf("SC_CLK_TCK")


def run() -> Iterator[Result]:
    """Yield of each size what the collector's host spends, and what a year leaves on its disk."""
    if os.geteuid() != 0:
        raise Skipped("a mount namespace needs root")
    if postgres.binaries() is None:
        raise Skipped("no PostgreSQL server here: install the package postgresql")
    for nodes in SIZES:
        yield from (Result(f"nodes.{nodes}.{what}", value, unit) for what, value, unit in _figures(nodes))


def _figures(nodes: int) -> Iterator[tuple[str, float, str]]:
    with tempfile.TemporaryDirectory(prefix="perun-site-") as place, postgres.server(fsync=True) as url:
        found = _measured(Path(place), url, nodes)
    load, s = found["load"], found["load"]["took_s"]
    print(json.dumps(found), file=sys.stderr)
    if load["jobs"] != found["stored"] or any(what.endswith("given up") for what in load["failed"]):
        raise RuntimeError(f"{nodes} nodes: {found['stored']} of {load['jobs']} jobs stored; {load['failed']}")
    jobs = load["jobs"]
    yield "identities", load["identities"], ""
    yield "jobs_per_s", jobs / load["took_s"], "1/s"
    yield "hand_overs_per_s", sum(v for what, v in load["said"].items() if what != "late") / load["took_s"], "1/s"
    yield "last_late_s", load["last_late_s"], "s"
    yield "collector_cores", found["collector_s"] / s, "cores"
    yield "sacct_cores", found["children_s"] / s, "cores"
    yield "postgresql_cores", found["postgres_s"] / s, "cores"
    yield "nodes_cores", load["cpu_s"] / s, "cores"
    yield "collector_mb", found["collector_mb"], "MB"
    yield "postgresql_mb", found["postgres_mb"], "MB"
    yield "syncs_per_s", (found["syncs"] + found["wal_syncs"]) / s, "1/s"
    yield "written_mb_per_s", (found["written_b"] + found["postgres_written_b"]) / s / 1e6, "MB/s"
    if not jobs:
        return  # too few nodes for so short a time
    yield "inodes_a_job", found["job_inodes"] / jobs, ""
    yield "inodes_a_year", (found["job_inodes"] / jobs * JOBS_A_NODE_A_DAY + 1) * nodes * 365 / 1e6, "million"
    yield "archive_gb_a_year", found["job_b"] / jobs * JOBS_A_NODE_A_DAY * nodes * 365 / 1e9, "GB"
    ledger_b = load["ledger_b"] / (SECONDS + LEDGER_S / SPEED) * A_YEAR_S / SPEED
    yield "node_ledgers_gb_a_year", ledger_b / 1e9, "GB"
    if jobs >= ENOUGH:
        yield "sql_gb_a_year", found["ledger_b"] / jobs * JOBS_A_NODE_A_DAY * nodes * 365 / 1e9, "GB"


def _measured(place: Path, url: str, nodes: int) -> dict[str, Any]:
    """One run: what the nodes said of it, and what it cost."""
    archive, bin_dir, certificates = place / "archive", place / "bin", place / "certificates"
    (archive / "c").mkdir(parents=True)
    open_ledger(url, create=True).close()
    _issue(certificates, nodes)
    shim = shim_in(place)
    port = _free_port()
    policy = place / "policy.yaml"
    handed = "" if OVER == "files" else f"  collector: 127.0.0.1:{port}\n  tls: {{{_tls(certificates)}}}\n"
    policy.write_text(f"store:\n  archive: {archive}\n{handed}collect:\n  ledger: {url}\n")
    hosts = place / "hosts"
    lines = [f"{address_of(node)} {name(node)}" for node in range(1, nodes + 1)]
    hosts.write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")
    site = Site(nodes, time.time() + 10 + nodes / 1000, SPEED)
    install(bin_dir, site)
    server_pid = postgres.postmaster(url)
    with _collector(place, policy, bin_dir, hosts, shim) as collector:
        _answers(port) if OVER == "tls" else time.sleep(2)
        before = _spent_by_collector(collector.pid), spent_by_all(server_pid), _sql(url)
        plan = {"site": asdict(site), "seconds": SECONDS, "progress_s": PROGRESS_S, "ledger_s": LEDGER_S, "over": OVER,
                "port": port, "spool": str(place / "spool"), "archive": str(archive),
                "certificates": str(certificates)}  # fmt: skip
        (place / "plan.json").write_text(json.dumps(plan))
        words = [sys.executable, "-m", "bench.node_load", str(place / "plan.json")]
        done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        load = json.loads(done.stdout)
        stored = _drained(url, load["jobs"])
        after = _spent_by_collector(collector.pid), spent_by_all(server_pid), _sql(url)
        memory = [sum(map(_shared_mb, pids)) for pids in (_tree(collector.pid), _family(server_pid))]
    left = sum((size(record.parent) for record in (archive / "c" / "jobs").rglob("record.json")), Size())
    return {
        "nodes": nodes,
        "load": load,
        "stored": stored,
        "collector_s": after[0]["self_s"] - before[0]["self_s"],
        "children_s": after[0]["children_s"] - before[0]["children_s"],
        "postgres_s": after[1]["self_s"] + after[1]["children_s"] - before[1]["self_s"] - before[1]["children_s"],
        "written_b": after[0]["written_b"] - before[0]["written_b"],
        "postgres_written_b": after[1]["written_b"] - before[1]["written_b"],
        "collector_mb": memory[0],
        "postgres_mb": memory[1],
        "syncs": counted(place / "syncs"),
        "wal_syncs": after[2]["wal_syncs"] - before[2]["wal_syncs"],
        "ledger_b": after[2]["size_b"] - before[2]["size_b"],
        "job_inodes": left.inodes,
        "job_b": left.disk_b,
        "load_average": os.getloadavg()[0],
    }


@contextmanager
def _collector(place: Path, policy: Path, bin_dir: Path, hosts: Path, shim: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon, in a mount namespace of its own in which the nodes have their addresses."""
    inside = 'mount --bind "$0" /etc/hosts && exec env LD_PRELOAD="$PERUN_BENCH_SHIM" "$@"'
    words = ["unshare", "--mount", "sh", "-c", inside, str(hosts), sys.executable, "-m", "perun_hpc"]
    environ = {**os.environ, "PERUN_POLICY": str(policy), "PYTHONPATH": str(ROOT), "PERUN_BENCH_SHIM": str(shim),
               "PERUN_BENCH_SYNCS": str(place / "syncs"), "PATH": f"{bin_dir}:{os.environ['PATH']}"}  # fmt: skip
    with (place / "collector.log").open("wb") as out:
        words += ["collect", "--daemon", "--cluster", "c"]
        process = subprocess.Popen(words, env=environ, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        print((place / "collector.log").read_text()[-2000:], file=sys.stderr)


def _issue(home: Path, nodes: int) -> None:
    """A CA, the collector's certificate for 127.0.0.1, and one for each node by its name."""
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    home.mkdir()
    now, plain = datetime.datetime.now(datetime.UTC), serialization.NoEncryption()
    ca_key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "site")])

    def signed(subject: str, key: Any, extension: Any, number: int) -> bytes:
        named = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)])
        made = x509.CertificateBuilder(issuer, named, key.public_key(), number, now, now + datetime.timedelta(2))
        made = made.add_extension(extension, False)
        return made.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    (home / "ca.pem").write_bytes(signed("site", ca_key, x509.BasicConstraints(True, None), 1))
    who: list[tuple[str, Any]] = [(name(node), x509.DNSName(name(node))) for node in range(1, nodes + 1)]
    for number, (called, alternative) in enumerate([("collector", x509.IPAddress(ip_address("127.0.0.1"))), *who], 2):
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        path = home / f"{called}.pem"
        path.touch(0o600)
        path.write_bytes(pem + signed(called, key, x509.SubjectAlternativeName([alternative]), number))


def _tls(home: Path) -> str:
    return f"cert: {home}/collector.pem, key: {home}/collector.pem, ca: {home}/ca.pem"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def _answers(port: int) -> None:
    until_s = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.1)
        else:
            return


def _psql(url: str, statement: str) -> tuple[Any, ...]:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return connection.execute(statement).fetchone() or ()  # type: ignore[call-overload]


def _sql(url: str) -> dict[str, int]:
    syncs, size_b = _psql(url, "SELECT (SELECT wal_sync FROM pg_stat_wal), pg_database_size(current_database())")
    return {"wal_syncs": syncs, "size_b": size_b}


def _drained(url: str, jobs: int) -> int:
    """How many runs the ledger has, once it has all of them or nothing comes any more."""
    until_s = time.monotonic() + DRAINED_S
    while (stored := int(_psql(url, "SELECT count(*) FROM job")[0])) < jobs and time.monotonic() < until_s:
        time.sleep(2)
    return stored


def _spent(pid: int) -> dict[str, float]:
    """CPU seconds of a process and of its children that have ended, and the bytes that it had written to a disk."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return {
        "self_s": (int(fields[11]) + int(fields[12])) / TICKS,
        "children_s": ended_cpu_s(pid),
        "written_b": int(io["write_bytes"]),
    }


def _tree(pid: int) -> list[int]:
    """A process and all that stand below it."""
    below = [int(child) for tasks in Path(f"/proc/{pid}/task").iterdir()
             for child in (tasks / "children").read_text().split()]  # fmt: skip
    return [pid, *(one for child in below for one in _tree(child))]


def _spent_by_collector(pid: int) -> dict[str, float]:
    """As `_spent`: the collector's own and of the processes that take hand-overs, and of what it executed."""
    written = sum(_spent(one)["written_b"] for one in _tree(pid))
    return {"self_s": tree_cpu_s(pid), "children_s": ended_cpu_s(pid), "written_b": written}


def _family(pid: int) -> list[int]:
    """A process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *map(int, children)]


def spent_by_all(pid: int) -> dict[str, float]:
    """As `_spent`, of a process and its children, those that ended included."""
    total = dict.fromkeys(("self_s", "children_s", "written_b"), 0.0)
    for one in _family(pid):
        try:
            spent = _spent(one)
        except OSError:  # it has ended: its parent has its time
            continue
        for what in total:
            total[what] += spent[what] if what != "children_s" or one == pid else 0.0
    return total


def _shared_mb(pid: int) -> float:
    try:
        return memory_b(pid)[1] / (1 << 20)
    except OSError:
        return 0.0
