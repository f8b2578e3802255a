"""A PostgreSQL server for those contracts that every database must keep."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from perun_hpc.accounting.ledger import Ledger
from tests import postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a database on a server that runs until the tests end."""
    if postgres.binaries() is None:
        pytest.skip("no PostgreSQL server here: install the package postgresql")
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a ledger; PostgreSQL's is the same one for all tests."""
    if request.param == "sqlite":
        return str(tmp_path_factory.mktemp("ledger") / "ledger.db")
    url: str = request.getfixturevalue("postgres_url")
    return url


def empty(ledger: Ledger) -> None:
    """Leave the tables to the next test."""
    with ledger.write() as connection:
        for table in (
            "slurmdbd_queue",
            "amendment",
            "job_share",
            "record",
            "job",
            "usage_day",
            "lease",
            "progress",
            "renaming",
            "deleted",
        ):
            connection.execute(f"DELETE FROM {table}")
