"""docs/install.md is what `make install-test` copies out: ten steps, and each block says for which host it is."""

from __future__ import annotations

import pytest

from tests.install.blocks import PAGE, blocks


def test_the_page_has_ten_steps_whose_blocks_name_their_hosts() -> None:
    found = blocks(PAGE.read_text())
    steps = list(dict.fromkeys(one.section for one in found if one.section[0].isdigit()))
    assert [step.partition(".")[0] for step in steps] == [str(number) for number in range(1, 11)]
    assert {one.section for one in found} - set(steps) == {"To upgrade", "To remove it"}
    assert all(one.text for one in found)
    removal = [one for one in found if one.section == "To remove it"]
    assert [one.host for one in removal] == ["the controller", "the collector's host", "every host", "every host"]


def test_a_block_without_a_host_is_refused() -> None:
    with pytest.raises(ValueError, match="for which host"):
        blocks("## 1. X\n\nDo this:\n\n```\ntrue\n```\n")


def test_nobody_is_sent_to_an_editor_of_units() -> None:
    assert "systemctl edit" not in PAGE.read_text()
