"""Archives on file systems that differ: without access control lists, or purged by the site."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.collect import Collector, Slurm, Summary, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.archive.access import NO_LISTS
from perun_hpc.archive.delivery import ArchiveDelivery
from perun_hpc.archive.places import BOUNDARIES, RECORD, Archive
from perun_hpc.cli.collect import close_trace
from perun_hpc.cli.main import main
from perun_hpc.store import layout
from perun_hpc.store.node_store import NodeStore
from tests.accounting_data import START_S, boundary, put_incoming, slurm_job
from tests.contract.test_ledger_collector import DEADLINE_S, World
from tests.soak.store_data import sensors

CHECKOUT = Path(__file__).parents[2]
MOUNTS = subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode == 0


needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or not MOUNTS, reason="mounts a file system in a namespace of its own"
)


def in_a_namespace(module: str) -> dict[str, Any]:
    """What a scenario prints, run where it may mount: in a directory that every user can pass to."""
    home = Path("/var/tmp") / f"perun-{module.rpartition('.')[2]}-{os.getpid()}"
    home.mkdir()
    try:
        line = ["unshare", "-m", sys.executable, "-m", module, str(home)]
        done = subprocess.run(line, cwd=CHECKOUT, capture_output=True, text=True)
    finally:
        subprocess.run(["rm", "-rf", home], check=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@needs_mounts
def test_where_there_are_no_access_control_lists_everything_stays_closed_and_everybody_is_told() -> None:
    """ramfs has none, as NFS version 4 and what is mounted noacl have none."""
    said = in_a_namespace("tests.without_lists")
    for code, text in (said["swept"], said["again"]):
        assert code == 0
        assert text.count(NO_LISTS) == 1, text  # however many jobs
    assert len(said["jobs"]) == 3 and set(said["modes"]) <= {"0o640", "0o700"}
    code, text = said["owner"]
    assert "cannot be opened to you" in " ".join(text.split()) and "8.00 kJ" not in text, (code, text)
    code, text = said["service"]
    assert code == 0 and "8.00 kJ" in text


@needs_mounts
@pytest.mark.skipif(not Path("/dev/fuse").exists() or shutil.which("bindfs") is None, reason="bindfs is not installed")
def test_an_archive_that_root_may_not_enter_takes_everything_of_agent_and_collector() -> None:
    said = in_a_namespace("tests.root_squash")
    assert said["root_enters"] is False
    code, text = said["swept"]
    assert code == 0 and "1 record stored" in text
    for who in ("service", "root"):
        code, text = said[who]
        assert code == 0 and re.search(r"Energy +(3(\.0+)? J|at most [3-9])", text), text  # as sure as its few ms are
    assert said["doctor"] == ["", True]


NODE_UJ = 8_000_000_000
BOTH = "n1,n2"
MONTH_S = 30 * 86_400

PURGES: dict[str, Callable[[Path], bool]] = {
    "everything": lambda path: True,
    "records": lambda path: path.name == RECORD,
    "evidence": lambda path: path.parent.name == BOUNDARIES,
    "trace": lambda path: layout.STORE in path.parts,
    "metadata": lambda path: path.name == "zarr.json",
    "node ledgers": lambda path: path.suffix == ".jsonl",
    "some": lambda path: zlib.crc32(str(path.name).encode()) % 2 == 0,
}


@dataclass
class Purged:
    """An archive from which a site's own programs delete what is old; the ledger lies elsewhere."""

    world: World
    archive: Path

    @property
    def energies(self) -> dict[int, list[int | None]]:
        return {job: [record.energy_uj for record in self.world.ledger.members("c", str(job))] for job in (4711, 4712)}

    def purge(self, wanted: Callable[[Path], bool], directories: bool) -> None:
        """Delete files, as purging programs do; some of them empty directories as well."""
        for path in [one for one in self.world.archive.base.rglob("*") if one.is_file() and wanted(one)]:
            path.unlink()
        for path in sorted(self.world.archive.base.rglob("*"), reverse=True) if directories else ():
            with contextlib.suppress(OSError):
                path.rmdir()

    def sweep(self) -> Summary:
        tools = Tools(lambda: self.world.now, Slurm(self.world._ask, self.world._between), finalise=close_trace)
        return Collector(self.world.archive, self.world.ledger, tools, DEADLINE_S, queue=True).sweep()


