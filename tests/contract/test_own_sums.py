"""`perun usage`, `top` and `policy budgets` for users and coordinators: each sees what Slurm's rights give, no more.

The commands run as those users, on an archive that lies where everybody may pass.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.accounting.ledger import Ledger, open_ledger
from perun_hpc.accounting.own_sums import AGAIN_S, MONTHS, WHOLE_EVERY_S, Publisher, last_months
from perun_hpc.accounting.questions import Filter, usage
from perun_hpc.accounting.summing import add_slurm, sum_boundaries
from perun_hpc.accounting.upkeep import Who, delete, pseudonymise
from perun_hpc.archive.places import Archive
from perun_hpc.errors import AccessError, UnavailableError
from perun_hpc.slurm.coordinators import coordinators
from tests.accounting_data import NS, START_S, boundary, domain, parsed, slurm_job

ALICE, BOB, PI, STRANGER = 2001, 2002, 2003, 2004
UIDS = {"alice": ALICE, "bob": BOB, "pi": PI, "root": 0}
JOBS = (  # id, user, account, uJ, days ago
    (1, "alice", "chem", 9_000_000, 0),
    (2, "bob", "chem", 5_000_000, 0),
    (3, "bob", "bio", 3_000_000, 0),
    (4, "alice", "Chem", 2_000_000, 40),
    (5, "gone", "bio", 1_000_000, 0),
)
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.usefixtures("utc"),
    pytest.mark.skipif(os.getuid() != 0, reason="becoming other users needs root"),
]


class Site:
    """A ledger that is the service user's, and an archive into which its sums are published."""

    def __init__(self, base: Path) -> None:
        self.base, self.archive = base, Archive(base / "archive", "c")
        self.now_s = float(START_S + 1000)
        self.rights: dict[str, list[str]] = {"chem": ["pi"]}
        self.ledger: Ledger = open_ledger(str(base / "ledger.db"), create=True)
        for job_id, user, account, uj, ago in JOBS:
            start_s = START_S - ago * 86_400
            day = date.fromtimestamp(start_s).isoformat()
            self.put(job_id, user, account, uj, day, start_s)
        (base / "archive" / "c").mkdir(parents=True, mode=0o711)
        for path in (base / "archive", base / "archive" / "c"):
            path.chmod(0o711)
        (base / "policy.yaml").write_text(
            f"store: {{archive: {base}/archive}}\ncollect: {{ledger: 'sqlite:///{base}/ledger.db'}}\n"
            "accounts:\n  chem: {budget: {energy: 12 J, period: year}}\n"
            "  bio: {budget: {energy: 1 kWh, period: year}}\n"
        )
        self.publisher = Publisher(
            self.archive, self.ledger, lambda: self.rights, lambda name: UIDS.get(name), lambda: self.now_s
        )
        self.publisher.publish(False)

    def put(self, job_id: int, user: str, account: str, uj: int, day: str, start_s: float) -> None:
        share = [{"day": day, "domain": "package-0", "energy_uj": uj}]
        data = boundary(job_id, user=user, account=account, domains={"package-0": domain("cpu", uj)}, shares=share)
        data["start"]["real_ns"], data["end"]["real_ns"] = int(start_s * NS), int((start_s + 100) * NS)
        row = slurm_job(job_id, user=user, account=account, start_s=int(start_s), end_s=int(start_s + 100))
        self.ledger.put([add_slurm(sum_boundaries([parsed(data)]), row)])

    def later(self, changed: bool = False) -> None:
        self.now_s += 60 if changed else WHOLE_EVERY_S
        self.publisher.publish(changed)

    def perun(self, uid: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command as a user who has Slurm's tools nowhere."""
        environ = {**os.environ, "PERUN_POLICY": str(self.base / "policy.yaml"), "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-m", "perun_hpc.cli.main", *arguments, "--cluster", "c"]
        ids = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        return subprocess.run([*ids, *command], capture_output=True, text=True, env=environ, timeout=120, cwd="/")

    def usage(self, uid: int, by: str = "user,account", since: str = "2026-01-01") -> dict[tuple[str, ...], int]:
        done = self.perun(uid, "usage", "--by", by, "--since", since, "--until", "2026-12-31", "--format", "json")
        assert done.returncode == 0, done.stderr
        keys = by.split(",")
        return {tuple(row[key] for key in keys): row["energy_uj"] for row in json.loads(done.stdout)}

    def readable(self, uid: int) -> str:
        """All that a user can read below the archive, by any path."""
        script = "import sys; from tests.contract.test_own_sums import read_all; print(read_all(sys.argv[1]))"
        ids = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        command = [*ids, sys.executable, "-c", script, str(self.archive.base)]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=120).stdout


