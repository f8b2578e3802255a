from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from perun_hpc.accounting.summing import sum_boundaries
from perun_hpc.cli.main import main
from perun_hpc.data_model.boundary import read_boundary
from perun_hpc.errors import UnavailableError

from .agent_node import FakeNode, until


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    fake = FakeNode(tmp_path)
    yield fake
    fake.stop()


def package_total(node: FakeNode) -> int:
    lines = [line for line in node.ledger() if line["domain"] == "package-0"]
    assert all(sum(line["shares"].values()) == line["total_uj"] for line in lines)
    return sum(line["total_uj"] for line in lines)


def test_a_killed_agent_is_continued_by_the_next(node: FakeNode) -> None:
    node.start()
    first = node.counters["intel-rapl:0"]
    node.begin(1, exclusive="1")
    node.serve(1_000_000)
    spent_ns = int(node.ask("status").fields["cpu_ns"])
    while int(node.ask("status").fields["cpu_ns"]) < spent_ns + 300_000_000:
        pass
    node.begin(2)
    node.end(2)  # with which the state is saved
    node.kill()
    node.serve(2_000_000)
    node.start()
    assert node.ask("status").fields["sessions"] == "1.0"
    node.serve(4_000_000)
    node.end(1)
    record = node.record(1)
    assert record["state"] == "closed"
    assert record["agent"]["cpu_ns"] > 300_000_000  # the killed one's, too
    assert record["domains"]["package-0"]["energy_uj"] == 7_000_000
    edges = record["edges"]["powercap:package-0:energy"]
    assert edges["end"]["ticks"] - edges["start"]["ticks"] == 7_000_000
    assert [gap["why"] for gap in record["gaps"]] == ["the agent was restarted"]
    node.stop()
    assert package_total(node) == node.counters["intel-rapl:0"] - first


def test_no_job_costs_less_than_nothing_where_the_former_agent_did_not_write_down_what_it_had_used(
    node: FakeNode,
) -> None:
    """As agents did up to 1 December 2026: of what they used for the job nothing is known."""
    node.start()
    node.begin(1)
    node.stop()
    saved, hour_ns = node.state(), 3600 * 10**9
    del saved["spent_ns"]
    saved["sessions"][0]["agent_cpu_ns"] = -hour_ns  # so much it had used when the job began
    (node.spool / "node/state.json").write_text(json.dumps(saved))
    node.start()
    node.end(1)
    assert 0 < node.record(1)["agent"]["cpu_ns"] < hour_ns


def test_an_agent_that_is_killed_right_after_its_answer_has_forgotten_nothing(node: FakeNode) -> None:
    for job in range(1, 6):
        node.start()
        node.begin(job)
        node.kill()
        node.start()
        node.end(job)
        node.kill()
    node.start()
    for job in range(1, 6):
        assert node.record(job)["why"] is None


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment_around_hooks_no_job_is_lost_and_no_energy_counts_twice(node: FakeNode, seed: int) -> None:
    """Hooks come and go, and the agent is killed again and again, before, while and after it answers."""
    chance = random.Random(seed)
    node.start()
    first = node.counters["intel-rapl:0"]
    live: list[int] = []
    for job in range(1, 25):
        node.serve(chance.randrange(1_000_000), busy_s={one % 4: 0.5 for one in live})
        live.append(job)
        _say(node, "job-start", job)
        if len(live) > 3:
            _say(node, "job-end", live.pop(chance.randrange(len(live))), exit_code="0:0")
        if chance.random() < 0.4:
            time.sleep(chance.random() * 0.02)
            node.kill()
            node.serve(chance.randrange(1_000_000))
            if chance.random() < 0.5:
                _say(node, "job-end", live.pop(), exit_code="0:0")
            node.start()
    for job in live:
        node.end(job)
    records = {job: node.record(job) for job in range(1, 25)}
    node.stop()
    assert {record["state"] for record in records.values()} <= {"closed", "partial"}
    assert package_total(node) == node.counters["intel-rapl:0"] - first
    shares: dict[str, int] = {}
    for line in node.ledger():
        if line["domain"] == "package-0":
            for owner, energy_uj in line["shares"].items():
                shares[owner] = shares.get(owner, 0) + energy_uj
    for job, record in records.items():
        assert (record["domains"]["package-0"]["energy_uj"] or 0) == shares.get(f"job:{job}.0", 0)


def test_after_a_loss_of_power_a_state_of_before_takes_nothing_from_a_record_that_was_shipped(node: FakeNode) -> None:
    node.start()
    node.begin(1, exclusive="1")
    state = node.spool / "node" / "state.json"
    until(state.exists, "the state was saved")
    before = state.read_bytes()
    node.serve(3_000_000, busy_s={0: 1})
    node.end(1)
    shipped = node.record(1)
    node.kill()
    state.write_bytes(before)
    node.set_boot("99999999-2222-3333-4444-555555555555")
    node.start()
    node.begin(2)
    node.end(2)
    node.record(2)
    node.stop()
    assert shipped["end"]["from"] == "hook" and node.record(1) == shipped
    assert [path.name for path in node.boundary_path(1).parent.iterdir()] == ["n1.json"]


