"""`perun seal MONTH`: sums a month's evidence and states what it means by the site's factors, signed by a key."""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

from perun_hpc.accounting import manifest as sealed
from perun_hpc.accounting import node_events
from perun_hpc.accounting.footprint import stated_factors
from perun_hpc.accounting.manifest import Manifest
from perun_hpc.accounting.month import digest_of
from perun_hpc.accounting.signing import sign, signature_of
from perun_hpc.accounting.site import Site, load_site
from perun_hpc.accounting.statement import Embodied, revisions
from perun_hpc.accounting.verify import restate, seal
from perun_hpc.cli.verify import check_month, stated
from perun_hpc.cli.where import places, present
from perun_hpc.data_model.wording import count
from perun_hpc.errors import UnavailableError, UsageError
from perun_hpc.report import quantities as q
from perun_hpc.report.screen import wrapped


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("month", metavar="MONTH", help="a month that is over, as in 2026-11")
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="sign by this key (ssh-keygen -Y): a private one, or an agent's public"
    )
    parser.add_argument(
        "--no-slurm", action="store_true", help="seal it without what Slurm says of nodes that were off"
    )
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.set_defaults(ledger=None)


def run(args: argparse.Namespace) -> int:
    """Seal the month; of one that is sealed state the policy's factors, where these are others now, and sign it."""
    month, archive, now_s, site = check_month(args.month), present(places(args).archive), time.time(), load_site()
    path = sealed.manifest_file(archive, month)
    factors = stated_factors(site)
    new = not path.exists()
    if new:
        print("\n".join(_sealed(seal(archive, month, now_s, partial(_ask, args)))))
    made = restate(archive, month, factors, lambda node: _embodied(site, node), now_s)
    if made is None and not new and args.key is None:
        raise UsageError(f"{path} is there, and so are the policy's factors: perun verify {month} checks them")
    written = [path, *(one for one, _ in revisions(archive, month))]
    if made is not None:
        print("\n".join(stated(list(revisions(archive, month))[-1][1])))
    for one in written:
        if args.key is not None and not signature_of(one).exists():
            sign(one, args.key)
            print(f"{one.name} signed by {args.key}")
    print("\n".join(f"sha256 {digest_of(one)}  {one}" for one in written))
    return 0


def _ask(args: argparse.Namespace, since_s: int, until_s: int) -> node_events.Slurm | None:
    if args.no_slurm:
        return None
    try:
        return node_events.ask(since_s, until_s, args.cluster)
    except UnavailableError as error:
        why = "which nodes were off is sealed, too: try again, or seal the month without that (--no-slurm)"
        raise UnavailableError(f"{error}; {why}") from error


def _sealed(made: Manifest) -> list[str]:
    files = count(sum(one.files for one in made.days), "file")
    said = (
        f"{made.month} of {made.cluster}: {q.energy(made.sums.counted_uj)} counted ({made.sums.counted_uj} uJ), "
        f"{q.energy(made.sums.jobs_uj)} of them jobs', in {files} of evidence."
    )
    lines = wrapped(said, 0)
    if made.findings:
        lines += wrapped(f"Sealed with {count(len(made.findings), 'finding')} that the manifest names:", 0)
        lines += [line for text in made.findings[:10] for line in wrapped(text, 4, "  - ")]
    return lines


def _embodied(site: Site, node: str) -> Embodied | None:
    table = site.embodied(node)
    if not table:
        return None
    lifetime_s = table["lifetime_ns"] // 10**9
    return Embodied(table["kg"], table["low"], table["high"], lifetime_s, table["source"], table["date"])
