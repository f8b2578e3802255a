"""What the policy does not measure is neither missing in the ledger nor a finding of the audit."""

from __future__ import annotations

from pathlib import Path

import pytest

from perun_hpc.accounting.audit import compare_sacct
from perun_hpc.accounting.collect import Collector, Slurm, Tools
from perun_hpc.accounting.ledger import open_ledger
from perun_hpc.accounting.site import load_site
from perun_hpc.archive.places import Archive
from tests.accounting_data import START_S, boundary, put_incoming, slurm_job


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("", True),
        ("monitor: {canaries: 'n[2-3]'}", False),
        ("monitor: {canaries: 'n[1-2]'}", True),
        ("monitor: {partitions: [gpu]}", False),
        ("monitor: {accounts: [chem]}", False),
        ("monitor: {jobs: opt-in}", False),
        ("monitor: {jobs: opt-out, user_options: ['off']}", False),
        ("accounts: {physics: {monitor: {jobs: none}}}", False),
        ("partitions: {main: {monitor: {jobs: opt-in}}}", False),
        ("nodes: {'n[4-9]': {monitor: {jobs: none}}}", True),
    ],
)
def test_a_record_is_missed_only_where_the_policy_wants_one(tmp_path: Path, policy: str, expected: bool) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(policy)
    must = load_site({"PERUN_POLICY": str(path)}).expects
    lost = slurm_job(4712)
    assert bool(compare_sacct([lost], {}, must)) is expected
    ledger = open_ledger(str(tmp_path / "ledger.db"), create=True)
    put_incoming(tmp_path, boundary())
    slurm = Slurm(lambda ids: [], lambda since, until: [slurm_job(), lost])
    tools = Tools(lambda: START_S + 10_000.0, slurm, expects=must)
    assert Collector(Archive(tmp_path, "c"), ledger, tools, 900).sweep().missing == int(expected)


def test_of_a_job_on_canaries_and_others_a_record_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("monitor: {canaries: n3}")
    must = load_site({"PERUN_POLICY": str(path)}).expects
    assert must(slurm_job(nodelist="n[1-3]"))
    assert not must(slurm_job(nodelist="n[1-2]"))
    assert must(slurm_job(nodelist="[["))  # what cannot be read is rather told than passed over
