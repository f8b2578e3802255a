"""Eight agents on one store at once, round after round: `python -m tests.soak.store_agents [ROUNDS]`.

Every round is a job of eight nodes that write directly into a shared directory: all of them create it, append, flush,
roll into a new chunk and seal without waiting for each other, while a ninth process merges. Nothing may be lost.
"""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import tempfile
from pathlib import Path

from perun_hpc.store import layout
from perun_hpc.store.merge import finalise
from perun_hpc.store.node_store import NodeStore
from tests.soak.store_data import START, sensors

NODES = tuple(f"n{index}" for index in range(8))
ROWS = 640
SENSORS = sensors(6)
S = layout.NS_PER_S


def write(root: Path, node: str, rounds: int) -> None:
    """One agent: its part of every round's job."""
    factor = NODES.index(node) + 1
    for number in range(rounds):
        store = NodeStore.open(
            root / f"spool-{number}" / node,
            cluster="c",
            job_id=str(number),
            restart_count=0,
            node=node,
            nodes=NODES,
            sensors=SENSORS,
            period_ns=S,
            start_ns=START * S,
            job_dir=root / f"job-{number}",
            sync_ns=None,
        )
        for index in range(ROWS):
            store.append(START + index, [factor * (index + column) for column in range(len(SENSORS))])
            if index == 100 * (factor % 3):
                store.flush()
        store.seal()


def merge(root: Path, rounds: int) -> None:
    """The collector: merges jobs while they are written."""
    for number in range(rounds):
        for _ in range(5):
            finalise(root / f"job-{number}", NODES, (START + ROWS) * S)


def run(root: Path, rounds: int) -> list[str]:
    """Do the rounds in nine processes; returns what was lost."""
    import numpy as np

    from perun_hpc.store.job_store import open_group

    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=write, args=(root, node, rounds)) for node in NODES]
    workers.append(spawn.Process(target=merge, args=(root, rounds)))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lost = [f"{worker.name} ended with {worker.exitcode}" for worker in workers if worker.exitcode]
    start = START - layout.origin_tick(S, START * S)
    for number in range(rounds):
        merged = finalise(root / f"job-{number}", NODES, (START + ROWS) * S)
        if merged.state != "complete":
            lost.append(f"round {number}: {merged.state}, {dict(merged.nodes)}")
            continue
        group = open_group(root / f"job-{number}")
        for part in layout.arrays(SENSORS):
            stored = np.asarray(group[part.form.name][:, :, start:])  # type: ignore[index]
            raw = np.add.outer(part.columns, np.arange(ROWS))[None] * np.arange(1, len(NODES) + 1)[:, None, None]
            if not np.array_equal(stored, raw // part.form.divisor):
                lost.append(f"round {number}: {part.form.name} differs")
    return lost


def main(arguments: list[str]) -> int:
    """Run the rounds and print a row of the table."""
    rounds = int(arguments[0]) if arguments else 1000
    root = Path(tempfile.mkdtemp(prefix="perun-agents-"))
    try:
        lost = run(root, rounds)
    finally:
        shutil.rmtree(root)
    print(f"| store: 8 agents on one store | {rounds} rounds | {rounds * len(NODES) * ROWS} rows | {len(lost)} wrong |")
    print("\n".join(lost), end="\n" if lost else "")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
