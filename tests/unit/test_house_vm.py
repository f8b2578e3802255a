"""The virtual machines' table."""

from __future__ import annotations

from tests.stamp import stamp
from tests.vm import table


def test_a_page_keeps_the_parts_of_scenarios_that_were_not_run():
    rows = [
        {"step": "one", "what": "a | b", "ok": True, "seconds": 1.4, "said": ["x", "y"]},
        {"step": "two", "what": "", "ok": False, "seconds": 2.0, "said": [], "error": "it\nfailed"},
    ]
    first, second = (table.markdown(name, "title", rows, 3.2) for name in ("first", "second"))
    assert "| one | a / b | ok | 1 | x; y |" in first
    assert "| two |  | **failed** | 2 | it failed |" in first
    assert f"2 steps, 1 failed, 3 min; {stamp()}." in first
    assert table.parts(f"head\n\n{first}\n{second}") == {"first": first, "second": second}
