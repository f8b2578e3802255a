"""What a site's nodes hand over, by as many identities: each has an address, a name and a certificate of its own.

Run by `bench.nodes`: `python -m bench.node_load PLAN`, a JSON file; prints one JSON object when all is done. What a
node says goes by its agent's own code, `StreamDelivery` or `ArchiveDelivery`; what that code would find on a node (a
session's directory, the node ledger) is made here. A round of a node is what its agent ships at once: sessions that
ended, what is known of jobs that run, then the node ledger.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.site_jobs import Job, Site, name, phase_s
from perun_hpc.archive.certificates import Certificates
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.handover import StreamDelivery
from perun_hpc.errors import PerunError
from tests.accounting_data import NS, boundary, domain

AT_ONCE = 64
INTERVAL_S = 10
DOMAINS = ("package-0", "package-1", "dram-0", "dram-1")
_bound = threading.local()
_connect = socket.create_connection


def _from_own_address(address: Any, timeout: Any = None, source_address: Any = None, **other: Any) -> socket.socket:
    """Every identity has an address of its own, as a node has."""
    return _connect(address, timeout, source_address or getattr(_bound, "source", None), **other)


@dataclass(frozen=True)
class Kept(Certificates):
    """A node's certificate, read once: each node pays for that itself, here one would pay for all."""

    contexts: dict[Path, ssl.SSLContext] = field(default_factory=dict, compare=False)

    def context(self, kind: ssl._SSLMethod) -> ssl.SSLContext:
        """What speaks TLS with it."""
        if self.cert not in self.contexts:
            self.contexts[self.cert] = super().context(kind)
        return self.contexts[self.cert]


@dataclass
class Round:
    """What one node ships at once."""

    ended: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)


class Nodes:
    """All nodes of a site, and where they deliver."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.site = Site(**plan["site"])
        self.plan = plan
        self.over, self.port = plan["over"], plan["port"]
        self.spool = Path(plan["spool"])
        self.said: dict[str, list[float]] = defaultdict(list)
        self.failed: dict[str, int] = defaultdict(int)
        self.ledger_b = 0
        self._contexts: dict[Path, ssl.SSLContext] = {}
        self._busy: dict[int, threading.Lock] = defaultdict(threading.Lock)
        self._written_s: dict[int, float] = {}

    def rounds(self, begin_s: float, end_s: float) -> list[tuple[float, int, Round]]:
        """When each node ships what, in order."""
        rounds: dict[tuple[float, int], Round] = defaultdict(Round)
        period_s, grid_s = self.plan["progress_s"] / self.site.speed, INTERVAL_S / self.site.speed
        for job in self.site.until(end_s):
            for node in range(job.first, job.first + job.nodes):
                if begin_s <= job.end_s < end_s:
                    rounds[job.end_s, node].ended.append(job)
                at_s, phase = job.start_s + period_s, phase_s(name(node), period_s)
                own_s = phase_s(name(node), grid_s)  # each agent's intervals end at moments of its own
                while period_s and (due_s := own_s - (own_s - at_s) // grid_s * grid_s) < min(job.end_s, end_s):
                    if due_s >= begin_s:
                        rounds[due_s, node].running.append(job)
                    at_s, phase = at_s + period_s + phase, 0.0
        return sorted(((at_s, node, one) for (at_s, node), one in rounds.items()), key=lambda one: one[:2])

    def ship(self, at_s: float, node: int, one: Round) -> None:
        """Hand a round over, once more where it fails."""
        if self.over == "tls":
            _bound.source = (address_of(node), 0)
        to = self._delivery(node)
        with self._busy[node]:
            for job in one.ended:
                self._say(
                    "session", at_s, lambda job=job: to.session(_directory(job), record_of(job, node, at_s, True))
                )
            for job in one.running:
                record = record_of(job, node, at_s, False)
                self._say("progress", at_s, lambda job=job, record=record: to.progress(_directory(job), record, False))
            ledger = self._ledger(node, at_s)
            self._say("ledger", at_s, lambda: to.ledger(ledger, "c", name(node)))

    def _say(self, what: str, at_s: float, work: Any) -> None:
        for _ in range(10):
            begin_s = time.time()
            try:
                work()
            except (OSError, PerunError) as error:
                self.failed[str(error).partition(";")[0][-60:]] += 1
                time.sleep(0.5)
            else:
                self.said[what].append(time.time() - begin_s)
                self.said["late"].append(time.time() - at_s)
                return
        self.failed[f"{what} given up"] += 1

    def _delivery(self, node: int) -> Any:
        if self.over == "files":
            return ArchiveDelivery(Path(self.plan["archive"]))
        home = Path(self.plan["certificates"])
        cert = home / f"{name(node)}.pem"
        return StreamDelivery(("127.0.0.1", self.port), Kept(cert, cert, home / "ca.pem", self._contexts))

    def _ledger(self, node: int, at_s: float) -> Path:
        """The directory of a node's ledger, up to now: the day begins with the run, but for what `ledger_s` adds."""
        directory = self.spool / name(node)
        since_s = self._written_s.get(node, self.site.begin_s - self.plan["ledger_s"])
        if node not in self._written_s:
            directory.mkdir(parents=True, exist_ok=True)
        step_s = INTERVAL_S / self.site.speed
        lines = []
        while since_s + step_s <= at_s:
            for at, part in enumerate(DOMAINS):
                shares = {f"job:{node * 7 + at}.0": 412_000_000, f"job:{node * 11 + at}.0": 301_000_000,
                          "system": 11_345_678, "idle": 1_212_345_678}  # fmt: skip
                line = {"t0_ns": int(since_s * NS), "t1_ns": int((since_s + step_s) * NS), "domain": part,
                        "total_uj": sum(shares.values()), "shares": shares, "method": "cores"}  # fmt: skip
                lines.append(json.dumps(line, separators=(",", ":")) + "\n")
            since_s += step_s
        self._written_s[node] = since_s
        text = "".join(lines)
        self.ledger_b += len(text)
        with (directory / f"{time.strftime('%F', time.localtime(self.site.begin_s))}.jsonl").open("a") as file:
            file.write(text)
        return directory


