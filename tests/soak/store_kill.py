"""Kill -9 of a process that writes a store, at random instants: `python -m tests.soak.store_kill [TRIALS]`.

The writer acknowledges a row once `append` has returned. After the kill the session is recovered, sealed, shipped,
merged and read through zarr: every acknowledged row must be there, with the values that were appended, nothing else.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

from perun_hpc.data_model.sensor import Kind
from perun_hpc.store.layout import NS_PER_S
from perun_hpc.store.node_store import NodeStore
from perun_hpc.store.ship import ship
from tests.soak.store_data import START, sensors

NODES = ("n1", "n2")
SYNC_TICKS = 50
STARTS_S = 60.0
"""In which a writer has come to its first row, however busy the machine is."""
SENSORS = tuple(replace(item, wrap_range=None) for item in sensors(16))


def value(tick: int, column: int) -> int | None:
    """What the writer appends: counters and gauges with gaps, computable without having been there."""
    if (tick + column) % 97 == 0:
        return None
    return tick * (column + 1) if SENSORS[column].kind is Kind.COUNTER else tick * (column + 7) % 65_000


def write(session: Path, job_dir: Path | None) -> None:
    """Append rows for ever, acknowledging each in the file `ack` beside the session."""
    ack = os.open(session.with_name("ack"), os.O_RDWR | os.O_CREAT)
    stores = NodeStore.recover(session)
    if not stores:
        start_ns = START * NS_PER_S
        stores = [
            NodeStore.open(
                session,
                cluster="c",
                job_id="1",
                restart_count=0,
                node="n1",
                nodes=NODES,
                sensors=SENSORS,
                period_ns=NS_PER_S,
                start_ns=start_ns,
                job_dir=job_dir,
                sync_ns=None,
            )
        ]
    tick = max(START, stores[0].last_tick + 1)
    while True:
        stores[0].append(tick, [value(tick, column) for column in range(len(SENSORS))])
        os.pwrite(ack, struct.pack("<q", tick), 0)
        if tick % 251 == 0:
            stores[0].flush()
        tick += 1


def write_slowly(session: Path) -> None:
    """Append a row every millisecond; name in the file `synced` the last tick that must outlive a power cut."""
    synced = os.open(session.with_name("synced"), os.O_RDWR | os.O_CREAT)
    store = NodeStore.open(
        session,
        cluster="c",
        job_id="1",
        restart_count=0,
        node="n1",
        sensors=SENSORS,
        period_ns=NS_PER_S,
        start_ns=START * NS_PER_S,
        sync_ns=SYNC_TICKS * NS_PER_S,
    )
    for tick in range(START, START + 100_000):
        store.append(tick, [value(tick, column) for column in range(len(SENSORS))])
        os.pwrite(synced, str(tick - SYNC_TICKS).encode(), 0)
        time.sleep(0.001)


@dataclass(frozen=True)
class Trial:
    """One kill: rows acknowledged, rows read back, and what is wrong (nothing, if all is well)."""

    acknowledged: int
    read: int
    wrong: str


def trial(directory: Path, seed: int, direct: bool, kills: int = 1) -> Trial:
    """Write, kill at a random instant (`kills` times, going on after each), recover and read back."""
    session, job = directory / "session", directory / "job"
    random_ = random.Random(seed)
    for _ in range(kills):
        command = [sys.executable, "-m", "tests.soak.store_kill", "write", str(session)]
        before = last_acknowledged(directory)
        child = subprocess.Popen([*command, str(job)] if direct else command)
        if random_.random() < 0.2:
            time.sleep(random_.uniform(0.05, 0.4))  # while it starts, or soon after
        else:
            until_s = time.monotonic() + STARTS_S
            while last_acknowledged(directory) == before and time.monotonic() < until_s:
                time.sleep(0.001)
            time.sleep(random_.uniform(0, 0.7))
        child.send_signal(signal.SIGKILL)
        child.wait()
    return check(session, job, last_acknowledged(directory))


def last_acknowledged(directory: Path) -> int:
    """The tick that the writer acknowledged last; the one before the first where there is none."""
    ack = directory / "ack"
    said = ack.read_bytes() if ack.exists() else b""
    return int(struct.unpack("<q", said)[0]) if said else START - 1


def check(session: Path, job: Path, acknowledged: int) -> Trial:
    """Recover, seal, ship, merge, read; compare with what was appended up to `acknowledged`."""
    import numpy as np

    from perun_hpc.store import job_store, layout

    for store in NodeStore.recover(session):
        store.seal("partial", "killed")
    count = acknowledged - START + 1
    ship(session, job, NODES)
    if job_store.finalise(job, NODES, (acknowledged + 9) * NS_PER_S).state == "empty":
        return Trial(count, 0, "rows were acknowledged, none is there" if count else "")
    group = job_store.open_group(job)
    start = START - layout.origin_tick(NS_PER_S, START * NS_PER_S)
    read = 0
    for part in layout.arrays(SENSORS):
        stored = np.asarray(group[part.form.name][0, :, start:])  # type: ignore[index]
        read = stored.shape[1]
        missing = layout.fill(part.form.dtype)
        low, high = layout.limits(part.form.dtype)
        for row, column in enumerate(part.columns):
            raw = [value(START + index, column) for index in range(read)]
            scaled = [missing if v is None else v // part.form.divisor for v in raw]
            expected = [v if low <= v <= high else missing for v in scaled]
            if stored[row].tolist() != expected:
                return Trial(count, read, f"{part.form.name}/{row} differs from what was appended")
    return Trial(count, read, "rows were lost" if read < count else "")


def main(arguments: list[str]) -> int:
    """Run the trials and print a row of the table."""
    if arguments[:1] == ["write"]:
        write(Path(arguments[1]), Path(arguments[2]) if len(arguments) > 2 else None)
    if arguments[:1] == ["slow"]:
        write_slowly(Path(arguments[1]))
    trials = int(arguments[0]) if arguments else 300
    wrong, rows = [], 0
    for seed in range(trials):
        directory = Path(tempfile.mkdtemp(prefix="perun-kill-"))
        try:
            result = trial(directory, seed, direct=seed % 2 == 1, kills=1 + seed % 3)
        finally:
            shutil.rmtree(directory)
        rows += result.acknowledged
        if result.wrong:
            wrong.append(f"seed {seed}: {result.wrong}")
    print(f"| store: kill -9 of the writer | {trials} trials | {rows} rows acknowledged | {len(wrong)} wrong |")
    print("\n".join(wrong), end="\n" if wrong else "")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
