"""The saved state and the node ledger that goes with it: what the state does not know is not in the ledger."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from perun_hpc.agent import state
from perun_hpc.agent.base.account import DomainAccount
from perun_hpc.agent.base.paths import AgentPaths
from perun_hpc.agent.base.session import Edge, Gap, Session
from perun_hpc.agent.measure.node_ledger import NodeLedger
from perun_hpc.agent.sources.node import Snapshot
from perun_hpc.agent.state_log import StateLog
from perun_hpc.data_model import codec
from perun_hpc.data_model.job import SessionKey
from perun_hpc.energy.attribute import Share

S = 1_000_000_000
WORDS = {"component": "cpu", "scope": "a package", "provenance": "measured", "method": "cores"}


def line(t1_s: int) -> dict[str, object]:
    known = {"t0_ns": (t1_s - 1) * S, "t1_ns": t1_s * S, "domain": "package-0", "method": "unheld"}
    return {**known, "total_uj": 5, "shares": {"idle": 5}}


def known(path: Path) -> list[int]:
    return [json.loads(text)["t1_ns"] // S for text in path.read_text().splitlines()]


def test_an_agent_killed_at_midnight_leaves_no_interval_that_is_booked_again(tmp_path: Path) -> None:
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    ledger = NodeLedger(paths)
    ledger.append("2026-01-02", [line(1)])  # the clock was ahead for a while
    os.utime(paths.ledger("2026-01-02"), (1, 1))
    ledger.append("2025-12-31", [line(8), line(9)])
    now = state.NodeState("boot", Snapshot(9 * S, S, {}, {}), {}, None, ledger.position, (), {}, {}, ("test", "n1"))
    state.save(StateLog(paths.state), now, [])
    ledger.append("2025-12-31", [line(10)])
    ledger.append("2026-01-01", [line(11), line(12)])  # and here it is killed
    assert state.load(paths) is not None
    assert known(paths.ledger("2025-12-31")) == [8, 9]
    assert known(paths.ledger("2026-01-01")) == []
    assert known(paths.ledger("2026-01-02")) == [1]


def test_every_field_of_an_account_survives_however_it_was_made(tmp_path: Path) -> None:
    """Sums are written in columns, by the order of an account's fields."""
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    numbers = {one.name: place for place, one in enumerate(fields(DomainAccount), start=7) if one.name not in WORDS}
    values = {**WORDS, **numbers}
    new, again = codec.made(DomainAccount, values), codec.made(DomainAccount, dict(reversed(values.items())))
    again.give(Share("job:1.0", 5, 2, 3), "cores")
    sessions = [Session(SessionKey(job, 0), {}, {}, "", "boot", Edge(1, 1, 0, "hook")) for job in (1, 2)]
    for session, account in zip(sessions, (new, again), strict=True):
        session.open_account("package-0", account)
    log = StateLog(paths.state)
    for mono_ns in (9 * S, 10 * S):
        last = Snapshot(mono_ns, S, {}, {})
        now = state.NodeState("boot", last, {}, None, ("", 0), tuple(sessions), {}, {}, ("test", "n1"))
        new.cover(S, False, "cores", "measured", 11)
        state.save(log, now, [])
        known = state.load(paths)
        assert known is not None and [one.domains for one in known.sessions] == [one.domains for one in sessions]
    assert paths.state.read_bytes().count(b"\n") == 2


def test_a_ledger_that_cannot_be_cut_costs_no_session(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    session = Session(SessionKey(1, 0), {}, {}, "", "boot", Edge(1, 1, 0, "hook"))
    now = state.NodeState(
        "boot", Snapshot(9 * S, S, {}, {}), {}, None, ("2025-12-31", 0), (session,), {}, {}, ("test", "n1")
    )
    state.save(StateLog(paths.state), now, [])
    (paths.ledger("2025-12-31") / "refuses to be cut").mkdir(parents=True)
    found = state.load(paths)
    assert found is not None and [one.key for one in found.sessions] == [session.key]
    assert "node ledger: lines that the state does not know stay in it" in capfd.readouterr().err


def test_what_a_meters_parts_were_given_survives(tmp_path: Path) -> None:
    paths = AgentPaths(tmp_path / "run", tmp_path / "spool")
    paths.node.mkdir(parents=True)
    last, inside = Snapshot(9 * S, S, {}, {}), {"psys": {"job:1.0": 7, "idle": -1}}
    now = state.NodeState("boot", last, {}, None, ("", 0), (), {}, {}, ("test", "n1"), inside)
    state.save(StateLog(paths.state), now, [])
    known = state.load(paths)
    assert known is not None and known.inside == inside
    older = json.loads(paths.state.read_text())
    del older["inside"]
    paths.state.write_text(json.dumps(older))
    known = state.load(paths)
    assert known is not None and known.inside == {}


def kept_session() -> dict[str, Any]:
    """What an agent leaves of a job with 900 uJ of its own, shared out by work."""
    session = Session(SessionKey(5, 0), {}, {}, "", "boot", Edge(0, 0, 0, "hook"))
    session.domains = {"package-0": DomainAccount("cpu", "", "modelled", "cores", energy_uj=1000, dynamic_uj=900)}
    session.gaps = [Gap("agent", 1, 2, "")]
    kept: dict[str, Any] = json.loads(json.dumps(session.to_json()))
    return kept


def test_an_older_agent_goes_on_with_what_a_later_one_left() -> None:
    kept = kept_session()
    for part in (kept, kept["start"], kept["domains"]["package-0"], kept["gaps"][0]):
        part["of_a_later_version"] = 7
    assert Session.from_json(kept) == Session.from_json(kept_session())


def test_what_an_agent_left_that_kept_no_doubts_is_doubted_by_all_of_its_method() -> None:
    kept = kept_session()
    assert Session.from_json(kept).domains["package-0"].sharing_doubt_uj == 0
    for name in ("static_doubt_uj", "sharing_doubt_uj", "others_doubt_uj", "peak_uw"):
        del kept["domains"]["package-0"][name]
    assert Session.from_json(kept).domains["package-0"].sharing_doubt_uj == 306  # 34 % of 900
