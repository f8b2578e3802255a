"""Which screen shows what was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perun_hpc.accounting.found import Found
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import NotFoundError
from perun_hpc.report.job import job_report, step_report
from perun_hpc.report.screen import Style

if TYPE_CHECKING:
    from perun_hpc.archive.meter_readings import NodeMetered


def report_lines(
    objects: Sequence[Sequence[Found]],
    step: str | None,
    style: Style,
    now_s: float,
    beside: str = "",
    curve: Sequence[str] = (),
    metered: Sequence[NodeMetered] = (),
) -> list[str]:
    """Return the screen of what was asked for: one job or step, one array as one object, or a list with its sum.

    `beside` is one job beside its user's last ones of the same name, in a sentence, `curve` its power over time,
    `metered` what the meters of its nodes showed.
    """
    records = [[f.record for f in runs] for runs in objects]
    if len(objects) > 1:
        from perun_hpc.report.several import listing_report

        return listing_report(records, style, now_s)
    (runs,), (found,) = records, objects
    if step is not None:
        return _step_lines(runs[-1], step, style)
    if any(r.job_id != runs[-1].job_id for r in runs):
        from perun_hpc.report.several import whole_report

        return whole_report(runs, style)
    return job_report(runs[-1], found[-1].source, style, runs[:-1], beside, curve, metered)


def _step_lines(newest: EnergyRecord, step: str, style: Style) -> list[str]:
    lines = step_report(newest, step, style)
    if not lines:
        known = ", ".join(s.step_id for s in newest.steps) or "none"
        raise NotFoundError(f"step {newest.display_id}.{step}: not in the job's record (steps there: {known})")
    return lines
