"""How `perun doctor` looks at files and nodes: within a deadline, never held up, and what it makes of answers."""

from __future__ import annotations

import json
import os
import pwd
import stat
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from perun_hpc.cli.doctor import line, summary
from perun_hpc.cli.main import main
from perun_hpc.doctor import cluster, look, services
from perun_hpc.doctor.facts import Node
from perun_hpc.doctor.findings import Finding, Report, Severity, worst
from perun_hpc.errors import DataError, UnavailableError
from perun_hpc.report.screen import Style

ME = pwd.getpwuid(os.geteuid())
FINDING = Finding("spool", Severity.CRITICAL, ("n1",), "/var/spool/perun", "it is not there", "make it")
REPORT = Report("ctl", ("controller",), "1.0", 0, "sha256:1", 991, (), ("munge", "policy"), ("ledger",))


def test_what_hangs_is_given_up() -> None:
    with pytest.raises(UnavailableError, match="hangs"):
        look.Look(lambda: time.sleep(600)).answer(0.05)


def test_a_child_that_dies_is_no_answer() -> None:
    with pytest.raises(UnavailableError, match="has died"):
        look.Look(lambda: os._exit(3)).answer(20)


def test_what_the_kernel_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No such file"):
        look.Look(lambda: os.listdir(tmp_path / "none")).answer(20)  # noqa: PTH208


def test_a_fault_that_perun_names_is_said_in_its_words() -> None:
    def refuse() -> None:
        raise DataError("x.json: damaged: remove it")

    with pytest.raises(UnavailableError, match=r"^x\.json: damaged: remove it$"):
        look.Look(refuse).answer(20)


def test_a_place_is_described(tmp_path: Path) -> None:
    script, program = tmp_path / "script", tmp_path / "program"
    script.write_text("#!/bin/sh\n/opt/perun-hpc/libexec/perun/prolog\n")
    script.chmod(0o755)
    program.write_bytes(b"\x7fELF...")
    program.chmod(0o644)
    paths = {"s": str(script), "p": str(program), "d": str(tmp_path), "n": str(tmp_path / "none")}
    seen = look.places(paths, None, 20)
    assert (seen["s"].kind, seen["s"].runs, seen["s"].elf, services.is_ours(seen["s"])) == ("file", True, False, True)
    assert (seen["p"].runs, seen["p"].elf, services.is_ours(seen["p"])) == (False, True, False)
    assert (seen["d"].kind, seen["d"].owner, seen["d"].problem) == ("directory", ME.pw_name, "")
    assert (seen["n"].missing, seen["n"].problem) == (True, "it is not there")


def test_what_others_can_write_on_the_way_is_named(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "a").chmod(0o777)
    seen = look.places({"it": str(inner)}, None, 20)["it"].open_to
    assert seen
    if os.geteuid() == 0 and not stat.S_IMODE(tmp_path.stat().st_mode) & 0o022:
        assert seen == str(tmp_path / "a")


@pytest.mark.skipif(os.geteuid() != 0, reason="what is safe is root's")
def test_a_link_that_others_can_change_is_named_and_one_of_roots_is_not(tmp_path: Path) -> None:
    for name in ("safe", "open", "more"):
        (tmp_path / name).mkdir()
    (tmp_path / "safe/hook").touch(0o755)
    (tmp_path / "more/hook").symlink_to("../safe/hook")
    (tmp_path / "open/hook").symlink_to(tmp_path / "more/hook")
    (tmp_path / "safe/far").symlink_to("../open/hook")
    paths = {name: str(tmp_path / name) for name in ("safe/hook", "more/hook", "open/hook", "safe/far")}
    assert {one.open_to for one in look.places(paths, None, 20).values()} == {""}
    (tmp_path / "open").chmod(0o777)
    seen = {name: one.open_to for name, one in look.places(paths, None, 20).items()}
    opened = str(tmp_path / "open")
    assert seen == {"safe/hook": "", "more/hook": "", "open/hook": opened, "safe/far": opened}


def test_whether_a_user_can_write_is_asked_as_that_user(tmp_path: Path) -> None:
    assert look.places({"it": str(tmp_path)}, ME, 20)["it"].writes is True
    assert look.places({"it": str(tmp_path)}, None, 20)["it"].writes is None
    if os.geteuid() == 0:
        other = pwd.getpwnam("nobody")
        tmp_path.chmod(0o700)
        assert look.places({"it": str(tmp_path)}, other, 20)["it"].writes is False
        assert look.Look(look.as_user(other, os.geteuid)).answer(20) == other.pw_uid


