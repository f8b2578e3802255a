"""`perun compare`: jobs and stored runs beside each other, as people and programs read it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.found import Places
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.archive.places import Archive
from perun_hpc.cli.main import main
from perun_hpc.data_model.record import Device, EnergyRecord, to_json
from perun_hpc.energy.comparison import energies
from perun_hpc.errors import NotFoundError, UnavailableError
from perun_hpc.report.comparison import Side, comparison_json, comparison_lines, scaling, sentence, sides_of
from perun_hpc.report.earlier import beside_earlier
from perun_hpc.report.job import job_report
from perun_hpc.report.job_sides import (
    Asker,
    newest_and_before,
    of_name,
    of_words,
    with_earlier_spread,
)
from perun_hpc.report.screen import WIDTH, Style, cells
from perun_hpc.report.subjects import of_records
from tests.accounting_data import NS, START_S, boundary, domain, parsed, slurm_job
from tests.unit.test_accounting_selection import Slurm

pytestmark = pytest.mark.usefixtures("utc")
PLAIN = Style(colour=False, unicode=True)


def record(
    job_id: int, joules: float, nodes: tuple[str, ...] = ("n1",), seconds: int = 100, **other: Any
) -> EnergyRecord:
    """A job that used so much on each of its nodes, by RAPL: 3 % of gain, and a little that errs each time anew."""
    parts = []
    for node in nodes:
        uj = round(joules * 1e6)
        doubts = {"gain powercap": round(0.03 * uj), "random": round(0.001 * uj)}
        one = {"package-0": domain("cpu", uj, covered_ns=seconds * NS, doubts=doubts)}
        listed = ",".join(nodes)
        data = boundary(job_id, node, listed, one, seconds=seconds, num_nodes=len(nodes), perun_version="1.0")
        parts.append(parsed(data))
    job = slurm_job(
        job_id=job_id, shown_id=str(job_id), end_s=START_S + seconds, nodelist=",".join(nodes), num_nodes=len(nodes),
        cpus=4 * len(nodes), **other,
    )  # fmt: skip
    return add_slurm(sum_boundaries(parts), job)


def compared(*variants: list[EnergyRecord], weak: bool = False, style: Style = PLAIN) -> str:
    sides = [Side(str(one[0].job_id), tuple(of_records([r]) for r in one)) for one in variants]
    lines = comparison_lines(sides_of(sides), style, weak)
    assert all(cells(line) <= WIDTH for line in lines), lines
    return "\n".join(lines)


def test_less_on_the_same_node_is_less() -> None:
    text = compared([record(4711, 1000)], [record(4712, 970)])
    assert "-3.0 % ± 0.8" in text and "same nodes" in text
    assert "less" in text and "no difference" not in text
    assert "one run each" in text


def test_a_difference_of_energies_without_bounds_is_not_judged(tmp_path: Path) -> None:
    bare = [without_bounds(record(number, joules)) for number, joules in ((4711, 1000), (4712, 970))]
    assert "bounds not known" in compared([bare[0]], [bare[1]])
    found = sides_of([Side(str(one.job_id), (of_records([one]),)) for one in bare])
    assert (
        sentence(found, "the one before", "±") == "-3.0 % energy, +0.0 % time beside the one before: bounds not known"
    )
    (other,) = comparison_json(found)["beside_the_first"]
    assert [other["energy"][key] for key in ("low", "high", "within_bounds")] == [None, None, None]
    assert other["time"]["within_bounds"] is None


def without_bounds(found: EnergyRecord) -> EnergyRecord:
    """The same as a record of before says it, or Slurm's comment."""
    return replace(found, u_uj=0, components=tuple(replace(c, u_uj=0, doubts=()) for c in found.components))


def test_a_record_whose_clock_ran_backwards_is_not_compared() -> None:
    found = record(4711, 1000)
    assert of_records([replace(found, end_ns=found.start_ns - NS)]).why == "its time is not known"


def test_the_same_on_another_node_is_no_difference() -> None:
    text = compared([record(4711, 1000)], [record(4712, 970, ("n2",))])
    assert "no difference seen" in text and "other nodes" in text


