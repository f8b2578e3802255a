"""Meters of nodes beside what perun counts: in the audit, and in the report of a job."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting import audit, node_meters
from perun_hpc.accounting.collect import Collector, Tools
from perun_hpc.accounting.job_meters import note_jobs
from perun_hpc.accounting.keeping import read_kept
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.archive.job_meters import beside_job
from perun_hpc.archive.meter_readings import STATES, by_node, of_node, read_states
from perun_hpc.archive.places import Archive
from perun_hpc.cli.main import main
from perun_hpc.meters.inventory import Pin, write_pins
from perun_hpc.meters.polling import Poller, Reading
from perun_hpc.meters.series import Series
from tests.accounting_data import DAY, NS, START_S, boundary, domain, put_incoming

STEP_S, STEPS = 60, 240
OFFSET_S = START_S - 5000
OID = "1.3.6.1.4.1.318.1.1.26.9.4.3.1.7.1"


def powers(seed: int) -> list[float]:
    dice = random.Random(seed)
    return [dice.choice((20.0, 90.0, 180.0)) for _ in range(STEPS)]


def pin(node: str, name: str = "", kind: str = "power", **more: Any) -> Pin:
    fixed: dict[str, Any] = {"device": f"bmc-{node}", "scope": "wall", "read": ("/redfish/v1/x#/y",), "unit": "W"}
    return Pin(**{"name": name or f"{node}-{kind}", "node": node, "kind": kind, **fixed, **more})


@pytest.fixture
def archive(tmp_path: Path, utc: None) -> Archive:
    """Three nodes of three hours, each with CPUs whose power changes by itself."""
    made = Archive(tmp_path / "archive", "c")
    for seed, node in enumerate(("n1", "n2", "n3")):
        lines = []
        for step, watts in enumerate(powers(seed)):
            t0, t1 = ((START_S + at * STEP_S - OFFSET_S) * NS for at in (step, step + 1))
            uj = round(watts * STEP_S * 1e6)
            lines.append(json.dumps({"t0_ns": t0, "t1_ns": t1, "domain": "package-0", "total_uj": uj,
                                     "shares": {"idle": uj}, "method": "cores"}) + "\n")  # fmt: skip
        record = boundary(10 + seed, node, node)
        record["start"] |= {"real_ns": START_S * NS, "mono_ns": (START_S - OFFSET_S) * NS}
        path = made.base / "jobs" / f"{10 + seed}.0" / "boundary" / f"{node}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
        path = made.base / "nodes" / node / f"{DAY}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(lines))
    return made


def meter(archive: Archive, one: Pin, watts: Sequence[float], steps: Sequence[int] = range(STEPS)) -> None:
    """A minute's readings of a meter, as the poller writes them."""
    series = Series(archive.facility(one.name), one, float(STEP_S))
    counted = 0.0
    for step in range(STEPS):
        counted += watts[step] * STEP_S
        if step in steps:
            value = watts[step] if one.kind == "power" else counted / float(one.base)
            series.add(
                START_S + (step + 0.5) * STEP_S, Decimal(f"{value:.3f}" if one.kind == "power" else round(value))
            )


def say(archive: Archive, *pins: Pin) -> None:
    """What the poller says of its meters."""
    Poller(pins, lambda host: pytest.fail(host), archive.facility("x").parent, float(STEP_S)).note()


def found(archive: Archive) -> tuple[list[str], list[node_meters.Compared], list[str]]:
    books = audit.read_books(archive.node_ledgers())
    anchors = node_meters.Anchors.none()
    list(anchors.noting(audit.boundary_files(archive, archive.all_runs(), 0, 2 * START_S)))
    findings, compared, silent = node_meters.compare(archive, books, anchors, START_S, START_S + STEPS * STEP_S)
    return [f"{one.where}: {one.what}" for one in findings], compared, silent


def wall(seed: int) -> list[float]:
    return [100 + 1.2 * watts for watts in powers(seed)]


