"""sacct's ConsumedEnergy beside the ledger's joules: what fits, what does not, where nothing is compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from perun_hpc.accounting.consumed import COUNTS_S, Compared, Tail, compare, poll_s, whose
from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.agent.slurm_figures import COUNTS_NS
from perun_hpc.data_model.record import EnergyRecord
from perun_hpc.slurm.conf import Config
from perun_hpc.slurm.sacct import SlurmJob
from tests.accounting_data import NS, START_S, boundary, domain, parsed, slurm_job

POLL = Tail(5, 10)
"""8,000 J in 100 s are 80 W: of a job that is alone 5 + 3 s, and a joule."""
ALONE_J = 80 * (5 + 3) + 1


def record(**other: Any) -> EnergyRecord:
    return sum_boundaries([parsed(boundary(**other))])


def compared(jobs: Sequence[SlurmJob], *records: EnergyRecord) -> Compared:
    return compare(jobs, lambda ids: [one for one in records if one.job_id in ids], POLL)


def test_a_figure_within_the_tail_agrees_and_one_beyond_is_named() -> None:
    for said in (8000, 8000 - ALONE_J, 8000 + ALONE_J):
        assert compared([slurm_job(consumed_j=said)], record()) == Compared(1, 0, 0, [])
    for said, off_uj in ((8000 - ALONE_J - 1, -ALONE_J - 1), (8000 + ALONE_J + 1, ALONE_J + 1), (1, -7999)):
        found = compared([slurm_job(consumed_j=said)], record())
        (finding,) = found.findings
        assert (found.agree, finding.where, finding.off_uj) == (0, "job 4711", off_uj * 1_000_000)
        assert finding.what == f"sacct has {said} J, the ledger 8000 J: the tail is {ALONE_J} J"


def test_the_tail_has_the_highest_power_the_nodes_moments_and_slow_ends_in_it() -> None:
    assert POLL.uj(record()) == ALONE_J * 10**6
    peak = record(usage={"cpu_ns": 1, "mem_peak_b": 1, "peak_mw": 100_000})
    assert POLL.uj(peak) == (100 * 8 + 1) * 10**6
    shared = record(domains={"package-0": domain("cpu", 8_000_000_000, node_uj=9_000_000_000)})
    assert POLL.uj(shared) == (80 * (8 + 20 + 3) + 1) * 10**6
    assert POLL.uj(record(), START_S + 90) == (80 * (8 + 10) + 1) * 10**6
    both = sum_boundaries([parsed(boundary(node=node, nodelist="n[1-2]")) for node in ("n1", "n2")])
    assert POLL.uj(both) == 2 * ALONE_J * 10**6
    assert COUNTS_S * NS == COUNTS_NS


def test_a_blank_is_no_zero_and_what_may_differ_is_left_out() -> None:
    for said in (None, 0):
        assert compared([slurm_job(consumed_j=said)], record()) == Compared(0, 1, 0, [])
    partial = record(state="partial", why="the agent was killed")
    assert compared([slurm_job(consumed_j=1)], partial) == Compared(0, 0, 1, [])
    assert compared([slurm_job(consumed_j=1, state="RUNNING", end_s=None)], record()) == Compared(0, 0, 0, [])
    assert compared([slurm_job(consumed_j=1)]) == Compared(0, 0, 0, [])


def test_each_run_of_a_requeued_job_is_compared_with_its_own_record() -> None:
    first = slurm_job(state="REQUEUED", consumed_j=8000)
    second = slurm_job(submit_s=START_S + 100, start_s=START_S + 200, end_s=START_S + 300, run=1, consumed_j=1)
    runs = (record(), record(start_s=START_S + 200, restart_count=1))
    found = compared([first, second], *runs)
    assert (found.agree, [one.off_uj for one in found.findings]) == (1, [-7_999_000_000])


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        ("acct_gather_energy/perun", ""),
        ("acct_gather_energy/none", "no energy plugin"),
        ("(null)", "no energy plugin"),
        ("acct_gather_energy/rapl", "acct_gather_energy/rapl's, of whole nodes"),
        ("acct_gather_energy/perun,acct_gather_energy/gpu", ""),
    ],
)
def test_whose_figure_it_is(kind: str, word: str) -> None:
    said = whose(Config({"acctgatherenergytype": (kind,)}))
    assert word in said and bool(word) == bool(said)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("task=5,energy=10", 5), ("energy=10,task=7", 7), ("energy=10", 30), ("0", 0), ("Task=12", 12)],
)
def test_how_often_slurm_asks(text: str, seconds: float) -> None:
    assert poll_s(Config({"jobacctgatherfrequency": (text,)})) == seconds
