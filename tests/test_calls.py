"""The table of a Controller's calls and their deadlines, without a loop, a server or a database."""

from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest

from garivini import Job
from garivini.gearman.aio import Client
from garivini.keeper.execution import Execution
from garivini.roles.calls import ENDED, Call, Calls, End, Phase
from garivini.roles.deadlines import begin, due, is_over


def execution(jobid: int = 1, attempt: int | None = 1, funcname: str = "f") -> Execution:
    held: Any = SimpleNamespace(disconnected=False)
    return Execution(Job(jobid=jobid, dbid=1, funcname=funcname, arg=b"", attempt=attempt), held, "w")


def call_in(calls: Calls, phase: Phase, attempt: int = 1) -> Call:
    """Return a call that has come to a phase."""
    call = calls.start(execution(attempt=attempt))
    if phase < ENDED:
        call.phase = phase
    else:
        calls.end(call, cast(End, phase))
    return call


# ---- how many


def test_may_start_gives_one_slow_function_half_of_the_calls_and_two_a_third_each() -> None:
    calls = Calls(12)
    jobid = 0
    for _ in range(20):
        for funcname in ("a", "b"):
            if calls.may_start(funcname):
                jobid += 1
                calls.start(execution(jobid, funcname=funcname))
    assert calls.in_flight == 8
    assert calls.may_start("c")
    alone = Calls(12)
    started = [alone.start(execution(number)) for number in range(20) if alone.may_start("f")]
    assert len(started) == 6


@pytest.mark.parametrize("phase", get_args(End))
def test_end_frees_a_call_and_keeps_it_until_its_commit(phase: End) -> None:
    calls = Calls(2)
    call = calls.start(execution())
    assert not calls.may_start("f")
    assert calls.unfinished() == [call]
    calls.end(call, phase)
    assert calls.may_start("f")
    assert (calls.in_flight, calls.unfinished()) == (0, [])
    assert calls[1, 1] is call


def test_end_is_for_calls_in_flight() -> None:
    calls = Calls(1)
    call = call_in(calls, Phase.RETURNED)
    with pytest.raises(AssertionError):
        calls.end(call, Phase.SUCCEEDED)


# ---- further copies


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("attempt", [None, 1, 2])
def test_attach_finds_a_copy_that_comes_again_superfluous(phase: Phase, attempt: int | None) -> None:
    calls = Calls(5)
    call = call_in(calls, phase, attempt=2)
    first, second = call.execution, execution(attempt=attempt)
    assert calls.attach(call, second) is second
    assert (call.execution, call.later) == (first, None)


@pytest.mark.parametrize("phase", Phase)
def test_attach_replaces_a_copy_whose_connection_was_lost(phase: Phase) -> None:
    calls = Calls(5)
    call = call_in(calls, phase)
    first, second = call.execution, execution()
    first.held.disconnected = True  # type: ignore[misc]
    assert calls.attach(call, second) is None
    assert (call.execution, call.execution.held) == (first, second.held)


def test_attach_lets_a_later_attempt_take_over_a_call_that_a_server_has() -> None:
    calls = Calls(5)
    call = call_in(calls, Phase.CREATED)
    first, second = call.execution, execution(attempt=2)
    first.started_at = 5.0
    assert calls.attach(call, second) is first
    assert (call.execution, call.later) == (second, None)
    assert second.started_at == 5.0


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.CREATED])
def test_attach_keeps_a_later_attempt_for_later_and_only_the_last_one(phase: Phase) -> None:
    calls = Calls(5)
    call = call_in(calls, phase)
    first, second, third, late = (execution(attempt=attempt) for attempt in (1, 2, 3, 2))
    first = call.execution
    assert calls.attach(call, second) is None
    assert calls.attach(call, third) is second
    assert calls.attach(call, late) is late
    assert (call.execution, call.later) == (first, third)


# ---- deadlines


def created(submitted_at: float, seconds: float) -> Call:
    call = Call(execution(), Phase.CREATED)
    call.client = Client("127.0.0.1:1")
    begin(call, seconds, submitted_at)
    return call


def test_due_asks_about_a_call_a_second_after_its_submit_and_at_its_deadline() -> None:
    call = created(100.0, 60.0)
    assert due([call], 100.9) == {}
    assert list(due([call], 101.0).values()) == [[call]]
    assert not is_over(call, running=True, now=101.0)
    assert due([call], 159.9) == {}
    assert list(due([call], 160.0).values()) == [[call]]
    assert is_over(call, running=True, now=160.0)


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.CREATED])
def test_due_asks_only_about_calls_that_a_server_has(phase: Phase) -> None:
    call = created(100.0, 60.0)
    call.phase = phase
    assert due([call], 1000.0) == {}


def test_is_over_counts_from_now_if_a_call_had_to_wait_for_a_worker() -> None:
    call = created(100.0, 60.0)
    assert not is_over(call, running=False, now=101.0)
    assert is_over(call, running=False, now=160.0)
    assert not is_over(call, running=True, now=160.0)
    assert call.ask_at == 220.0


def test_is_over_counts_from_the_first_report_of_a_worker() -> None:
    call = created(100.0, 60.0)
    call.running_since = 130.0
    assert not is_over(call, running=True, now=189.9)
    assert is_over(call, running=True, now=190.0)