def test_meters_that_fit_their_nodes_are_no_finding(archive: Archive) -> None:
    pins = [pin("n1", scope="psu-output", lag_s=12.0), pin("n2"), pin("n3")]
    for seed, one in enumerate(pins):
        meter(archive, one, wall(seed))
    say(archive, *pins)
    findings, compared, silent = found(archive)
    assert (findings, silent) == ([], [])
    assert [(one.node, one.scope) for one in compared] == [("n1", "psu-output"), ("n2", "wall"), ("n3", "wall")]
    for one in compared:
        # a reading stands for half a minute around it: windows are a little off at their edges
        assert one.slope == pytest.approx(1.2, abs=0.15)
        assert one.correlation == pytest.approx(1, abs=0.05)
    said = node_meters.sentence(compared, silent)
    assert "1 node behind the power supplies" in said
    assert "(up to 12 s old)" in said
    assert "2 nodes at the wall" in said
    assert "their age not said" in said


@pytest.mark.parametrize(
    ("shown", "what"),
    [
        ([0.3 * watts for watts in powers(0)], "less than the"),
        ([400.0] * STEPS, "it shows 400 W all the time, while the node's own sensors went from"),
        ([300 + 4 * 1.2 * watts for watts in powers(0)], "by 4.4 W for each of theirs"),
        ([300 + 0.2 * watts for watts in powers(0)], "by 0.18 W for each of theirs"),
    ],
    ids=["another rail", "constant", "four nodes", "part of it"],
)
def test_what_is_wrong_with_a_meter_is_named(archive: Archive, shown: list[float], what: str) -> None:
    meter(archive, pin("n1"), shown)
    meter(archive, pin("n2"), wall(1))
    say(archive, pin("n1"), pin("n2"))
    findings, _, _ = found(archive)
    assert len(findings) == 1, findings
    assert findings[0].startswith("meter of n1 (n1-power): ")
    assert what in findings[0]


def test_a_swapped_pair_is_named_once(archive: Archive) -> None:
    for node, seed in (("n1", 1), ("n2", 0), ("n3", 2)):
        meter(archive, pin(node), wall(seed))
    say(archive, pin("n1"), pin("n2"), pin("n3"))
    (finding,), _, _ = found(archive)
    assert finding.startswith("meters of n1 and n2: each moves with the other's sensors: they are swapped")


def test_one_meter_of_two_nodes_names_the_one_that_it_feeds(archive: Archive) -> None:
    meter(archive, pin("n1"), wall(2))
    meter(archive, pin("n3"), wall(2))
    say(archive, pin("n1"), pin("n3"))
    (finding,), _, _ = found(archive)
    assert finding.startswith("meter of n1: it moves with the sensors of n3, not with its own node's")


def test_outlets_are_summed_and_a_missing_one_is_a_missing_sum(archive: Archive) -> None:
    outlets = [pin("n1", f"r1-{at}-power", read=(OID,), device="pdu") for at in (1, 2)]
    half = [watts / 2 for watts in wall(0)]
    meter(archive, outlets[0], half)
    meter(archive, outlets[1], half)
    say(archive, *outlets)
    findings, compared, _ = found(archive)
    assert findings == []
    assert compared[0].meter_w == pytest.approx(sum(wall(0)[10:-10]) / (STEPS - 20), rel=0.05)
    whole = of_job_time(archive, 600, 3600)
    assert whole.energy_uj == pytest.approx(sum(wall(0)[10:60]) * STEP_S * 1e6, rel=0.02)
    assert (whole.meters, whole.by, whole.why) == (("r1-1-power", "r1-2-power"), "snmp", "")
    archive.facility("r1-2-power").unlink()
    lost = of_job_time(archive, 600, 3600)
    assert (lost.energy_uj, lost.why) == (None, "r1-2-power has no readings")
    meter(archive, outlets[1], half, range(0, 30))
    part = of_job_time(archive, 600, 3600)
    assert (part.energy_uj, part.why) == (None, "r1-2-power has readings of 39% of that time")
    _, compared, silent = found(archive)
    assert (compared, silent) == ([], ["n1 (r1-1-power, r1-2-power)"])


def of_job_time(archive: Archive, begin_s: float, end_s: float) -> Any:
    directory = archive.facility("x").parent
    states = read_states(directory)
    assert states is not None
    (((node, by), some),) = by_node(states.meters, ["n1"]).items()
    return of_node(directory, node, by, some, START_S + begin_s, START_S + end_s)