def _say(node: FakeNode, verb: str, job: int, **more: str) -> None:
    """What a hook does: without an answer its message goes into the inbox."""
    try:
        node.ask(verb, **node.job(job, **more))
    except UnavailableError:
        node.leave(verb, job, **more)


def test_a_job_that_ended_while_no_agent_ran_is_closed_from_the_inbox(node: FakeNode) -> None:
    node.start()
    node.begin(1, exclusive="1")
    until((node.spool / "node" / "state.json").exists, "the state was saved")
    node.kill()
    node.serve(2_000_000)
    node.leave("job-end", 1)
    node.serve(500_000)
    node.start()
    record = node.record(1)
    assert record["end"]["from"] == "inbox"
    assert record["end"]["late_ns"] > 0
    assert record["domains"]["package-0"]["node_uj"] == 2_500_000


def test_a_job_that_started_while_no_agent_ran_is_taken_from_the_inbox(node: FakeNode) -> None:
    node.leave("job-start", 3)
    node.serve(1_000_000)
    served = node.counters["intel-rapl:0"]
    node.start()
    until(lambda: node.ask("status").fields["sessions"] == "3.0", "the job is known")
    node.serve(250_000)
    node.end(3)
    record = node.record(3)
    assert record["start"]["from"] == "inbox"
    assert record["edges"]["powercap:package-0:energy"]["start"]["ticks"] == served
    assert record["domains"]["package-0"]["node_uj"] == 250_000
    assert list((node.run_dir / "inbox").iterdir()) == []


@pytest.mark.parametrize("late_s", [0.0, 7.5])
def test_what_was_before_a_late_first_reading_is_a_gap_and_no_energy(node: FakeNode, late_s: float) -> None:
    """The record begins when the hook ran; of what the counters counted until an agent was up nothing is the job's."""
    hook_ns = time.monotonic_ns() - int(late_s * 1e9)
    node.leave("job-start", 3, hook_mono_ns=hook_ns)
    node.serve(1_000_000)
    node.start()
    until(lambda: node.ask("status").fields["sessions"] == "3.0", "the job is known")
    node.serve(250_000)
    node.end(3)
    record = node.record(3)
    edge = record["start"]
    assert edge["from"] == "inbox" and edge["mono_ns"] - edge["late_ns"] == hook_ns
    assert record["domains"]["package-0"]["node_uj"] == 250_000
    gaps = [(gap["from_ns"], gap["to_ns"]) for gap in record["gaps"] if gap["sensor"] == "agent"]
    notes = [note for note in record["notes"] if "are not in its energy" in note]
    if edge["late_ns"] > 1_000_000_000:
        assert gaps == [(hook_ns, edge["mono_ns"])]
        assert notes == [
            f"its first {edge['late_ns'] / 1e9:.1f} s are not in its energy: the agent heard of it only then"
        ]
    else:
        assert (gaps, notes) == ([], [])
    boundary = read_boundary(node.boundary_path(3))
    summed = sum_boundaries([boundary])
    duration_ns = record["end"]["mono_ns"] - record["end"]["late_ns"] - hook_ns
    assert abs(boundary.end_ns - boundary.start_ns - duration_ns) < 1_000
    assert summed.coverage == pytest.approx(1 - edge["late_ns"] / duration_ns, abs=0.05)


def test_a_whole_job_that_no_agent_saw_has_no_energy(node: FakeNode) -> None:
    node.leave("job-start", 3)
    node.serve(1_000_000)
    node.leave("job-end", 3)
    node.start()
    record = node.record(3)
    assert record["state"] == "partial"
    assert "no reading during the job" in record["why"]
    assert all(domain["energy_uj"] is None for domain in record["domains"].values())


@pytest.mark.parametrize("moves_uj", [0, 70_000])
def test_a_job_that_a_starved_agent_reads_after_its_end_has_no_energy(node: FakeNode, moves_uj: int) -> None:
    """It was told in time, but had no CPU before the job was over: that is not 0 J, and complete."""
    node.start()
    now_ns = time.monotonic_ns()
    node.cgroup(3, "0-3", 0.0)
    node.begin(3, hook_mono_ns=now_ns - 900_000_000, exclusive="1")
    node.cgroup(3, "0-3", 0.1)
    node.serve(moves_uj)
    node.end(3, hook_mono_ns=now_ns - 300_000_000)
    record = node.record(3)
    assert record["state"] == "partial"
    assert "no reading during the job: the agent's first came after the job's end" in record["why"]
    found = [domain["energy_uj"] for domain in record["domains"].values()]
    summed = sum_boundaries([read_boundary(node.boundary_path(3))])
    if moves_uj:  # booked, so that the node ledger closes; the record says what it is
        assert sum(filter(None, found)) == moves_uj
        assert "only that between its end and the moment when the agent heard of it" in record["why"]
        assert summed.energy_uj == moves_uj
    else:
        assert all(one is None for one in found)
        assert summed.energy_uj is None