def read_all(top: str) -> str:
    """What the process may read below a directory; where it may not list, names that it can guess are tried."""
    guessed = [*map(str, UIDS.values()), str(STRANGER), "usage", "sums", "about.json", "2026-11.json", "2026-10.json"]
    seen, left = [], [(Path(top), 0)]
    while left:
        path, depth = left.pop()
        with contextlib.suppress(OSError):
            if not path.is_dir():
                seen.append(f"{path} {path.read_text()}")
            elif depth < 5:
                listed = [one.name for one in path.iterdir()] if os.access(path, os.R_OK) else guessed
                left += [(path / name, depth + 1) for name in listed]
    return "\n".join(seen)


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o711)
        made = Site(Path(name))
        yield made
        made.ledger.close()


def test_a_user_sees_the_own_jobs_and_nothing_else(site: Site) -> None:
    assert site.usage(ALICE) == {("alice", "chem"): 11_000_000}
    assert site.usage(BOB) == {("bob", "chem"): 5_000_000, ("bob", "bio"): 3_000_000}
    assert site.usage(BOB, "month") == {("2026-11",): 8_000_000}
    assert site.usage(ALICE, "month") == {("2026-11",): 9_000_000, ("2026-10",): 2_000_000}


def test_a_coordinator_sees_all_of_his_accounts_and_no_others(site: Site) -> None:
    assert site.usage(PI) == {("alice", "chem"): 11_000_000, ("bob", "chem"): 5_000_000}
    said = site.perun(PI, "usage").stderr
    assert "accounts that you coordinate (chem)" in said


def test_what_a_person_sees_is_what_the_ledger_answers_to_the_same_question(site: Site) -> None:
    rows = usage(site.ledger, ("user", "account"), Filter(users=("bob",)), "2026-01-01", "2026-12-31")
    assert site.usage(BOB) == {row.group: row.values["energy_uj"] for row in rows}
    table = site.perun(BOB, "usage", "--since", "2026-11-01", "--until", "2026-11-30")
    own = site.perun(0, "usage", "--user", "bob", "--since", "2026-11-01", "--until", "2026-11-30")
    assert table.stdout == own.stdout


def test_who_has_nothing_is_told_when_there_will_be_something(site: Site) -> None:
    done = site.perun(STRANGER, "usage")
    assert done.returncode == 77
    assert "no sums of yours" in done.stderr and "once a job of yours has a record" in done.stderr
    assert site.perun(ALICE, "usage", "--ledger", f"{site.base}/ledger.db").returncode == 77


@pytest.mark.parametrize("filters", [("--user", "bob"), ("--account", "bio"), ("--user", "gone,bob,pi")])
def test_filters_reach_nothing_beyond_ones_own(site: Site, filters: tuple[str, str]) -> None:
    done = site.perun(ALICE, "usage", *filters, "--since", "2026-01-01", "--format", "csv")
    assert list(csv.DictReader(done.stdout.splitlines())) == []


def test_no_path_in_the_archive_gives_anybody_anothers_sums(site: Site) -> None:
    seen = {uid: site.readable(uid) for uid in (ALICE, BOB, PI, STRANGER)}
    assert "alice" in seen[ALICE] and "bob" not in seen[ALICE] and "gone" not in seen[ALICE]
    assert "alice" not in seen[BOB] and "bob" in seen[BOB]
    assert "bio" not in seen[PI]
    assert seen[STRANGER].strip() == ""


def test_another_archive_gives_nobody_anothers_rights(site: Site, tmp_path: Path) -> None:
    """Whoever forges such a directory sees what he wrote himself."""
    done = site.perun(BOB, "usage", "--archive", str(tmp_path / "none"))
    assert done.returncode == 77


def test_when_anothers_jobs_end_cannot_be_seen_from_outside(site: Site) -> None:
    def outside() -> dict[str, tuple[int, int, int]]:
        return {
            p.name: (s.st_mtime_ns, s.st_ctime_ns, s.st_size)
            for p in (site.archive.base / "usage").iterdir()
            if (s := p.stat())
        }

    before = outside()
    site.put(6, "alice", "chem", 7_000_000, "2026-11-22", START_S + 200)
    site.later(changed=True)
    site.later()
    assert outside() == before
    assert site.usage(ALICE) == {("alice", "chem"): 18_000_000}


def test_a_right_that_ends_ends_here(site: Site) -> None:
    site.rights = {}
    site.later()
    assert site.perun(PI, "usage").returncode == 77
    assert not site.archive.usage(PI).exists()
    site.rights = {"bio": ["alice"]}
    site.later()
    assert site.usage(ALICE) == {("alice", "chem"): 11_000_000, ("bob", "bio"): 3_000_000, ("gone", "bio"): 1_000_000}
    site.rights = {}
    site.later()
    assert "bob" not in site.readable(ALICE)


