"""Records are packed in SQLite, those of older ledgers bit by bit: nothing is lost wherever that ends."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import time
import zlib
from pathlib import Path

import pytest

from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.packed import pack, unpack
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.archive.places import Archive
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import DataError
from tests.accounting_data import START_S, boundary, domain, parsed, slurm_job

pytestmark = pytest.mark.usefixtures("utc")
WRITTEN = Path(__file__).parent.parent / "fixtures" / "written_by_8fd061b"
JOBS = 120
KILLS = 25
RECORD_B = 1700
"""What a two-node job with six shares may take."""


def record(number: int, nodes: tuple[str, ...] = ("n1", "n2")) -> EnergyRecord:
    """A job whose figures are its own, so that nothing is smaller than real ones are."""
    rng = random.Random(number)
    parts = []
    for node in nodes:
        domains = {name: domain(name[:-2], rng.randrange(10**9, 10**11)) for name in ("cpu-0", "cpu-1", "dram-0")}
        seconds = rng.randrange(60, 9000)
        parts.append(parsed(boundary(number, node, ",".join(nodes), domains=domains, seconds=seconds, boot_id=node)))
    told = slurm_job(number, name=f"job-{rng.randrange(10**6)}", user=f"user{number % 200}", nodelist="n[1-2]")
    return add_slurm(sum_boundaries(parts), told)


def as_before(path: Path) -> None:
    """Turn a ledger's records into what the versions before wrote: plain text."""
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        rows = raw.execute("SELECT job, body FROM record").fetchall()
        raw.executemany("UPDATE record SET body = ? WHERE job = ?", [(unpack(body), job) for job, body in rows])
        raw.execute("DELETE FROM packing")


def kinds(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as raw:
        return {kind for (kind,) in raw.execute("SELECT DISTINCT typeof(body) FROM record")}


def everything(path: Path) -> list[EnergyRecord]:
    with contextlib.closing(open_ledger(str(path))) as ledger:
        return ledger.load(list(range(1, JOBS + 1)))


def test_packing_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    written = [record(n) for n in range(1, JOBS + 1)]
    with contextlib.closing(open_ledger(str(path), create=True)) as ledger:
        ledger.put(written)
    as_before(path)
    assert kinds(path) == {"text"} and everything(path) == written
    rng, killed, mixed = random.Random(5), 0, 0
    for _ in range(KILLS):
        pid = os.fork()
        if pid == 0:
            try:
                with contextlib.closing(open_ledger(str(path), create=True)) as ledger:
                    while ledger.pack_older(2):
                        pass
            finally:
                os._exit(0)
        time.sleep(rng.random() * 0.05)
        os.kill(pid, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        mixed += len(kinds(path)) == 2
        assert everything(path) == written
    assert killed and mixed
    with contextlib.closing(open_ledger(str(path), create=True)) as ledger:
        while ledger.pack_older(7):
            pass
        assert not ledger.pack_older(7)
    assert kinds(path) == {"blob"} and everything(path) == written


def test_a_sweep_packs_what_8fd061b_wrote(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with contextlib.closing(sqlite3.connect(path)) as raw:
        raw.executescript((WRITTEN / "ledger.sql").read_text())
    with contextlib.closing(open_ledger(str(path), create=True)) as ledger:
        before = ledger.load(list(range(1, 100)))
        assert before and kinds(path) == {"text"}
        Collector(Archive(tmp_path / "archive", "c"), ledger, Tools(lambda: START_S + 200.0), 900).sweep()
        assert kinds(path) == {"blob"}
        assert ledger.load(list(range(1, 100))) == before


def test_a_change_of_the_schema_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    """The tables of 8fd061b, with so many rows that the new indexes take some time."""
    path, former = tmp_path / "ledger.db", tmp_path / "former.db"
    with contextlib.closing(sqlite3.connect(former)) as raw, raw:
        raw.executescript((WRITTEN / "ledger.sql").read_text())
        columns = [row[1] for row in raw.execute("PRAGMA table_info(job)")]
        own = {"id": "id + 1000 * n", "job_id": "job_id + 1000 * n"}
        raw.execute(
            "WITH RECURSIVE count(n) AS (VALUES (1000) UNION ALL SELECT n + 1 FROM count WHERE n < 4000) "
            f"INSERT INTO job SELECT {', '.join(own.get(name, name) for name in columns)} FROM job, count"
        )
    with contextlib.closing(open_ledger(str(former))) as ledger:
        written = ledger.load(list(range(1, 100)))
    shutil.copy(former, path)
    begin_s = time.perf_counter()
    open_ledger(str(path), create=True).close()
    whole_s = time.perf_counter() - begin_s
    rng, outcomes, tries = random.Random(6), set(), 0
    while tries < KILLS or (len(outcomes) < 2 and tries < 20 * KILLS):
        tries += 1
        for left in tmp_path.glob("ledger.db*"):
            left.unlink()
        shutil.copy(former, path)
        pid = os.fork()
        if pid == 0:
            try:
                open_ledger(str(path), create=True).close()
            finally:
                os._exit(0)
        time.sleep(rng.random() * 1.5 * whole_s)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with contextlib.closing(sqlite3.connect(path)) as raw:
            numbers = [number for (number,) in raw.execute("SELECT number FROM migration ORDER BY number")]
        outcomes.add(numbers[-1])
        assert numbers == list(range(1, numbers[-1] + 1))
        with contextlib.closing(open_ledger(str(path))) as ledger:
            assert ledger.load(list(range(1, 100))) == written
        with contextlib.closing(open_ledger(str(path), create=True)) as ledger:
            assert ledger.load(list(range(1, 100))) == written
    assert len(outcomes) == 2, "all of it or nothing, and both were seen"


def test_a_record_takes_what_it_may(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    count = 2000
    with contextlib.closing(open_ledger(str(path), create=True)) as ledger:
        ledger.put([record(n) for n in range(1, count + 1)])
    assert path.stat().st_size / count <= RECORD_B


@pytest.mark.parametrize(
    "body", [b"", b"\x02abc", pack("{}")[:-1], b"\x01" + zlib.compress(b"{}"), pack("[1, 2")], ids=str
)
def test_what_is_damaged_says_so(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "ledger.db"
    with contextlib.closing(open_ledger(str(path), create=True)) as ledger:
        ledger.put([record(1)])
    with contextlib.closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE record SET body = ?", (body,))
    with contextlib.closing(open_ledger(str(path))) as ledger, pytest.raises(DataError, match="row 1"):
        ledger.load([1])


def test_words_that_packed_once_unpack_for_ever() -> None:
    packed = bytes.fromhex("01c357ad22c59439bc7e39bc44a91600")
    assert unpack(packed) == '{"schema":"perun.record/1","energy_uj":7,"name":"ä"}'
