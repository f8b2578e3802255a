"""The site's balance: every whole is its parts, to the microjoule, and what was really drawn lies in the bounds."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.accounting import verify as verifying
from perun_hpc.accounting.balance import Balance, draw_up
from perun_hpc.accounting.manifest import manifest_file
from perun_hpc.accounting.metering import metered, read_meter_rows
from perun_hpc.accounting.node_events import Slurm, file_of
from perun_hpc.cli.main import main
from perun_hpc.slurm.events import parse_events
from tests.simulated_site import BEGIN, CLUSTER, END, MONTH, SEALED_S, Site, make_site

SPAN = float(BEGIN), float(END)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        in_utc(patch)
        yield make_site(tmp_path_factory.mktemp("site"), 15, 5)
    in_utc(None)


def in_utc(patch: pytest.MonkeyPatch | None) -> None:
    import time

    if patch is not None:
        patch.setenv("TZ", "UTC")
    time.tzset()


def drawn(site: Site) -> Balance:
    nodes = {one.name: frozenset({"IDLE"}) for one in site.nodes}
    return draw_up(site.archive, MONTH, SPAN, Slurm(parse_events(site.events), nodes), site.meters)


def closes(made: Balance) -> None:
    for whole in ("facility", "nodes", "jobs"):
        parts = [one.amount.energy_uj or 0 for one in made.edges if one.source == whole]
        assert sum(parts) == next(one.amount.energy_uj for one in made.edges if one.target == whole)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_truth_lies_in_the_bounds(tmp_path: Path, utc: None, seed: int) -> None:
    site = make_site(tmp_path, 12, seed)
    made = drawn(site)
    closes(made)
    assert made.findings == ()
    for (source, target), joules in site.truth_j.items():
        amount = made.edge(source, target)
        assert amount.low_uj is not None and amount.high_uj is not None, target
        assert amount.low_uj <= joules * 1e6 <= amount.high_uj, (source, target)


def test_hours_are_those_that_nodes_had(site: Site, utc: None) -> None:
    made = drawn(site)
    for node in site.nodes:
        time = made.nodes[node.name]
        heard = [] if node.name in site.late else node.seen
        assert time.off_s == pytest.approx(sum(end - begin for begin, end in node.off), abs=1)
        assert time.observed_s == pytest.approx(sum(end - begin for begin, end in heard), abs=1)
        assert time.observed_s + time.off_s + time.boot_s + time.unobserved_s == pytest.approx(END - BEGIN, abs=1)
    assert any(one.off_s and one.boot_s for one in made.nodes.values())


def test_a_node_that_is_silent_is_not_off(site: Site, utc: None) -> None:
    silent = draw_up(site.archive, MONTH, SPAN, Slurm(why="Slurm was not asked"), site.meters)
    closes(silent)
    assert silent.hours.off_s == 0
    assert silent.hours.unobserved_s > drawn(site).hours.unobserved_s
    assert "Slurm was not asked" in silent.notes


def test_without_meters_the_nodes_counters_remain(site: Site, utc: None) -> None:
    made = draw_up(site.archive, MONTH, SPAN, Slurm(parse_events(site.events)), [])
    assert made.edge("", "facility").energy_uj is None and made.edge("facility", "losses").energy_uj is None
    assert made.edge("nodes", "off").energy_uj is None and made.metered == 0
    assert made.edge("facility", "nodes").energy_uj == sum(
        one.amount.energy_uj or 0 for one in made.edges if one.source == "nodes"
    )


def test_parts_that_are_more_than_the_whole_are_a_finding(site: Site, utc: None) -> None:
    meters = [{**one, "feeds": "facility"} if one["meter"] == "login" else one for one in site.meters]
    meters = [one for one in meters if one["meter"] != "hall"]
    made = draw_up(site.archive, MONTH, SPAN, Slurm(parse_events(site.events)), meters)
    closes(made)
    assert "facility: its parts are more than it" in made.findings[0]


def test_a_node_behind_meters_that_feed_different_nodes_has_none(site: Site, utc: None) -> None:
    own = next(one for one in site.meters if one["feeds"] == "nodes")
    rack = {"meter": "rack", "feeds": "nodes", "u": 0.01, "nodes": f"{own['nodes']},n014"}
    made = draw_up(site.archive, MONTH, SPAN, Slurm(), [own, rack])
    assert made.metered == 0
    assert sum("left out" in note for note in made.notes) == 2


def test_a_counter_that_began_anew_says_nothing_of_the_time_between(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("time,kwh\n0,10\n100,11\n200,2\n300,3\n400,4\n")
    amount = metered(read_meter_rows(path, 0, 800), 0, 400, 0.0)
    assert amount.low_uj == 3 * 3.6e12 and amount.high_uj == 4 * 3.6e12
    assert amount.energy_uj == 4 * 3.6e12 and "75.0 %" in amount.why
    wrapped = metered(read_meter_rows(path, 0, 800, round(12 * 3.6e12)), 0, 400, 0.0)
    assert wrapped.energy_uj == wrapped.low_uj == (1 + 3 + 1 + 1) * 3.6e12


def test_the_pollers_gaps_are_not_known(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    rows = "0,0,0,5,\n100,1,100,5,\n700,1,100,5,\n800,2,200,5,\n"
    path.write_text(f"time,kwh,covered_s,reading,since\n{rows}")
    found = read_meter_rows(path, 0, 800)
    assert metered(found, 0, 800, 0.01).energy_uj is None
    assert "the meter saw 25 % of the time" in metered(found, 0, 800, 0.01).why
    assert metered(found, 0, 100, 0.01).energy_uj == 3.6e12


def test_events_of_nodes() -> None:
    text = "n1|100|200|IDLE+CLOUD+POWERED_DOWN\nn2|50|Unknown|DOWN*\n|1|2|\nn3|5|6|DRAIN\nn4|7|8|IDLE~\n"
    off, down, drained, short = parse_events(text)
    assert short.off and short.states == {"IDLE", "POWERED_DOWN"}  # as 22.05 has it
    assert (off.node, off.start_s, off.end_s, off.off, off.down) == ("n1", 100, 200, True, False)
    assert (down.end_s, down.off, down.down) == (None, False, True)
    assert not drained.off and not drained.down


def slurm_in(tools: Path, site: Site) -> None:
    """Put commands of a Slurm there that says what the site's would."""
    tools.mkdir()
    (tools / "events").write_text(site.events)
    for name, body in (
        ("sacctmgr", f"print(open({str(tools / 'events')!r}).read(), end='')"),
        ("scontrol", "print('NodeName=cloud9 CoresPerSocket=1 State=IDLE+CLOUD+POWERED_DOWN ThreadsPerCore=1')"),
    ):  # fmt: skip
        (tools / name).write_text(f"#!{sys.executable}\n{body}\n")
        (tools / name).chmod(stat.S_IRWXU)


