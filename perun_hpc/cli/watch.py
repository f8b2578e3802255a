"""`perun watch JOB`: a running job's power and energy, live, through a small step of its own beside the job's."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from perun_hpc.errors import AccessError, DataError, NotFoundError, UsageError

if TYPE_CHECKING:
    from perun_hpc.report.live import Live
    from perun_hpc.report.screen import Style
    from perun_hpc.slurm.overlap import Running

ASK_SLURM_S = 10.0
"""So often Slurm is asked whether a job still runs, where nothing else says so."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("job", metavar="JOB", nargs="?", help="4711, 4711_3 (array task), 4711+1 (het component)")
    parser.add_argument(
        "--every", type=float, default=2.0, metavar="SECONDS", help="how often to ask, at most each second (default: 2)"
    )
    parser.add_argument("--json", action="store_true", help="a line of JSON each time")
    parser.add_argument("--in-step", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Watch until the job ends or the user has seen enough."""
    if not 1 <= args.every <= 3600:
        raise UsageError(f"--every {args.every:g}: from 1 to 3600 seconds")
    if args.job is None:
        raise UsageError("perun watch: name a job that runs")
    if args.in_step:
        from perun_hpc.process.telling import tell_in_step

        return tell_in_step(args.job, args.every)
    return _watch(args)


def _watch(args: argparse.Namespace) -> int:
    from perun_hpc.report.live import Live
    from perun_hpc.slurm.job_ids import job_id_arguments
    from perun_hpc.slurm.overlap import running

    if job_id_arguments(args.job)[1] is not None:
        raise UsageError(f"perun watch {args.job}: a job is watched whole: leave the step out")
    jobs = running(args.job)
    live = Live(args.job, jobs[0].name, sum(job.nodes for job in jobs), {job.job_id: job.shown_id for job in jobs})
    with contextlib.suppress(KeyboardInterrupt), _ended_by_signals(), _shower(args) as show:
        try:
            _through_slurm(args, jobs, live, show)
        except AccessError as refused:
            _from_archive(args, jobs, live, show, refused)
    return 0


def _through_slurm(args: argparse.Namespace, jobs: Sequence[Running], live: Live, show: Callable[[Live], None]) -> None:
    """By a step in the job; AccessError where Slurm does not let the caller in."""
    from perun_hpc.report.live import parse
    from perun_hpc.slurm.overlap import lines

    program = [f"{sys.prefix}/bin/perun", "watch", "--in-step", "--every", f"{args.every:g}"]
    shown_s = time.monotonic()
    with lines(jobs, program) as said:
        for line in said:
            with contextlib.suppress(DataError):
                live.take(parse(line))
            if live.complete or time.monotonic() - shown_s > 2 * args.every:
                show(live)
                live.fresh.clear()
                shown_s = time.monotonic()
    print(f"job {args.job} has ended, or its step was: perun report {args.job}", file=sys.stderr)


def _from_archive(
    args: argparse.Namespace, jobs: Sequence[Running], live: Live, show: Callable[[Live], None], refused: AccessError
) -> None:
    """By what the nodes tell the collector, for those whom it lets read that; `refused` by Slurm is who is not."""
    from perun_hpc.accounting.lookup import running_now
    from perun_hpc.accounting.whereabouts import places_here
    from perun_hpc.report.live import Word
    from perun_hpc.slurm.overlap import running

    places, begun, silent = places_here(), False, 0
    while True:
        for job in jobs:
            record = running_now(int(job.job_id), places) if job.job_id.isdigit() else None
            for node in record.nodes if record is not None else ():
                live.take(Word(node.node, node.energy_uj or 0, node.end_ns, job=job.job_id))
        if live.fresh:
            if not begun:
                begun = True
                print("Slurm lets its owner alone into the job: this is what its nodes reported last", file=sys.stderr)
            show(live)
            live.fresh.clear()
        elif not begun:
            raise AccessError(f"{refused}; nor may you read what its nodes reported, or they reported nothing yet")
        time.sleep(args.every)
        silent += 1
        if silent * args.every >= ASK_SLURM_S:
            silent = 0
            try:
                running(args.job)
            except NotFoundError:
                break
    print(f"job {args.job} has ended: perun report {args.job}", file=sys.stderr)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A terminal that is closed, or SIGTERM, ends it as Ctrl-C does: the step on the nodes ends with it."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shower(args: argparse.Namespace) -> AbstractContextManager[Callable[[Live], None]]:
    """How it is shown: drawn anew on a terminal where rich is installed, else a line each time."""
    from perun_hpc.report.screen import style_for

    style = style_for(sys.stdout)
    if args.json:
        return _plain(lambda live: json.dumps(live.figures(time.time())))
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            import rich  # noqa: F401

            return _drawn(style)
    return _plain(lambda live: live.line(time.time(), style))


@contextlib.contextmanager
def _plain(text: Callable[[Live], str]) -> Iterator[Callable[[Live], None]]:
    yield lambda live: print(text(live), flush=True)


@contextlib.contextmanager
def _drawn(style: Style) -> Iterator[Callable[[Live], None]]:
    from rich.console import Console
    from rich.live import Live as Region
    from rich.text import Text

    with Region(console=Console(highlight=False), auto_refresh=False) as region:
        yield lambda live: region.update(Text.from_ansi("\n".join(live.screen(time.time(), style))), refresh=True)
