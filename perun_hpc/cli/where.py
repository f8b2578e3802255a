"""Where a command looks for jobs' records, from its options and the policy."""

from __future__ import annotations

import argparse

from perun_hpc.accounting.found import Places
from perun_hpc.accounting.whereabouts import places_here
from perun_hpc.archive.places import Archive, clusters
from perun_hpc.errors import NotFoundError


def places(args: argparse.Namespace) -> Places:
    """Where to look; what an option says goes before the policy."""
    return places_here(args.archive, args.ledger, args.cluster)


def mounted(args: argparse.Namespace) -> Places:
    """`places`, with an archive that holds something: one that is not mounted is not to be taken for an empty one.

    NotFoundError where there is none.
    """
    found = places(args)
    if not clusters(found.archive.root):
        raise NotFoundError(f"{found.archive.root}: nothing of an archive is here: mount it, or name it with --archive")
    return found


def present(archive: Archive) -> Archive:
    """A cluster's part of the archive; NotFoundError where it is not there."""
    if not archive.base.is_dir():
        raise NotFoundError(f"{archive.base} is not there: name the archive by --archive, the cluster by --cluster")
    return archive
