"""A node's part of a job's trace from its first file to its mark, to be stopped anywhere and gone on with.

`python -m tests.store_story ROOT KIND` does it below ROOT, as `prepare` left it, to be recorded (`tests.power`):
`direct` writes into the job's directory, `ship` puts a sealed session there, `grow` a session as it grows, then sealed.
`go_on` is what the node does once it is back, or all that another one does.
"""

from __future__ import annotations

import sys
from pathlib import Path

from perun_hpc.data_model.sensor import Kind
from perun_hpc.data_model.units import Quantity
from perun_hpc.store import layout
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import grow, ship
from tests.soak.store_data import START, sensor

S = layout.NS_PER_S
NODES = ("n1", "n2")
SENSORS = (sensor("package-0", Quantity.ENERGY, Kind.COUNTER), sensor("node", Quantity.POWER, Kind.GAUGE, "node"))
ROWS = 30
STEP = 40
"""A row each so many ticks: a chunk, of 600, ends after the first 15."""
KINDS = ("direct", "ship", "grow")


def job_of(root: Path) -> Path:
    """The job's directory."""
    return root / "archive" / "c" / "jobs" / "0" / "1.0"


def value(node: str, tick: int, column: int) -> int:
    """What a sensor of a node shows."""
    return (tick - START + 1) * 1_000_000 * (1 + NODES.index(node)) * (1 + column)


def prepare(root: Path, kind: str) -> None:
    """What is there before: the archive, and of what is shipped the sealed session."""
    job_of(root).parent.mkdir(parents=True)
    (root / "n1").mkdir()
    if kind == "ship":
        append(begin(root, "n1", kind), "n1", ROWS).seal()


def tell(root: Path, kind: str) -> None:
    """All of it, from the beginning."""
    if kind != "ship":
        store = begin(root, "n1", kind)
        for until in (5, 20, ROWS):
            append(store, "n1", until)
            store.flush()
            if kind == "grow":
                grow(root / "n1", job_of(root), NODES)
        store.seal()
    if kind != "direct":
        ship(root / "n1", job_of(root), NODES)


def go_on(root: Path, kind: str, node: str = "n1") -> None:
    """What a node does that is back: it takes over what it finds in its session, or begins."""
    session = root / node
    found = NodeStore.recover(session) if session.exists() else []
    if not any(session.glob("tracks/*/track.json")):
        found = [begin(root, node, kind)]
    for store in found:
        append(store, node, ROWS).seal()
    if kind != "direct":
        ship(session, job_of(root), NODES)


def begin(root: Path, node: str, kind: str) -> NodeStore:
    """A node's track, without rows."""
    return NodeStore.open(
        root / node, cluster="c", job_id="1", restart_count=0, node=node, nodes=NODES, sensors=SENSORS, period_ns=S,
        start_ns=START * S, job_dir=job_of(root) if kind == "direct" else None, sync_ns=10 * S,
    )  # fmt: skip


def append(store: NodeStore, node: str, until: int) -> NodeStore:
    """Append the rows that are missing before this one."""
    for tick in range(START, START + until * STEP, STEP):
        if tick > store.last_tick:
            store.append(tick, [value(node, tick, column) for column in range(len(SENSORS))])
    return store


if __name__ == "__main__":
    tell(Path(sys.argv[1]), sys.argv[2])
