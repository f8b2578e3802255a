"""`perun report JOB --html FILE`, `--png FILE`, `--svg FILE`: the report as a page, the curves as a picture."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from perun_hpc.accounting.found import Found
from perun_hpc.archive.places import Archive, Run
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.errors import AccessError, DataError, NotFoundError, PerunError, UsageError
from perun_hpc.report.screen import Style

KINDS = ("html", "png", "svg")
QUICK_B = 32 << 20
"""A trace of so many bytes on the disk is read in a second or two."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--html", metavar="FILE", help="write the report as one page with charts, which opens offline")
    parser.add_argument("--png", metavar="FILE", help="write power over time as a picture")
    parser.add_argument("--svg", metavar="FILE", help="the same with lines that scale, for papers")


def wanted(args: argparse.Namespace) -> bool:
    """Whether a file is asked for."""
    return any(getattr(args, kind) for kind in KINDS)


def write(args: argparse.Namespace, found: Sequence[Found], archive: Archive) -> int:
    """Write the files that are asked for; prints their names."""
    from perun_hpc.cli import progress
    from perun_hpc.cli.export import new_file
    from perun_hpc.report import drawing

    newest = found[-1]
    if any(one.record.job_id != newest.record.job_id for one in found):
        several = ", ".join(dict.fromkeys(one.record.display_id for one in found[:4]))
        raise UsageError(f"a page or picture is of one job, and these are several ({several} ...): name one of them")
    drawing.check()
    for kind in KINDS:
        name = getattr(args, kind)
        if not name:
            continue
        if Path(name).suffix != f".{kind}":
            raise UsageError(f"{name}: name a file that ends in .{kind}")
        target = new_file(name)
        try:
            with progress.during(f"drawing {target}"):
                _write(kind, target, found, archive)
        except OSError as error:
            raise AccessError(f"{target} cannot be written: {error.strerror or error}; choose another place") from error
        print(target)
    return 0


def _write(kind: str, target: Path, found: Sequence[Found], archive: Archive) -> None:
    from perun_hpc import files
    from perun_hpc.archive.job_meters import beside_job
    from perun_hpc.report import chart, curves, drawing
    from perun_hpc.report.page import Beside, page

    record = found[-1].record
    try:
        drawn = curves.read(trace_of(record, archive), record.start_ns, record.end_ns)
        why = ""
    except PerunError as error:
        if kind != "html":
            raise
        drawn, why = None, str(error)
    if drawn is not None and kind != "html":
        drawing.save(chart.draw(record, drawn).figure, target)
        return
    text = page(
        record, Beside(found[-1].source, drawn, why, [one.record for one in found[:-1]], beside_job(archive, record))
    )
    with files.Replacement(target) as partial:
        partial.write_text(text, encoding="utf-8")


def in_a_line(record: EnergyRecord, archive: Archive, style: Style) -> list[str]:
    """Power over time as a line of the report; nothing of a job without a trace, a word of one that takes long."""
    if not record.trace_bytes or not record.start_ns:
        return []
    from perun_hpc.report.over_time import COLUMNS, curve_lines, not_drawn

    if record.trace_bytes > QUICK_B:
        return not_drawn(f"its trace is large: perun report {record.display_id} --svg FILE draws it")
    try:
        directory = trace_of(record, archive)
    except NotFoundError as error:
        return not_drawn(str(error).partition(": ")[2])
    from perun_hpc.report import curves

    try:
        read = curves.read(directory, record.start_ns, record.end_ns, COLUMNS)
    except NotFoundError as error:
        return not_drawn(str(error).removeprefix(f"{directory}: "))
    except PerunError:
        return not_drawn("its trace cannot be read")
    return curve_lines(record, read, style)


def trace_of(record: EnergyRecord, archive: Archive) -> Path:
    """The directory with the trace of a run; NotFoundError where there is none that the caller may read."""
    from perun_hpc.accounting.homes import Homes
    from perun_hpc.accounting.identity import of_record
    from perun_hpc.store.job_store import groups

    why = "no trace of it is stored"
    try:
        homes, who, bare = Homes(archive, time.time()), of_record(record), Run(record.job_id, record.restart_count)
        grows = homes.has_only_a_trace_of(bare, who)  # of a job that runs, where the policy has its trace grow
        for run in homes.find(who) or [bare] * grows:
            try:
                groups(archive.job(run))
            except NotFoundError:
                continue
            except PermissionError:
                why = "its trace is not yours to read"
                continue
            return archive.job(run)
    except (OSError, DataError) as error:
        why = f"its trace cannot be read ({error})"
    if record.status == "running":
        why = "it still runs, and its trace comes at its end"
    elif not record.trace_bytes:
        why += ": by the site's policy short jobs have none, or none that was not flagged (docs/policy.md)"
    raise NotFoundError(f"job {record.display_id}: {why}")