def test_what_slurm_said_of_nodes_is_sealed_with_the_month(
    site: Site, tmp_path: Path, utc: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    meters = "".join(f"    - {json.dumps(one)}\n" for one in site.meters)
    (tmp_path / "policy.yaml").write_text(f"facility:\n  meters:\n{meters}")
    monkeypatch.setenv("PERUN_POLICY", str(tmp_path / "policy.yaml"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    there = ["--archive", str(site.archive.root), "--cluster", CLUSTER]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sacctmgr").write_text("#!/bin/sh\necho sacctmgr: error: nobody listens >&2\nexit 1\n")
    (tmp_path / "bin/sacctmgr").chmod(stat.S_IRWXU)
    assert main(["seal", MONTH, *there]) == 69
    assert "--no-slurm" in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert not manifest_file(site.archive, MONTH).exists()
    shutil.rmtree(tmp_path / "bin")
    slurm_in(tmp_path / "bin", site)
    assert main(["balance", MONTH, *there, "--json"]) == 0
    asked = json.loads(capsys.readouterr().out)
    assert main(["seal", MONTH, *there]) == 0
    shutil.rmtree(tmp_path / "bin")
    capsys.readouterr()
    assert main(["balance", MONTH, *there, "--json", "--no-slurm"]) == 0
    assert json.loads(capsys.readouterr().out) == asked and asked["node_seconds"]["off_s"] > 0
    assert main(["verify", MONTH, *there]) == 0
    sealed = file_of(site.archive, MONTH)
    text = sealed.read_text()
    sealed.write_text(text.replace('"cloud9"', '"cloud8"'))
    assert main(["verify", MONTH, *there]) == 1
    assert f"{MONTH}/slurm.json is not what was sealed" in " ".join(capsys.readouterr().out.split())
    sealed.write_text(text[: len(text) // 2])
    assert main(["balance", MONTH, *there]) == 65
    sealed.unlink()
    assert main(["verify", MONTH, *there]) == 1
    assert f"{MONTH}/slurm.json is gone" in " ".join(capsys.readouterr().out.split())
    manifest_file(site.archive, MONTH).unlink()
    sealed.write_text(text)  # of a seal that was broken off
    assert main(["seal", MONTH, *there, "--no-slurm"]) == 0 and not sealed.exists()
    assert main(["verify", MONTH, *there]) == 0
    sealed.write_text(text)
    assert main(["verify", MONTH, *there]) == 1
    assert "slurm.json" in (said := " ".join(capsys.readouterr().out.split())) and "was not sealed" in said


def test_what_no_sensor_measured_is_told_in_text_and_picture(
    tmp_path: Path, utc: None, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    site = make_site(tmp_path, 3, 1)
    ledgers = site.archive.node_ledgers()
    for path in ledgers:
        if path.parent == ledgers[0].parent:
            path.write_text(path.read_text().replace('{"t0_ns"', '{"estimated":true,"t0_ns"'))
    for path in site.archive.base.glob("**/boundary/*.json"):
        record = json.loads(path.read_text())
        record["sensors"] = [{**one, "provenance": "simulated"} for one in record["sensors"]]
        path.write_text(json.dumps(record))
    there = ["--archive", str(site.archive.root), "--cluster", CLUSTER, "--no-slurm"]
    assert main(["balance", MONTH, *there, "--picture", str(tmp_path / "a.svg")]) in (0, 1)
    text, drawn_text = " ".join(capsys.readouterr().out.split()), (tmp_path / "a.svg").read_text()
    for said in (f"of what nodes counted is estimated: nothing measures on {ledgers[0].parent.name}.", "are simulated"):
        assert said in text and said in drawn_text
    assert f"{CLUSTER}, {MONTH}: where the energy went ({MONTH}-01 00:00 to" in drawn_text


def test_of_a_month_that_nobody_observed_nothing_is_known(
    tmp_path: Path, utc: None, capsys: pytest.CaptureFixture[str]
) -> None:
    site = make_site(tmp_path, 2, 1)
    there = ["--archive", str(site.archive.root), "--cluster", CLUSTER, "--no-slurm"]
    assert main(["balance", "2024-02", *there, "--json"]) == 0
    edges = {one["to"]: one["energy_uj"] for one in json.loads(capsys.readouterr().out)["edges"]}
    assert {edges[name] for name in ("nodes", "jobs", "idle", "system", "unknown")} == {None}
    assert main(["balance", "2024-02", *there]) == 0
    assert "what jobs, idle nodes and the system drew is not known" in " ".join(capsys.readouterr().out.split())


def test_the_command_and_its_picture(
    site: Site, tmp_path: Path, utc: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    tools = tmp_path / "bin"
    slurm_in(tools, site)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    meters = "".join(f"    - {json.dumps(one)}\n" for one in site.meters)
    (tmp_path / "policy.yaml").write_text(f"store: {{archive: {site.archive.root}}}\nfacility:\n  meters:\n{meters}")
    monkeypatch.setenv("PERUN_POLICY", str(tmp_path / "policy.yaml"))
    for name in ("b.html", "b.svg"):
        picture = tmp_path / name
        assert main(["balance", MONTH, "--cluster", CLUSTER, "--picture", str(picture)]) == 0
        drawn_text = picture.read_text()
        for word in ("facility", "unobserved", "not known of", "account physics", "losses"):
            assert word in drawn_text, word
    shown = capsys.readouterr().out
    assert "Observed:" in shown and "boot" in shown
    assert main(["balance", MONTH, "--cluster", CLUSTER, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["nodes"]["cloud9"]["off"] == END - BEGIN  # powered down since before slurmdbd's first event
    assert main(["balance", MONTH, "--cluster", CLUSTER, "--picture", "b.gif"]) == 64
    assert main(["balance", "2099-01", "--cluster", CLUSTER]) == 64
    shutil.rmtree(tools)


def verify(site: Site, archive: Path, *more: str) -> int:
    return main(["verify", MONTH, "--archive", str(archive), "--cluster", CLUSTER, *more])


def test_a_sealed_month_is_the_ledgers(
    tmp_path: Path, utc: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERUN_POLICY", str(tmp_path / "none.yaml"))
    site = make_site(tmp_path, 10, 3)
    verifying.seal(site.archive, MONTH, SEALED_S)
    copy = tmp_path / "copy"
    shutil.copytree(site.archive.root, copy)
    assert verify(site, copy, "--ledger", site.ledger) == 0
    assert ": 0 differences." in " ".join(capsys.readouterr().out.split())
    site.deliver_late()
    assert verify(site, site.archive.root, "--ledger", site.ledger) == 0  # it has more by now, of a late node
    assert "after the seal" in capsys.readouterr().out
    with contextlib.closing(sqlite3.connect(site.root / "ledger.db")) as database:
        database.execute("UPDATE job_share SET energy_uj = energy_uj + 1 WHERE job IN (SELECT id FROM job LIMIT 1)")
        database.commit()
    assert verify(site, site.archive.root, "--ledger", site.ledger) == 1
    assert "is another in the ledger (off by +1)" in " ".join(capsys.readouterr().out.split())


def test_records_whose_ledger_is_gone_are_jobs_all_the_same(tmp_path: Path, utc: None) -> None:
    site = make_site(tmp_path, 5, 2)
    before = drawn(site).edge("nodes", "jobs").energy_uj
    name = next(node.name for node in site.nodes if node.jobs and node.kind != "late")
    shutil.rmtree(site.archive.base / "nodes" / name)
    made = drawn(site)
    closes(made)
    assert made.edge("nodes", "jobs").energy_uj == before
    assert made.findings == (f"records hold more than the ledgers of {name}: see perun audit",)


def test_what_cannot_be_read_or_written_is_one_line(
    tmp_path: Path, utc: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    root = tmp_path / "archive"
    (root / "c" / "facility").mkdir(parents=True)
    (root / "c" / "facility" / "hall.csv").write_text("no readings")
    meters = "[{meter: hall, feeds: facility, u: 0.01}, {meter: gone, feeds: fabric, u: 0.01}]"
    (tmp_path / "policy.yaml").write_text(f"store: {{archive: {root}}}\nfacility: {{meters: {meters}}}\n")
    monkeypatch.setenv("PERUN_POLICY", str(tmp_path / "policy.yaml"))
    words = ["balance", MONTH, "--cluster", "c", "--no-slurm"]
    assert main([*words, "--picture", str(tmp_path / "b.svg")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "hall.csv: no meter readings, line 1 names none" in shown and "gone.csv is not there" in shown
    assert "No nodes are known of this month." in shown
    assert main([*words, "--picture", str(tmp_path / "nowhere" / "b.html")]) == 77
    assert "cannot be written: No such file or directory" in capsys.readouterr().err
