"""A record's rows of steps: what no cgroup of its own shows has no energy that another row has."""

from __future__ import annotations

from array import array
from pathlib import Path

from perun_hpc.agent.base.session import Edge, Session
from perun_hpc.agent.base.step_use import StepUse
from perun_hpc.agent.base.steps import RankRun, Step
from perun_hpc.agent.outbox import regions
from perun_hpc.agent.outbox.step_rows import AMONG_FURTHER, steps_of
from perun_hpc.data_model.job import SessionKey

START, END = Edge(1, 1, 0, "hook"), Edge(1_001, 1_001, 0, "hook")


def session() -> Session:
    """A job with a flagged step 300, of which its cgroup shows nothing yet."""
    found = Session(SessionKey(7, 0), {}, {}, "", "", START, END)
    step = Step(300, 1, 1, "train", "")
    step.ranks["0"] = RankRun(0, 0, 1, 101, 901, 101, 901)
    found.add_step(step)
    return found


def with_energies(of: Session, directory: Path) -> dict[int, dict[str, object]]:
    """Its rows as they are shipped, of a job that used 5000 uJ while the step ran."""
    (directory / "curve.bin").write_bytes(array("q", (101, 0, 901, 5_000)).tobytes())
    record = {"end": {"mono_ns": END.mono_ns}, "domains": {}, "static": {}, "steps": steps_of(of, END, 0.0, 0)}
    return {row["step_id"]: row for row in regions.with_energies(directory, record)}


def test_a_flagged_step_among_the_further_ones_counts_once(tmp_path: Path) -> None:
    job = session()
    use = StepUse("300", 101, 101)
    use.read(10)
    use.give(4_000, 0, 0, 0, 5_000)
    use.finish(901, 901)
    use.settled = True
    use.close(901)
    job.add_use(use)
    job.fold_steps(256)
    rows = with_energies(job, tmp_path)
    assert rows[-1]["energy_uj"] == 4_000
    assert rows[300].get("energy_uj") is None
    assert rows[300]["why"] == AMONG_FURTHER


def test_a_flagged_step_that_no_cgroup_shows_has_nothing_of_what_others_were_given(tmp_path: Path) -> None:
    job = session()
    assert with_energies(job, tmp_path)[300]["energy_uj"] == 5_000  # nobody else is known to have it
    batch = StepUse("batch", 1, 1)
    batch.give(5_000, 0, 0, 0, 5_000)
    job.add_use(batch)
    rows = with_energies(job, tmp_path)
    assert rows[300].get("energy_uj") is None
    assert rows[300]["why"] == regions.UNSEEN_BESIDE
