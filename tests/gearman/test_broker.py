"""The broker under any sequence of requests: its books stay whole, and no job is lost or doubled."""

import time
from collections import Counter, OrderedDict

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from garivini.gearman.broker import Broker
from garivini.gearman.console import answer
from garivini.gearman.jobs import RECORD, Connection
from garivini.gearman.packets import RESPONSE, Decoder, Line, Packet, Type
from garivini.gearman.server import _handle_prefix

FUNCTIONS = [b"f", b"g"]
RETRIES = 3
functions = st.sampled_from(FUNCTIONS)
uniques = st.sampled_from([b"", b"", b"u", b"v", b"-"])
background = st.sampled_from([Type.SUBMIT_JOB_BG, Type.SUBMIT_JOB_HIGH_BG, Type.SUBMIT_JOB_LOW_BG])
foreground = st.sampled_from([Type.SUBMIT_JOB, Type.SUBMIT_JOB_HIGH, Type.SUBMIT_JOB_LOW])
ends = st.sampled_from([Type.WORK_COMPLETE, Type.WORK_FAIL, Type.WORK_EXCEPTION])
grabs = st.sampled_from([Type.GRAB_JOB, Type.GRAB_JOB_UNIQ, Type.GRAB_JOB_ALL])
picks = st.integers(0, 5)


