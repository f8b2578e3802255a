"""`perun ledger export --parquet`: files that are only added, and DuckDB's answers to the question of the documents."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.accounting.upkeep import Who, pseudonymise
from perun_hpc.cli.main import main
from perun_hpc.errors import AccessError, DataError
from tests.accounting_data import DAY, NS, START_S, boundary, domain, parsed, slurm_job

pytest.importorskip("pyarrow")
from pyarrow import parquet

from perun_hpc.accounting.warehouse import SETTLED_S, Exported, export

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"
pytestmark = pytest.mark.usefixtures("utc")


def put(ledger: Ledger, job_id: int, uj: int | None, days_ago: int = 0, known: bool = True, **other: Any) -> None:
    """A job's record; without Slurm's word where not `known`."""
    start_s = START_S - days_ago * 86_400
    day = datetime.fromtimestamp(start_s, UTC).strftime("%Y-%m-%d")
    shares = [{"day": day, "domain": "package-0", "energy_uj": uj or 0}]
    data = boundary(job_id, domains={"package-0": domain("cpu", uj)}, shares=shares, start_s=start_s, **other)
    record = sum_boundaries([parsed(data)])
    row = slurm_job(job_id, start_s=start_s, end_s=start_s + 100, submit_s=start_s - 5, account=record.account)
    ledger.put([add_slurm(record, row) if known else record])


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = open_ledger(str(tmp_path / "ledger.db"), create=True)
    for job_id, uj, account, ago in ((1, 9_000_000, "chem", 0), (2, 5_000_000, "bio", 0), (3, 4_000_000, "chem", 30)):
        put(made, job_id, uj, ago, account=account)
    put(made, 4, None, account="bio")
    yield made
    made.close()


def files(directory: Path) -> dict[Path, bytes]:
    return {path.relative_to(directory): path.read_bytes() for path in sorted(directory.rglob("*.parquet"))}


def asked(directory: Path) -> dict[tuple[str, str], tuple[Any, ...]]:
    """DuckDB's answer to the documents' question: month and account -> the rest of the row."""
    duckdb = pytest.importorskip("duckdb")
    return {(str(row[0]), row[1]): tuple(row[2:]) for row in answers(duckdb.connect(), 0, directory)}


def answers(connection: Any, place: int, directory: Path) -> list[tuple[Any, ...]]:
    """DuckDB's answer to the documents' question number `place`."""
    block = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.DOTALL)[place]
    for statement in block.replace("'warehouse/", f"'{directory}/").split(";"):
        if statement.strip():
            result = connection.execute(statement)
    return list(result.fetchall())


def test_duckdb_answers_as_the_ledger_does(ledger: Ledger, tmp_path: Path) -> None:
    assert export(ledger, tmp_path / "w", now_s=START_S + 1000).rows == 4
    answer = asked(tmp_path / "w")
    rows = usage(ledger, ("month", "account"), Filter(), "2026-01-01", "2026-12-31")
    assert answer.keys() == {row.group for row in rows}
    for row in rows:
        jobs, kwh, _, unmeasured = answer[row.group[0], row.group[1]]
        assert (jobs, unmeasured) == (row.values["jobs"], row.values["unmeasured"])
        assert kwh == pytest.approx(row.values["energy_uj"] / 3.6e12)


def test_a_second_export_adds_what_is_new_and_changes_no_file(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger, tmp_path / "w", now_s=START_S + 1000)
    before = files(tmp_path / "w")
    assert [str(path.parent) for path in before] == ["jobs/month=2026-10", "jobs/month=2026-11"]
    assert export(ledger, tmp_path / "w", now_s=START_S + 2000).files == 0
    assert files(tmp_path / "w") == before
    put(ledger, 5, 1_000_000, account="bio")
    put(ledger, 1, 9_500_000, account="chem", revision=2)  # a node's repaired record
    done = export(ledger, tmp_path / "w", now_s=START_S + 3000)
    assert (done.rows, done.files) == (2, 1)
    after = files(tmp_path / "w")
    assert {path: after[path] for path in before} == before
    assert asked(tmp_path / "w")["2026-11", "chem"][:2] == (1, pytest.approx(9.5 / 3.6e6))
    assert asked(tmp_path / "w")["2026-11", "bio"][:2] == (3, pytest.approx(6 / 3.6e6))


def test_a_ledger_that_was_made_anew_exports_nothing_twice(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger, tmp_path / "w", now_s=START_S + 1000)
    anew = open_ledger(str(tmp_path / "anew.db"), create=True)
    put(anew, 6, 1_000_000)  # other row ids
    for job_id, uj, account, ago in ((2, 5_000_000, "bio", 0), (1, 9_000_000, "chem", 0)):
        put(anew, job_id, uj, ago, account=account)
    assert export(anew, tmp_path / "w", now_s=START_S + 2000).rows == 1
    anew.close()


def test_a_record_waits_a_day_for_slurms_word(ledger: Ledger, tmp_path: Path) -> None:
    put(ledger, 7, 1_000_000, known=False)
    assert export(ledger, tmp_path / "w", now_s=START_S + 1000).rows == 4
    assert export(ledger, tmp_path / "w", now_s=START_S + SETTLED_S).rows == 0
    assert export(ledger, tmp_path / "w", now_s=START_S + SETTLED_S + 200).rows == 1


def test_a_row_says_what_the_record_says(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger, tmp_path / "w", now_s=START_S + 1000)
    (path,) = (tmp_path / "w").glob("jobs/month=2026-11/*.parquet")
    rows = {row["job_id"]: row for row in parquet.read_table(path, partitioning=None).to_pylist()}
    record = ledger.members("c", "1")[0]
    row = rows[1]
    assert (row["energy_uj"], row["u_uj"], row["cpu_uj"], row["gpu_uj"]) == (9_000_000, record.u_uj, 9_000_000, None)
    assert row["start"] == datetime.fromtimestamp(START_S, UTC)
    assert (row["user"], row["state"], row["nodes"]) == ("alice", "COMPLETED", 1)
    assert row["cpu_time_ns"] == record.cpu_ns == 380 * NS
    assert rows[4]["energy_uj"] is None  # missing is not 0
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_month_that_was_removed_is_exported_as_the_ledger_is_now(ledger: Ledger, tmp_path: Path) -> None:
    export(ledger, tmp_path / "w", now_s=START_S + 1000)
    pseudonymise(ledger, Who("alice", None))
    for path in (tmp_path / "w").rglob("*.parquet"):
        path.unlink()
    assert export(ledger, tmp_path / "w", now_s=START_S + 2000).rows == 4
    users = {
        user
        for path in (tmp_path / "w").rglob("*.parquet")
        for user in parquet.read_table(path, partitioning=None).column("user").to_pylist()
    }
    assert "alice" not in users


def test_the_command_says_how_much_it_added(ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["ledger", "--ledger", str(tmp_path / "ledger.db"), "export", "--parquet", str(tmp_path / "w")]
    assert main(command) == 0
    assert capsys.readouterr().out == f"4 records in 2 new files of {tmp_path / 'w'}\n"
    assert DAY.startswith("2026-11")


def test_what_cannot_be_read_or_written_is_one_clear_line(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "w/jobs/month=2026-11").mkdir(parents=True)
    (tmp_path / "w/jobs/month=2026-11/x.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="exports of perun's alone"):
        export(ledger, tmp_path / "w")
    (tmp_path / "file").touch()
    with pytest.raises(AccessError, match="that you may write"):
        export(ledger, tmp_path / "file")
    assert [one.name for one in (tmp_path / "w/jobs").iterdir()] == ["month=2026-11"]


def with_parts(ledger: Ledger, job_id: int, joules: int, calls: int, revision: int = 1) -> None:
    """A job with one step that is known, one that is not, and one function."""
    steps = [
        {"step_id": "0", "tasks": 4, "nodes": 1, "ranks": [], "start_ns": START_S * NS, "end_ns": (START_S + 60) * NS,
         "energy_uj": joules * 10**6, "u_uj": 10**5, "cpu_ns": 9 * NS},
        {"step_id": "1", "tasks": 0, "nodes": 1, "ranks": [], "cpu_ns": 0, "why": "nothing was measured while it ran"},
    ]  # fmt: skip
    region = {"step_id": "0", "rank": 0, "name": "relax", "calls": calls, "time_ns": 50 * NS, "u_uj": 10**5,
              "energy_uj": joules * 10**6, "method": "counted"}  # fmt: skip
    data = boundary(job_id, domains={"package-0": domain("cpu", 2 * joules * 10**6)}, revision=revision)
    record = sum_boundaries([parsed({**data, "steps": steps, "regions": [region]})])
    ledger.put([add_slurm(record, slurm_job(job_id))])


def test_steps_and_functions_lie_beside_their_jobs(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    with_parts(ledger, 1, 6, 3)
    with_parts(ledger, 2, 4, 1)
    assert export(ledger, tmp_path / "w", now_s=START_S + 1000) == Exported(2, 3)
    with_parts(ledger, 2, 8, 1, revision=2)  # amended: what was exported first does not count
    assert export(ledger, tmp_path / "w", now_s=START_S + 2000) == Exported(1, 3)
    ledger.close()
    path = min((tmp_path / "w").glob("steps/month=*/*.parquet"))
    known, unknown = [row for row in parquet.read_table(path, partitioning=None).to_pylist() if row["job_id"] == 1]
    assert (known["step"], known["tasks"], known["energy_uj"], known["u_uj"]) == ("0", 4, 6 * 10**6, 10**5)
    assert known["end"] == datetime.fromtimestamp(START_S + 60, UTC)
    assert [unknown[name] for name in ("tasks", "start", "cpu_time_ns", "energy_uj", "u_uj")] == [None] * 5
    assert unknown["why"] == "nothing was measured while it ran"
    connection = duckdb.connect()
    answers(connection, 0, tmp_path / "w")
    ((name, calls, kwh, a_call),) = answers(connection, 1, tmp_path / "w")
    assert (name, calls, kwh, a_call) == ("relax", 4, pytest.approx(14 / 3.6e6), pytest.approx(3.5))


def test_a_damaged_record_is_named_and_tried_again(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ledger.write() as connection:
        connection.execute("UPDATE record SET body = '[' WHERE job = (SELECT id FROM job WHERE job_id = 1)")
    command = ["ledger", "--ledger", str(tmp_path / "ledger.db"), "export", "--parquet", str(tmp_path / "w")]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out.startswith("3 records in 2 new files") and "not exported: ledger row 1: not JSON" in err
    with ledger.write() as connection:
        connection.execute("DELETE FROM job WHERE job_id = 1")
    assert main(command) == 0
