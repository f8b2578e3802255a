"""`perun collect`: the collector, once or as a service."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import pwd
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from perun_hpc.accounting.backlog import last_sweep, look, note_sweep
from perun_hpc.accounting.collect import BusyError, Closing, Collector, Slurm, Summary, Tools, Waits
from perun_hpc.accounting.facility import declared, note_readings
from perun_hpc.accounting.followers import Followers
from perun_hpc.accounting.footprint import Estimators
from perun_hpc.accounting.job_meters import note_jobs
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.own_sums import Publisher
from perun_hpc.accounting.owned import file_under_owner
from perun_hpc.accounting.running import publish_running
from perun_hpc.accounting.site import Site, SitePolicy
from perun_hpc.accounting.site_figures import SiteFigures
from perun_hpc.accounting.slurmdbd import Dbd, Flushed, flush
from perun_hpc.archive.access import NO_LISTS, NoListsError, groups, has_lists, readable_by, tree_readable_by
from perun_hpc.archive.handover import address, receiver
from perun_hpc.archive.listener import Listener
from perun_hpc.archive.places import BOUNDARIES, RUNNING, Archive, clusters
from perun_hpc.archive.refused import lately_refused
from perun_hpc.cli import logs, traces
from perun_hpc.cli.wake import WakeSocket
from perun_hpc.cli.where import listable
from perun_hpc.data_model import metrics
from perun_hpc.errors import NotFoundError, PerunError, UnavailableError, UsageError
from perun_hpc.process.scraped import Scraped
from perun_hpc.process.whole import make_whole
from perun_hpc.report.backlog import NAMED, status, troubles
from perun_hpc.report.screen import style_for, wrapped
from perun_hpc.slurm.command import NoAccountsError
from perun_hpc.slurm.coordinators import administrators, coordinators
from perun_hpc.slurm.sacct import identity_fields, query_between, query_jobs
from perun_hpc.store.merge import finalise

log = logging.getLogger(__name__)

MOST_SWEEPS = 10
"""The time that a flush of lines for slurmdbd makes good for, in times between sweeps."""

LATE = (
    "perun_hpc.accounting.partitions",
    "perun_hpc.archive.certificates",
    "perun_hpc.config.keeper",
    "perun_hpc.config.settings",
    "perun_hpc.process.clock",
    "perun_hpc.process.confine",
    "perun_hpc.store.ship",
)
"""Modules that the parts of the daemon would import late."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="one sweep, then exit (the default)")
    how.add_argument("--daemon", action="store_true", help="sweep for ever, in the foreground")
    how.add_argument("--status", action="store_true", help="the last sweep, what waits, what was refused or damaged")
    how.add_argument("--repair", action="store_true", help="set damaged parts of traces aside and name them")
    how.add_argument("--recode", action="store_true", help="put traces into blocks of nodes, which read faster")
    how.add_argument("--thin", type=int, metavar="N", help="keep every Nth reading of traces; energies do not change")
    parser.add_argument("job", nargs="*", metavar="JOB", help="whose traces: JOB or JOB.RESTART")
    parser.add_argument("--older-than", metavar="TIME", help="instead of JOB: all traces whose record is older")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.add_argument("--ledger", metavar="URL", help="the ledger (default: the policy's collect.ledger)")
    parser.add_argument("--cluster", metavar="NAME", help="only this cluster (default: every one in the archive)")
    parser.add_argument("--deadline", type=float, metavar="S", help="how long to wait for a job's missing nodes")
    parser.add_argument("--no-slurm", action="store_true", help="neither ask sacct nor write to slurmdbd")