class Traffic(RuleBasedStateMachine):
    """Connections that come, ask, work and go, and a second set of books beside the broker's."""

    @initialize()
    def start(self) -> None:
        self.broker = Broker(b"H:test", job_retries=RETRIES)
        self.connections: list[Connection] = []
        self.decoders: dict[Connection, Decoder] = {}
        self.said: dict[Connection, list[Packet]] = {}
        self.held: dict[bytes, Connection] = {}
        self.owed: dict[bytes, Counter[Connection]] = {}  # ends that foreground clients wait for
        self.lasting: set[bytes] = set()  # background jobs without an end
        self.deaths: Counter[bytes] = Counter()
        for _ in range(3):
            self.connect()
            for function in FUNCTIONS:
                self.ask(self.connections[-1], Type.CAN_DO, function)

    def carry(self) -> None:
        for connection, data in self.broker.outgoing():
            for item in self.decoders[connection].feed(data):
                assert isinstance(item, Packet)
                self.said[connection].append(item)
                if item.type in (Type.WORK_COMPLETE, Type.WORK_FAIL, Type.WORK_EXCEPTION):
                    waiting = self.owed[item.fields[0]]
                    assert waiting[connection] > 0, "an end that nobody is owed"
                    waiting[connection] -= 1

    def ask(self, connection: Connection, kind: Type, *fields: bytes) -> list[Packet]:
        self.said[connection].clear()
        self.broker.receive(connection, Packet(kind, list(fields)))
        self.carry()
        return self.said[connection]

    def over(self, handle: bytes) -> None:
        self.lasting.discard(handle)
        assert not +self.owed.pop(handle, Counter()), "a client was not told"

    @rule()
    @precondition(lambda self: len(self.connections) < 6)
    def connect(self) -> None:
        connection = self.broker.join(1, b"::1")
        self.connections.append(connection)
        self.decoders[connection] = Decoder(RESPONSE, lines=True)
        self.said[connection] = []

    def pick(self, number: int) -> Connection:
        return self.connections[number % len(self.connections)]

    @rule(number=picks, kind=background, function=functions, unique=uniques, data=functions)
    def submit(self, number: int, kind: Type, function: bytes, unique: bytes, data: bytes) -> None:
        handle = self.created(number, kind, function, unique, data)
        self.lasting.add(handle)

    @rule(number=picks, kind=foreground, function=functions, unique=uniques, data=functions)
    def submit_and_wait(self, number: int, kind: Type, function: bytes, unique: bytes, data: bytes) -> None:
        handle = self.created(number, kind, function, unique, data)
        self.owed.setdefault(handle, Counter())[self.pick(number)] += 1

    def created(self, number: int, kind: Type, *fields: bytes) -> bytes:
        known = set(self.broker.jobs)
        job = next(
            packet for packet in self.ask(self.pick(number), kind, *fields) if packet.type != Type.NOOP
        )
        assert job.type is Type.JOB_CREATED
        assert job.fields[0] not in known or fields[1], "a job without a unique is always another one"
        return job.fields[0]

    @rule(number=picks, function=functions)
    def can_do(self, number: int, function: bytes) -> None:
        self.ask(self.pick(number), Type.CAN_DO, function)

    @rule(number=picks, function=functions)
    def cant_do(self, number: int, function: bytes) -> None:
        self.ask(self.pick(number), Type.CANT_DO, function)

    @rule(number=picks)
    def reset(self, number: int) -> None:
        self.ask(self.pick(number), Type.RESET_ABILITIES)

    @rule(number=picks)
    def sleep(self, number: int) -> None:
        connection = self.pick(number)
        work = any(self.broker.functions[name].queued for name in connection.functions)
        said = self.ask(connection, Type.PRE_SLEEP)
        assert [packet.type for packet in said] == [Type.NOOP] * work

    @rule(number=picks, kind=grabs)
    def grab(self, number: int, kind: Type) -> None:
        connection = self.pick(number)
        queued = [
            (job.priority, job.sequence, job.handle)
            for job in self.broker.jobs.values()
            if job.worker is None and job.function.name in connection.functions
        ]
        (said,) = self.ask(connection, kind)
        if queued:
            # The most urgent; of that priority the oldest of one function, whichever has its turn.
            priority = min(queued)[0]
            oldest = {
                function: min(
                    (sequence, handle)
                    for urgency, sequence, handle in queued
                    if urgency == priority and self.broker.jobs[handle].function.name == function
                )[1]
                for function in {
                    self.broker.jobs[handle].function.name
                    for urgency, _, handle in queued
                    if urgency == priority
                }
            }
            assert said.fields[0] in oldest.values()
            assert said.fields[0] not in self.held
            self.held[said.fields[0]] = connection
        else:
            assert said.type is Type.NO_JOB

    @rule(kind=ends, which=picks, thief=st.none() | picks)
    @precondition(lambda self: self.held)
    def finish(self, kind: Type, which: int, thief: int | None) -> None:
        handle = sorted(self.held)[which % len(self.held)]
        data = [] if kind is Type.WORK_FAIL else [b"data"]
        connection = self.held[handle] if thief is None else self.pick(thief)
        refused = any(packet.type is Type.ERROR for packet in self.ask(connection, kind, handle, *data))
        assert refused == (self.held[handle] is not connection)
        if not refused:
            del self.held[handle]
            self.over(handle)

    @rule(which=picks)
    @precondition(lambda self: self.broker.jobs)
    def cancel(self, which: int) -> None:
        handle = sorted(self.broker.jobs)[which % len(self.broker.jobs)]
        assert answer(self.broker, b"cancel job " + handle) == b"OK\r\n"
        self.carry()
        self.over(handle)

    @rule(number=picks)
    @precondition(lambda self: len(self.connections) > 1)
    def leave(self, number: int) -> None:
        connection = self.connections.pop(number % len(self.connections))
        self.broker.leave(connection)
        self.broker.leave(connection)  # twice is as good as once
        for waiting in self.owed.values():
            del waiting[connection]
        self.carry()
        for handle in [handle for handle, worker in self.held.items() if worker is connection]:
            del self.held[handle]
            self.deaths[handle] += 1
            if self.deaths[handle] == RETRIES:
                assert handle not in self.broker.jobs
                self.over(handle)

    @invariant()
    def books_are_whole(self) -> None:
        broker = self.broker
        assert {handle for handle, job in broker.jobs.items() if job.worker} == set(self.held)
        waiting: list[bytes] = []
        for function in broker.functions.values():
            jobs = [(sequence, job) for queue in function.queues for sequence, job in queue.items()]
            assert all(job.sequence == sequence and job.worker is None for sequence, job in jobs)
            waiting += [job.handle for _, job in jobs]
            assert function.running == sum(broker.jobs[handle].function is function for handle in self.held)
            able = [each for each in self.connections if function.name in each.functions]
            assert function.workers == len(able)
            assert not (function.queued and any(each.asleep for each in able)), "a sleeper with work to do"
            for priority, queue in enumerate(function.queues):
                told = {each for each in able if function in each.ready[priority]}
                assert told | set(function.watchers[priority]) == set(able)
                assert not told & set(function.watchers[priority])
                assert not (queue and function.watchers[priority]), "a worker not told of a job"
        assert sorted([*waiting, *self.held]) == sorted(broker.jobs)

    @invariant()
    def counts_are_right(self) -> None:
        broker = self.broker
        jobs = broker.jobs.values()
        assert broker.jobs.size == sum(len(job.data) + len(job.unique) for job in jobs)
        assert broker.functions.size == sum(RECORD + len(name) for name in broker.functions)
        registered = [name for each in self.connections for name in each.functions]
        assert broker._registration_bytes == sum(RECORD + len(name) for name in registered)
        live = {
            (key, job.function): job
            for key, found in broker.jobs.by_key.items()
            for job in (found.values() if isinstance(found, OrderedDict) else [found])
        }
        assert live == {(job.key, job.function): job for job in jobs if job.key}

    @invariant()
    def nothing_wanted_is_lost(self) -> None:
        assert self.lasting <= set(self.broker.jobs)
        owed = {handle for handle, clients in self.owed.items() if +clients}
        assert owed <= set(self.broker.jobs)
        for connection in self.connections:
            assert connection.unsent == 0
            assert {job.handle for job in connection.follows} == {
                handle for handle in owed if self.owed[handle][connection]
            }