def test_a_user_id_that_another_person_has_now_shows_that_persons_sums(site: Site) -> None:
    names = dict(UIDS)
    try:
        UIDS.pop("alice")
        UIDS["carol"] = ALICE
        site.later()
        assert not site.archive.usage(ALICE).exists()
        site.put(7, "carol", "bio", 4_000_000, "2026-11-22", START_S + 300)
        site.later()
        assert site.usage(ALICE) == {("carol", "bio"): 4_000_000}
    finally:
        UIDS.clear()
        UIDS.update(names)


def test_who_was_hidden_or_deleted_is_in_nobodys_sums(site: Site) -> None:
    UIDS["removed"] = STRANGER
    try:
        pseudonymise(site.ledger, Who("alice", None))
        delete(site.ledger, Who("bob", None))
        site.later()
        assert site.perun(ALICE, "usage").returncode == 77
        assert site.perun(STRANGER, "usage").returncode == 77
        assert "alice" not in site.readable(PI) and "bob" not in site.readable(PI)
        assert sum(site.usage(PI).values()) == 16_000_000
    finally:
        del UIDS["removed"]


def test_without_slurms_word_nobody_coordinates(site: Site) -> None:
    def away() -> Any:
        raise UnavailableError("sacctmgr: no answer")

    shutil.rmtree(site.archive.base / "usage")
    Publisher(site.archive, site.ledger, away, UIDS.get, lambda: site.now_s).publish(False)
    assert site.usage(ALICE) == {("alice", "chem"): 11_000_000}
    assert not site.archive.usage(PI).exists()


def test_what_lies_in_one_users_way_holds_up_no_other(site: Site) -> None:
    shutil.rmtree(site.archive.usage(None))
    site.archive.usage(None).mkdir(mode=0o711)
    site.archive.usage(ALICE).write_text("no directory")
    with pytest.raises(AccessError, match=f"usage/{ALICE}: File exists: see its owner"):
        site.later()
    assert site.usage(BOB)
    site.archive.usage(ALICE).unlink()
    site.later()
    assert site.usage(ALICE)


def test_sums_are_back_soon_after_the_hosts_directory_of_users_is(site: Site) -> None:
    before = site.readable(ALICE)
    names = dict(UIDS)
    try:
        UIDS.clear()
        site.later()
        assert not list(site.archive.usage(None).iterdir())
    finally:
        UIDS.update(names)
    site.now_s += AGAIN_S
    site.publisher.publish(False)
    assert site.readable(ALICE).count("2026-1") == before.count("2026-1") > 0


def test_a_round_that_changes_nothing_writes_no_sums(site: Site) -> None:
    before = {path: path.stat().st_mtime_ns for path in site.archive.base.glob("usage/*/sums/2*.json")}
    site.later()
    assert {path: path.stat().st_mtime_ns for path in site.archive.base.glob("usage/*/sums/2*.json")} == before
    assert before


def test_budgets_are_shown_to_who_coordinates_the_account(site: Site) -> None:
    today = date.today()
    done = site.perun(PI, "policy", "budgets", "--json")
    found = {one["account"]: (one["used_uj"], one["budget_uj"]) for one in json.loads(done.stdout or "[]")}
    used = 16_000_000 if today.year == 2026 else 0
    assert found == {"chem": (used, 12_000_000)}, done.stderr
    refused = site.perun(ALICE, "policy", "budgets", "--json")
    assert (refused.returncode, refused.stdout) == (77, "")
    assert "coordinators" in refused.stderr


def test_damaged_sums_are_one_clear_line(site: Site) -> None:
    for text in ("", "{", "[]", '{"schema":"perun.own-sums/1"}', '{"schema":"x"}'):
        (site.archive.usage(ALICE) / "sums" / "2026-11.json").write_text(text)
        done = site.perun(ALICE, "usage")
        assert done.returncode == 65 and len(done.stderr.splitlines()) == 1 and "damaged" in done.stderr, text


def test_slurms_answer_is_read_as_it_is_written() -> None:
    said = "bio|\nchem|alice,pi\nroot|\n"
    assert coordinators(lambda command, stdin, seconds: said) == {
        "bio": frozenset(),
        "chem": frozenset({"alice", "pi"}),
        "root": frozenset(),
    }


def test_months_go_back_over_the_turn_of_the_year() -> None:
    assert last_months(date(2026, 2, 3), 4) == ["2026-02", "2026-01", "2025-12", "2025-11"]
    assert len(last_months(date(2026, 12, 31), MONTHS)) == MONTHS
