"""A job's stored settings are read as the classes that declare them."""

from __future__ import annotations

from perun_hpc.config.resolve import JobFacts, resolve
from perun_hpc.config.schema import Privacy, Store
from perun_hpc.config.settings import privacy, store, trace_may_be_wanted, trace_wanted


def test_what_an_older_perun_did_not_store_has_its_default_and_what_a_newer_one_stored_is_left_out():
    found = store({"store": {"trace": "none", "of_a_newer_perun": 1}})
    assert (found.trace, found.flush_ns) == ("none", Store().flush_ns)
    assert privacy({}) == Privacy()


def test_settings_that_were_stored_come_back():
    settings = resolve({}, JobFacts())
    assert store(settings.to_json()) == settings.store


def test_settings_that_replace_others_count_at_once():
    assert [store({"store": {"trace": rule}}).trace for rule in ("all", "none", "flagged") * 200] == [
        "all", "none", "flagged"
    ] * 200  # fmt: skip


def test_whose_trace_is_kept():
    stored = {"store": {"trace": "all", "trace_min_duration_ns": 60}}
    assert [trace_wanted(stored, flagged, lasted) for flagged, lasted in ((False, 59), (False, 60), (True, 0))] == [
        False, True, True
    ]  # fmt: skip
    assert trace_may_be_wanted(stored)
    flagged_only = {"store": {"trace": "flagged"}}
    assert not trace_may_be_wanted(flagged_only)
    assert not trace_wanted(flagged_only, False, 10**12)
    assert trace_wanted(flagged_only, True, 0)
    assert not trace_wanted({"store": {"trace": "none"}}, True, 10**12)