def run(args: argparse.Namespace) -> int:
    """Sweep."""
    logs.begin(args.log_lvl or "INFO", args.log_file)
    rules = SitePolicy()
    site = rules.site
    root = args.archive or site.archive
    if not root.is_dir():
        raise NotFoundError(f"{root}: no archive here: set store.archive in the policy, or name it with --archive")
    if traces.wanted(args):
        names = [args.cluster] if args.cluster else clusters(root)
        return traces.run(args, root, names, site.settings.store.recode_after_ns)
    if args.job or args.older_than is not None:
        raise UsageError("perun collect: JOB and --older-than belong to --repair, --recode and --thin")
    if args.status:
        return _status(root, [args.cluster] if args.cluster else clusters(root), site)
    try:
        ledger = open_ledger(args.ledger or site.ledger, create=True)
    except PerunError as error:
        for cluster in [args.cluster] if args.cluster else clusters(root):
            note_sweep(Archive(root, cluster), time.time(), time.time(), str(error), False)
        raise
    try:
        if has_lists(root) is False:
            log.warning("%s: %s: users cannot read their records and traces there (docs/sites.md)", root, NO_LISTS)
        if not args.daemon:
            return _sweep(args, site, root, ledger, Estimators(), {}, {}, {}, {})
        return _daemon(args, rules, root, ledger)
    finally:
        ledger.close()


def _daemon(args: argparse.Namespace, rules: SitePolicy, root: Path, ledger: Ledger) -> int:
    logs.seldom()
    make_whole(LATE)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    wake, footprint = WakeSocket(), Estimators()
    kept: dict[str, bool] = {}
    waits: dict[str, Waits] = {}
    publishers: dict[tuple[str, bool], Publisher] = {}
    followers: dict[str, Followers] = {}
    figures = SiteFigures(ledger)
    with _listener(rules.site, root) as listener, _scraped(rules.site) as scraped:
        while not stop.is_set():
            if listener is not None:
                listener.take_allowed()
            if mistake := rules.renew():
                log.warning("policy: %s; the last valid one stays in force", mistake)
            try:
                _sweep(args, rules.site, root, ledger, footprint, kept, waits, publishers, followers)
            except (PerunError, OSError) as error:
                log.warning("%s", error)
            if scraped is not None:
                _show(scraped, figures, [args.cluster] if args.cluster else clusters(root), root, rules.site)
            wake.wait(stop, rules.site.sweep_s)
    return 0


def _listener(site: Site, root: Path) -> contextlib.AbstractContextManager[Listener | None]:
    """What takes the hand-overs of nodes that do not share the archive, where the policy names such a place."""
    if not site.settings.store.collector:
        return contextlib.nullcontext()
    uids = {0, os.geteuid()}
    with contextlib.suppress(KeyError):
        uids.add(pwd.getpwnam(site.settings.agent.service_user).pw_uid)
    store = site.settings.store
    processes = site.settings.collect.processes
    port = address(store.collector)[1]
    return contextlib.closing(Listener(port, root, uids, receiver(store.tls), processes=processes))


def _scraped(site: Site) -> contextlib.AbstractContextManager[Scraped | None]:
    """What serves the site's figures, where the policy says where."""
    listen = site.settings.metrics.listen
    return contextlib.closing(Scraped(*address(listen))) if listen else contextlib.nullcontext()


def _show(scraped: Scraped, figures: SiteFigures, names: Sequence[str], root: Path, site: Site) -> None:
    """Let scrapers have the figures as of now; what fails here costs the sweeps nothing."""
    progress_ns = site.settings.store.progress_ns
    progress_s = progress_ns / 1e9 if isinstance(progress_ns, int) else None
    try:
        found = figures.collect([Archive(root, name) for name in names], site.settings.metrics.labels, progress_s)
        scraped.show({metrics.TEXT: metrics.text(found), metrics.OPENMETRICS: metrics.text(found, openmetrics=True)})
    except (PerunError, OSError) as error:
        log.warning("figures for monitoring: %s", error)
    except Exception:  # a fault of perun's own: records go on
        log.exception("figures for monitoring")


