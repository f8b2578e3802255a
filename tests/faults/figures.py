"""The faults of the figures that Slurm's own commands show, with the energy plugin in force: what a job under each of
them comes to, what sacct and sstat say of it, and what the ledger has."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field

from devcluster import Cluster, site
from devcluster.site import CHECKOUT, PREFIX
from perun_hpc.agent.figure import OF_JOB, SECOND_NS, Figure, packed
from tests.faults.ground import repeated, teller
from tests.faults.measure import BAD
from tests.figures.ground import switched_on
from tests.figures.kinds import running, spin, submit, until
from tests.figures.looks import TAIL, ledger, sacct, sstat

KEPT = CHECKOUT / "build" / "faults" / "figures.json"
PAGE = CHECKOUT / "docs" / "faults.md"
MARKS = "<!-- from here: python -m tests.faults figures --write -->\n", "<!-- to here: the figures -->\n"
HEAD = ("fault", "job", "nodes lost", "sacct J", "ledger J", "tail J", "sstat J meanwhile", "wrong")
FILE = "/run/perun/slurm.figures"
AGENTS = "$(pgrep -P 1 -f -- '[p]erun_hpc.agent')"
START = f"cd /; setsid -f {PREFIX}/bin/python -B -I -S {PREFIX}/libexec/perun/isolated.py perun_hpc.agent"
BEFORE_S, FAULT_S, AFTER_S = 8, 8, 10
"""A job computes before, under and after the fault; the second is longer than a figure counts."""
LIE_J = 10**6


@dataclass(frozen=True)
class Fault:
    """One fault: what is done on the node while a job runs there, and whether it lasts beyond the job's end."""

    name: str
    what: str
    breaker: Callable[[Cluster, str, int], AbstractContextManager[None]]
    lasts: bool


@dataclass
class Outcome:
    """What came of one job under a fault; energies in J, None where there is none."""

    name: str
    state: str = ""
    lost: list[str] = field(default_factory=list)
    sacct_j: int | None = None
    ledger_j: float | None = None
    tail_j: float = 0.0
    seen: list[int | None] = field(default_factory=list)

    @property
    def wrong(self) -> list[str]:
        """What must not be."""
        found = [] if self.state == "COMPLETED 0:0" else [f"the job: {self.state}"]
        found += [f"lost {node}" for node in self.lost]
        if self.sacct_j == 0:
            found.append("sacct has 0")
        if self.sacct_j is not None and self.ledger_j is None:
            found.append(f"sacct has {self.sacct_j} J, the ledger nothing")
        if self.ledger_j is not None:
            most_j = self.ledger_j + self.tail_j
            found += [
                f"{one} J, the ledger {self.ledger_j:.1f} J"
                for one in (self.sacct_j, max((one for one in self.seen if one is not None), default=None))
                if one is not None and one > most_j
            ]
        return found


FAULTS: dict[str, Fault] = {}


def fault(
    name: str, what: str, lasts: bool = False
) -> Callable[[Callable[[Cluster, str, int], Iterator[None]]], Callable[[Cluster, str, int], Iterator[None]]]:
    """Enter a generator function (break, yield, heal) into the catalogue."""

    def enter(function: Callable[[Cluster, str, int], Iterator[None]]) -> Callable[[Cluster, str, int], Iterator[None]]:
        FAULTS[name] = Fault(name, what, contextlib.contextmanager(function), lasts)
        return function

    return enter


def _on(cluster: Cluster, node: str, script: str, check: bool = True) -> None:
    cluster.run(["sh", "-c", script], user="root", node=node, check=check)


@fault("agent killed, restarted", "kill -9 of the agent; another is started 8 s later, while the job runs")
def _restarted(cluster: Cluster, node: str, job: int) -> Iterator[None]:
    _on(cluster, node, f"kill -KILL {AGENTS}")
    yield
    _on(cluster, node, f"{START} </dev/null >/dev/null 2>&1")


@fault("agent killed", "kill -9 of the agent; none begins before the job's end", lasts=True)
def _killed(cluster: Cluster, node: str, job: int) -> Iterator[None]:
    _on(cluster, node, f"kill -KILL {AGENTS}")
    yield


