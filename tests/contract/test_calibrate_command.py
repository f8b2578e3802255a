"""`perun calibrate` from an archive: node ledgers since boot beside a meter of the calendar, up to a policy."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from perun_hpc.accounting.footprint import Estimator
from perun_hpc.accounting.site import load_site
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.archive.places import Archive
from perun_hpc.cli.main import main
from tests.accounting_data import DAY, NS, START_S, boundary, domain, parsed

STATIC_W, CPU = 90.0, 1.15
STEP_S, STEPS = 60, 240


@pytest.fixture
def archive(tmp_path: Path, utc: None) -> Archive:
    """Two nodes of four hours, one of them booted again in between, and the outlet that feeds both."""
    dice, made = random.Random(5), Archive(tmp_path / "archive", "c")
    wall_j = [0.0]
    powers = [[dice.choice((20.0, 90.0, 180.0)) for _ in range(STEPS)] for _ in range(2)]
    for node, watts in zip(("n1", "n2"), powers, strict=True):
        lines, ranges = [], ((0, STEPS),) if node == "n1" else ((0, 100), (100, STEPS))
        for boot, (first, last) in enumerate(ranges):
            offset_s = START_S - 10**6 if boot == 0 else START_S + first * STEP_S - 50
            for step in range(first, last):
                t0, t1 = ((START_S + at * STEP_S - offset_s) * NS for at in (step, step + 1))
                uj = round(watts[step] * STEP_S * 1e6)
                line = {"t0_ns": t0, "t1_ns": t1, "domain": "package-0", "total_uj": uj, "shares": {"idle": uj}}
                lines.append(json.dumps({**line, "method": "cores"}) + "\n")
            record = boundary(10 * (boot + 1), node, node)
            record["start"] |= {
                "real_ns": (START_S + first * STEP_S) * NS,
                "mono_ns": (START_S + first * STEP_S - offset_s) * NS,
            }
            path = made.base / "jobs" / f"{10 * (boot + 1)}.0" / "boundary" / f"{node}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(record))
        path = made.base / "nodes" / node / f"{DAY}.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(lines))
    for step in range(STEPS):
        wall_j.append(wall_j[-1] + STEP_S * sum(STATIC_W + CPU * watts[step] for watts in powers))
    readings = [f"{START_S + at * STEP_S},{joules / 3.6e6:.9f}\n" for at, joules in enumerate(wall_j)]
    meter = made.facility("pdu3")
    meter.parent.mkdir()
    meter.write_text("time,kwh\n" + "".join(readings))
    return made


def calibrate(archive: Archive, *words: str) -> int:
    where = ("--archive", str(archive.root), "--cluster", "c", "-S", DAY, "-E", DAY)
    return main(["calibrate", *where, *words])


def test_a_policy_as_it_is_proposed_makes_footprints_at_the_wall(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert calibrate(archive, "--meter", "pdu3=n[1-2]", "--meter-error", "0.01") == 0
    said, _, proposal = capsys.readouterr().out.partition("# a proposal for the policy:\n")
    assert "these are less than two days: the proposal has 0.5% more" in " ".join(said.split())
    assert "RMSE 0.0 W a node" in said and "Valid for the powers that were seen, until 2027-11-22" in " ".join(
        said.split()
    )
    factor = "{g_per_kwh: 400, stage: operational, source: s, date: 2026-01-01, u: 0.03}"
    pue = "{value: 1, category: PUE3, period: '2025', source: s, date: 2026-01-01, u: 0.0}"
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"footprint:\n  carbon_location: {factor}\n  pue: {pue}\n{proposal}")
    monkeypatch.setenv("PERUN_POLICY", str(policy))
    site, estimator = load_site(), Estimator()
    estimator.renew(site.settings.footprint, site.wall_model)
    half = {"package-0": domain("cpu", 4_000_000_000, node_uj=8_000_000_000)}
    record = sum_boundaries([parsed(boundary(1, "n1", "n1", half))])
    foot = estimator(record)
    assert (
        foot is not None
        and not foot.lower_bound
        and foot.sources[0].startswith("wall model: perun calibrate beside pdu3")
    )
    # 4 kJ of the CPUs in 100 s, and half of the node's static power for as long
    assert foot.facility_uj == pytest.approx((CPU * 4000 + STATIC_W * 100 / 2) * 1e6, rel=0.001)
    (bound,) = [one.u for one in foot.bounds if one.of == "co2_location_g"]
    # the record's, the meter's, that of a model of one day, and the factor's
    assert bound == pytest.approx((0.01**2 + 0.01**2 + 0.005**2 + 0.03**2) ** 0.5, rel=0.01)
    elsewhere = estimator(sum_boundaries([parsed(boundary(1, "n9", "n9", half))]))
    assert elsewhere is not None and elsewhere.lower_bound


def test_a_time_that_a_counter_does_not_cover_is_left_out(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    path = archive.base / "nodes" / "n1" / f"{DAY}.jsonl"
    lines = path.read_text().splitlines()
    lines[10] = json.dumps({**json.loads(lines[10]), "total_uj": None, "shares": {}})
    path.write_text("\n".join(lines) + "\n")
    assert calibrate(archive, "--meter", "pdu3=n[1-2]") == 0
    said = capsys.readouterr().out
    assert "1 left out: a counter gave nothing for a part of it" in said and "RMSE 0.0 W" in said


def test_a_time_that_the_meter_does_not_cover_is_left_out(archive: Archive, capsys: pytest.CaptureFixture[str]) -> None:
    """A node meter's file of two months, in which ten readings are missing: its kWh stand still there."""
    whole = [line.split(",") for line in archive.facility("pdu3").read_text().splitlines()[1:]]
    known = [[*words, f"{60 * at}"] for at, words in enumerate(whole)]
    gap_kwh = float(known[60][1]) - float(known[50][1])
    late = [[time, f"{float(kwh) - gap_kwh:.9f}", f"{float(covered) - 600}"] for time, kwh, covered in known[60:]]
    lines = [",".join([*words, "0", ""]) + "\n" for words in known[:51] + late]
    head = "time,kwh,covered_s,reading,since\n"
    archive.facility("pdu3.2026-10").write_text(head + "".join(lines[:100]))
    archive.facility("pdu3").write_text(head + "".join(lines[99:]))
    assert calibrate(archive, "--meter", "pdu3=n[1-2]") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 left out: the meter has no reading of a part of it" in said
    assert "RMSE 0.0 W a node" in said


