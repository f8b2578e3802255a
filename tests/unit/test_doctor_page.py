"""docs/doctor.md lists the checks as they are in the code, and what each was broken by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from perun_hpc.doctor import cluster
from perun_hpc.doctor.examine import CHECKS
from perun_hpc.doctor.findings import ANY, Role
from tests.slurm.breaks import BREAKS

PAGE = Path(__file__).parents[2] / "docs/doctor.md"
BEGIN, END = "<!-- checks -->\n", "<!-- end -->\n"


def table() -> Iterator[str]:
    """The rows of the page, made of the code."""
    yield "| key | severity | hosts | in order is that | what mends it | broken by |"
    yield "|---|---|---|---|---|---|"
    for check in CHECKS:
        known = {ANY: "Slurm's", frozenset(Role): "all"}
        hosts = known.get(check.roles) or ", ".join(role for role in Role if role in check.roles)
        causes = [check.remedy] if isinstance(check.remedy, str) else check.remedy.values()
        remedy = " / ".join(causes).replace("{{", "\0").replace("}}", "\1").replace("|", "\\|")
        remedy = re.sub(r"\{(\w+)\}", lambda m: m[1].upper(), remedy).replace("\0", "{").replace("\1", "}")
        tried = "; ".join(one.what for one in BREAKS.values() if check.key in one.keys) or "*recorded*"
        yield f"| `{check.key}` | {check.severity.said} | {hosts} | {check.looks_at} | {remedy} | {tried} |"


def test_the_page_lists_the_checks_of_the_code() -> None:
    text = PAGE.read_text()
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == "\n".join(table()) + "\n"
    for key in (*cluster.SAME, "node-asked"):
        assert f"| `{key}` |" in text


def test_there_are_enough_breaks_and_each_is_noticed_by_a_check() -> None:
    assert len(BREAKS) >= 25
    keys = {check.key for check in CHECKS} | set(cluster.SAME)
    assert not [name for name, one in BREAKS.items() if not one.keys <= keys]


if __name__ == "__main__":  # write the table into the page
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(BEGIN) + len(BEGIN)] + "\n".join(table()) + "\n" + text[text.index(END) :])