def test_every_file_of_a_pattern_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "10-a").write_text("a")
    (tmp_path / "20-b").write_text("b")
    assert [place.path for place in look.matching(f"{tmp_path}/*", None, 20)] == [
        f"{tmp_path}/10-a",
        f"{tmp_path}/20-b",
    ]
    assert look.matching(f"{tmp_path}/none*", None, 20)[0].missing
    assert look.texts(f"{tmp_path}/*", 20) == [(f"{tmp_path}/10-a", "a"), (f"{tmp_path}/20-b", "b")]


def test_a_node_is_asked_by_a_short_job_or_as_the_administrator_says() -> None:
    node = Node("n7", "n7", "idle", "22.05.8", "gpu*", "none")
    words = cluster.line_for(node, "")
    assert words[0] == "srun"
    assert {"--nodelist=n7", "--partition=gpu"} <= set(words)
    assert cluster.line_for(node, "ssh -o 'A B' {node}")[:5] == ["ssh", "-o", "A B", "n7", f"{sys.prefix}/bin/perun"]


def test_a_command_that_no_shell_could_read_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--all", "--via", "ssh 'x {node}"]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert "--via" in line
    assert "no closing quotation" in line


def test_answers_of_nodes_are_read_and_silence_is_unknown(tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    fields = {"findings": [], "roles": ["compute"], "passed": [], "skipped": []}
    answer.write_text(
        json.dumps(
            {"reports": [{**fields, "host": "n1", "version": "1", "time_ns": 0, "policy": "", "service_uid": None}]}
        )
    )
    nodes = [Node(name, name, "idle", "22.05.8", "main", "none") for name in ("n1", "n2")]
    said = cluster.ask(nodes, f"sh -c 'test {{node}} = n1 || {{ echo no route >&2; exit 1; }}; cat {answer}'")
    assert isinstance(said[0], Report)
    assert isinstance(said[1], Finding)
    assert (said[0].host, said[1].severity, said[1].what) == ("n1", Severity.UNKNOWN, "could not be asked: no route")


def test_what_differs_from_most_hosts_is_named() -> None:
    reports = [replace(REPORT, host=name) for name in ("n1", "n2", "n3")]
    assert list(cluster.compare(reports)) == []
    odd = [*reports, replace(REPORT, host="n4", version="0.9", policy="sha256:2", service_uid=7)]
    said = list(cluster.compare(odd))
    assert {one.key for one in said} == set(cluster.SAME)
    assert {one.hosts for one in said} == {("n4",)}
    assert "is 0.9, on most hosts 1.0" in said[0].what


def test_one_finding_of_many_hosts_is_one_line_the_most_serious_first() -> None:
    warning = replace(FINDING, severity=Severity.WARNING, key="clock")
    many = cluster.merged([warning, *(replace(FINDING, hosts=(f"n{i}",)) for i in range(9)), FINDING])
    assert [one.key for one in many] == ["spool", "clock"]
    text = line(many[0], Style())
    assert text.startswith("CRITICAL spool: n0 n1 n2 n3 n4 n5 and 3 more /var/spool/perun: it is not there -> make it")
    assert line(replace(FINDING, what="\x1b[31m"), Style()).count("\x1b") == 0


def test_the_summary_is_a_monitoring_plugins() -> None:
    assert summary(Severity.OK, [], [REPORT]) == "PERUN OK - 2 checks on ctl (controller); 1 more need root"
    reports = [replace(REPORT, findings=(FINDING,)), REPORT]
    text = summary(Severity.CRITICAL, [FINDING], reports)
    assert text == "PERUN CRITICAL - 1 critical of 5 checks on ctl (controller) and 1 node: spool; 2 more need root"


def test_critical_counts_before_warning_and_unknown() -> None:
    assert worst([Severity.UNKNOWN, Severity.WARNING]) is Severity.WARNING
    assert worst([Severity.UNKNOWN, Severity.CRITICAL]) is Severity.CRITICAL
    assert worst([]) is Severity.OK