def _status(root: Path, names: Sequence[str], site: Site) -> int:
    """Print how the collector fares; 1 where an administrator must look at something."""
    listable(root)
    style, now_s, well = style_for(sys.stdout), time.time(), True
    for name in names:
        archive = Archive(root, name)
        sweep, backlog = last_sweep(archive), look(archive)
        print("\n".join(status(name, sweep, backlog, site.late_s, now_s, style)))
        well = well and sweep is not None and not troubles(sweep, backlog, site.late_s, now_s)
    for sentence in lately_refused(root, now_s):
        well = False
        print("\n".join(wrapped(sentence, 2, "")))
    if not names:
        print(f"{root}: no cluster has left anything here yet")
    return 0 if well else 1


def _sweep(
    args: argparse.Namespace,
    site: Site,
    root: Path,
    ledger: Ledger,
    footprint: Estimators,
    kept: dict[str, bool],
    waits: dict[str, Waits],
    publishers: dict[tuple[str, bool], Publisher],
    followers: dict[str, Followers],
) -> int:
    """Sweep every cluster; one that fails holds up no other, and is raised at the end.

    `kept` says by cluster whether Slurm keeps accounts, as far as the sweeps before have found out,
    `waits` what they read in vain, `publishers` write the sums that users may see, `followers` know who may follow
    running jobs.
    """
    for problem in footprint.renew(site):
        log.warning("%s", problem)
    code = 0
    failure: PerunError | None = None
    for cluster in [args.cluster] if args.cluster else clusters(root):
        archive, began_s = Archive(root, cluster), time.time()
        try:
            summary = _sweep_one(args, site, archive, ledger, footprint, kept, waits.setdefault(cluster, {}), followers)
            if summary is None:
                continue
            accounts = not args.no_slurm and kept.get(cluster) is not False
            _publish_sums(archive, ledger, accounts, summary, publishers)
        except Exception as error:
            if not isinstance(error, BusyError):
                why = str(error) if isinstance(error, PerunError) else f"{type(error).__name__}: {error}"
                note_sweep(archive, began_s, time.time(), why, False)
            if not isinstance(error, PerunError | OSError):
                raise
            if failure is not None:
                log.warning("%s", failure)
            failure = error if isinstance(error, PerunError) else UnavailableError(f"cluster {cluster}: {error}")
        else:
            failed = bool(summary.failed or summary.refused)
            code = 1 if failed else code
            text = "; ".join([str(summary), *summary.notes[:NAMED]])
            compared_s = None
            with contextlib.suppress(PerunError):
                compared_s = ledger.marks.compared_until_s(cluster)
            note_sweep(archive, began_s, time.time(), text, not summary.failed, compared_s)
    if failure is not None:
        raise failure
    return code


def _sweep_one(
    args: argparse.Namespace,
    site: Site,
    archive: Archive,
    ledger: Ledger,
    footprint: Estimators,
    kept: dict[str, bool],
    waits: Waits,
    followers: dict[str, Followers],
) -> Summary | None:
    """Sweep one cluster; None where another collector leads, who does the rest."""
    cluster = archive.cluster
    slurm = None if args.no_slurm else _slurm(cluster, kept)
    publish = publisher(site.settings.privacy.readers, archive if slurm is None else None)
    tools = Tools(
        clock=time.time,
        slurm=slurm,
        finalise=close_trace,
        publish=publish,
        follow=_followers(slurm, cluster, followers),
        footprint=footprint,
        expects=site.expects,
    )
    deadline_s = site.deadline_s if args.deadline is None else args.deadline
    queue = site.slurmdbd != "off" and kept.get(cluster) is not False
    collector = Collector(archive, ledger, tools, deadline_s, queue, waits)
    summary = collector.sweep()
    if not args.daemon or replace(summary, waiting=0, refused=0) != Summary():
        print(f"{cluster}: {summary}", flush=True)
    for note in summary.notes:
        log.warning("%s", note)
    if not collector.leads:
        return None
    publish_running(archive, tools)
    problems = note_readings(archive, declared(site.settings.sensors.files), time.time())
    problems += note_jobs(archive, ledger, publish, time.time())
    for problem in problems:
        log.warning("%s", problem)
    if slurm is not None and site.slurmdbd != "off":
        overwrite = site.slurmdbd == "overwrite"
        arrays = site.settings.collect.slurmdbd_arrays == "sum"
        since_s = _since_s(archive, site)
        flushed = flush(ledger, cluster, Dbd(slurm.jobs), overwrite, site.slurmdbd_per_s, since_s, arrays)
        if flushed != Flushed():
            print(f"{cluster}: slurmdbd: {flushed}", flush=True)
    return summary


