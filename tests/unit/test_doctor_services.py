"""What `perun doctor` reads of policy, spool, collector and ledger."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.backlog import note_sweep
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.archive.certificates import Presented
from perun_hpc.archive.listener import Listener
from perun_hpc.archive.places import Archive
from perun_hpc.data_model import codec
from perun_hpc.data_model.metrics import TEXT
from perun_hpc.doctor import services
from perun_hpc.doctor.facts import Place, Policy
from perun_hpc.doctor.findings import Role
from perun_hpc.doctor.gather import Gatherer
from perun_hpc.process.scraped import Scraped
from tests.certificates import Authority

NOW_S = 1_800_000_000.0
POLICY = """
monitor: {canaries: "n[1-2]"}
partitions: {gpu: {sampling: {period: 2 s}}}
nodes: {"n[3-4]": {energy: {package_static: 45 W}}}
store: {archive: ARCHIVE, collector: "head:6871"}
collect: {sweep: 10 s, deadline: 1 min, ledger: "sqlite:////tmp/none/ledger.db"}
"""


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.replace("ARCHIVE", str(tmp_path / "archive")))
    monkeypatch.setenv("PERUN_POLICY", str(path))
    return path


def read(node: str) -> Policy:
    return codec.decode(Policy, services.read_policy(node))


def test_the_policy_of_a_node_is_read(policy: Path, tmp_path: Path) -> None:
    found = read("n3")
    assert (found.archive, found.collector) == (str(tmp_path / "archive"), "head:6871")
    assert (found.static_known, read("n1").static_known) == (True, False)
    assert (found.partitions, found.nodes) == (("gpu",), ("n1", "n2", "n3", "n4"))
    assert (found.late_s, found.wait_s) == (630, 140)
    assert found.mistakes == ()
    assert found.digest.startswith("sha256:")


def test_mistakes_of_the_policy_are_a_part_of_it_and_so_is_its_absence(policy: Path) -> None:
    policy.write_text("monitor: {job: all}\n")
    (mistake,) = read("n1").mistakes
    assert mistake.startswith(f"{policy}:1:")
    policy.unlink()
    assert read("n1").missing


def test_messages_that_wait_are_counted(tmp_path: Path) -> None:
    assert services.inbox(tmp_path / "none", NOW_S) == (0, 0.0)
    for name, age_s in (("1-job-end-1-0.msg", 500), ("2-job-end-2-0.msg", 20), (".3.tmp", 9000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (NOW_S - age_s, NOW_S - age_s))
    assert services.inbox(tmp_path, NOW_S) == (2, 500.0)


def test_idle_power_is_known_from_what_the_node_has_learnt(tmp_path: Path) -> None:
    paths = AgentPaths(tmp_path, tmp_path)
    assert services.static_days(paths, NOW_S) == 0.0
    paths.node.mkdir()
    day = time.strftime("%Y-%m-%d", time.localtime(NOW_S - 10 * 86_400))
    (paths.node / f"{day}.jsonl").touch()
    assert 9.9 < services.static_days(paths, NOW_S) < 11.1
    paths.state.write_text(json.dumps({"static": {"package-0": {"20000": {"450": 3600 * 10**9}}}}))
    assert services.static_days(paths, NOW_S) == 0.0
    paths.state.write_text(json.dumps({"static": {"package-0": "damaged"}}))
    assert services.static_days(paths, NOW_S) > 9


@pytest.mark.parametrize("domain", ["package-1", "grace-0", "cpu"])
def test_idle_power_of_any_kind_of_cpu_counts_and_none_is_asked_for_where_none_is_counted(
    tmp_path: Path, domain: str
) -> None:
    paths = AgentPaths(tmp_path, tmp_path)
    paths.node.mkdir()
    (paths.node / "2020-01-01.jsonl").touch()
    learnt = {domain: {"20000": {"450": 3600 * 10**9}}}
    for readings, static, known in (
        ({f"x:{domain}:energy": [1, 2]}, learnt, True),
        ({f"x:{domain}:energy": [1, 2]}, {}, False),
        ({"ipmi:node:energy": [1, 2], "nvml:gpu-0:energy": [1, 2]}, {}, True),
    ):
        paths.state.write_text(json.dumps({"readings": readings, "static": static}))
        assert (services.static_days(paths, NOW_S) == 0.0) is known


@pytest.mark.parametrize("text", ["{half", "[1]", '{"static": 7}', "\ud800"])
def test_a_damaged_state_is_left_to_the_agent(tmp_path: Path, text: str) -> None:
    paths = AgentPaths(tmp_path, tmp_path)
    paths.node.mkdir()
    paths.state.write_bytes(text.encode(errors="surrogatepass"))
    (paths.node / "abcd-ef-gh.jsonl").touch()
    assert services.static_days(paths, NOW_S) == 0.0
    assert {path.name for path in paths.node.iterdir()} == {paths.state.name, "abcd-ef-gh.jsonl"}


def test_whether_a_port_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = f"127.0.0.1:{server.getsockname()[1]}"
        assert services.reach(Policy("p", collector=where), False) == ""
    assert services.reach(Policy("p", collector=where), False) == "Connection refused"


def test_both_ends_certificates_are_shown_and_their_dates_read(tmp_path: Path) -> None:
    site = Authority.begin(tmp_path)
    ours, late = site.issue("head", ["DNS:localhost"]), site.issue("late", ["DNS:n1"], days=-1)
    tls = {name: str(getattr(site.issue("n1", ["DNS:n1"]), name)) for name in ("cert", "key", "ca")}
    old = {name: str(getattr(late, name)) for name in ("cert", "key", "ca")}
    (tmp_path / "archive").mkdir()
    with contextlib.closing(Listener(0, tmp_path / "archive", (), Presented(ours))) as listener:
        where = Policy("p", collector=f"localhost:{listener.port}", tls=tls)
        assert services.reach(where, True) == ""
        assert "it is out of date" in services.reach(replace(where, tls=old), True)
        assert services.reach(replace(where, tls=old), False) == ""
        assert "cannot read it" in services.reach(replace(where, tls={**tls, "key": "/absent"}), True)
    now_s = time.time()
    assert services.certificates(tls, now_s - 20 * 86_400) == []
    assert services.certificates(old, now_s - 20 * 86_400) == [(old["cert"], "is out of date in 19 days")]
    soon = services.certificates(tls, now_s)
    assert soon == [(tls["cert"], "is out of date in 20 days"), (tls["ca"], "is out of date in 30 days")]
    assert services.certificates(old, now_s)[0] == (old["cert"], "is out of date since 1 day")
    ((where_it_is, what),) = services.certificates({**tls, "cert": tls["key"]}, now_s)
    assert where_it_is == "store.tls" and tls["key"] in what


def test_what_the_archive_says_of_the_collector(tmp_path: Path) -> None:
    policy = Policy("p", archive=str(tmp_path), late_s=600, wait_s=60)
    archive = Archive(tmp_path, "c")
    archive.base.mkdir()
    now_s = time.time()

    def found() -> services.Collector:
        return services.decoded(services.collector(policy, tmp_path / "wake", now_s))

    assert found().sweeps == found().backlog == found().waiting == ()
    assert not found().wake
    run = archive.base / "incoming" / "7.0"
    run.mkdir(parents=True)
    (run / "n1.json").touch()
    os.utime(run / "n1.json", (now_s - 700, now_s - 700))
    assert "no sweep has been recorded" in found().sweeps[0]
    note_sweep(archive, now_s - 2, now_s - 1, "fine", True)
    assert found().sweeps == ()
    assert "job 7.0" in found().waiting[0]
    (run / "n2.json.damaged").touch()
    assert "damaged" in found().backlog[0]
    note_sweep(archive, now_s - 2, now_s - 1, "disk full", False)
    assert "disk full" in found().sweeps[0]
    assert found().waiting == ()


def test_a_ledger_is_opened_and_one_that_cannot_be_is_named(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    assert services.ledger(url) == ""  # the first sweep makes it
    open_ledger(url, create=True).close()
    assert services.ledger(url) == ""
    (tmp_path / "ledger.db").write_bytes(b"no database" * 100)
    assert "ledger.db" in services.ledger(url)
    assert services.ledger(f"sqlite:///{tmp_path}/none/ledger.db") == f"{tmp_path}/none: is not there"


def test_where_the_collector_belongs_is_seen_while_it_does_not_run(tmp_path: Path) -> None:
    wake = tmp_path / "run" / "wake"
    here = socket.gethostname().split(".")[0]
    assert not services.collects_here(Policy("p"), wake)
    assert services.collects_here(Policy("p", collector=f"{here}:6871"), wake)
    (tmp_path / "ledger.db").touch()
    assert services.collects_here(Policy("p", ledger=f"sqlite:///{tmp_path}/ledger.db"), wake)
    wake.parent.mkdir()
    assert services.collects_here(Policy("p"), wake)


@pytest.mark.parametrize("seen", [{"network": "nfs4"}, {"problem": "no answer within 1 s: its file system hangs"}])
def test_a_ledger_that_every_host_sees_or_that_hangs_makes_no_host_the_collectors(tmp_path: Path, seen: Any) -> None:
    policy = Policy("p", ledger="sqlite:////shared/ledger.db")
    said = {"ledger": Place("/shared/ledger.db", **seen)}
    assert not services.collects_here(policy, tmp_path / "run" / "wake", lambda *_: said)
    assert services.collects_here(policy, tmp_path / "run" / "wake", lambda *_: {"ledger": Place("/shared/ledger.db")})


def test_an_audit_that_finds_no_ledger_finds_nothing(policy: Path, tmp_path: Path) -> None:
    assert services.audit(pwd.getpwuid(os.geteuid()), "c", str(tmp_path)) == ()


def test_a_host_without_slurm_is_read_and_what_is_missing_is_said(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    (tmp_path / "slurm.conf").write_text("PrologFlags=Alloc\n")
    (tmp_path / "plugstack.conf").write_text(f"optional {tmp_path}/perun_spank.so prefix={tmp_path}\n")
    facts = Gatherer(tmp_path / "wake", list(Role)).facts()
    assert facts.munge.code == -1
    assert facts.unread["config"].by == "slurmctld"
    assert facts.local.one("PrologFlags") == "Alloc"
    assert facts.plugstack[0].argument("prefix") == str(tmp_path)
    assert facts.plugin is not None
    assert facts.plugin.missing
    assert facts.archive is not None
    assert facts.archive.missing


def test_figures_are_asked_for_where_the_policy_says() -> None:
    served = Scraped("127.0.0.1", 0)
    where = f"127.0.0.1:{served.port}"
    assert services.scrape(where) == ""  # before the first sweep has ended
    served.show({TEXT: b"perun_up 1\n"})
    assert services.scrape(where) == ""
    served.close()
    assert "refused" in services.scrape(where)
    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=lambda: other.accept()[0].sendall(b"SSH-2.0-x\r\n"))
        thread.start()
        assert "something else answers" in services.scrape(f"127.0.0.1:{other.getsockname()[1]}")
        thread.join()


def test_a_daemon_is_known_by_what_it_was_started_as_not_by_the_name_of_its_file(tmp_path: Path) -> None:
    for pid, comm, words in (
        (7, "slurmctld-wlm", ["/usr/sbin/slurmctld", "-D"]),  # started anew by a reconfigure, in Debian 13
        (8, "slurmd", ["slurmd"]),
        (9, "slurmstepd", ["slurmstepd: [7.batch]"]),
        (10, "kworker", [""]),
        (11, "perun", ["/opt/perun-hpc/bin/python", "/opt/perun-hpc/bin/perun", "collect", "--daemon"]),
    ):
        process = tmp_path / "proc" / str(pid)
        process.mkdir(parents=True)
        (process / "comm").write_text(f"{comm}\n")
        (process / "cmdline").write_text("\0".join([*words, ""]))
    (tmp_path / "proc/12").mkdir()  # it has ended meanwhile
    found = services.running(tmp_path)
    assert {"slurmctld", "slurmd"} <= found.names
    assert found.collectors == (os.getuid(),)