def address_of(node: int) -> str:
    """A node's address."""
    return f"127.1.{node // 250}.{node % 250 + 1}"


def _directory(job: Job) -> Path:
    return Path(f"{job.number}.0")


def record_of(job: Job, node: int, now_s: float, ended: bool) -> dict[str, Any]:
    """A boundary record as the agent of a node with two processors writes it."""
    seconds = (job.end_s if ended else now_s) - job.start_s
    covered = {"covered_ns": int(seconds * NS)}
    parts = {one: domain(one.split("-")[0], int(seconds * 90e6), **covered) for one in DOMAINS}
    day = time.strftime("%F", time.localtime(job.end_s))
    shares = [{"day": day, "domain": one, "energy_uj": part["energy_uj"]} for one, part in parts.items()]
    sensors = [{"id": f"powercap:intel-rapl:{at}", "backend": "powercap", "name": one, "unit": "uJ", "scale_num": 1,
                "scale_den": 1, "range": 262_143_328_850, "domain": one} for at, one in enumerate(DOMAINS)]  # fmt: skip
    edges = {one["id"]: {"start": {"ticks": 1234567890, "mono_ns": 1}, "end": {"ticks": 2234567890, "mono_ns": 2}}
             for one in sensors}  # fmt: skip
    step = {
        "step_id": -5,
        "tasks": 1,
        "nodes": 1,
        "command": "batch",
        "start_ns": int(job.start_s * NS),
        "end_ns": int(job.end_s * NS),
        "cpu_ns": 10**9,
        "energy_uj": 10**9,
        "u_uj": 10**7,
        "why": "",
        "ranks": [],
    }
    return boundary(
        job.number, name(node), job.nodelist, parts, job.start_s, seconds, shares, num_nodes=job.nodes, uid=job.uid,
        gid=job.uid, user=f"u{job.uid}", account=f"a{job.uid % 20}", state="closed" if ended else "running",
        sensors=sensors, edges=edges, steps=[step], boot_id=f"00000000-0000-0000-0000-{node:012d}", notes=[],
        conditions={"processor": "Intel(R) Xeon(R) Platinum 8368", "kernel": "5.14.0-427.el9.x86_64",
                    "governor": "performance", "boost": "on"},
        settings={"period_ns": NS, "trace": "flagged", "progress_ns": 60 * NS, "shared_resolution_ns": 10 * NS},
    )  # fmt: skip


def _quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values) or [0.0]
    return {f"p{at}": ordered[min(len(ordered) - 1, len(ordered) * at // 100)] for at in (50, 99)}


def _due(rounds: list[tuple[float, int, Round]]) -> Iterator[tuple[float, int, Round]]:
    for one in rounds:
        time.sleep(max(0.0, one[0] - time.time()))
        yield one


def main(plan: dict[str, Any]) -> dict[str, Any]:
    """Hand over what the plan says; figures of it."""
    socket.create_connection = _from_own_address  # type: ignore[assignment]
    nodes = Nodes(plan)
    rounds = nodes.rounds(plan["site"]["begin_s"], plan["site"]["begin_s"] + plan["seconds"])
    waiting = threading.BoundedSemaphore(AT_ONCE)
    time.sleep(max(0.0, plan["site"]["begin_s"] - time.time()))
    began_s, cpu_s = time.time(), time.process_time()

    def one_round(*one: Any) -> None:
        try:
            nodes.ship(*one)
        finally:
            waiting.release()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = []
        for one in _due(rounds):
            waiting.acquire()
            done.append(pool.submit(one_round, *one))
        for each in done:
            each.result()
    return {
        "rounds": len(rounds),
        "identities": len({node for _, node, _ in rounds}),
        "took_s": time.time() - began_s,
        "cpu_s": time.process_time() - cpu_s,
        "jobs": len({job.number for _, _, one in rounds for job in one.ended}),
        "said": {what: len(times) for what, times in nodes.said.items()},
        "times_s": {what: _quantiles(times) for what, times in nodes.said.items()},
        "last_late_s": max(nodes.said["late"][-200:], default=0.0),
        "ledger_b": nodes.ledger_b,
        "failed": nodes.failed,
    }


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