def _since_s(archive: Archive, site: Site) -> float:
    """Seconds since the sweep before this one began: a long one costs Slurm's lines no time."""
    before = last_sweep(archive)
    since_s = 0.0 if before is None else time.time() - before.began_s
    return min(max(since_s, site.sweep_s), MOST_SWEEPS * site.sweep_s)


def _publish_sums(
    archive: Archive, ledger: Ledger, accounts: bool, summary: Summary, publishers: dict[tuple[str, bool], Publisher]
) -> None:
    """Let users have the sums that they may see; what fails here costs the sweeps nothing."""
    ask = coordinators if accounts else dict
    publisher = publishers.setdefault((archive.cluster, accounts), Publisher(archive, ledger, ask))
    try:
        publisher.publish(bool(summary.stored or summary.completed or summary.missing))
    except NoListsError:
        pass  # it was said when the collector began
    except (PerunError, OSError) as error:
        log.warning("%s: sums for users: %s", archive.cluster, error)
    except Exception:  # a fault of perun's own: records go on
        log.exception("%s: sums for users", archive.cluster)


def _slurm(cluster: str, kept: dict[str, bool]) -> Slurm | None:
    """Slurm's accounting; None where it keeps none, which is said once. `kept` is what is known of that by cluster."""
    if not kept.get(cluster):
        try:
            query_jobs([1], cluster)
            kept[cluster] = True
        except NoAccountsError as error:
            if kept.get(cluster) is None:
                log.warning(
                    "%s: %s; jobs have no names and states, their owners get lists of their own", cluster, error
                )
            kept[cluster] = False
            return None
        except UnavailableError:
            pass  # it is said where something is asked for
    return Slurm(
        jobs=lambda ids: query_jobs(ids, cluster, extra=identity_fields(), members=False),
        between=lambda since, until: query_between(since, until, ("--allusers",), cluster, extra=identity_fields()),
    )


def _followers(
    slurm: Slurm | None, cluster: str, known: dict[str, Followers]
) -> Callable[[Iterable[int]], Mapping[int, Iterable[int]]] | None:
    """Who may follow running jobs; nobody but their owners where Slurm keeps no accounts."""
    if slurm is None:
        return None
    return known.setdefault(cluster, Followers(administrators, coordinators, slurm.jobs)).of


def publisher(readers: Sequence[str], owned_in: Archive | None = None) -> Callable[[Path, int, Iterable[int]], None]:
    """Return what opens a run's directory to the job's owner and to the groups that the policy names.

    Those who follow the job, while it runs, are given what its nodes said last and no more.

    `owned_in` is the archive in which the owner gets a list, where Slurm has none for him.
    """
    gids = groups(readers)

    def publish(directory: Path, uid: int, followers: Iterable[int]) -> None:
        with contextlib.suppress(NoListsError):  # it was said when the collector began
            tree_readable_by(directory, BOUNDARIES, [uid], gids)
            if followers and (directory / RUNNING).exists():
                readable_by(directory / RUNNING, [uid, *followers], gids)
                readable_by(directory, [uid], gids, passing=followers)
            if owned_in is not None:
                readable_by(file_under_owner(owned_in, directory, uid), [uid])

    return publish


def close_trace(directory: Path, known: Closing) -> None:
    """Merge the nodes' parts of a trace and add the tables of steps, ranks and regions."""
    finalise(directory, known.nodes, time.time_ns(), known.deadline_ns, known.reasons, known.records)
