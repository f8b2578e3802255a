"""What the agent's socket grants a user who wants all of it."""

from __future__ import annotations

from perun_hpc.process.server import SECOND_NS, Allowance, Limits

BOB, ALICE = 2002, 2001


def granted(allowance: Allowance, uid: int, tries: int, mono_ns: int, work_ns: int = 0) -> int:
    count = 0
    for _ in range(tries):
        if allowance.take(uid, mono_ns):
            allowance.charge(uid, work_ns)
            count += 1
    return count


def test_a_user_has_a_burst_and_then_a_rate_of_his_own() -> None:
    allowance = Allowance(Limits(messages_per_s=10, burst=100))
    assert granted(allowance, BOB, 1000, 0) == 100
    assert granted(allowance, ALICE, 50, 0) == 50
    assert granted(allowance, BOB, 1000, 2 * SECOND_NS) == 20


def test_root_is_never_refused() -> None:
    assert granted(Allowance(Limits(messages_per_s=1, burst=1)), 0, 1000, 0, work_ns=SECOND_NS) == 1000


def test_much_work_costs_many_messages() -> None:
    allowance = Allowance(Limits(messages_per_s=10, burst=100, work_ns=1_000_000))
    assert granted(allowance, BOB, 1000, 0, work_ns=49_000_000) == 2
    assert granted(allowance, BOB, 1000, SECOND_NS, work_ns=49_000_000) == 1
    # The debt of that is paid off after four seconds.
    assert granted(allowance, BOB, 1000, 4 * SECOND_NS) == 0
    assert granted(allowance, BOB, 1, 6 * SECOND_NS) == 1
