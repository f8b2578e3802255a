"""The table of `make matrix`, and the list of what a release may leave out."""

from __future__ import annotations

import pytest

from tests.junit import Result
from tests.matrix import skips, table
from tests.matrix.roots import RELEASES

VERSIONS = {"slurmctld": "24.11.5", "python3": "3.13.5", "munge": "0.5.16"}


def test_a_column_shows_what_passed_failed_and_was_skipped() -> None:
    kept = {
        "versions": VERSIONS,
        "rows": {
            "a.py": {"passed": 3, "failed": [], "skipped": {}, "again": ["a.py::x"]},
            "b.py": {"passed": 1, "failed": ["b.py::y"], "skipped": {"no pmix": 2}, "again": []},
        },
    }
    page = table.markdown([table.column(RELEASES[1], kept)], ["b.py", "c.py", "a.py"])
    assert page == (
        "| tests | Debian 13: Slurm 24.11.5, Python 3.13.5 |\n|---|---|\n"
        "| `b.py` | 1 passed, **1 failed**, 2 skipped |\n| `a.py` | 3 passed (1 of them only alone) |\n\n"
        "- Debian 13 also has munge 0.5.16.\n\n"
        "| release | tests | what was skipped, and what failed |\n|---|---|---|\n"
        "| Debian 13 | `b.py` | 2 skipped: no pmix |\n| Debian 13 | `b.py` | failed: `b.py::y` |\n"
    )


def test_a_cell_that_was_not_run_is_empty() -> None:
    columns = [
        table.Column(RELEASES[0], VERSIONS, {"a.py": Result(1, (), {})}),
        table.Column(RELEASES[1], VERSIONS, {}),
    ]
    assert "| `a.py` | 1 passed |  |" in table.markdown(columns, ["a.py"])


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_a_skip_without_a_listed_reason_is_not_allowed(release) -> None:
    assert not skips.allowed(release.name, "somebody thought of something")
    assert all(skips.allowed(release.name, why) for why in skips.LEFT_OUT[release.name].values())
    assert set(skips.LEFT_OUT) == set(skips.SAID) == {one.name for one in RELEASES}


def test_a_listed_test_is_left_out_on_its_release_alone() -> None:
    ((name, why),) = skips.LEFT_OUT["trixie"].items()
    assert (skips.left_out("trixie", name), skips.left_out("forky", name)) == (why, None)
    assert skips.left_out("trixie", name.partition("[")[0]) is None
