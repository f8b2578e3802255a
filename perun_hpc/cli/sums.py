"""Whose sums a command shows: the ledger's for whoever may read it, else those that one may see of it."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from perun_hpc.accounting.found import Places
from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.cli.where import places
from perun_hpc.errors import AccessError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    from perun_hpc.accounting.own_sums import About


@dataclass(frozen=True)
class Sums:
    """A ledger to ask for sums; `about` says whose they are where they are not everybody's."""

    ledger: Ledger
    where: Places
    about: About | None = None


@contextlib.contextmanager
def sums(args: argparse.Namespace, since_day: str) -> Iterator[Sums]:
    """Open what the caller may read of days from `since_day` on; that it is a part is said on standard error."""
    where = places(args)
    own = None
    try:
        ledger = open_ledger(where.ledger or "")
    except (AccessError, NotFoundError, UnavailableError) as error:
        if args.ledger:
            raise
        from perun_hpc.accounting.own_sums import own_sums

        try:
            own = own_sums(where.archive, os.getuid())
        except NotFoundError as none:
            # A user without a job yet. Who cannot see the archive, or administers, hears of the ledger.
            user = os.getuid() and os.access(where.archive.base, os.X_OK)
            raise (type(error)(str(none)) if user else error) from None
        ledger = own.ledger
        print(_scope(own.about), file=sys.stderr)
        if since_day < own.first_day:
            print(f"there are sums for you from {own.first_day} on", file=sys.stderr)
    try:
        yield Sums(ledger, where, own.about if own else None)
    finally:
        ledger.close()


def _scope(about: About) -> str:
    of = f" and those of accounts that you coordinate ({', '.join(about.accounts)})" if about.accounts else ""
    return f"your jobs{of}, as of {datetime.fromtimestamp(about.as_of_s):%Y-%m-%d %H:%M}"