def test_repeats_tell_how_many_prove_two_percent() -> None:
    first = [record(4711 + n, e) for n, e in enumerate((1000, 1010, 990))]
    text = compared(first, [record(4720, 1000)])
    assert "14 runs of each prove a" in text
    assert (
        comparison_json(
            sides_of([Side("a", tuple(of_records([r]) for r in first)), Side("b", (of_records([record(4720, 1000)]),))])
        )["beside_the_first"][0]["repeats_to_prove"]
        > 2
    )


def test_what_else_was_different_is_named() -> None:
    text = compared([record(4711, 1000, partition="main")], [record(4712, 800, partition="fast")])
    assert "differs: partition: main | fast" in text


def on_a_gpu(number: int, joules: float, **pace: Any) -> EnergyRecord:
    device = Device("n1", "gpu-GPU-a", 1, 100 * NS, 0, 90 * NS, 100 * NS, 1, braked_ns=100 * NS)
    return replace(record(number, joules), gpus=1, devices=(replace(device, **pace),))


def test_other_clocks_and_caps_of_gpus_are_named() -> None:
    one = on_a_gpu(4711, 1000, clock_khz=1_410_000, limit_mw=400_000)
    two = on_a_gpu(4712, 800, clock_khz=1_200_000, limit_mw=300_000, capped_ns=34 * NS)
    text = " ".join(compared([one], [two]).split())
    assert "differs: GPU clock at work: 1410 MHz | 1200 MHz" in text
    assert "differs: GPU power limit: 400 W | 300 W" in text
    assert "differs: GPU time held down by the power limit: 0 % | 34 %" in text
    assert "slowed" not in text
    found = comparison_json(sides_of([Side("a", (of_records([one]),)), Side("b", (of_records([two]),))]))
    assert found["sides"][1]["runs"][0]["gpu_paces"] == {
        "clock_hz": 1.2e9, "power_limit_w": 300.0, "power_limit_part": 0.34, "slowed_part": 0.0,
    }  # fmt: skip


def test_gpus_alike_but_for_their_noise_are_no_difference_and_unknown_is_no_zero() -> None:
    one = on_a_gpu(4711, 1000, clock_khz=1_410_000, limit_mw=400_000, capped_ns=30 * NS)
    two = on_a_gpu(4712, 800, clock_khz=1_404_000, limit_mw=400_000, capped_ns=33 * NS)
    assert "GPU" not in compared([one], [two])
    unknown = on_a_gpu(4713, 800, braked_ns=0)
    text = " ".join(compared([one], [unknown]).split())
    assert "GPU clock at work: 1410 MHz | not known" in text and "GPU power limit: 400 W | not known" in text
    assert "GPU" not in compared([unknown], [replace(unknown, job_id=4714)])


def test_scaling_is_against_the_fewest_nodes() -> None:
    one, two = record(4711, 1000), record(4712, 600, ("n1", "n2"), seconds=60)
    sides = sides_of([Side("two", (of_records([two]),)), Side("one", (of_records([one]),))])
    least, most = scaling(sides)
    assert (least.label, least.speed_up, least.energy_efficiency) == ("one", 1, 1)
    assert most.speed_up == pytest.approx(100 / 60) and most.ideal == pytest.approx(2)
    assert most.efficiency == pytest.approx(100 / 120)
    assert most.energy_efficiency == pytest.approx(1000 / 1200)
    assert "Scaling" in compared([one], [two])


def test_weak_scaling_counts_work_by_node() -> None:
    one, two = record(4711, 1000), record(4712, 1000, ("n1", "n2"))
    sides = sides_of([Side("one", (of_records([one]),)), Side("two", (of_records([two]),))])
    _, most = scaling(sides, weak=True)
    assert most.efficiency == pytest.approx(1) and most.energy_efficiency == pytest.approx(1) and most.within


def test_a_component_that_one_of_them_does_not_know_is_left_out() -> None:
    data = boundary(4712, domains={"package-0": domain("cpu", 970 * 10**6), "dram-0": domain("dram", 90 * 10**6)})
    other = add_slurm(sum_boundaries([parsed(data)]), slurm_job(job_id=4712, shown_id="4712"))
    text = compared([record(4711, 1000)], [other])
    assert "without dram, which is not known of 4711" in text and "1.06" not in text