def test_show_has_the_sum_of_a_node_s_outlets(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outlets = [pin("n1", f"r1-{at}-power", read=(OID,), device="pdu") for at in (1, 2)]
    for one in outlets:
        meter(archive, one, [watts / 2 for watts in wall(0)])
    write_pins(tmp_path / "pinned.yaml", [*outlets, pin("n2", "n2-power")])
    (tmp_path / "meters.yaml").write_text("cluster: c\nperiod: 60 s\n")
    times = ["-S", "2026-11-22T14:10", "-E", "2026-11-22T15:00"]
    files = ["--config", str(tmp_path / "meters.yaml"), "--pinned", str(tmp_path / "pinned.yaml")]
    words = ["meters", "show", *files, "--archive", str(archive.root), *times]
    assert main(words) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(shown) == {"METER", "r1-1-power", "r1-2-power", "n1"}
    kwh = sum(wall(0)[10:60]) * STEP_S / 3.6e6
    assert float(shown["n1"].split()[5]) == pytest.approx(kwh, rel=0.02)
    archive.facility("r1-2-power").unlink()
    assert main(words) == 0
    shown = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "none" in shown["n1"] and shown["n1"].endswith("r1-2-power has no readings")
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n1 (sum)"]["energy_uj"] is None


def test_a_counter_is_preferred_where_it_is_fine_enough(archive: Archive) -> None:
    counter = pin("n1", kind="energy", unit="kWh", tick=0.1, read=("/redfish/v1/x#/z",))
    meter(archive, pin("n1"), wall(0))
    meter(archive, counter, wall(0))
    say(archive, pin("n1"), counter)
    coarse = of_job_time(archive, 0, 3600)
    assert (coarse.kind, coarse.why) == ("power", ""), "ticks of 360 kJ of one hour of 200 W"
    short = of_job_time(archive, 600, 900)
    assert (short.energy_uj, short.why, short.readings) == (None, "too coarse", 5)
    fine = pin("n1", kind="energy", unit="J", read=("/redfish/v1/x#/z",))
    archive.facility("n1-energy").unlink()
    meter(archive, fine, wall(0))
    say(archive, pin("n1"), fine)
    assert of_job_time(archive, 600, 3600).kind == "energy"


@pytest.fixture
def job(archive: Archive, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The report of a job of n1 for a time, collected and noted."""

    def report(begin_s: float, seconds: float, node: str = "n1") -> str:
        own = round(sum(powers(0)[int(begin_s // 60) : int((begin_s + seconds) // 60)]) * STEP_S * 1e6)
        put_incoming(archive.root, boundary(
            99, node, node, {"package-0": domain("cpu", own)}, start_s=START_S + begin_s, seconds=seconds,
            settings={}, uid=None, user="",
        ))  # fmt: skip
        url = f"sqlite:///{archive.root.parent / 'ledger.db'}"
        ledger = open_ledger(url, create=True)
        now_s = START_S + STEPS * STEP_S
        Collector(archive, ledger, Tools(clock=lambda: now_s), 60).sweep()
        problems = note_jobs(archive, ledger, lambda *_: None, now_s)
        ledger.close()
        assert problems == []
        words = ["report", "99", "--archive", str(archive.root), "--cluster", "c", "--ledger", url]
        assert main(words) == 0
        return " ".join(capsys.readouterr().out.split())

    return report


def test_a_job_s_report_has_its_nodes_meter_with_scope_and_lag(archive: Archive, job: Callable[..., str]) -> None:
    meter(archive, pin("n1", lag_s=3.0), wall(0))
    say(archive, pin("n1", lag_s=3.0))
    said = job(600, 3000)
    assert "Meter BMC: " in said
    assert "of its node, whoever ran there, at the wall;" in said
    assert "times what their own sensors counted; readings up to 3 s old, either end uncertain by 30 s" in said
    page = archive.root.parent / "job.html"
    words = ["--archive", str(archive.root), "--cluster", "c", "--ledger", f"sqlite:///{archive.root.parent}/ledger.db"]
    assert main(["report", "99", "--html", str(page), *words]) == 0
    assert "Meter, BMC: " in page.read_text()
    assert "whoever ran there, at the wall" in page.read_text()


def test_a_job_shorter_than_ten_readings_is_too_coarse(archive: Archive, job: Callable[..., str]) -> None:
    meter(archive, pin("n1"), wall(0))
    say(archive, pin("n1"))
    assert "Meter BMC: no sum of its nodes: n1: too coarse (4 readings, one each 60 s)" in job(600, 240)


def test_a_job_without_meters_has_no_such_line(archive: Archive, job: Callable[..., str]) -> None:
    meter(archive, pin("n2"), wall(1))
    say(archive, pin("n2"))
    assert "Meter" not in job(600, 3000)
    assert not list(archive.jobs.glob("**/meters.json"))


def test_a_job_is_looked_at_once_its_readings_have_come(archive: Archive) -> None:
    meter(archive, pin("n1"), wall(0))
    say(archive, pin("n1"))
    put_incoming(archive.root, boundary(99, "n1", "n1", start_s=START_S, seconds=1200))
    ledger = open_ledger(f"sqlite:///{archive.root.parent / 'ledger.db'}", create=True)
    end_s = START_S + 1200
    Collector(archive, ledger, Tools(clock=lambda: end_s), 60).sweep()
    file = archive.jobs / "0" / "99.0" / "meters.json"
    published: list[tuple[Path, int]] = []
    seen = []
    for now_s in (end_s + 60, end_s + 190, end_s + 400):
        assert note_jobs(archive, ledger, lambda path, uid, _: published.append((path, uid)), now_s) == []
        seen.append(file.exists())
    assert seen == [False, True, True]
    assert published == [(file.parent, 2001)], "once"
    (record,) = ledger.records_of("c", [99])
    assert [one.node for one in beside_job(archive, record)] == ["n1"]
    file.write_text("{")
    assert beside_job(archive, record) == []
    ledger.close()


def test_damage_of_the_poller_s_word_costs_meters_alone(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    archive.facility("x").parent.mkdir()
    (archive.facility("x").parent / STATES).write_text('{"time_s": 1, "meters": {"n1-power": []}}')
    ledger = open_ledger(f"sqlite:///{archive.root.parent / 'ledger.db'}", create=True)
    (problem,) = note_jobs(archive, ledger, lambda *_: None, START_S)
    assert "meters.json: cannot be read" in problem
    ledger.close()


def test_audit_says_what_it_compared(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    meter(archive, pin("n1"), [0.3 * watts for watts in powers(0)])
    say(archive, pin("n1"))
    url = f"sqlite:///{archive.root.parent / 'ledger.db'}"
    ledger = open_ledger(url, create=True)
    ledger.put([sum_boundaries(read_kept(archive, run)) for run in archive.all_runs()])
    ledger.close()
    words = ["audit", "--no-slurm", "--archive", str(archive.root), "--cluster", "c", "--ledger", url]
    assert main([*words, "-S", DAY, "-E", DAY]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "nodes' meters by nodes' own sensors: 1 node at the wall 0.30" in said
    assert "meter of n1 (n1-power): it shows" in said
    assert main([*words, "-S", DAY, "-E", DAY, "--json"]) == 1
    (one,) = json.loads(capsys.readouterr().out)["meters"]
    assert (one["node"], one["scope"], one["by"]) == ("n1", "wall", "redfish")


def test_a_reading_s_unit_reaches_the_archive(archive: Archive) -> None:
    """What a poller says of a PDU is what is read again: kW in ticks of 10 W."""
    one = pin("n1", "r1-1-power", read=(OID,), unit="kW", tick=0.01, device="pdu")

    class Device:
        def read(self, pins: Sequence[Pin]) -> dict[str, Reading | str]:
            return {each.name: Reading(Decimal(114), "", float(START_S)) for each in pins}

        def close(self) -> None:
            pass

    Poller([one], lambda host: Device(), archive.facility("x").parent, 60.0).run(rounds=1)
    states = read_states(archive.facility("x").parent)
    assert states is not None
    said = states.meters["r1-1-power"]
    assert (said.base, said.by, said.device, said.node, said.read_s) == (10.0, "snmp", "pdu", "n1", START_S)
