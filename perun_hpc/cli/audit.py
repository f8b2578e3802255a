"""`perun audit`: proves that the ledger closes, or says where it does not and exits non-zero."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from perun_hpc.accounting import audit, consumed, facility, node_meters
from perun_hpc.accounting.audit_mark import Audit, note_audit
from perun_hpc.accounting.backlog import damaged_of, last_sweep, look
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.site import Site, load_site
from perun_hpc.archive import kept
from perun_hpc.archive.places import Archive, Run
from perun_hpc.archive.refused import lately_refused
from perun_hpc.cli.where import places
from perun_hpc.data_model.wording import count
from perun_hpc.errors import UnavailableError
from perun_hpc.report import backlog as words
from perun_hpc.report.audit import accounts_table, findings_list, gaps, lost_list, verdict
from perun_hpc.report.screen import style_for, wrapped
from perun_hpc.slurm import conf
from perun_hpc.slurm.command import TIMEOUT_S, run_command
from perun_hpc.slurm.sacct import CLOCK_S, CONSUMED, SlurmJob, identity_fields, query_between
from perun_hpc.slurm.times import in_order, parse_time


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("-S", "--since", metavar="TIME", default="midnight", help="first day (default: today)")
    parser.add_argument("-E", "--until", metavar="TIME", default="now", help="last day (default: today)")
    parser.add_argument("--domains", action="store_true", help="a line per node and domain")
    parser.add_argument(
        "--meter",
        type=Path,
        metavar="CSV",
        help="a facility meter's readings: columns time, kwh; default: the policy's facility meters",
    )
    parser.add_argument(
        "--meter-tolerance",
        type=float,
        default=0.1,
        metavar="X",
        help="relative difference from the meter that is allowed (default 0.1)",
    )
    parser.add_argument("--no-slurm", action="store_true", help="do not compare with sacct")
    parser.add_argument("--json", action="store_true", help="print sums, findings and lost records as JSON")
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.add_argument("--ledger", metavar="URL", help="the ledger (default: the policy's collect.ledger)")


def run(args: argparse.Namespace) -> int:
    """Audit; 1 where something does not close."""
    now = datetime.now()
    since, until = (_midnight(parse_time(text, now)) for text in (args.since, args.until))
    in_order(since, until, now)
    where = places(args)
    ledger = open_ledger(where.ledger or "")
    try:
        return _audit(args, where.archive, ledger, since, until, where.due_s)
    finally:
        ledger.close()


def _midnight(moment: datetime) -> datetime:
    return datetime(moment.year, moment.month, moment.day)


def _audit(
    args: argparse.Namespace, archive: Archive, ledger: Ledger, since: datetime, until: datetime, due_s: float
) -> int:
    first, last = since.strftime("%Y-%m-%d"), until.strftime("%Y-%m-%d")
    begin = datetime.fromisoformat(first)
    since_s = int(begin.timestamp())
    until_s = min(int((datetime.fromisoformat(last) + timedelta(days=1)).timestamp()), int(datetime.now().timestamp()))
    books = audit.read_books(p for p in archive.node_ledgers() if first <= p.stem <= last)
    findings = list(books.findings)
    now_s, site = time.time(), load_site()
    if not books.accounts:
        findings.append(audit.Finding("node ledgers", "none for these days: energies were not compared"))
    jobs = [] if args.no_slurm else _sacct(args.cluster, since_s, until_s)
    findings += audit.refused_records(archive)
    findings += audit.set_aside(archive)
    findings += audit.odd_lines(archive.odd_lines(), first, last)
    waiting = _waiting(archive)
    live = {(j.job_id, j.run) for j in jobs if not j.ended}
    shares = ledger.shares_between(archive.cluster, first, last)
    wrong = audit.compare_shares(books, shares, waiting | live)
    findings += _still_wrong(wrong, archive, ledger, first, last, live) if wrong else ()
    findings += audit.compare_nodes(jobs, shares)
    findings += audit.find_holes(books)
    anchors = node_meters.Anchors.none()
    # A node ends its part before its job's last one does, by whatever clock.
    names = list(ledger.places_between(archive.cluster, since_s, until_s + CLOCK_S))
    compared, wrong = audit.compare_edges(books, anchors.noting(audit.boundary_files(archive, names, since_s, until_s)))
    findings += wrong
    wrong, beside, silent = node_meters.compare(archive, books, anchors, since_s, until_s)
    findings += wrong
    energy = ""
    young: list[str] = []

    def due(job: SlurmJob) -> bool:
        """Whether a run without a record should have one by now; those that still may get one are noted."""
        if site.expects(job) and (job.end_s or 0) >= due_s:
            young.append(job.shown_id)
            return False
        return site.expects(job)

    if not args.no_slurm:
        open_ids = {job_id for job_id, _ in waiting}
        ended = [j for j in jobs if j.job_id not in open_ids]
        held = ledger.runs_between(archive.cluster, since_s, until_s)
        # A node's clock may be wrong: a run that ended in this time by Slurm need not have by its record.
        held |= ledger.spans(archive.cluster, [j.job_id for j in ended if j.job_id not in held])
        # What ran before perun was installed has no record, rightly; the first hook of all may come a moment late.
        first_s = ledger.first_start_s(archive.cluster) or until_s
        ended = [j for j in ended if (j.start_s or first_s) >= first_s or j.job_id in held]
        findings += audit.compare_sacct(ended, held, due)
        energy, wrong = _consumed(args.cluster, ended, archive, ledger, site)
        findings += wrong
    lost = [words.on_the_way(young)] if young else []
    lost += _lost(archive, books, kept.each_present(archive, names), site.late_s, now_s)
    counted_uj = sum(a.total_uj for a in books.accounts.values())
    metered = ""
    if args.meter is not None:
        metered_uj = audit.read_meter(args.meter, since_s, until_s)
        findings += audit.compare_meter(counted_uj, metered_uj, args.meter_tolerance)
        metered = audit.beside_meter(str(args.meter), counted_uj, metered_uj)
    else:
        meters = facility.declared(site.settings.sensors.files)
        wrong, metered = facility.compare(archive, meters, counted_uj, since_s, until_s, args.meter_tolerance)
        findings += wrong
    metered = "; ".join(filter(None, [metered, node_meters.sentence(beside, silent)]))
    note_audit(archive, Audit(now_s, first, last, len(findings)))
    if args.json:
        accounts = [{"node": n, "day": d, "domain": m, **asdict(a)} for (n, d, m), a in sorted(books.accounts.items())]
        found = {"accounts": accounts, "findings": [asdict(f) for f in findings], "lost": lost, "energy": energy}
        found |= {"meters": [asdict(one) for one in beside]}
        print(json.dumps(found, indent=1))
        return 1 if findings else 0
    style = style_for(sys.stdout)
    if books.accounts:
        print("\n".join(accounts_table(books.accounts, style, args.domains)), end="\n\n")
    print(_summary(archive, books, compared, len(jobs), bool(args.no_slurm), energy, metered))
    print("\n".join(wrapped(f"Collector: {words.last(last_sweep(archive), now_s)}.", 0)))
    if lost:
        print("\n".join(lost_list(lost, style)))
    if findings:
        print("\n".join(findings_list(findings, style)))
        return 1
    print("\n".join(verdict(sum(a.gap_ns for a in books.accounts.values()))))
    return 0


def _waiting(archive: Archive) -> set[tuple[int, int]]:
    return {(run.job_id, run.restart_count) for run, _ in archive.incoming()}


def _still_wrong(
    found: Sequence[audit.Finding], archive: Archive, ledger: Ledger, first: str, last: str, live: set[tuple[int, int]]
) -> list[audit.Finding]:
    """Those findings that a second look finds as well: nodes and collector go on while everything is read."""
    nodes = {one.where.partition(" ")[0] for one in found}
    books = audit.read_books(p for p in archive.node_ledgers() if first <= p.stem <= last and p.parent.name in nodes)
    waiting = _waiting(archive)
    shares = ledger.shares_between(archive.cluster, first, last)
    again = {(one.where, one.what): one for one in audit.compare_shares(books, shares, waiting | live)}
    return [again[at] for one in found if (at := (one.where, one.what)) in again]


def _lost(archive: Archive, books: audit.NodeBooks, runs: Iterable[Run], late_s: float, now_s: float) -> list[str]:
    """What the collector could not take of these runs, what waits for it, and which counters gave nothing."""
    backlog = look(archive)
    aside = (*backlog.damaged, *damaged_of(archive, runs))
    lost = words.troubles(last_sweep(archive), replace(backlog, damaged=aside, aside=()), late_s, now_s)
    lost += lately_refused(archive.root, now_s)
    return [*lost, *filter(None, [words.waiting(backlog, now_s)]), *gaps(books.accounts)]


def _sacct(cluster: str | None, since_s: int, until_s: int) -> list[SlurmJob]:
    try:
        return query_between(since_s, until_s, ("--allusers",), cluster, extra=(*identity_fields(), CONSUMED))
    except UnavailableError as error:
        raise UnavailableError(f"{error} (or leave sacct out with --no-slurm)") from error


def _consumed(
    cluster: str | None, jobs: list[SlurmJob], archive: Archive, ledger: Ledger, site: Site
) -> tuple[str, list[audit.Finding]]:
    """What became of comparing sacct's ConsumedEnergy, and where it is not the ledger's."""
    words = ["scontrol", *([f"--clusters={cluster}"] if cluster else []), "show", "config"]
    try:
        config = conf.shown(run_command(words, None, TIMEOUT_S))
    except UnavailableError as error:
        return f"sacct's ConsumedEnergy was not compared: {error}", []
    if not_ours := consumed.whose(config):
        return not_ours, []
    tail = consumed.Tail(consumed.poll_s(config), site.settings.privacy.shared_resolution_ns / 1e9)
    found = consumed.compare(jobs, partial(ledger.records_of, archive.cluster), tail)
    return found.text, found.findings


def _summary(
    archive: Archive, books: audit.NodeBooks, compared: int, jobs: int, no_slurm: bool, energy: str, metered: str
) -> str:
    nodes = len({node for node, _, _ in books.accounts})
    intervals = sum(a.intervals for a in books.accounts.values())
    gap_s = sum(a.gap_ns for a in books.accounts.values()) / 1e9
    compared_with = f"{count(compared, 'counter')} between jobs' edges"
    lines = [
        f"Cluster {archive.cluster}: {count(intervals, 'interval')} of {count(nodes, 'node')}, {compared_with}",
    ]
    lines.append("sacct was left out" if no_slurm else f"{count(jobs, 'job')} that sacct knows")
    if energy:
        lines.append(energy)
    if gap_s:
        lines.append(f"{gap_s:.0f} s of gaps (summed over nodes and domains)")
    if metered:
        lines.append(metered)
    return "; ".join(lines) + "."
