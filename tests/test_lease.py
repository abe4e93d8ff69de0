"""What becomes of a lease that ran out: each line of the table, and that the table is complete."""

from itertools import product

import pytest

from garivini.model.lease import ASK_AGAIN, DEADLINE, Decision, Extend, Found, Reclaim, decide
from garivini.model.state import State

LEASE = 60
HELD = (State.LEASED, State.RUNNING, State.SUSPECT)
FIRST_STRIKE = Extend(State.SUSPECT, LEASE // 3 + 2)
ON = Extend(State.LEASED, LEASE + 1)


@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("renews", [False, True])
def test_what_is_queued_waits_on_as_leased_and_its_time_without_a_start_counts_anew(
    state: State, renews: bool
) -> None:
    decision = decide(state, Found.QUEUED, age=10 * DEADLINE, lease=LEASE, renews=renews)
    assert decision == Extend(State.LEASED, LEASE + 1, queued=True)


@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("renews", [False, True])
def test_what_is_undecided_is_asked_again_soon_and_keeps_its_state(state: State, renews: bool) -> None:
    decision = decide(state, Found.UNDECIDED, age=10 * DEADLINE, lease=LEASE, renews=renews)
    assert decision == Extend(state, ASK_AGAIN)


@pytest.mark.parametrize("renews", [False, True])
@pytest.mark.parametrize(
    ("state", "found", "decision"),
    [
        (State.RUNNING, Found.RUNNING, FIRST_STRIKE),
        (State.RUNNING, Found.UNKNOWN, FIRST_STRIKE),
        (State.SUSPECT, Found.RUNNING, Reclaim(crashed=True)),
        (State.SUSPECT, Found.UNKNOWN, Reclaim(crashed=True)),
        (State.LEASED, Found.UNKNOWN, Reclaim()),
    ],
)
def test_a_holder_that_has_renewed_gets_a_second_strike_and_one_that_has_not_does_not(
    state: State, found: Found, decision: Decision, renews: bool
) -> None:
    assert decide(state, found, age=0, lease=LEASE, renews=renews) == decision


@pytest.mark.parametrize(
    ("renews", "delivered", "crashed"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_what_a_server_got_and_lost_counts_as_a_crash_where_workers_renew(
    renews: bool, delivered: bool, crashed: bool
) -> None:
    decision = decide(State.LEASED, Found.UNKNOWN, age=0, lease=LEASE, renews=renews, delivered=delivered)
    assert decision == Reclaim(crashed=crashed)


def test_a_worker_that_does_not_renew_may_run_until_the_deadline() -> None:
    def decision(age: int) -> Decision:
        return decide(State.LEASED, Found.RUNNING, age=age, lease=LEASE, deadline=500)

    assert decision(0) == ON
    assert decision(499) == ON
    assert decision(500) == Reclaim()
    assert decision(501) == Reclaim()


def test_the_deadline_is_an_hour_unless_told_otherwise() -> None:
    assert decide(State.LEASED, Found.RUNNING, age=3599, lease=LEASE) == ON
    assert decide(State.LEASED, Found.RUNNING, age=3600, lease=LEASE) == Reclaim()


@pytest.mark.parametrize("age", [0, 10 * DEADLINE])
def test_a_worker_that_is_known_to_renew_and_has_not_is_suspect_whatever_its_age(age: int) -> None:
    assert decide(State.LEASED, Found.RUNNING, age=age, lease=LEASE, renews=True) == FIRST_STRIKE


@pytest.mark.parametrize(("lease", "seconds"), [(3, 3), (60, 22), (1000, 335)])
def test_the_second_strike_comes_after_a_third_of_a_lease_and_two_seconds(lease: int, seconds: int) -> None:
    assert decide(State.RUNNING, Found.RUNNING, age=0, lease=lease) == Extend(State.SUSPECT, seconds)


@pytest.mark.parametrize(
    ("state", "found", "age", "renews"), list(product(HELD, Found, (0, DEADLINE), (False, True)))
)
def test_every_lease_that_ran_out_ends_or_goes_on_for_a_while_in_a_held_state(
    state: State, found: Found, age: int, renews: bool
) -> None:
    decision = decide(state, found, age=age, lease=3, renews=renews)
    assert isinstance(decision, Reclaim) or (decision.state in HELD and decision.seconds >= ASK_AGAIN)


@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize("found", [Found.UNKNOWN, Found.RUNNING])
def test_a_job_that_nobody_renews_and_no_server_has_queued_is_reclaimed_in_the_end(
    state: State, found: Found
) -> None:
    age = 0
    for _ in range(DEADLINE // LEASE + 2):
        decision = decide(state, found, age=age, lease=LEASE)
        if isinstance(decision, Reclaim):
            return
        state, age = decision.state, age + decision.seconds
    pytest.fail("it goes on for ever")


@pytest.mark.parametrize("state", [State.LEASED, State.RUNNING, State.SUSPECT])
def test_a_copy_that_is_stranded_is_replaced_and_nobody_is_blamed(state: State) -> None:
    assert decide(state, Found.STRANDED, age=1, lease=LEASE, renews=True, delivered=True) == Reclaim()