def test_gpus_that_a_job_did_not_hold_used_nothing() -> None:
    parts = {"package-0": domain("cpu", 400 * 10**6), "gpu-0": domain("gpu", 300 * 10**6)}
    gpu = add_slurm(sum_boundaries([parsed(boundary(4712, domains=parts))]), slurm_job(shown_id="4712", gpus=1))
    text = compared([record(4711, 1000)], [gpu])
    assert "-30" in text and "without" not in text


def test_repeats_of_an_array_are_one_sum() -> None:
    tasks = [record(4712, 500), record(4713, 520)]
    one = of_records(tasks)
    assert one.energy_uj == 1020 * 10**6 and one.nodes == 1 and one.conditions["tasks"] == "2 jobs"


def test_no_name_of_a_user_reaches_the_terminal_as_a_command() -> None:
    text = compared([record(4711, 1000, partition="a\x1b[2J")], [record(4712, 900)], style=Style(True, True))
    assert "\x1b[2J" not in text


# The last runs of a name.


def laid_down(root: Path, *records: EnergyRecord) -> Path:
    """An archive with these records, each in its job's directory."""
    for one in records:
        place = root / "archive/c/jobs" / f"{one.job_id}.0"
        place.mkdir(parents=True)
        (place / "record.json").write_text(to_json(one))
    return root / "archive"


def named(root: Path, *records: EnergyRecord) -> Places:
    """A site where Slurm knows these jobs; each started a minute after the one before."""
    rows = [
        slurm_job(
            r.job_id, name=r.name, start_s=START_S + 60 * n, submit_s=START_S + 60 * n, end_s=START_S + 60 * n + 10,
            nodelist=r.nodelist, num_nodes=r.num_nodes,
        )
        for n, r in enumerate(records)
    ]  # fmt: skip
    slurm = Slurm(*rows)
    return Places(Archive(laid_down(root, *records), "c"), None, slurm.jobs, due_s=1e12, between=slurm.between)


ASKER = Asker(2001, START_S + 5000.0)


def test_a_name_is_its_last_runs_of_one_size(tmp_path: Path) -> None:
    larger = record(13, 700, ("n1", "n2"), name="cfd")
    places = named(tmp_path, *(record(10 + n, 1000 + n, name="cfd") for n in range(3)), larger,
                   record(14, 990, name="cfd"), record(15, 1, name="other"))  # fmt: skip
    before, newest = newest_and_before("cfd", places, ASKER, 5)
    assert (newest.label, before.label) == ("14", "3 runs before")
    assert [one.label for one in before.subjects] == ["12", "11", "10"]
    assert [one.label for one in of_name("cfd", places, ASKER, 2, without=["14"]).subjects] == ["13"]


def test_single_runs_have_the_spread_of_the_others_of_their_name(tmp_path: Path) -> None:
    jobs = [record(10 + n, joules, name="cfd") for n, joules in enumerate((1000, 960, 1040, 1000, 970))]
    places = named(tmp_path, *jobs)
    pair = sides_of(of_words(["13", "14"], places, ASKER))
    assert not energies(pair.runs(pair.sides[0]), pair.runs(pair.sides[1])).within
    seen = with_earlier_spread(pair, places, ASKER)
    assert seen.known is not None and seen.known[0] == pytest.approx(0.04, abs=1e-3) and seen.known[1] == 2
    assert "no difference seen" in "\n".join(comparison_lines(seen, PLAIN))
    repeats = sides_of(of_words(["10,11", "14"], places, ASKER))
    assert with_earlier_spread(repeats, places, ASKER).known is None


def test_one_run_of_a_name_has_nothing_beside_it(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="10 is the only job of yours named 'cfd'"):
        newest_and_before("cfd", named(tmp_path, record(10, 1000, name="cfd")), ASKER, 5)


