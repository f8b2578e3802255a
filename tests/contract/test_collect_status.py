"""What the collector could not take, what waits for it and how it fares: by command, for an administrator."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

from perun_hpc.accounting.backlog import Sweep, last_sweep, look, note_sweep
from perun_hpc.archive.places import Archive
from perun_hpc.cli.main import main
from perun_hpc.report.backlog import troubles
from tests.accounting_data import boundary, put_incoming


class Site:
    """An archive, a policy, and the commands on them."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.archive, self.ledger = root / "archive", root / "ledger.db"
        self.policy = root / "policy.yaml"
        (self.archive / "c" / "incoming").mkdir(parents=True)
        self.policy.write_text(f"store: {{archive: {self.archive}}}\ncollect: {{ledger: 'sqlite:///{self.ledger}'}}\n")

    def perun(self, *words: str) -> tuple[int, str]:
        """Exit code and stdout."""
        self.capsys.readouterr()
        return main(words), " ".join(self.capsys.readouterr().out.split())

    def audit(self) -> list[str]:
        lost: list[str] = json.loads(self.text("audit", "--no-slurm", "--json"))["lost"]
        return lost

    def text(self, *words: str) -> str:
        self.capsys.readouterr()
        main(words)
        return self.capsys.readouterr().out


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path, capsys)
    monkeypatch.setenv("PERUN_POLICY", str(made.policy))
    return made


def test_a_job_that_waits_for_a_node_is_named_with_its_age(site: Site) -> None:
    began_s = int(time.time()) - 200
    path = put_incoming(site.archive, boundary(7, nodelist="n[1-2]", start_s=began_s))
    os.utime(path, (began_s, began_s))
    code, shown = site.perun("collect", "--status")
    assert code == 1
    assert "no sweep has been recorded" in shown
    assert site.perun("collect", "--no-slurm")[0] == 0
    code, shown = site.perun("collect", "--status")
    assert code == 0
    assert "0 records stored, 1 job waits for nodes" in shown
    assert "waiting in incoming/ for nodes or a sweep: 1, since 20" in shown
    assert "(00:03:2" in shown
    assert "job 7.0" in shown
    assert [one for one in site.audit() if "waiting in incoming/" in one and "job 7.0" in one]
    put_incoming(site.archive, boundary(7, node="n2", nodelist="n[1-2]", start_s=began_s))
    assert site.perun("collect", "--no-slurm")[0] == 0
    assert "nothing waits in incoming/" in site.perun("collect", "--status")[1]
    assert site.audit() == []


def test_a_damaged_record_is_named_until_its_day_is_over(site: Site) -> None:
    now_s = int(time.time())
    put_incoming(site.archive, boundary(7, nodelist="n[1-2]", start_s=now_s - 200))
    put_incoming(site.archive, boundary(7, node="n2", nodelist="n[1-2]", start_s=now_s - 200)).write_bytes(b'{"torn')
    site.perun("collect", "--no-slurm")
    code, shown = site.perun("collect", "--status")
    assert code == 1
    assert "damaged boundary records set aside: 1, since" in shown
    assert "job 7.0, n2" in shown
    assert site.perun("collect", "--no-slurm", "--deadline", "0")[0] == 0
    since = time.strftime("%Y-%m-%d", time.localtime(now_s - 86_400))
    told = json.loads(site.text("audit", "--no-slurm", "--since", since, "--json"))["lost"]
    assert [one for one in told if "damaged boundary records" in one and "job 7.0" in one and "n2" in one]


def test_a_record_that_the_ledger_refuses_is_named_with_its_reason(site: Site) -> None:
    mark = site.archive / "c" / "incoming" / "9.0" / "refused"
    mark.parent.mkdir()
    mark.write_text("a number beyond its column's range\n")
    (mark.parent / "n1.json").write_text("{}")
    code, shown = site.perun("collect", "--status")
    assert code == 1
    assert "refused by the ledger (the evidence waits in incoming/): 1, since 20" in shown
    assert "job 9.0: a number beyond its column's range" in shown


