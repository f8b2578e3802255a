"""An array as one object, and lists of jobs with their sum: what errs alike in all of them errs alike in the sum."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from perun_hpc.accounting.summing import add_slurm, missing_record, sum_boundaries
from perun_hpc.accounting.together import together
from perun_hpc.data_model.record import EnergyRecord, Footprint
from perun_hpc.report.screen import WIDTH, Style, cells
from perun_hpc.report.several import listing_report, sum_lines, whole_report
from tests.accounting_data import START_S, boundary, domain, parsed, slurm_job

PLAIN = Style(colour=False, unicode=True)
J = 1_000_000


def task(number: int, joules: int = 8000, **slurm: object) -> EnergyRecord:
    """One task whose gain errs by 1 % and whose edges by 10 J."""
    doubts = {"gain powercap": joules * J // 100, "random": 10 * J}
    part = domain("cpu", joules * J, doubts=doubts, u_uj=math.isqrt(sum(uj**2 for uj in doubts.values())))
    made = sum_boundaries([parsed(boundary(4711 + number, domains={"package-0": part}))])
    return add_slurm(made, slurm_job(4711 + number, shown_id=f"4711_{number}", **slurm))


def test_gains_of_an_arrays_tasks_add_and_their_noise_does_so_in_squares() -> None:
    total = together([task(1), task(2), task(3), task(4)])
    assert total.energy_uj == 32_000 * J
    assert total.u_uj == math.ceil(math.hypot(320 * J, 20 * J))


def test_what_does_not_say_how_it_errs_may_err_with_all_others() -> None:
    row = slurm_job(9)
    from perun_hpc.accounting import comment

    line = comment.decode(comment.encode(add_slurm(sum_boundaries([parsed(boundary(9))]), row)), row, "c")
    assert together([task(1), line]).u_uj == together([task(1)]).u_uj + line.u_uj


def test_an_array_is_one_screen() -> None:
    runs = [task(n, 8000 + 10 * n) for n in range(1, 9)]
    runs += [
        task(9, 20_000, state="FAILED", exit_code=1),
        missing_record(slurm_job(4721, shown_id="4711_10"), "c", "none"),
    ]
    lines = whole_report(runs, PLAIN)
    text = "\n".join(lines)
    assert max(map(cells, lines)) <= WIDTH
    assert lines[0].startswith("Job array 4711  stencil") and lines[0].endswith("9 COMPLETED, 1 FAILED")
    assert "10 tasks" in text
    assert "at least 84.4 kJ ± 1.7 kJ (k=2)" in text
    assert "1 task without a record" in text
    assert "8.05 kJ in the median, from 8.01 kJ (4711_1) to 20.0 kJ (4711_9)" in text
    assert "20.0 kJ in 1 run that did not complete" in text
    assert "4711_9 used 2.5 times as much as the median task" in text
    rows = [line for line in lines if line.startswith("4711_")]
    assert len(rows) == 5
    assert rows[0].split() == ["4711_9", "20.00", "kJ", "±", "0.40", "kJ", "2.48", "00:01:40", "95", "%", "FAILED"]


def test_of_tasks_of_which_only_an_upper_end_is_known_nothing_else_is_said() -> None:
    doubts, runs = {"static cpu": 5000 * J}, []
    foot = Footprint(None, 1.0, None, 0.5, "EUR", True, ())
    for number, joules in ((1, 6000), (2, 8000), (3, 40_000)):
        part = domain("cpu", joules * J, doubts=doubts, u_uj=5000 * J)
        made = sum_boundaries([parsed(boundary(4711 + number, domains={"package-0": part}))])
        runs.append(replace(add_slurm(made, slurm_job(4711 + number, shown_id=f"4711_{number}")), footprint=foot))
    text = " ".join(" ".join(whole_report(runs, PLAIN)).split())
    assert "at most 18.0 kJ in the median, from at most 16.0 kJ (4711_1) to 40.0 kJ (4711_3)" in text
    assert "Footprint at least 3.00 g CO2e (location-based), 1.50 EUR" in text
    text = " ".join(" ".join(whole_report(runs[:2], PLAIN)).split())
    # 14 kJ that may be wrong by 20.
    assert "Energy at most 34.0 kJ" in text
    assert "Footprint at most 4.86 g CO2e (location-based), 2.43 EUR, of what was measured" in text


def test_tasks_within_each_others_bounds_do_not_stand_out() -> None:
    wide = {"static cpu": 3000 * J}
    runs = []
    for number, joules in ((1, 8000), (2, 8000), (3, 13_000)):
        part = domain("cpu", joules * J, doubts=wide, u_uj=3000 * J)
        made = sum_boundaries([parsed(boundary(4711 + number, domains={"package-0": part}))])
        runs.append(add_slurm(made, slurm_job(4711 + number, shown_id=f"4711_{number}")))
    assert "times as much" not in "\n".join(whole_report(runs, PLAIN))


def test_an_array_of_which_nothing_is_known_says_so_in_words() -> None:
    waiting = slurm_job(
        4711, shown_id="4711_[1-8]", start_s=None, end_s=None, state="PENDING", nodelist="", num_nodes=0
    )
    runs = [missing_record(waiting, "c", "the job has not started")]
    text = "\n".join(whole_report([*runs, missing_record(slurm_job(4712, shown_id="4711_9"), "c", "none")], PLAIN))
    assert "not known yet, or nothing was measured" in text and " 0 J" not in text


def test_the_runs_of_a_requeued_task_are_one_task_and_both_count() -> None:
    runs = [task(1, state="NODE_FAIL"), task(1, 9000), task(2)]
    text = "\n".join(whole_report(runs, PLAIN))
    assert "2 tasks" in text and "25.0" in text and "17.0" in text


def test_a_list_has_a_line_each_and_a_sum_with_bounds() -> None:
    lines = listing_report([[task(1)], [task(2)], [missing_record(slurm_job(9), "c", "none")]], PLAIN, START_S + 500)
    text = "\n".join(lines)
    assert max(map(cells, lines)) <= WIDTH
    assert "16.00 kJ ± 0.32 kJ (k=2)" in text
    assert "of 1 run of 3" in text


def test_nobodys_job_name_acts_on_the_terminal() -> None:
    runs = [task(n, name="\x1b[31m\nx", user="\x07", state="\x1b[2J") for n in (1, 2)]
    text = "\n".join([*whole_report(runs, PLAIN), *listing_report([[r] for r in runs], PLAIN, START_S)])
    assert "\x1b" not in text and "\x07" not in text
    assert json.dumps(text)


def test_what_the_sensors_did_not_resolve_is_no_energy_of_an_array() -> None:
    blurred = [replace(task(n), energy_uj=0, u_uj=0, components=()) for n in (1, 2)]
    text = "\n".join(whole_report(blurred, PLAIN))
    assert "not known yet, or nothing was measured" in text and "2 tasks below what the sensors resolve" in text
    assert " 0 J" not in text and "0 Wh" not in text
    total = together([*blurred, task(3)])
    assert (total.known, total.runs, total.energy_uj, total.lower_bound) == (1, 3, 8000 * J, True)


def test_what_is_not_distinguished_from_nothing_has_no_watt_hours() -> None:
    runs = [replace(task(n), energy_uj=-1000, components=()) for n in (1, 2)]
    (line,) = sum_lines(together(runs), PLAIN)
    assert "at most" in line and "Wh" not in line


def test_a_task_that_completed_when_it_was_run_again_wasted_one_run() -> None:
    first = replace(task(1), state="NODE_FAIL", wasted_uj=8000 * J)
    text = "\n".join(whole_report([first, replace(task(1), restart_count=1), task(2)], PLAIN))
    assert "2 COMPLETED" in text and "8.00 kJ in 1 run that did not complete" in text
