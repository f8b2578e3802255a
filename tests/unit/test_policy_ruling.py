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
    assert rules.renew().startswith(f"{policy}:1:18: collect.sweep: ")
    assert (rules.renew(), rules.site.sweep_s) == ("", 7)
    policy.unlink()
    assert rules.renew() == f"cannot read policy {policy}: No such file or directory"
    assert (rules.renew(), rules.site.sweep_s) == ("", 7)  # as an editor leaves it for a moment, and as the agent does
    policy.write_text("collect: {sweep: 8 s}\n")
    assert (rules.renew(), rules.site.sweep_s) == ("", 8)


def test_without_a_policy_the_defaults_rule_until_there_is_one(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    rules = SitePolicy({"PERUN_POLICY": str(policy)})
    assert (rules.renew(), rules.site.sweep_s) == ("", 60)
    policy.write_text("collect: {sweep: 9 s}\n")
    assert (rules.renew(), rules.site.sweep_s) == ("", 9)


def test_a_service_does_not_begin_with_a_broken_policy(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("foo: {}\n")
    with pytest.raises(ConfigError):
        SitePolicy({"PERUN_POLICY": str(policy)})