def test_the_books_stay_whole_under_traffic() -> None:
    run_state_machine_as_test(Traffic, settings=settings(max_examples=20, stateful_step_count=30))


@pytest.mark.slow
def test_the_books_stay_whole_under_much_traffic() -> None:
    run_state_machine_as_test(Traffic, settings=settings(max_examples=200, stateful_step_count=80))


def seconds_at_depth(depth: int) -> float:
    """How long 1,000 submits, cancels, grabs and ends take with so many jobs in the queue."""
    broker = Broker(b"H:test")
    client, worker = broker.join(1, b"::1"), broker.join(2, b"::1")
    submits = [Packet(Type.SUBMIT_JOB_BG, [b"f", b"%d" % n, b""]) for n in range(depth + 1000)]
    for packet in submits[:depth]:
        broker.receive(client, packet)
    broker.receive(worker, Packet(Type.CAN_DO, [b"f"]))
    handles = list(broker.jobs)[depth // 2 :]
    start = time.perf_counter()
    for packet, handle in zip(submits[depth:], handles, strict=False):
        broker.receive(client, packet)
        broker.receive(worker, Packet(Type.GRAB_JOB_UNIQ, []))
        broker.receive(worker, Packet(Type.WORK_COMPLETE, [next(iter(worker.held)), b""]))
        broker.cancel(handle)
    return time.perf_counter() - start


@pytest.mark.slow
def test_a_deep_queue_is_as_fast_as_a_shallow_one() -> None:
    # What walks the queue would take 100 times as long; a busy machine makes no factor of 10.
    assert min(seconds_at_depth(200_000) for _ in range(2)) < 10 * min(
        seconds_at_depth(2_000) for _ in range(3)
    )


#: Values of fields that meet each other again, and those that could break a line or a packet.
values = st.sampled_from([b"f", b"g", b"", b"-", b"\0", b"\0RES", b"f\0", b"\n", b"H:test:1", b"H:test:2"])
#: Commands that show what was sent, and those that change something.
commands = st.sampled_from(
    [
        *(b"status", b"workers", b"prioritystatus", b"show jobs", b"show unique jobs", b"version"),
        *(b"drop function f", b"create function g", b"maxqueue f 1", b"cancel job H:test:1"),
    ]
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(Type).flatmap(
                lambda kind: st.builds(
                    Packet,
                    st.just(kind),
                    st.tuples(*(values | st.binary(max_size=4) for _ in kind.fields)).map(list),
                )
            )
            | st.builds(Line, commands | st.binary(max_size=8))
        ),
        max_size=20,
    )
)
def test_no_request_breaks_the_broker(requests: list[tuple[Packet | Line]]) -> None:
    broker = Broker(b"H:test")
    connection = broker.join(1, b"::1")
    decoder = Decoder(RESPONSE, lines=True)
    for (request,) in requests:
        if isinstance(request, Packet):
            broker.receive(connection, request)
        else:
            broker.send(connection, answer(broker, request.text))
        for _, data in broker.outgoing():
            list(decoder.feed(data))  # and each answer has a form
    broker.leave(connection)
    assert not any(function.workers or function.running for function in broker.functions.values())


def test_a_handle_has_at_most_63_bytes_whatever_the_machine_is_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "a very/long name" * 10)
    assert _handle_prefix().startswith(b"H:a_very_long_name")
    assert len(b"%s:%d" % (_handle_prefix(), 2**64)) <= 63