def test_the_node_ledger_gives_nothing_to_jobs_that_were_over_before_anything_was_read(node: FakeNode) -> None:
    jobs = range(3, 33)
    for job in jobs:
        node.leave("job-start", job, exclusive="1")
        node.leave("job-end", job)
    node.start(wait=False)
    while not node.boundary_path(jobs[-1]).exists():
        node.serve(10_000)
    node.stop()
    assert not {owner for line in node.ledger() for owner in line["shares"] if owner.startswith("job:")}


def test_after_a_reboot_the_job_is_partial_and_its_late_epilog_changes_nothing(node: FakeNode) -> None:
    node.start()
    node.begin(1, exclusive="1")
    node.serve(1_000_000)
    node.ask("job-start", **node.job(2))
    until((node.spool / "node" / "state.json").exists, "the state was saved")
    node.stop()
    node.set_boot("99999999-2222-3333-4444-555555555555")
    node.serve(5_000_000)
    node.start()
    record = node.record(1)
    assert record["state"] == "partial"
    assert "the node was restarted" in record["why"]
    assert record["domains"]["package-0"]["node_uj"] == 1_000_000
    node.end(1)
    assert node.record(1) == record


def test_the_late_epilog_of_a_run_that_a_boot_cut_off_is_not_the_next_runs_end(node: FakeNode) -> None:
    node.start()
    node.begin(1, exclusive="1")
    until((node.spool / "node" / "state.json").exists, "the state was saved")
    node.stop()
    node.set_boot("99999999-2222-3333-4444-555555555555")
    node.start()
    node.stop()  # who comes next knows it, too
    node.leave("job-end", 1, restart_count=1)  # Slurm puts it into the queue again, and counts before the Epilog
    node.start()
    assert "the node was restarted" in node.record(1)["why"]
    node.end(1, restart_count=1)
    node.begin(1, restart_count=1, exclusive="1")
    node.serve(1_000_000)
    node.end(1, restart_count=1)
    record = node.record(1, 1)
    assert (record["state"], record["why"]) == ("closed", None)
    assert record["domains"]["package-0"]["node_uj"] == 1_000_000


def test_a_run_after_that_whose_start_nobody_told_is_named(node: FakeNode) -> None:
    node.start()
    node.begin(1)
    until((node.spool / "node" / "state.json").exists, "the state was saved")
    node.stop()
    node.set_boot("99999999-2222-3333-4444-555555555555")
    node.start()
    node.begin(1, restart_count=1)
    node.end(1, restart_count=1)
    node.end(1, restart_count=3, hook_mono_ns=time.monotonic_ns() + 61 * 10**9)
    assert "no job-start message" in node.record(1, 3)["why"]


def test_what_was_counted_without_an_agent_is_nobodys_that_is_known(node: FakeNode) -> None:
    node.start()
    first = node.counters["intel-rapl:0"]
    node.stop()
    node.serve(3_000_000)
    node.start()
    node.stop()
    lines = [line for line in node.ledger() if line["total_uj"] == 3_000_000]
    assert [line["shares"] for line in lines] == [{"unobserved": 3_000_000}]
    assert package_total(node) == node.counters["intel-rapl:0"] - first


def test_a_node_that_is_flushed_has_handed_everything_over(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    agent = node.start()
    node.begin(1)
    node.serve(1_000_000)
    node.end(1)
    assert node.record(1)["machine_id"] == "7759b50e"
    node.serve(2_000_000)  # idle, and nothing else has it shipped
    begin = time.monotonic()
    assert main(["agent", "--socket", node.socket, "flush"]) == 0
    assert time.monotonic() - begin < 20 and capsys.readouterr().err == ""
    assert agent.wait(5) == 0
    (shipped,) = (node.archive / "test" / "nodes" / "n1").glob("????-??-??.jsonl")
    assert shipped.read_bytes() == b"".join(path.read_bytes() for path in node.spool.glob("node/????-??-??.jsonl"))
    lines = [json.loads(line) for line in shipped.read_text().splitlines()]
    assert sum(line["total_uj"] or 0 for line in lines if line["domain"] == "package-0") == 3_000_000


def test_a_node_without_an_agent_goes_down_all_the_same(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "--socket", node.socket, "flush", "--deadline", "1"]) == 0
    assert "perun agent flush" in capsys.readouterr().err


