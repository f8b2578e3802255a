"""`perun seal MONTH`: sums a month's evidence and writes a manifest of it, signed by a key of the administrator's."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from perun_hpc.accounting import manifest as sealed
from perun_hpc.accounting.month import digest_of
from perun_hpc.accounting.signing import sign
from perun_hpc.accounting.verify import seal
from perun_hpc.cli.verify import check_month
from perun_hpc.cli.where import places
from perun_hpc.data_model.wording import count
from perun_hpc.report import quantities as q
from perun_hpc.report.screen import wrapped


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("month", metavar="MONTH", help="a month that is over, as in 2026-11")
    parser.add_argument(
        "--key", type=Path, metavar="FILE", help="sign by this key (ssh-keygen -Y): a private one, or an agent's public"
    )
    parser.add_argument("--cluster", metavar="NAME", help="name of the Slurm cluster (default: this one)")
    parser.add_argument("--archive", type=Path, metavar="DIR", help="the archive (default: the policy's store.archive)")
    parser.set_defaults(ledger=None)


def run(args: argparse.Namespace) -> int:
    """Seal the month, or sign one that is sealed already."""
    month, archive = check_month(args.month), places(args).archive
    path = sealed.manifest_file(archive, month)
    if args.key is None or not path.exists():
        made = seal(archive, month, time.time())
        files = sum(one.files for one in made.days)
        print(f"{month} of {made.cluster}: {q.energy(made.sums.counted_uj)} counted ({made.sums.counted_uj} uJ),")
        print(f"{q.energy(made.sums.jobs_uj)} of them jobs', in {count(files, 'file')} of evidence.")
        if made.findings:
            print("\n".join(wrapped(f"Sealed with {count(len(made.findings), 'finding')} that the manifest names:", 0)))
            print("\n".join(line for text in made.findings[:10] for line in wrapped(text, 4, "  - ")))
    print(f"{path}\nsha256 {digest_of(path)}")
    if args.key is not None:
        sign(path, args.key)
        print(f"signed by {args.key}")
    return 0
