"""Pipelined submits: the window, and what became of each job."""

from collections.abc import Callable

import pytest

from garivini.gearman.packets import Type
from garivini.gearman.protocol import ClientProtocol, Created, Event, Refused, Submission, Unknown, Unsent
from garivini.gearman.requests import Batch
from tests.gearman.exchange import JOB, Exchange, H, callbacks, said


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


def deliver(protocol: ClientProtocol[Callable[[Event], None]], data: bytes) -> None:
    for tag, event in protocol.receive(data):
        tag(event)


def test_a_batch_learns_what_became_of_each_job(exchange: Exchange) -> None:
    protocol = callbacks()
    exchange.join(protocol)
    exchange.broker.functions.get_or_add(b"full").limits = [1, 1, 1]
    jobs = [JOB, Submission(b"full", b""), Submission(b"full", b""), Submission(b"a\nb", b""), JOB]
    batch = Batch(jobs)
    batch.write(protocol)
    done_before = batch.done
    for tag, event in exchange.run()[protocol]:
        tag(event)
    assert (done_before, batch.done) == (False, True)
    first, second, full, unfit, last = batch.results
    assert [type(result) for result in (first, second, last)] == [Created] * 3
    assert len({first, second, last}) == 3
    assert isinstance(full, Refused)
    assert full.code == b"QUEUE_ERROR"
    assert isinstance(unfit, Refused)
    assert unfit.code == b"USAGE"
    assert b"line break" in unfit.text


def test_a_batch_of_jobs_that_cannot_travel_is_done_without_an_answer() -> None:
    protocol = callbacks()
    batch = Batch([Submission(b"", b"")] * 3)
    batch.write(protocol)
    assert batch.done
    assert protocol.data_to_send() == b""


def test_a_batch_stops_at_its_window_of_jobs_and_goes_on_as_answers_come() -> None:
    protocol = callbacks()
    count = 3 * Batch.WINDOW_JOBS
    batch = Batch([JOB] * count)
    answered = most = 0
    while not batch.done:
        for _ in range(10):
            batch.write(protocol)
        most = max(most, protocol.pending)
        protocol.data_to_send()
        handles = range(answered, answered + min(100, protocol.pending))
        assert handles, "a batch with no answer due has stopped"
        deliver(protocol, b"".join(said(Type.JOB_CREATED, b"H:%d" % n) for n in handles))
        answered += len(handles)
    assert answered == count
    assert Batch.WINDOW_JOBS // 2 < most <= Batch.WINDOW_JOBS
    assert batch.results == [Created(b"H:%d" % n) for n in range(count)]


def test_a_batch_stops_at_its_window_of_bytes() -> None:
    protocol = callbacks()
    batch = Batch([Submission(b"f", bytes(Batch.WINDOW_BYTES // 4))] * 20)
    for _ in range(10):
        batch.write(protocol)
    assert protocol.pending == 4
    deliver(protocol, said(Type.JOB_CREATED, H))
    batch.write(protocol)
    assert protocol.pending == 3  # a write waits for half the window, to be large
    deliver(protocol, said(Type.JOB_CREATED, H) * 3)
    batch.write(protocol)
    assert protocol.pending == 4


def test_a_job_over_the_window_of_bytes_goes_alone() -> None:
    protocol = callbacks()
    batch = Batch([Submission(b"f", bytes(2 * Batch.WINDOW_BYTES))] * 2)
    batch.write(protocol)
    batch.write(protocol)
    assert protocol.pending == 1
    deliver(protocol, said(Type.JOB_CREATED, H))
    batch.write(protocol)
    deliver(protocol, said(Type.JOB_CREATED, H))
    assert batch.results == [Created(H)] * 2


def test_a_lost_connection_leaves_written_jobs_unknown_and_the_rest_unsent() -> None:
    protocol = callbacks()
    batch = Batch([JOB] * (Batch.CHUNK + 10))
    batch.write(protocol)
    deliver(protocol, said(Type.JOB_CREATED, H))
    for tag, event in protocol.lost():
        tag(event)
    assert batch.done
    assert batch.results == [Created(H), *[Unknown()] * (Batch.CHUNK - 1), *[Unsent()] * 10]
    batch.write(protocol)
    assert protocol.data_to_send() == b""