def test_two_cords_are_one_meter_and_how_cpus_were_set_is_said(
    archive: Archive, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two cords that share the power out unevenly; of the second one the end was not read."""
    whole = [tuple(map(float, line.split(","))) for line in archive.facility("pdu3").read_text().splitlines()[1:]]
    for name, part, steps in (("a", 0.7, whole), ("b", 0.3, whole[: STEPS - 20])):
        lines = [f"{time_s:.0f},{part * kwh:.9f}\n" for time_s, kwh in steps]
        archive.facility(name).write_text("time,kwh\n" + "".join(lines))
    ledger = archive.base / "nodes" / "n1" / f"{DAY}.jsonl"
    lines = ledger.read_text().splitlines()
    lines[0] = json.dumps({**json.loads(lines[0]), "cpu_settings": {"governor": "powersave"}})
    ledger.write_text("\n".join(lines) + "\n")
    assert calibrate(archive, "--meter", "a+b=n[1-2]") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "RMSE 0.0 W a node" in said and "beside a+b" in said
    assert f"{(STEPS - 21) // 5} times between readings" in said, "where both have readings"
    assert "CPUs were set so all the time: governor powersave." in said
    lines[50] = json.dumps({**json.loads(lines[50]), "cpu_settings": {"governor": "performance"}})
    ledger.write_text("\n".join(lines) + "\n")
    assert calibrate(archive, "--meter", "a+b=n[1-2]") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "in several ways (governor performance; governor powersave): fit days of one setting" in said


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--meter", "pdu3"), 64, "write NAME=NODES"),
        (("--meter", "pdu3=n[1-"), 64, "write NAME=NODES"),
        (("--meter", "pdu3+=n1"), 64, "write NAME=NODES"),
        (("--meter", "pdu3=n9"), 66, "no node ledger of n9"),
        (("--meter", "none=n1"), 65, "facility/none.csv: no meter readings"),
        (("--meter", "none.csv=n1"), 65, "perun: none.csv: no meter readings"),
        (("--meter", "pdu3=n1", "--together", "cpu"), 64, "two or more of"),
        (("--meter", "pdu3=n1", "--period", "1"), 64, "from 60 to 86400"),
        (("--meter", "pdu3=n[1-2]", "--period", "3600"), 65, "let it run longer"),
    ],
)
def test_bad_input_is_one_line(
    archive: Archive, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, why: str
) -> None:
    assert calibrate(archive, *words) == code
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1
