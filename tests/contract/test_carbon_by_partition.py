"""CO2 by the factors of the partition that a job ran in: in its record, and in a sealed month's statement."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting import verify as verifying
from perun_hpc.accounting.footprint import stated_factors
from perun_hpc.accounting.site import load_site
from perun_hpc.accounting.statement import Revision, revisions
from perun_hpc.archive.places import Archive
from perun_hpc.cli.main import main
from tests.accounting_data import boundary, put_incoming
from tests.simulated_site import CLUSTER, MONTH, SEALED_S, make_site

LOCAL = "{g_per_kwh: 400, stage: operational, kind: average, u: 0.1, source: grid, date: 2026-01-01}"
CLOUD = "{g_per_kwh: 40, stage: operational, region: north-1, u: 0.2, source: cloud, date: 2026-01-01}"
POLICY = """store: {{archive: {root}}}
collect: {{ledger: 'sqlite:///{root}/ledger.db'}}
footprint:
  pue: {{value: 1.5, category: PUE2, period: "2025", u: 0.03, source: report, date: 2026-01-01}}
  carbon_location: {local}
partitions:
  {partition}:
    footprint:
      pue: {{value: 1.1, source: cloud, date: 2026-01-01, u: 0.01}}
      carbon_location: {cloud}
"""


@pytest.fixture(autouse=True)
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(root=tmp_path / "archive", local=LOCAL, cloud=CLOUD, partition="cloud"))
    monkeypatch.setenv("PERUN_POLICY", str(path))
    return path


def test_a_job_has_the_factors_of_its_partition(tmp_path: Path) -> None:
    (tmp_path / "archive" / "c" / "incoming").mkdir(parents=True)
    for job_id, partition in ((1, "main"), (2, "cloud")):
        put_incoming(tmp_path / "archive", boundary(job_id, partition=partition, start_s=1_795_356_000))
    assert main(["collect", "--no-slurm", "--deadline", "0"]) == 0
    jobs = tmp_path / "archive" / "c" / "jobs"
    found = [json.loads(next(jobs.glob(f"*/{number}.0*/record.json")).read_text())["footprint"] for number in (1, 2)]
    kwh = 8_000_000_000 / 3.6e12
    assert [one["co2_location_g"] for one in found] == pytest.approx([kwh * 1.5 * 400, kwh * 1.1 * 40])
    bounds = [{one["of"]: one["u"] for one in two["bounds"]}["co2_location_g"] for two in found]
    assert bounds == pytest.approx([math.hypot(0.01, 0.1, 0.03), math.hypot(0.01, 0.2, 0.01)], abs=1e-4)
    local, cloud = (" ".join(one["sources"]) for one in found)
    assert "PUE2, 2025" in local and "operational, average" in local
    assert "north-1" in cloud and "PUE" in cloud


def test_a_broken_series_of_a_partition_is_named_with_it(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = "{series: /nowhere/grid.csv, stage: operational, source: cloud, date: 2026-01-01}"
    policy.write_text(POLICY.format(root=tmp_path / "archive", local=LOCAL, cloud=series, partition="cloud"))
    assert main(["policy", "check"]) == 78
    assert f"{policy}:10: footprint.carbon_location: /nowhere/grid.csv" in capsys.readouterr().out
    (tmp_path / "archive" / "c" / "incoming").mkdir(parents=True)
    main(["collect", "--no-slurm"])
    assert "partition cloud: footprint.carbon_location" in capsys.readouterr().err


def test_a_location_series_that_does_not_say_average_or_marginal_says_that(policy: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grid.csv"
    grid.write_text("time,value\n2026-01-01T00:00Z,400\n")
    series = f"{{series: {grid}, stage: operational, source: operator, date: 2026-01-01}}"
    policy.write_text(POLICY.format(root=tmp_path, local=series, cloud=CLOUD, partition="cloud"))
    assert "average or marginal not stated" in stated_factors(load_site())["carbon_location"].note


def test_a_sealed_month_states_each_partitions_jobs_by_its_factors(
    policy: Path, tmp_path: Path, utc: None, capsys: pytest.CaptureFixture[str]
) -> None:
    site = make_site(fresh(tmp_path / "site"), 6, 4)
    for path in sorted(site.archive.jobs.glob("*/*/boundary/*.json"))[::3]:
        record = json.loads(path.read_text())
        record["partition"] = "cloud"
        path.write_text(json.dumps(record))
    verifying.seal(site.archive, MONTH, SEALED_S)
    arguments = ["seal", MONTH, "--archive", str(site.archive.root), "--cluster", CLUSTER]
    assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "cloud/carbon_location: cloud, 2026-01-01 (operational, north-1)" in shown and "+/-" in shown
    assert main(["verify", *arguments[1:]]) == 0
    made = _last(site.archive)
    kwh: dict[Any, float] = {"main": 0.0, "cloud": 0.0}
    for record in verifying.verify(site.archive, MONTH).records:
        kwh[record.partition] += sum(share.energy_uj for share in record.shares) / 3.6e12
    wanted = kwh["main"] * 1.5 * 400 + kwh["cloud"] * 1.1 * 40
    assert made.jobs.co2_mg["co2_location_g"] == pytest.approx(wanted * 1000, rel=1e-6)
    assert made.jobs.u["co2_location_g"] > math.hypot(0.2, 0.01)
    assert made.jobs.lower_bound  # not at the wall


def test_a_figure_that_some_jobs_lack_is_a_lower_bound(policy: Path, tmp_path: Path, utc: None) -> None:
    life = CLOUD.replace("operational", "life-cycle")
    policy.write_text(POLICY.format(root=tmp_path, local=LOCAL, cloud=life, partition="main"))
    site = make_site(fresh(tmp_path / "site"), 4, 4)
    path = next(site.archive.jobs.glob("*/*/boundary/*.json"))
    record = json.loads(path.read_text())
    record["partition"] = "elsewhere"
    path.write_text(json.dumps(record))
    verifying.seal(site.archive, MONTH, SEALED_S)
    assert main(["seal", MONTH, "--archive", str(site.archive.root), "--cluster", CLUSTER]) == 0
    made = _last(site.archive)
    assert set(made.jobs.co2_mg) == {"co2_location_g", "co2_life_cycle_g"}
    assert made.jobs.u == {} and made.jobs.lower_bound


def _last(archive: Archive) -> Revision:
    return list(revisions(archive, MONTH))[-1][1]


def fresh(path: Path) -> Path:
    path.mkdir()
    return path