def test_a_report_says_a_job_beside_the_last_ones_of_its_name(tmp_path: Path) -> None:
    jobs = [record(10 + n, joules, name="cfd") for n, joules in enumerate((1000, 1002, 999, 940))]
    places = named(tmp_path, *jobs)
    newest = replace(jobs[-1], start_ns=(START_S + 180) * NS, end_ns=(START_S + 280) * NS)
    said = beside_earlier(newest, places, "±")
    assert said.startswith("-6.0 % ± 1") and "beside the 3 before of this name: more than the bounds explain" in said
    text = "\n".join(job_report(newest, "the job's directory", PLAIN, (), said))
    assert "Beside     -6.0 %" in text


def test_bounds_that_hold_half_and_twice_are_no_figure(tmp_path: Path) -> None:
    jobs = [record(10 + n, joules, name="cfd") for n, joules in enumerate((1000, 1700, 1500))]
    places = named(tmp_path, *jobs)
    newest = replace(jobs[-1], start_ns=(START_S + 180) * NS, end_ns=(START_S + 280) * NS)
    said = beside_earlier(newest, places, "±")
    assert said.startswith("+15.0 % energy") and said.endswith("beside the 2 before of this name: too few runs to tell")
    assert "±" not in said
    text = compared(jobs[:2], jobs[2:])
    assert "+15.0 %              too few runs to tell" in text and "no difference" not in text


def test_a_bound_and_the_verdict_agree() -> None:
    first = [record(4711 + n, joules) for n, joules in enumerate((1000, 1070, 935))]
    lines = compared(first, [record(4720, 730)]).splitlines()
    energy = next(line for line in lines if line.startswith("  energy  "))
    change, bound = (float(figure) for figure in re.findall(r"-?\d+\.?\d*(?= %)", energy))
    assert (abs(change) <= bound) == ("no difference" in energy)


@pytest.mark.parametrize("change", [{"name": "wrap"}, {"array_job_id": 4}, {"status": "partial"}, {"uid": None}])
def test_a_report_says_nothing_where_there_is_nothing_to_say(tmp_path: Path, change: dict[str, Any]) -> None:
    jobs = [replace(record(10 + n, 1000, name="cfd"), **change) for n in range(3)]
    assert beside_earlier(jobs[-1], named(tmp_path, *jobs), "±") == ""


def test_a_slurm_that_does_not_answer_costs_a_report_nothing(tmp_path: Path) -> None:
    def fails(since_s: int, until_s: int, options: Any) -> Any:
        raise UnavailableError("sacct: no answer")

    places = replace(named(tmp_path, record(10, 1000, name="cfd")), between=fails)
    assert beside_earlier(record(10, 1000, name="cfd"), places, "±") == ""


# The command.


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An archive with records of four jobs that ended long ago."""
    jobs = (record(4711, 1000), record(4712, 970), record(4713, 1004), record(4714, 960, ("n2",)))
    return laid_down(tmp_path, *jobs)


def ask(archive: Path, *words: str) -> int:
    return main(
        ["compare", *words, "--archive", str(archive), "--cluster", "c", "--ledger", f"sqlite:///{archive}/none"]
    )


def test_two_jobs_by_their_ids(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(archive, "4711", "4712") == 0
    assert "4712 beside 4711" in capsys.readouterr().out


def test_repeats_are_joined_by_commas(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(archive, "4711,4713", "4712", "4714", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [len(side["runs"]) for side in found["sides"]] == [2, 1, 1]
    assert [one["same_nodes"] for one in found["beside_the_first"]] == [1, 0]


def test_a_job_is_not_held_against_itself(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("4711", "4711"), ("4711,4712", "4712")):
        assert ask(archive, *words) == 64
        assert "is there twice" in capsys.readouterr().err


def test_one_job_is_nothing_to_compare(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(archive, "4711") == 64
    assert "two jobs or more" in capsys.readouterr().err


def test_a_lower_bound_is_not_compared(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = archive / "c/jobs/4712.0/record.json"
    place.write_text(
        place.read_text()
        .replace('"status": "complete"', '"status": "partial"')
        .replace('"status":"complete"', '"status":"partial"')
    )
    assert ask(archive, "4711", "4712") != 0
    assert "4712 cannot be compared: its energy is a lower bound" in capsys.readouterr().err