@pytest.fixture
def purged(tmp_path: Path) -> Purged:
    """Two jobs of a month ago: of 4711 one node never reported; 4712 has a trace."""
    world = World(tmp_path)
    world.archive = Archive(tmp_path / "archive", "c")
    world.jobs = [slurm_job(num_nodes=2, nodelist="n[1-2]"), slurm_job(4712)]
    session = tmp_path / "spool" / "4712.0"
    store = NodeStore.open(
        session, cluster="c", job_id="4712", restart_count=0, node="n1", sensors=sensors(3),
        period_ns=layout.NS_PER_S, start_ns=START_S * layout.NS_PER_S,
    )  # fmt: skip
    for index in range(700):
        store.append(START_S + index, [index] * 3)
    store.seal()
    (tmp_path / "archive").mkdir()
    delivery = ArchiveDelivery(tmp_path / "archive")
    delivery.session(session, {**boundary(4712), "trace": {"stored": True}})
    put_incoming(tmp_path / "archive", boundary(node="n1", nodelist=BOTH))
    days = tmp_path / "spool" / "node"
    days.mkdir()
    (days / "2026-11-22.jsonl").write_text('{"t0_ns":1,"t1_ns":2,"domain":"p","total_uj":1,"shares":{"idle":1}}\n')
    delivery.ledger(days, "c", "n1")
    found = Purged(world, tmp_path / "archive")
    world.now += DEADLINE_S
    found.sweep()
    assert found.energies == {4711: [NODE_UJ], 4712: [NODE_UJ]}
    world.now += MONTH_S
    return found


@pytest.mark.parametrize("directories", [False, True], ids=["files", "directories too"])
@pytest.mark.parametrize("name", PURGES)
def test_what_a_site_purges_is_missed_by_no_ledger(purged: Purged, name: str, directories: bool) -> None:
    purged.purge(PURGES[name], directories)
    for _ in range(3):
        summary = purged.sweep()
        assert (summary.failed, summary.refused, summary.damaged, summary.missing) == (0, 0, 0, 0), summary
        purged.world.now += 86_400
    assert purged.energies == {4711: [NODE_UJ], 4712: [NODE_UJ]}
    # A node that was in repair all the time, and an id that comes again.
    put_incoming(purged.archive, boundary(node="n2", nodelist=BOTH))
    later = int(purged.world.now) - 200
    put_incoming(purged.archive, boundary(4712, start_s=later))
    purged.world.jobs.append(slurm_job(4712, submit_s=later - 5, start_s=later, end_s=later + 100))
    assert purged.sweep().failed == 0
    purged.world.now += DEADLINE_S
    assert purged.sweep().failed == 0
    assert purged.energies == {4711: [2 * NODE_UJ], 4712: [NODE_UJ, NODE_UJ]}


@pytest.mark.parametrize("name", PURGES)
def test_commands_that_look_into_a_purged_archive_say_what_is_there(
    purged: Purged, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    purged.purge(PURGES[name], directories=False)
    url = f"sqlite:///{tmp_path}/ledger.db"
    (tmp_path / "policy.yaml").write_text(f"store: {{archive: {purged.archive}}}\ncollect: {{ledger: '{url}'}}\n")
    monkeypatch.setenv("PERUN_POLICY", str(tmp_path / "policy.yaml"))
    open_ledger(url, create=True).close()
    for words in (
        ["collect", "--repair", "4712"],
        ["collect", "--recode", "4712"],
        ["collect", "--thin", "3", "4712"],
        ["ledger", "retention"],
        ["collect", "--status"],
        ["audit", "--no-slurm", "--since", "2026-11-01", "--until", "2026-11-30"],
    ):
        code = main(words)
        _, err = capsys.readouterr()
        assert code in (0, 1, 66) and err.count("\n") <= 1, (words, code, err)
    assert main(["report", "4711", "--cluster", "c"]) == 0
    assert "8.00 kJ" in capsys.readouterr().out
