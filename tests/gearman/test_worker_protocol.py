"""The worker's side: when it asks, when it sleeps, and what it holds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from garivini.errors import ProtocolError, UsageError
from garivini.gearman.packets import REQUEST, Type, encode
from garivini.gearman.protocol import Assigned, Rejected, WorkerProtocol
from garivini.gearman.requests import Batch
from tests.gearman.exchange import JOB, Exchange, H, callbacks, said, sent, streams


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


def test_a_worker_registers_each_function_once_and_asks_for_its_slots() -> None:
    worker = WorkerProtocol([b"f", b"g", b"f"], slots=2, client_id=b"me")
    assert sent(worker) == ["SET_CLIENT_ID", "CAN_DO", "CAN_DO", "GRAB_JOB_UNIQ", "GRAB_JOB_UNIQ"]
    assert worker.waiting == 2
    assert not worker.quiet


def test_a_worker_that_cannot_register_says_so() -> None:
    with pytest.raises(UsageError):
        WorkerProtocol([b"a\nb"])


def assigned(handle: bytes) -> bytes:
    return said(Type.JOB_ASSIGN_UNIQ, handle, b"f", b"u", b"d\0d")


def fresh(slots: int) -> WorkerProtocol:
    """A worker whose first requests have been written."""
    worker = WorkerProtocol([b"f"], slots=slots)
    worker.data_to_send()
    return worker


def test_an_assignment_is_given_whole_and_fills_a_slot() -> None:
    worker = fresh(1)
    assert worker.receive(assigned(H)) == [Assigned(H, b"f", b"u", b"d\0d")]
    assert (worker.held, worker.waiting) == (1, 0)
    assert sent(worker) == []


def test_the_end_of_a_job_and_the_next_grab_go_out_together() -> None:
    worker = fresh(1)
    worker.receive(assigned(H))
    worker.complete(H, b"r")
    assert worker.data_to_send() == encode(REQUEST, Type.WORK_COMPLETE, H, b"r") + encode(
        REQUEST, Type.GRAB_JOB_UNIQ
    )


@pytest.mark.parametrize("end", ["complete", "fail", "exception"])
def test_a_job_can_be_ended_once_and_only_where_it_is_held(end: str) -> None:
    worker = fresh(1)
    worker.receive(assigned(H))
    finish = getattr(worker, end)
    arguments = [b"text"] if end == "exception" else []
    finish(H, *arguments)
    assert sent(worker)[0] == f"WORK_{end.upper()}"
    with pytest.raises(UsageError, match="not held"):
        finish(H, *arguments)
    assert sent(worker) == []


def test_a_worker_sleeps_only_when_every_grab_found_nothing() -> None:
    worker = fresh(3)
    worker.receive(said(Type.NO_JOB))
    assert sent(worker) == []
    worker.receive(said(Type.NO_JOB))
    assert sent(worker) == []
    worker.receive(said(Type.NO_JOB))
    assert sent(worker) == ["PRE_SLEEP"]
    assert worker.quiet


def test_a_wake_up_while_a_grab_is_out_is_passed_over() -> None:
    worker = fresh(2)
    worker.receive(said(Type.NO_JOB) + said(Type.NOOP))
    assert sent(worker) == []
    worker.receive(said(Type.NO_JOB))
    assert sent(worker) == ["PRE_SLEEP"]


def test_a_sleeper_asks_for_one_job_when_woken_and_for_more_as_they_come() -> None:
    worker = fresh(6)
    worker.receive(said(Type.NO_JOB) * 6)
    assert sent(worker) == ["PRE_SLEEP"]
    worker.receive(said(Type.NOOP))
    assert sent(worker) == ["GRAB_JOB_UNIQ"]
    worker.receive(assigned(b"1"))
    assert sent(worker) == ["GRAB_JOB_UNIQ"] * 2
    worker.receive(assigned(b"2"))
    assert sent(worker) == ["GRAB_JOB_UNIQ"] * 2  # three in all, one of them being out
    worker.receive(said(Type.NO_JOB) * 3)
    assert sent(worker) == ["PRE_SLEEP"]
    worker.receive(said(Type.NOOP))
    assert sent(worker) == ["GRAB_JOB_UNIQ"]


def eager(came: int) -> WorkerProtocol:
    """An eager worker that has just been woken, and to which so many jobs had come before."""
    worker = WorkerProtocol([b"f"], slots=1000, eager=True)
    sent(worker)
    worker.receive(said(Type.NO_JOB) * worker.waiting + said(Type.NOOP))
    sent(worker)
    deliver(worker, came)
    worker.receive(said(Type.NO_JOB) * worker.waiting)
    assert sent(worker)[-1] == "PRE_SLEEP"
    worker.receive(said(Type.NOOP))
    return worker


def deliver(worker: WorkerProtocol, jobs: int) -> None:
    """Answer grabs with so many jobs, which end at once."""
    while jobs:
        handles = [b"%d" % number for number in range(min(jobs, worker.waiting))]
        worker.receive(b"".join(map(assigned, handles)))
        for handle in handles:
            worker.complete(handle)
        sent(worker)
        jobs -= len(handles)


@pytest.mark.parametrize("came", [1, 7, 200])
def test_an_eager_sleeper_asks_at_once_for_as_many_jobs_as_came_since_its_last_wake_up(came: int) -> None:
    assert sent(eager(came)) == ["GRAB_JOB_UNIQ"] * came


def test_an_eager_sleeper_asks_for_few_more_jobs_than_came_the_last_time() -> None:
    worker = eager(200)
    sent(worker)
    deliver(worker, 100)
    assert worker.waiting == 100
    deliver(worker, 100)
    assert 0 < worker.waiting <= 32


def test_an_eager_sleeper_asks_for_ever_more_jobs_while_more_come_than_the_last_time() -> None:
    worker = eager(200)
    sent(worker)
    deliver(worker, 400)
    assert worker.waiting > 200


def test_a_worker_that_holds_a_job_sleeps_for_its_free_slot() -> None:
    worker = fresh(2)
    worker.receive(assigned(H) + said(Type.NO_JOB))
    assert sent(worker) == ["PRE_SLEEP"]
    worker.complete(H)
    assert sent(worker) == ["WORK_COMPLETE"]  # it sleeps: the server had nothing
    worker.receive(said(Type.NOOP))
    assert sent(worker) == ["GRAB_JOB_UNIQ"]


def test_a_job_found_after_a_grab_that_found_nothing_keeps_the_worker_asking() -> None:
    # Between two grabs of one write another connection may submit. Without the next grab nothing
    # would ever wake the worker: it did not say that it sleeps.
    worker = fresh(2)
    worker.receive(said(Type.NO_JOB) + assigned(H))
    assert sent(worker) == ["GRAB_JOB_UNIQ"]
    worker.receive(said(Type.NO_JOB))
    assert sent(worker) == ["PRE_SLEEP"]


def test_raised_slots_are_asked_for_and_lowered_ones_are_not() -> None:
    worker = fresh(1)
    worker.slots = 3
    worker.ask()
    assert sent(worker) == ["GRAB_JOB_UNIQ"] * 2
    worker.receive(assigned(b"1") + assigned(b"2") + assigned(b"3"))
    worker.slots = 1
    for handle in (b"1", b"2"):
        worker.complete(handle)
        assert sent(worker) == ["WORK_COMPLETE"]
    worker.complete(b"3")
    assert sent(worker) == ["WORK_COMPLETE", "GRAB_JOB_UNIQ"]


def test_no_slots_drain_the_worker() -> None:
    worker = fresh(2)
    worker.receive(assigned(b"1"))
    worker.slots = 0
    worker.complete(b"1")
    assert sent(worker) == ["WORK_COMPLETE"]
    quiet_before = worker.quiet  # a job may still come for the other grab
    assert worker.receive(assigned(b"2")) == [Assigned(b"2", b"f", b"u", b"d\0d")]
    worker.complete(b"2")
    assert (quiet_before, worker.quiet) == (False, True)
    worker.receive(said(Type.NOOP))
    assert sent(worker) == ["WORK_COMPLETE"]


def test_a_sleeper_asks_again_only_when_told_to() -> None:
    worker = fresh(1)
    worker.receive(said(Type.NO_JOB))
    sent(worker)
    worker.ask()
    assert sent(worker) == []
    worker.ask(again=True)
    assert sent(worker) == ["GRAB_JOB_UNIQ"]
    worker.ask(again=True)  # one is out already
    assert sent(worker) == []


def test_echoes_are_counted_until_answered() -> None:
    worker = fresh(0)
    worker.echo(b"beat")
    assert sent(worker) == ["ECHO_REQ"]
    assert worker.waiting == 1
    worker.receive(said(Type.ECHO_RES, b"beat"))
    assert worker.waiting == 0


def test_a_rejected_end_is_told_and_harms_nothing(exchange: Exchange) -> None:
    worker = WorkerProtocol([b"f"])
    exchange.join(worker)
    exchange.run()
    (text,) = worker.receive(said(Type.ERROR, b"JOB_NOT_FOUND", b"gone"))
    assert text == Rejected(b"JOB_NOT_FOUND", b"gone")
    assert exchange.run()[worker] == []


@pytest.mark.parametrize(
    "data",
    [
        assigned(b"1") + assigned(b"1"),
        assigned(b"1") + assigned(b"2") + assigned(b"3"),
        said(Type.NO_JOB) * 3,
        said(Type.ECHO_RES, b""),
        said(Type.JOB_ASSIGN, H, b"f", b"d"),
        said(Type.WORK_COMPLETE, H, b""),
        b"OK\r\n",
    ],
    ids=["twice", "unasked", "no grab", "no echo", "other assign", "not for workers", "line"],
)
def test_what_a_server_cannot_say_to_a_worker_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        fresh(2).receive(data)


def test_workers_drain_a_queue_and_sleep(exchange: Exchange) -> None:
    protocol = callbacks()
    workers = [WorkerProtocol([b"f"], slots=3) for _ in range(2)]
    exchange.join(protocol, *workers)
    batch = Batch([replace(JOB, data=b"%d" % n) for n in range(100)])
    done: list[bytes] = []
    batch.write(protocol)
    while True:
        events = exchange.run()
        jobs = [(worker, job) for worker in workers for job in events[worker]]
        if not jobs:
            break
        for worker, job in jobs:
            assert worker.held <= 3
            done.append(job.data)
            worker.complete(job.handle)
    assert sorted(done, key=int) == [b"%d" % n for n in range(100)]
    assert all(worker.quiet for worker in workers)
    assert exchange.asleep == set(workers)
    protocol.submit(lambda event: None, JOB)
    events = exchange.run()
    assert sum(len(events[worker]) for worker in workers) == 1


# ---- any stream


@settings(max_examples=50)
@given(streams, st.integers(0, 3))
def test_a_worker_answers_garbage_with_a_protocol_error_only(pieces: list[bytes], slots: int) -> None:
    worker = WorkerProtocol([b"f"], slots=slots)
    try:
        for piece in pieces:
            for event in worker.receive(piece):
                assert isinstance(event, Assigned | Rejected)
            assert worker.held + worker.waiting <= slots
    except ProtocolError:
        pass
