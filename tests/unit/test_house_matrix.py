"""The table of `make matrix`, and the list of what a release may leave out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.matrix import short, skips, table
from tests.matrix.roots import CHECKOUT, RELEASES

VERSIONS = {"slurmctld": "24.11.5", "python3": "3.13.5", "munge": "0.5.16"}


def test_a_column_shows_what_passed_failed_and_was_skipped() -> None:
    kept = {
        "versions": VERSIONS,
        "rows": {
            "a.py": {"passed": 3, "failed": [], "skipped": {}, "again": ["a.py::x"], "of": "day, abc"},
            "b.py": {"passed": 1, "failed": ["b.py::y"], "skipped": {"no pmix": 2}, "again": [], "of": "day, def"},
        },
    }
    page = table.markdown([table.column(RELEASES[1], kept)], ["b.py", "c.py", "a.py"])
    assert page == (
        "| tests | Debian 13: Slurm 24.11.5, Python 3.13.5 |\n|---|---|\n"
        "| `b.py` | 1 passed, **1 failed**, 2 skipped; day, def |\n"
        "| `a.py` | 3 passed (1 of them only alone); day, abc |\n\n"
        "- Debian 13 also has munge 0.5.16.\n\n"
        "| release | tests | what was skipped, and what failed |\n|---|---|---|\n"
        "| Debian 13 | `b.py` | 2 skipped: no pmix |\n| Debian 13 | `b.py` | failed: `b.py::y` |\n"
    )


def test_a_cell_that_was_not_run_is_empty_or_as_the_page_had_it() -> None:
    a, b = ({"passed": n, "failed": [], "skipped": {f"why {n}": n}, "again": [], "of": "then"} for n in (1, 2))
    columns = [
        table.column(RELEASES[0], {"versions": VERSIONS, "rows": {"a.py": a, "b.py": a}}),
        table.column(RELEASES[1], {"versions": VERSIONS, "rows": {"a.py": a}}),
    ]
    page = table.markdown(columns, ["a.py", "b.py"])
    assert "| `b.py` | 1 passed, 1 skipped; then |  |" in page
    kept = [table.former(release, page) for release in RELEASES]
    assert kept == [*columns, None]
    again = table.column(RELEASES[1], {"versions": VERSIONS, "rows": {"b.py": {**b, "of": "now"}}}, kept[1])
    assert again.cells == {"a.py": "1 passed, 1 skipped; then", "b.py": "2 passed, 2 skipped; now"}
    assert [len(rows) for rows in again.notes.values()] == [1, 1]


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_a_skip_without_a_listed_reason_is_not_allowed(release) -> None:
    assert not skips.allowed(release.name, "somebody thought of something")
    assert all(skips.allowed(release.name, why) for why in skips.LEFT_OUT[release.name].values())
    assert set(skips.LEFT_OUT) == set(skips.SAID) == {one.name for one in RELEASES}


def test_a_listed_test_is_left_out_on_its_release_alone() -> None:
    ((name, why),) = skips.LEFT_OUT["trixie"].items()
    assert (skips.left_out("trixie", name), skips.left_out("forky", name)) == (why, None)
    assert skips.left_out("trixie", name.partition("[")[0]) is None


@pytest.mark.parametrize(("good", "version", "code", "told"), [
    (True, "26.05.5", 0, False), (False, "26.05.5", 1, False), (True, "26.11.1", 0, False), (False, "26.11.1", 0, True),
])  # fmt: skip
def test_the_short_row_fails_only_on_the_slurm_that_the_page_names(good, version, code, told) -> None:
    page = "| tests | Debian 13: Slurm 24.11.5, Python 3.13.5 | Debian forky: Slurm 26.05.5, Python 3.14.7 |"
    said: list[str] = []
    assert short.verdict(good, version, short.named(page, RELEASES[-1]), said.append) == code
    assert bool(said) is told
    assert short.named("no table", RELEASES[-1]) == ""


def test_what_is_not_done_in_time_is_given_up_with_its_children(tmp_path) -> None:
    with pytest.raises(short.OutOfTime, match=r"not done after 0\.2 s"), short.within(0.2):
        subprocess.run(["sh", "-c", f"echo $$ > {tmp_path}/pid; exec sleep 100"], check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    with short.within(100):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network of its own needs root")
def test_without_a_network_the_short_row_says_that_it_was_skipped(tmp_path) -> None:
    command = ["unshare", "-n", sys.executable, "-m", "tests.matrix", "--short"]
    where = {**os.environ, "PERUN_ROOTS": str(tmp_path)}
    done = subprocess.run(command, cwd=CHECKOUT, env=where, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, "skipped" in done.stdout) == (0, True), done.stdout + done.stderr