def test_an_archive_that_hangs_keeps_no_node_from_going_down(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = node.start()
    os.kill(agent.pid, signal.SIGSTOP)
    begin = time.monotonic()
    assert main(["agent", "--socket", node.socket, "flush", "--deadline", "1"]) == 0
    assert time.monotonic() - begin < 10 and "perun agent flush" in capsys.readouterr().err
    os.kill(agent.pid, signal.SIGCONT)


def test_a_stopped_agent_catches_up(node: FakeNode) -> None:
    agent = node.start()
    node.begin(1, exclusive="1")
    os.kill(agent.pid, signal.SIGSTOP)
    node.serve(1_000_000)
    node.leave("job-end", 1)
    os.kill(agent.pid, signal.SIGCONT)
    record = node.record(1)
    assert record["domains"]["package-0"]["node_uj"] == 1_000_000


def test_an_archive_that_cannot_be_written_holds_the_records_back(node: FakeNode) -> None:
    node.archive.rmdir()
    node.archive.write_text("not a directory")
    node.start()
    node.begin(1)
    node.serve(1_000)
    node.end(1)
    sealed = node.spool / "sessions" / "1.0" / "boundary.json"
    until(sealed.exists, "the record waits in the spool")
    node.begin(2)
    node.archive.unlink()
    node.archive.mkdir()
    node.end(2)
    assert node.record(1)["domains"]["package-0"]["node_uj"] == 1_000
    node.record(2)
    until(lambda: not sealed.parent.exists(), "the spool is clean again")


def test_a_broken_policy_leaves_the_last_good_one_in_force(node: FakeNode) -> None:
    node.start()
    node.begin(1)
    until((node.run_dir / "agent" / "policy.json").exists, "the policy was compiled")
    node.policy.write_text("this: is: no policy [")
    node.begin(2)
    node.end(1)
    node.end(2)
    assert node.record(1)["policy_hash"] == node.record(2)["policy_hash"] != ""
    until(lambda: node.ask("status").fields["policy"] != "", "the mistake is shown")


def test_a_policy_that_measures_nothing_leaves_no_record(tmp_path: Path) -> None:
    node = FakeNode(tmp_path, policy="monitor:\n  jobs: none\n")
    node.start()
    try:
        node.begin(1)
        node.end(1)
        until(lambda: not (node.spool / "sessions" / "1.0").exists(), "the session is dropped")
        assert not node.boundary_path(1).exists()
    finally:
        node.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_spool_loses_no_record(node: FakeNode) -> None:
    node.spool.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(node.spool)], check=True)
    try:
        with (node.spool / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * 512):
                pass
        node.start()
        node.begin(1)
        node.serve(1_000)
        node.end(1)
        assert node.answers()
        (node.spool / "fill").unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", str(node.spool)], check=True)
        record = node.record(1)
        assert record["domains"]["package-0"]["node_uj"] == 1_000
        assert not record["trace"]["stored"]
        node.stop()
    finally:
        subprocess.run(["umount", "-l", str(node.spool)], check=True)


def test_windows_as_often_as_a_job_asks_for_them_do_not_fill_the_node_ledger(node: FakeNode) -> None:
    node.start()
    first = node.counters["intel-rapl:0"]
    node.begin(1, uid=os.getuid(), exclusive="1")
    process = node.root / f"proc/{os.getpid()}"
    process.mkdir(parents=True)
    (process / "cgroup").write_text(f"4:freezer:/slurm/uid_{os.getuid()}/job_1/step_0\n")
    node.cgroup(1, "0-3", 1.0, uid=os.getuid())
    begin, moments = time.monotonic(), set()
    while len(moments) < 100:
        node.serve(1_000)
        moments.add(node.ask("window", job_id=1, restart_count=0).fields["mono_ns"])
        time.sleep(0.01)
    took_s = time.monotonic() - begin
    node.end(1)
    assert node.record(1)["domains"]["package-0"]["energy_uj"] == node.counters["intel-rapl:0"] - first
    node.stop()
    assert package_total(node) == node.counters["intel-rapl:0"] - first
    lines = [line for line in node.ledger() if line["domain"] == "package-0"]
    assert len(lines) <= 2 * took_s + 10  # its start, its end, the grid, and one a second


def test_an_agent_whose_roots_child_has_died_says_so(node: FakeNode) -> None:
    agent = node.start()
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children")
    until(lambda: len(children.read_text().split()) == 1, "root's child is the only one left")
    assert "not-read" not in node.ask("status").fields.get("losses", "")
    os.kill(int(children.read_text()), signal.SIGKILL)
    until(lambda: "not-read" in node.ask("status").fields.get("losses", ""), "the status tells it")
