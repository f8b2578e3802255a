"""A service follows its policy without a restart; a broken file changes nothing and is told once."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.accounting.site import SitePolicy
from perun_hpc.errors import ConfigError


def test_a_change_rules_the_next_sweep_and_a_broken_file_none(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("collect: {sweep: 5 s}\n")
    rules = SitePolicy({"PERUN_POLICY": str(policy)})
    assert (rules.site.sweep_s, rules.renew()) == (5, "")
    policy.write_text("collect: {sweep: 7 s, deadline: 1 min}\n")
    assert (rules.renew(), rules.site.sweep_s, rules.site.deadline_s) == ("", 7, 60)
    policy.write_text("collect: {sweep: 7}\nfoo: {}\n")
    assert len(rules.renew().splitlines()) == 2
    assert (rules.renew(), rules.site.sweep_s) == ("", 7)
    policy.unlink()
    assert (rules.renew(), rules.site.sweep_s) == ("", 60)  # without a file: the defaults


def test_a_service_does_not_begin_with_a_broken_policy(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("foo: {}\n")
    with pytest.raises(ConfigError):
        SitePolicy({"PERUN_POLICY": str(policy)})
