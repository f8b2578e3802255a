"""Where a command looks for jobs' records, from its options and the policy."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from perun_hpc.accounting.found import Places
from perun_hpc.accounting.whereabouts import places_here
from perun_hpc.archive.places import Archive, clusters
from perun_hpc.errors import AccessError, NotFoundError


def places(args: argparse.Namespace) -> Places:
    """Where to look; what an option says goes before the policy."""
    return places_here(args.archive, args.ledger, args.cluster)


def mounted(args: argparse.Namespace) -> Places:
    """`places`, with an archive that holds something: one that is not mounted is not to be taken for an empty one.

    NotFoundError where there is none, AccessError where it is not the caller's.
    """
    found = places(args)
    listable(found.archive.root)
    if not clusters(found.archive.root):
        raise NotFoundError(f"{found.archive.root}: nothing of an archive is here: mount it, or name it with --archive")
    return found


def present(archive: Archive) -> Archive:
    """A cluster's part of the archive; NotFoundError where it is not there, AccessError where the caller may not."""
    try:
        there = archive.base.is_dir()
    except PermissionError:
        there = True  # in a directory that cannot even be passed
    if not there:
        raise NotFoundError(f"{archive.base} is not there: name the archive by --archive, the cluster by --cluster")
    listable(archive.base)
    return archive


def listable(directory: Path) -> None:
    """AccessError where users may pass a directory of the archive alone: what they do not see there is not nothing."""
    if directory.is_dir() and not os.access(directory, os.R_OK | os.X_OK):
        raise AccessError(f"{directory}: not yours to list: ask as root or the collector's user")
