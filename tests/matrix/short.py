"""Four jobs on the newest Slurm, for `.ci/run`: only a fault of perun's own fails, and it ends in a quarter of an hour.

The newest release of Debian moves from day to day. Where its packages cannot be had, or its Slurm is no longer the one
that docs/matrix.md names, that is said, and nobody's change is held up by it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tests import junit
from tests.matrix import roots, table
from tests.matrix.roots import Release, RootError

ROOT_S, TESTS_S = 7 * 60, 6 * 60
"""How long the root file system may take, and what is built and run in it: 80 s on a quiet machine with two cores."""
TESTS = (
    "tests/slurm/test_mpi.py::test_a_decorated_function_on_two_nodes_is_gathered_where_all_ranks_call_it[all]",
    "tests/slurm/test_line.py::test_a_job_on_two_nodes_without_any_flag",
    "tests/slurm/test_line.py::test_a_requeued_job_has_two_records",
    "tests/slurm/test_line.py::test_a_suspended_job_pays_for_itself_and_not_for_the_job_on_its_cores",
)
"""A flagged MPI job, a plain job, a requeued and a suspended one."""


class OutOfTime(Exception):
    """What was to be done in some time was not."""


def short(
    release: Release, page: str, run_tests: Callable[[Release, Sequence[str]], junit.Result], say: Callable[[str], None]
) -> int:
    """Run the jobs on a release; 1 if perun failed on the Slurm that the page names for it, else 0.

    `run_tests` runs tests in the root, those that failed once more; `say` gets what came of it.
    """
    try:
        with within(ROOT_S):
            roots.make(release, say)
            roots.fill(release)
            say(f"{release.name}: its packages, and Python's")
            roots.install(release)
            version = roots.versions(release)["slurmctld"]
    except (RootError, OutOfTime) as error:
        say(f"{release.name}: skipped, there is no root file system to run in: {error}")
        return 0
    try:
        with within(TESTS_S):
            say(f"{release.name}: Slurm {version}: make build, {len(TESTS)} tests")
            roots.build(release)
            result = run_tests(release, TESTS)
        good, found = result.passed == len(TESTS), table.cell(result)
    except (RootError, OutOfTime) as error:
        good, found = False, str(error)
    say(f"{release.name}: Slurm {version}: {found}")
    return verdict(good, version, named(page, release), say)


def verdict(good: bool, version: str, known: str, say: Callable[[str], None]) -> int:
    """1 if the tests were not good on the Slurm that is known; what is new there may be Slurm's own doing."""
    if good or version == known:
        return int(not good)
    say(f"Slurm {version} is not the {known or 'one'} of docs/matrix.md: no failure; `make matrix` tells more")
    return 0


def named(page: str, release: Release) -> str:
    """The version of Slurm that docs/matrix.md says it ran on a release; empty if it names none."""
    found = re.search(rf"\| {re.escape(release.title)}: Slurm ([\d.]+)", page)
    return found[1] if found else ""


@contextmanager
def within(limit_s: float) -> Iterator[None]:
    """Raise `OutOfTime` in the block once its time is over; a child that is waited for is killed."""

    def late(*_: object) -> None:
        raise OutOfTime(f"not done after {limit_s:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
