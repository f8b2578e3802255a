"""A job's settings: site, partition, nodes, account and user, each bounded by what stands above."""

from __future__ import annotations

import json

import pytest

from perun_hpc.config.compile import compile_policy
from perun_hpc.config.policy import parse
from perun_hpc.config.resolve import JobFacts, JobSettings, monitors, resolve, with_options

SITE = b"""
monitor:
  jobs: opt-out
  user_options: [off, notrace, period]
sampling:
  period: 2 s
  period_min: 500 ms
  period_max: 10 s
energy:
  package_static: 30 W
partitions:
  gpu:
    sampling:
      period: 1 s
      period_min: 1 s
  quiet:
    monitor: {jobs: opt-in, user_options: [notrace]}
    store: {trace: flagged}
nodes:
  "g[01-03]":
    energy: {package_static: 45 W}
  "g03,x":
    energy: {package_static: 50 W}
accounts:
  secret:
    privacy: {shared_resolution: 60 s}
    store: {trace: none}
"""


def settings(facts: JobFacts, text: bytes = SITE) -> JobSettings:
    """Through JSON, as the agent reads it."""
    return resolve(json.loads(json.dumps(compile_policy(parse(text, "site.yaml")))), facts)


def test_an_empty_policy_is_all_defaults():
    result = settings(JobFacts(), b"")
    assert result.monitor.jobs == "all"
    assert result.sampling.period_ns == 10**9
    assert set(result.origins.values()) == {"default"}


def test_each_layer_wins_over_the_one_above():
    assert settings(JobFacts()).sampling.period_ns == 2 * 10**9
    gpu = settings(JobFacts(partition="gpu"))
    assert gpu.sampling.period_ns == 10**9
    assert gpu.origins["sampling.period_ns"] == "site.yaml:14"
    assert settings(JobFacts(node="g02")).energy.package_static_uw == 45_000_000
    assert settings(JobFacts(node="g04")).energy.package_static_uw == 30_000_000
    assert settings(JobFacts(account="secret")).store.trace == "none"


def test_of_two_node_groups_the_later_one_rules():
    assert settings(JobFacts(node="g03")).energy.package_static_uw == 50_000_000


@pytest.mark.parametrize(
    ("options", "period_ns", "noted"),
    [
        ("period=3s", 3 * 10**9, 0),
        ("period=1ms", 5 * 10**8, 1),
        ("period=1h", 10**10, 1),
        ("period=soon", 2 * 10**9, 1),
    ],
)
def test_the_users_period_stays_within_the_limits(options, period_ns, noted):
    result = settings(JobFacts(options=options))
    assert result.sampling.period_ns == period_ns
    assert len(result.notes) == noted


def test_a_partitions_narrower_limit_bounds_the_user():
    assert settings(JobFacts(partition="gpu", options="period=500ms")).sampling.period_ns == 10**9


def test_an_option_that_the_site_withholds_is_noted_and_ignored():
    result = settings(JobFacts(partition="quiet", options="period=3s,notrace"))
    assert result.sampling.period_ns == 2 * 10**9
    assert result.store.trace == "none"
    assert "period" in result.notes[0]


def test_off_switches_monitoring_off_only_where_jobs_may_opt_out():
    assert settings(JobFacts(options="off")).monitor.jobs == "none"
    everybody = SITE.replace(b"jobs: opt-out", b"jobs: all")
    refused = settings(JobFacts(options="off"), everybody)
    assert refused.monitor.jobs == "all"
    assert len(refused.notes) == 1


def test_opt_in_records_flagged_jobs_only():
    quiet = settings(JobFacts(partition="quiet"))
    assert quiet.monitors(flagged=True)
    assert not quiet.monitors(flagged=False)


@pytest.mark.parametrize(
    ("line", "inside", "outside"),
    [
        (b"partitions: [gpu]", JobFacts(partition="gpu"), JobFacts(partition="cpu")),
        (b"accounts: [chem]", JobFacts(account="chem"), JobFacts(account="bio")),
        (b"canaries: n[1-2]", JobFacts(node="n2"), JobFacts(node="n3")),
    ],
)
def test_lists_of_partitions_accounts_and_canaries_restrict(line, inside, outside):
    text = b"monitor:\n  " + line + b"\n"
    assert settings(inside, text).monitor.jobs == "all"
    off = settings(outside, text)
    assert off.monitor.jobs == "none"
    assert off.origins["monitor.jobs"] == "site.yaml:2"


def test_settings_are_stored_with_where_they_came_from():
    stored = json.loads(json.dumps(settings(JobFacts(partition="gpu", options="period=1ms")).to_json()))
    assert stored["sampling"]["period_ns"] == 10**9
    assert stored["origins"]["sampling.period_ns"] == "--perun=period"
    assert stored["notes"]
    assert "collect" not in stored


def test_hostile_options_are_ignored_in_one_short_line_each():
    result = settings(JobFacts(options="x" * 10_000 + ",period=" + "9" * 10_000 + "s,=,period"))
    assert result.sampling.period_ns == 2 * 10**9
    assert all(len(note) < 300 for note in result.notes)


def test_a_policy_that_another_version_compiled_still_rules():
    site = {"values": {"store.floppy_b": 1440, "store.trace": "none"}, "origins": {}}
    assert resolve({"site": site}, JobFacts()).store.trace == "none"


def frozen(facts: JobFacts, text: bytes = SITE) -> dict[str, object]:
    """As the agent keeps it between its lives."""
    kept: dict[str, object] = json.loads(json.dumps(settings(facts, text).to_json()))
    return kept


@pytest.mark.parametrize("options", ["", "notrace", "period=3s,nonsense", "period=1ms", "off"])
@pytest.mark.parametrize(
    "facts", [JobFacts(), JobFacts(partition="gpu"), JobFacts(partition="quiet", account="secret")]
)
def test_a_flag_that_comes_later_counts_as_one_at_the_start(facts, options):
    late = with_options(frozen(facts), options)
    begun = frozen(JobFacts(facts.partition, facts.node, facts.account, facts.user, options))
    assert json.loads(json.dumps(late)) == begun


def test_a_later_flag_is_bounded_by_what_was_frozen_not_by_what_the_policy_says_now():
    begun = frozen(JobFacts())
    late = with_options(begun, "period=600ms")
    assert late["sampling"]["period_ns"] == 600_000_000
    assert late["sampling"]["period_min_ns"] == 500_000_000
    again = with_options(late, "period=1ms")
    assert again["sampling"]["period_ns"] == 500_000_000
    assert len(again["notes"]) == 1


def test_settings_that_an_older_version_froze_still_take_a_flag():
    late = with_options({"store": {"trace": "all"}, "monitor": {"user_options": ["notrace"]}}, "notrace")
    assert late["store"]["trace"] == "none"
    assert monitors(late["monitor"]["jobs"], flagged=True)