@fault("agent stopped", "SIGSTOP of the agent for 8 s while the job runs")
def _stopped(cluster: Cluster, node: str, job: int) -> Iterator[None]:
    _on(cluster, node, f"kill -STOP {AGENTS}")
    yield
    _on(cluster, node, f"kill -CONT {AGENTS}")


@fault("agent stopped to the end", "SIGSTOP of the agent until the job is over", lasts=True)
def _stopped_longer(cluster: Cluster, node: str, job: int) -> Iterator[None]:
    with contextlib.contextmanager(_stopped)(cluster, node, job):
        yield


@fault("file removed", "the file of figures is removed while the job runs", lasts=True)
def _removed(cluster: Cluster, node: str, job: int) -> Iterator[None]:
    _on(cluster, node, f"rm {FILE}")
    yield


@fault("file truncated", "the file is cut to 100 bytes, again and again, until the job is over", lasts=True)
def _truncated(cluster: Cluster, node: str, job: int) -> Iterator[None]:
    with repeated(lambda: _on(cluster, node, f"truncate -s 100 {FILE}"), 0.1):
        yield


@fault(
    "file of another user", f"a user's file lies there instead, well-formed, with {LIE_J:,} J for the job", lasts=True
)
def _foreign(cluster: Cluster, node: str, job: int) -> Iterator[None]:
    now_ns = time.monotonic_ns()
    lie = Figure(LIE_J * 10**6, now_ns, 10**9, now_ns + 600 * SECOND_NS)
    forged = cluster.shared / f"figures.{node}"
    forged.write_bytes(packed(lie, [(job, OF_JOB, lie)], 1))
    _on(cluster, node, f"install -o bob -m 644 /shared/{forged.name} {FILE}.new && mv -f {FILE}.new {FILE}")
    yield
    forged.unlink()


@fault("file half rewritten", "bytes from the middle of a record on are overwritten, again and again", lasts=True)
def _half(cluster: Cluster, node: str, job: int) -> Iterator[None]:
    damage = f"dd if=/dev/urandom of={FILE} bs=1 seek=72 count=200 conv=notrunc status=none"
    with repeated(lambda: _on(cluster, node, damage), 0.1):
        yield


def tried(cluster: Cluster, names: Sequence[str]) -> list[Outcome]:
    """Try faults, each on a node of its own at the same time, with one job that computes; at most one per node."""
    pairs = list(zip(names, cluster.nodes, strict=False))
    outcomes: list[Outcome] = []
    lost: set[str] = set()
    cluster.run(["srun", "-N4", "true"], check=True, timeout=120)
    cluster.wait_idle()
    with repeated(lambda: lost.update(_lost(cluster)), 1.0):
        threads = [threading.Thread(target=_try, args=(cluster, name, node, outcomes)) for name, node in pairs]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    for _, node in pairs:  # a fresh file, and an agent that keeps it
        _on(cluster, node, f"kill -CONT {AGENTS}; {PREFIX}/bin/perun agent stop; rm -f {FILE}", check=False)
    cluster.run(["srun", "-N4", "true"], check=True, timeout=120)
    cluster.wait_idle()
    assert len(outcomes) == len(pairs), "a fault was not tried to its end"
    for outcome, node in zip(sorted(outcomes, key=lambda one: names.index(one.name)), cluster.nodes, strict=False):
        outcome.lost = sorted(one for one in lost if one.split()[0] == node)
    return sorted(outcomes, key=lambda one: names.index(one.name))


def _lost(cluster: Cluster) -> Iterator[str]:
    for node, state in cluster.states().items():
        if any(word in state for word in BAD):
            yield f"{node} {state}"


