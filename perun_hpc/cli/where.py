"""Where a command looks for jobs' records, from its options and the policy."""

from __future__ import annotations

import argparse

from perun_hpc.accounting.found import Places
from perun_hpc.accounting.whereabouts import places_here


def places(args: argparse.Namespace) -> Places:
    """Where to look; what an option says goes before the policy."""
    return places_here(args.archive, args.ledger, args.cluster)