def test_sweeps_that_fail_are_named_since_the_first_one(site: Site) -> None:
    assert site.perun("collect", "--no-slurm")[0] == 0
    archive = Archive(site.archive, "c")
    well = last_sweep(archive)
    assert well is not None and well.failing_s is None
    site.ledger.write_bytes(b"this is no database " * 100)
    assert site.perun("collect", "--no-slurm")[0] != 0
    failed = last_sweep(archive)
    assert failed is not None
    assert (failed.well_s, failed.failing_s) == (well.well_s, failed.ended_s)
    assert site.perun("collect", "--no-slurm")[0] != 0
    again = last_sweep(archive)
    assert again is not None and again.failing_s == failed.failing_s
    code, shown = site.perun("collect", "--status")
    assert code == 1
    assert "sweeps fail since 20" in shown
    assert "the last that succeeded ended 20" in shown
    assert "file is not a database" in shown
    site.ledger.unlink()
    assert site.perun("collect", "--no-slurm")[0] == 0
    assert site.perun("collect", "--status")[0] == 0


def test_one_cluster_whose_sweep_fails_holds_up_no_other(site: Site) -> None:
    (site.archive / "b" / "incoming").mkdir(parents=True)
    (site.archive / "b" / "jobs").write_text("no directory")
    began_s = int(time.time()) - 200
    put_incoming(site.archive, boundary(7, start_s=began_s))
    assert site.perun("collect", "--no-slurm")[0] != 0
    assert (site.archive / "c" / "jobs" / "0" / "7.0" / "record.json").exists()
    code, shown = site.perun("collect", "--status")
    assert code == 1
    assert "Cluster b - last sweep" in shown
    assert "sweeps fail since" in shown.partition("Cluster c")[0]
    assert "sweeps fail since" not in shown.partition("Cluster c")[2]


def test_users_do_not_read_the_collectors_word(site: Site) -> None:
    site.perun("collect", "--no-slurm")
    assert Archive(site.archive, "c").sweep.stat().st_mode & 0o007 == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize(
    "command",
    [
        "collect --status",
        "balance 2026-11 --no-slurm",
        "seal 2026-11 --no-slurm",
        "verify 2026-11",
        "calibrate --meter hall=n1",
        "ledger rebuild",
        "ledger delete --user alice",
    ],
)
def test_a_user_is_told_whom_to_ask_as(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as open_to_all:
        root = Path(open_to_all)
        root.chmod(0o711)
        (root / "archive").mkdir(mode=0o711)
        (root / "archive" / "c").mkdir(mode=0o711)
        (root / "policy.yaml").write_text(f"store: {{archive: {root}/archive}}\n")
        monkeypatch.setenv("PERUN_POLICY", str(root / "policy.yaml"))
        with (root / "said").open("w") as said:
            child = os.fork()
            if child == 0:
                os.dup2(said.fileno(), 2)
                sys.stderr = os.fdopen(2, "w")
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                try:
                    words = command.split()
                    code = main([words[0], *([] if words[0] == "collect" else ["--cluster", "c"]), *words[1:]])
                    sys.stderr.flush()
                    os._exit(code)
                finally:
                    os._exit(99)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert (code, (root / "said").read_text().count("ask as root or the collector's user")) == (77, 1)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": "perun.sweep/1", "began_s": "x"}', '{"schema": "x/1"}', "\xff"]
)
def test_a_damaged_word_of_a_sweep_is_no_word(tmp_path: Path, text: str) -> None:
    archive = Archive(tmp_path, "c")
    archive.base.mkdir()
    archive.sweep.write_bytes(text.encode("latin-1"))
    assert last_sweep(archive) is None
    note_sweep(archive, 10, 20, "well", True, 5)
    assert last_sweep(archive) == Sweep(10, 20, "well", 20, None, 5)
    note_sweep(archive, 30, 40, "disk full", False)
    assert last_sweep(archive) == Sweep(30, 40, "disk full", 20, 40, 5)
    note_sweep(archive, 50, 60, "disk full", False)
    assert last_sweep(archive) == Sweep(50, 60, "disk full", 20, 40, 5)


@pytest.mark.usefixtures("utc")
def test_a_collector_that_has_gone_is_named(tmp_path: Path) -> None:
    backlog = look(Archive(tmp_path, "c"))
    sweep = Sweep(0, 100.0, "0 records stored", 100.0)
    assert troubles(sweep, backlog, late_s=60, now_s=160.0) == []
    (told,) = troubles(sweep, backlog, late_s=60, now_s=7361.0)
    assert told.startswith("no sweep since 1970-01-01")
    assert told.endswith("(02:01:01): is perun collect running?")
