"""The Injector: any Gearman client stores jobs by one call, and is told when they are committed."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garivini import State, UsageError
from garivini.errors import RefusedError
from garivini.gearman import aio
from garivini.gearman.protocol import Submission
from garivini.job import MAX_ARG, Inserted, Job, decode_payload
from garivini.policy import FunctionPolicy
from garivini.roles import injector
from garivini.roles.injected import MAX_JOBS, Rate, Rules, answer, read
from garivini.roles.injector import InjectorSettings
from tests.system import PATIENCE, System, system

# ---- what a call says


def call(*jobs: dict[str, Any]) -> bytes:
    """Return the payload of a call: an object, or an array of several."""
    return json.dumps(jobs[0] if len(jobs) == 1 else jobs).encode()


def test_a_job_has_the_values_that_were_sent() -> None:
    sent = {
        "funcname": "mail.send",
        "arg": "Grüße",
        "run_after": 60,
        "unique": "k",
        "coalesce": "group",
        "priority": "high",
    }
    ((job,), many) = read(call(sent), Rules())
    assert not many
    assert (job.funcname, job.arg, job.delay) == ("mail.send", "Grüße".encode(), 60)
    assert (job.uniqkey, job.coalesce, job.flag, job.priority) == ("k", "group", "controller", "high")
    ((job,), _) = read(call({"funcname": "f", "flag": "shim", "uniqkey": "k"}), Rules())
    assert (job.flag, job.uniqkey, job.arg, job.delay) == ("shim", "k", b"", 0)


def test_an_array_is_one_call() -> None:
    jobs, many = read(b' [{"funcname":"a"},{"funcname":"b"}]', Rules())
    assert many
    assert [job.funcname for job in jobs] == ["a", "b"]
    assert read(b'[{"funcname":"a"}]', Rules()).many


@pytest.mark.parametrize(
    ("fields", "arg"),
    [
        ('"arg": "/w==", "arg_encoding": "base64"', b"\xff"),
        ('"arg": "\\u00ff", "arg_encoding": "latin-1"', b"\xff"),
        ('"arg": "\\u00ff", "arg_encoding": "utf-8"', b"\xc3\xbf"),
        ('"arg": 12.50', b"12.50"),
        ('"arg": null', b""),
        ('"arg": "", "unknown_before": null', None),
        ('"arg": "x", "arg_encoding": "base64"', None),
        ('"arg": "\\u0100", "arg_encoding": "latin-1"', None),
        ('"arg": "x", "arg_encoding": "rot13"', None),
        ('"arg": 1, "arg_encoding": "base64"', None),
    ],
)
def test_an_argument_can_be_any_bytes(fields: str, arg: bytes | None) -> None:
    payload = b'{"funcname": "f", %s}' % fields.encode()
    if arg is None:
        with pytest.raises(UsageError):
            read(payload, Rules())
    else:
        assert read(payload, Rules()).jobs[0].arg == arg


@pytest.mark.parametrize("nested", ['{"b": [1, "\\u00fc"]}', "[1,  2]", "true"])
def test_nested_json_is_refused_or_kept_as_its_text(nested: str) -> None:
    payload = b'{"funcname": "f", "arg": %s}' % nested.encode()
    with pytest.raises(UsageError, match="encoding it twice"):
        read(payload, Rules())
    assert read(payload, Rules(json_args=True)).jobs[0].arg == nested.encode()


def test_numbers_may_be_text_and_text_a_number() -> None:
    """Perl's JSON has a scalar in the form in which it was used last."""
    ((job,), _) = read(b'{"funcname": "f", "run_after": "60", "unique": 42, "coalesce": 7}', Rules())
    assert (job.delay, job.uniqkey, job.coalesce) == (60, "42", "7")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not a job in JSON"),
        (b"\xff", "not a job in JSON"),
        (b"3", "Expected `object`"),
        (b"[]", "1 to 10000 jobs, this one has 0"),
        (b"[[]]", "Expected `object`"),
        (b"[" * 200_000, "not a job in JSON"),
        (b'{"funcname": "f", "arg": ' + b"[" * 200_000, "recursion"),
        (b"{}", "missing required field `funcname`"),
        (b'{"funcname": 1}', r"Expected `str`, got `int` - at `\$.funcname`"),
        (b'{"funcname": "f", "uniq": "k"}', "unknown field `uniq`"),
        (b'{"funcname": "f", "run_after": -1}', "out of range"),
        (b'{"funcname": "f", "run_after": "soon"}', "number of seconds"),
        (b'{"funcname": "f", "run_after": 1700000000}', "out of range"),
        (b'{"funcname": "f", "flag": "odd"}', "one of shim, controller"),
        (b'{"funcname": "f", "unique": "a", "uniqkey": "b"}', "give one"),
        (b'{"funcname": "two words"}', "white space"),
        (b'[{"funcname": "f"}, {"funcname": ""}]', "job 1 of the array: .*1 to 200 bytes"),
        (b'{"funcname": "inject_jobs"}', "the system's own"),
        (b'{"funcname": "run_queued_job"}', "the system's own"),
        (b'{"funcname": "garivini_wake", "flag": "shim"}', "the system's own"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_its_reason(payload: bytes, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read(payload, Rules())


def test_there_are_limits() -> None:
    with pytest.raises(UsageError, match="at most 3 bytes here, this one 4"):
        read(call({"funcname": "f", "arg": "1234"}), Rules(max_arg=3))
    with pytest.raises(UsageError, match=f"at most {MAX_ARG} bytes"):
        read(call({"funcname": "f", "arg": "x" * (MAX_ARG + 1)}), Rules())
    with pytest.raises(UsageError, match="this one has 10001"):
        read(b"[" + b'{"funcname":"f"},' * MAX_JOBS + b'{"funcname":"f"}]', Rules())
    some = Rules(allow=["mail.*", "resize"])
    assert read(call({"funcname": "mail.send"}, {"funcname": "resize"}), some)
    for name in ("resize2", "Mail.send", "mail"):
        with pytest.raises(UsageError, match="not among those"):
            read(call({"funcname": name}), some)


def test_a_rate_is_so_many_a_second_and_as_many_at_once() -> None:
    rate = Rate(10)
    rate.take(10, 100.0)
    with pytest.raises(UsageError, match=r"10 jobs a second .* try again later"):
        rate.take(1, 100.05)
    rate.take(1, 100.11)
    with pytest.raises(UsageError, match="never so many at once"):
        rate.take(11, 200.0)
    rate.take(10, 200.0)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_KEYS = ("arg", "arg_encoding", "run_after", "unique", "uniqkey", "coalesce", "flag", "priority", "other")
_WORDS = st.sampled_from(
    ["f", "shim", "controller", "base64", "latin-1", "utf-8", "high", "12", "ÿ", "", "/w=="]
)
_objects = st.dictionaries(st.sampled_from(_KEYS), _WORDS | _json, max_size=4).flatmap(
    lambda fields: st.builds(lambda name: {"funcname": name, **fields}, _WORDS | _json)
)
_payloads = st.binary(max_size=60) | st.builds(
    lambda value: json.dumps(value).encode(), _json | _objects | st.lists(_objects, max_size=3)
)


@given(_payloads, st.booleans())
def test_any_payload_is_read_or_refused(payload: bytes, json_args: bool) -> None:
    try:
        jobs, many = read(payload, Rules(json_args=json_args))
    except UsageError:
        return
    assert jobs
    assert len(jobs) == 1 or many
    for job in jobs:
        assert 0 < len(job.funcname.encode()) <= 200
        assert job.flag in ("shim", "controller")
        assert job.lease == 0


def test_an_answer_is_one_object_or_an_array() -> None:
    stored = [Inserted(7, 2), Inserted(5, 1, new=False)]
    assert answer(stored[:1], many=False) == b'{"jobid":7,"dbid":2,"duplicate":false}'
    assert json.loads(answer(stored, many=True)) == [
        {"jobid": 7, "dbid": 2, "duplicate": False},
        {"jobid": 5, "dbid": 1, "duplicate": True},
    ]


@pytest.mark.parametrize(
    "wrong",
    [{"max_arg": -1}, {"max_arg": MAX_ARG + 1}, {"rate": -1}, {"calls": 0}, {"lease": 2}, {"watermark": -1}],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        InjectorSettings(**wrong)


# ---- the role


class Caller:
    """A Gearman client that injects."""

    def __init__(self, address: str) -> None:
        self.client = aio.Client(address, timeout=PATIENCE)

    async def __aenter__(self) -> "Caller":
        await self.client.echo()
        await self.client.option(b"exceptions")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    async def send(self, payload: bytes) -> Any:
        """Make a call; return what its answer says."""
        async with asyncio.timeout(PATIENCE):
            return json.loads(await self.client.run(Submission(b"inject_jobs", payload)))

    async def inject(self, funcname: str, **fields: Any) -> tuple[int, int, bool]:
        """Inject one job; return id, database and whether it is a duplicate."""
        said = await self.send(call({"funcname": funcname, **fields}))
        assert list(said) == ["jobid", "dbid", "duplicate"]
        return said["jobid"], said["dbid"], said["duplicate"]


async def rows(queue: System) -> list[Job]:
    return await queue.call(queue.database.jobs, limit=10_000)


async def grabbed(queue: System, function: bytes) -> bytes:
    """Take one copy from the server, as a worker; return its payload."""
    held = asyncio.Queue[aio.Held]()
    worker = aio.Worker(queue.address, [function], held.put_nowait)
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(PATIENCE):
        copy = await held.get()
    worker.abort()
    await running
    return copy.job.data


async def counted(queue: System) -> None:
    """Wait until the Injector takes calls and can dispatch: it counts before it connects."""
    await queue.seen.wait("gearman.connected")


def test_a_job_is_stored_leased_and_sent_and_the_caller_told(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with system(tmp_path) as queue:
            queue.start_injector()
            await counted(queue)
            async with Caller(queue.address) as caller:
                assert await caller.inject("f", arg="Grüße", coalesce="c") == (1, 1, False)
                await queue.seen.wait("jobs.dispatched")
                status = await caller.client.functions()
            (job,) = await rows(queue)
            assert (job.arg, job.flag, job.state, job.attempt) == (
                "Grüße".encode(),
                "controller",
                State.LEASED,
                1,
            )
            assert job.run_after >= job.created + 60
            assert status[b"run_queued_job"].queued == 1
            sent = decode_payload(await grabbed(queue, b"run_queued_job"))
            assert (sent.handle, sent.arg, sent.coalesce) == (job.handle, job.arg, "c")

    asyncio.run(scenario())


def test_a_worker_of_ours_runs_what_was_injected_with_flag_shim(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with system(tmp_path) as queue:
            ran: list[bytes] = []

            @queue.worker.function("f")
            def f(job: Job) -> None:
                ran.append(job.arg)

            queue.start_worker()
            queue.start_injector()
            await counted(queue)
            async with Caller(queue.address) as caller:
                await asyncio.gather(*(caller.inject("f", arg=str(n), flag="shim") for n in range(50)))
            await queue.gone()
            assert sorted(ran, key=int) == [b"%d" % number for number in range(50)]

    asyncio.run(scenario())


def test_what_arrives_together_is_one_insert(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with system(tmp_path) as queue:
            queue.start_injector()
            await counted(queue)
            async with Caller(queue.address) as caller:
                ids = await asyncio.gather(*(caller.inject("f") for _ in range(200)))
            assert sorted(jobid for jobid, _, _ in ids) == list(range(1, 201))
            stored = queue.seen.of("inject.stored")
            assert sum(each["calls"] for each in stored) == 200
            assert len(stored) < 20
            await queue.seen.until(lambda: _dispatched(queue) == 200)

    asyncio.run(scenario())


def _dispatched(queue: System) -> int:
    return sum(each["jobs"] for each in queue.seen.of("jobs.dispatched"))


def test_delays_keys_and_arrays_are_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with system(tmp_path) as queue:
            queue.start_injector()
            await counted(queue)
            async with Caller(queue.address) as caller:
                later = await caller.inject("f", run_after=3600)
                first = await caller.inject("f", unique="k")
                again = await caller.inject("f", uniqkey="k", arg="other")
                other = await caller.inject("g", unique="k")
                assert again == (first[0], 1, True)
                assert not other[2]
                said = await caller.send(call({"funcname": "a"}, {"funcname": "f", "unique": "k"}))
                assert [each["duplicate"] for each in said] == [False, True]
                assert said[1]["jobid"] == first[0]
            jobs = {job.jobid: job for job in await rows(queue)}
            assert len(jobs) == 4
            waits = jobs[later[0]]
            assert (waits.state, waits.attempt) == (State.WAITING, 0)
            assert waits.run_after >= waits.created + 3600
            assert jobs[first[0]].arg == b""
            # Nothing is dispatched twice.
            await queue.seen.until(lambda: _dispatched(queue) == 3)
            assert {job.attempt for job in jobs.values() if job is not waits} == {1}

    asyncio.run(scenario())


def test_a_bad_call_is_answered_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with system(tmp_path) as queue:
            queue.start_injector(allow=["f"], rate=1000)
            await counted(queue)
            bad = {
                b"{": "not a job in JSON",
                call({"funcname": "g"}): "not among those",
                call({"funcname": "f"}, {"funcname": "two words"}): "job 1 of the array",
                b"[" + b'{"funcname":"f"},' * 1000 + b'{"funcname":"f"}]': "never so many",
            }
            async with Caller(queue.address) as caller:
                results = await asyncio.gather(
                    *(caller.send(payload) for payload in bad),
                    *(caller.inject("f") for _ in range(5)),
                    return_exceptions=True,
                )
                for reason, result in zip(bad.values(), results[: len(bad)], strict=True):
                    assert isinstance(result, RefusedError)
                    assert reason in str(result)
                    assert "nothing was stored" in str(result)
                assert all(isinstance(result, tuple) for result in results[len(bad) :])
            assert len(await rows(queue)) == 5
            assert len(queue.seen.of("inject.refused")) == len(bad)
            # Nothing followed the exceptions: a server would have said so.
            assert queue.seen.of("gearman.rejected") == []

    asyncio.run(scenario())


def test_one_that_the_database_cannot_take_fails_alone(tmp_path: Path) -> None:
    """A trigger stands in for what a database of one's own may refuse."""

    async def scenario() -> None:
        async with system(tmp_path) as queue:
            with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
                connection.execute(
                    "CREATE TRIGGER picky BEFORE INSERT ON job WHEN new.arg = x'62616421' "
                    "BEGIN SELECT RAISE(ABORT, 'not that'); END"
                )
            queue.start_injector()
            await counted(queue)
            async with Caller(queue.address) as caller:
                results = await asyncio.gather(
                    *(caller.inject("f", arg=arg) for arg in ("good", "bad!", "good")), return_exceptions=True
                )
                assert [type(result) for result in results] == [tuple, RefusedError, tuple]
                assert "the database refused it; nothing was stored" in str(results[1])
                assert "jobs.db" not in str(results[1])
            assert [job.arg for job in await rows(queue)] == [b"good", b"good"]

    asyncio.run(scenario())


def test_a_background_call_is_stored_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with system(tmp_path) as queue:
            queue.start_injector()
            async with Caller(queue.address) as caller:
                await caller.client.submit([Submission(b"inject_jobs", call({"funcname": "f"}))])
                await queue.seen.wait("inject.stored")
            assert len(await rows(queue)) == 1

    asyncio.run(scenario())


def test_over_the_watermark_jobs_stay_in_sql(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with system(tmp_path) as queue:
            queue.start_injector(watermark=10)
            await counted(queue)
            async with Caller(queue.address) as caller:
                await caller.send(call(*[{"funcname": "f", "flag": "shim"}] * 30))
                await queue.seen.wait("jobs.dispatched")
                assert (await caller.client.functions())[b"f"].queued == 10
                states = [job.state for job in await rows(queue)]
                assert states == [State.LEASED] * 10 + [State.WAITING] * 20
                # A QueueRunner has the rest, and what has room goes out directly again.
                queue.start_queue_runner(watermark=0)
                queue.worker.function("f")(lambda job: None)
                queue.start_worker()
                await queue.gone()

    asyncio.run(scenario())


def test_what_a_server_refuses_is_due_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with system(tmp_path) as queue:
            queue.start_injector()
            await counted(queue)
            async with Caller(queue.address) as caller:
                await caller.client.command(b"create function f", block=False)
                await caller.client.command(b"maxqueue f 2", block=False)
                await caller.send(call(*[{"funcname": "f", "flag": "shim"}] * 5))
                await queue.seen.wait("jobs.released")
                async with asyncio.timeout(PATIENCE):
                    while [job.state for job in await rows(queue)] != [State.LEASED] * 2 + [
                        State.WAITING
                    ] * 3:
                        await asyncio.sleep(0.01)  # the event comes before the release

    asyncio.run(scenario())


def test_a_function_has_its_own_lease_and_form(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with system(tmp_path) as queue:
            policy = FunctionPolicy(lease=500, envelope="latin-1")
            await queue.call(queue.database.set_function, "f", policy)
            queue.start_injector()
            await counted(queue)
            async with Caller(queue.address) as caller:
                await caller.inject("f", flag="shim", arg="ÿ")
            await queue.seen.wait("jobs.dispatched")
            payload = await grabbed(queue, b"f")
            assert b'"arg_encoding":"latin-1"' in payload
            job = decode_payload(payload)
            assert (job.lease, job.arg) == (500, "ÿ".encode())
            assert job.lease_end == (await rows(queue))[0].run_after

    asyncio.run(scenario())


def test_two_injectors_share_the_calls_and_a_stopped_one_answers_what_it_holds(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with system(tmp_path) as queue:
            stop = queue.start_injector()
            await counted(queue)
            async with Caller(queue.address) as caller:
                calls = [asyncio.create_task(caller.inject("f")) for _ in range(300)]
                await queue.seen.wait("inject.stored")
                queue.start_injector()
                stop.set()
                answers = await asyncio.gather(*calls)
                await queue.seen.wait("role.stopped")
            assert sorted(jobid for jobid, _, _ in answers) == list(range(1, 301))
            assert len(await rows(queue)) == 300

    asyncio.run(scenario())


def test_calls_are_held_back_while_too_many_bytes_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(injector, "_MAX_BYTES", 1000)

    async def scenario() -> None:
        async with system(tmp_path) as queue:
            queue.start_injector()
            await counted(queue)
            async with Caller(queue.address) as caller:
                await asyncio.gather(*(caller.inject("f", arg="x" * 700) for _ in range(100)))
            assert len(await rows(queue)) == 100

    asyncio.run(scenario())


def test_what_was_not_begun_when_its_server_went_is_left_to_another(tmp_path: Path) -> None:
    """Its server gives it to another Injector, where it would be stored a second time."""

    async def scenario() -> None:
        async with system(tmp_path) as queue:
            with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as blocking:
                queue.start_injector()
                await counted(queue)
                blocking.execute("BEGIN IMMEDIATE")
                async with Caller(queue.address) as caller:
                    first = asyncio.create_task(caller.inject("f", arg="begun"))
                    async with asyncio.timeout(PATIENCE):
                        while (await caller.client.functions())[b"inject_jobs"].running < 1:
                            pass
                    others = [asyncio.create_task(caller.inject("f", arg="held")) for _ in range(3)]
                    async with asyncio.timeout(PATIENCE):
                        while (await caller.client.functions())[b"inject_jobs"].running < 4:
                            pass
                    await queue.server.close()
                    await queue.seen.wait("gearman.lost")
                    blocking.execute("COMMIT")
                    (unheard,) = await queue.seen.wait("inject.unheard")
                    assert unheard == {"calls": 1, "jobs": 1, "keyless": 1}
                    await asyncio.gather(first, *others, return_exceptions=True)
            assert [job.arg for job in await rows(queue)] == [b"begun"]

    asyncio.run(scenario())