def _try(cluster: Cluster, name: str, node: str, outcomes: list[Outcome]) -> None:
    one, outcome = FAULTS[name], Outcome(name)
    job = submit(cluster, ("--exclusive", "-w", node), f"exec {spin(BEFORE_S + FAULT_S + AFTER_S)}")
    running(cluster, job)
    begin = time.monotonic()
    with repeated(lambda: outcome.seen.append(sstat(cluster, job)) if _runs(cluster, job) else None, 1.0):
        until("its figure", lambda: any(outcome.seen), 60)
        time.sleep(max(0.0, begin + BEFORE_S - time.monotonic()))
        with one.breaker(cluster, node, int(job)):
            if one.lasts:
                until("its end", lambda: not _runs(cluster, job), 120)
            else:
                time.sleep(FAULT_S)
        cluster.wait_job(job, timeout=120)
    (run,) = sacct(cluster, job)
    record = ledger(cluster, run)
    outcome.state = f"{run.state} {_exit(cluster, job)}"
    outcome.sacct_j = run.sacct_j
    outcome.ledger_j = None if record.energy_uj is None else record.energy_uj / 1e6
    outcome.tail_j = TAIL.uj(record) / 1e6
    outcomes.append(outcome)


def _runs(cluster: Cluster, job: str) -> bool:
    return "RUNNING" in cluster.run(["squeue", "-h", "-o", "%T", "-j", job]).stdout


def _exit(cluster: Cluster, job: str) -> str:
    words = ["sacct", "-X", "-n", "-P", "-j", job, "-o", "ExitCode"]
    return cluster.run(words, user="root", check=True).stdout.strip()


def markdown(outcomes: Sequence[Outcome]) -> str:
    """One row per fault, then what was done."""
    lines = [_row(HEAD), _row(["---"] * len(HEAD)), *(_row(_cells(one)) for one in outcomes)]
    return "\n".join([*lines, ""])


def _cells(one: Outcome) -> list[str]:
    seen = " ".join(f"{value}" if value is not None else "blank" for value in _changes(one.seen))
    return [
        FAULTS[one.name].what,
        one.state,
        str(len(one.lost)),
        "blank" if one.sacct_j is None else str(one.sacct_j),
        "none" if one.ledger_j is None else f"{one.ledger_j:.1f}",
        f"{one.tail_j:.0f}",
        seen,
        "; ".join(one.wrong) or "nothing",
    ]


def _changes(seen: Sequence[int | None]) -> Iterator[int | None]:
    """The last figure before each blank, each blank once, and the last of all."""
    for at, value in enumerate(seen):
        after = seen[at + 1] if at + 1 < len(seen) else None
        before = seen[at - 1] if at else None
        if value is None and (at == 0 or before is not None):
            yield None
        elif value is not None and (after is None or at + 1 == len(seen)):
            yield value


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str]) -> int:
    """Try the faults named; 1 if one of them cost a job or a node, or made a figure that is a lie."""
    top = argparse.ArgumentParser(prog="python -m tests.faults figures", description=__doc__)
    top.add_argument("faults", nargs="*", metavar="FAULT", help=f"which faults (default: all): {', '.join(FAULTS)}")
    top.add_argument("--cluster", default="faults", metavar="NAME", help="the cluster's name; it is left up if it was")
    top.add_argument("--write", action="store_true", help="write the newest outcomes into docs/faults.md")
    words = top.parse_args(arguments)
    unknown = [name for name in words.faults if name not in FAULTS]
    if unknown:
        print(f"no fault {', '.join(unknown)}: {', '.join(FAULTS)}", file=sys.stderr)
        return 64
    kept = {one["name"]: Outcome(**one) for one in json.loads(KEPT.read_text())} if KEPT.exists() else {}
    say, names = teller(), words.faults or list(FAULTS)
    cluster = Cluster(words.cluster)
    was_up = cluster.is_up()
    cluster.up(progress=say)
    site.install(cluster, say)
    tries: list[Outcome] = []
    try:
        with switched_on(cluster):
            for at in range(0, len(names), len(cluster.nodes)):
                tries += tried(cluster, names[at : at + len(cluster.nodes)])
                for one in tries:
                    say(_row(_cells(one)))
    finally:
        if not was_up:
            cluster.down()
        kept |= {one.name: one for one in tries}
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text(json.dumps([asdict(kept[name]) for name in FAULTS if name in kept], indent=1))
    table = markdown([kept[name] for name in FAULTS if name in kept])
    print(table)
    if words.write:
        head, _, rest = PAGE.read_text().partition(MARKS[0])
        PAGE.write_text(head + MARKS[0] + table + MARKS[1] + rest.partition(MARKS[1])[2])
    return 1 if any(one.wrong for one in tries) else 0
