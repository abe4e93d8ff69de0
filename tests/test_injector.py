"""The Injector: any Gearman client stores jobs by one call, and is told when they are committed."""

import asyncio
import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from garivini import Client, State
from garivini.errors import RefusedError
from garivini.gearman import aio
from garivini.gearman.protocol import Submission
from garivini.gearman.server import Server
from garivini.model.job import Job, NewJob
from garivini.model.pacing import GATE_SIZE, BatchGate
from garivini.model.payload import decode_payload
from garivini.model.policy import FunctionPolicy
from garivini.roles import injector
from garivini.roles.inject_calls import Rules, read
from garivini.roles.inject_streams import InjectCall, Stream
from garivini.roles.injector import InjectorSettings
from tests.databases import sqlite_url
from tests.processes import PATIENCE, command
from tests.servers import free_port
from tests.system import System, system
from tests.test_inject_calls import call


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
    """Wait until the Injector can dispatch: calls that came before wait in the server."""
    await queue.seen.until(lambda: {"role": "injector"} in queue.seen.of("role.started"))


async def test_a_job_is_stored_leased_and_sent_and_the_caller_told(tmp_path: Path) -> None:
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


async def test_a_worker_of_ours_runs_what_was_injected_with_flag_shim(tmp_path: Path) -> None:
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


async def test_what_arrives_together_is_one_insert(tmp_path: Path) -> None:
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


def _dispatched(queue: System) -> int:
    return sum(each["jobs"] for each in queue.seen.of("jobs.dispatched"))


async def test_delays_keys_and_arrays_are_kept(tmp_path: Path) -> None:
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


async def test_a_call_whose_key_a_dead_job_has_is_told_so(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        dead = await queue.call(queue.client.insert_job, "f", unique="k")
        await queue.call(queue.client.cancel_job, dead)
        queue.start_injector()
        await counted(queue)
        async with Caller(queue.address) as caller:
            said = await caller.send(call({"funcname": "f", "unique": "k"}))
            many = await caller.send(call({"funcname": "f"}, {"funcname": "f", "unique": "k"}))
        assert said == {"jobid": dead.jobid, "dbid": 1, "duplicate": True, "state": "dead"}
        assert many[1] == said
        assert "state" not in many[0]


async def test_a_bad_call_is_answered_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        queue.start_injector(allow=["f"], rate=1000)
        await counted(queue)
        bad = {
            b"{": "not a job in JSON",
            call({"funcname": "g"}): "not among those",
            call({"funcname": "f"}, {"funcname": "two words"}): "job 1 of the array",
            b"[" + b'{"funcname":"f"},' * 1000 + b'{"funcname":"f"}]': "this call has more",
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


async def test_one_that_the_database_cannot_take_fails_alone(tmp_path: Path) -> None:
    """A trigger stands in for what a database of one's own may refuse."""

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


async def test_a_defect_in_reading_costs_one_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Left to the event loop it would close the connection, and the server would send the call again."""

    def reads(payload: bytes, rules: Rules) -> tuple[list[NewJob], bool]:
        return read(payload, rules) if b"good" in payload else 1 / 0  # type: ignore[return-value]

    monkeypatch.setattr(injector, "read", reads)

    async with system(tmp_path) as queue:
        queue.start_injector()
        async with Caller(queue.address) as caller:
            with pytest.raises(RefusedError, match="a fault in the Injector"):
                await caller.inject("bad")
            assert await caller.inject("good") == (1, 1, False)
        (failed,) = queue.seen.of("inject.failed")
        assert "ZeroDivisionError" in failed["error"]


async def test_a_background_call_is_stored_too(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        queue.start_injector()
        async with Caller(queue.address) as caller:
            await caller.client.submit([Submission(b"inject_jobs", call({"funcname": "f"}))])
            await queue.seen.wait("inject.stored")
        assert len(await rows(queue)) == 1


async def test_a_queue_runner_is_woken_for_what_there_was_no_room_for(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        queue.start_injector(watermark=1)
        await counted(queue)
        async with Caller(queue.address) as caller:
            await caller.send(b'[{"funcname":"f"}]')
            await queue.seen.wait("jobs.dispatched")
            assert b"garivini_wake" not in await caller.client.functions()
            await caller.send(b'[{"funcname":"f","run_after":60},{"funcname":"f"},{"funcname":"f"}]')
            async with asyncio.timeout(PATIENCE):
                # The wake-up travels on another connection.
                while (woken := (await caller.client.functions()).get(b"garivini_wake")) is None:
                    await caller.client.echo()
            assert woken.queued == 1


# ---- groups


async def test_a_group_waits_until_the_callers_of_a_crowd_have_called_again() -> None:
    stream = Stream(ThreadPoolExecutor(1), time.monotonic)
    now = stream.monotonic()
    stream.gate.stored(GATE_SIZE, now, now)
    stream.gate.until = now + 3600
    for _ in range(GATE_SIZE - 1):
        stream.add(cast(InjectCall, object()))
    gathering = asyncio.create_task(stream.gather())
    await asyncio.sleep(0)
    assert not gathering.done()
    stream.add(cast(InjectCall, object()))
    await gathering
    stream.calls.pop()
    stream.gate.until = stream.monotonic() + 0.01
    await stream.gather()  # no more come
    assert stream.monotonic() >= stream.gate.until


@pytest.mark.slow
async def test_callers_in_turns_grow_together_to_one_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = BatchGate.stored

    def stored(crowd: BatchGate, size: int, began: float, now: float) -> None:
        plain(crowd, size, began, now)
        crowd.until = now + 1  # so that a busy machine makes no difference

    monkeypatch.setattr(BatchGate, "stored", stored)

    async with system(tmp_path) as queue:
        queue.start_injector(watermark=0)
        await counted(queue)
        async with Caller(queue.address) as caller:

            async def again() -> None:
                for _ in range(20):
                    await caller.inject("f")

            await asyncio.gather(*(again() for _ in range(100)))
        groups = [fields["calls"] for fields in queue.seen.of("inject.stored")]
        assert sum(groups) == 2000
        assert len(groups) <= 30


async def test_over_the_watermark_jobs_stay_in_sql(tmp_path: Path) -> None:
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


async def test_what_a_server_refuses_is_due_at_once(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        queue.start_injector()
        await counted(queue)
        async with Caller(queue.address) as caller:
            await caller.client.command(b"create function f", block=False)
            await caller.client.command(b"maxqueue f 2", block=False)
            await caller.send(call(*[{"funcname": "f", "flag": "shim"}] * 5))
            await queue.seen.wait("jobs.released")
            async with asyncio.timeout(PATIENCE):
                while [job.state for job in await rows(queue)] != [State.LEASED] * 2 + [State.WAITING] * 3:
                    await asyncio.sleep(0.01)  # the event comes before the release


async def test_a_function_has_its_own_lease_and_form(tmp_path: Path) -> None:
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


async def test_two_injectors_share_the_calls_and_a_stopped_one_answers_what_it_holds(tmp_path: Path) -> None:
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


async def test_calls_are_held_back_while_too_many_bytes_are_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(injector, "_MAX_BYTES", 1000)

    async with system(tmp_path) as queue:
        queue.start_injector()
        await counted(queue)
        async with Caller(queue.address) as caller:
            await asyncio.gather(*(caller.inject("f", arg="x" * 700) for _ in range(100)))
        assert len(await rows(queue)) == 100


async def test_what_was_not_begun_when_its_server_went_is_left_to_another(tmp_path: Path) -> None:
    """Its server gives it to another Injector, where it would be stored a second time."""

    async with system(tmp_path) as queue:
        with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as blocking:
            queue.start_injector()
            await counted(queue)
            # Whoever calls first is being stored when the others come.
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


async def test_jobs_stored_and_never_sent_are_sent_soon_after_a_restart(tmp_path: Path) -> None:
    """As after the death of an Injector between commit and submit."""

    async with system(tmp_path) as queue:
        ((new,), _) = read(call({"funcname": "f", "flag": "shim"}), Rules())
        await queue.call(queue.database.insert, [msgspec.structs.replace(new, lease=60)])
        with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as connection:
            connection.execute("UPDATE job SET since = since - 10")
        queue.start_injector()
        await queue.seen.wait("jobs.lost")
        queue.start_queue_runner()
        assert decode_payload(await grabbed(queue, b"f")).attempt == 2


async def test_a_database_that_is_away_fails_its_own_jobs_alone(tmp_path: Path) -> None:
    """Of two databases one cannot be opened: keys that live there are refused, all others are stored."""
    urls = [sqlite_url(tmp_path), f"sqlite:///{tmp_path}/no/such/folder/jobs.db"]

    async with Server(port=0) as server:
        stop = asyncio.Event()
        with Client(urls) as client:
            shards = client.shards
            keys: dict[int, list[str]] = {1: [], 2: []}
            for number in range(40):
                keys[shards.home("f", f"k{number}").dbid].append(f"k{number}")
            assert all(keys.values())
            serving = asyncio.create_task(
                injector.serve(shards, [server.address], InjectorSettings(), stop=stop)
            )
            async with Caller(server.address) as caller:
                here, there, none = await asyncio.gather(
                    *(
                        asyncio.gather(*calls, return_exceptions=True)
                        for calls in (
                            [caller.inject("f", unique=key) for key in keys[1]],
                            [caller.inject("f", unique=key) for key in keys[2]],
                            [caller.inject("f") for _ in range(20)],
                        )
                    )
                )
                mixed = await asyncio.gather(
                    caller.send(call(*[{"funcname": "f", "unique": ks[0]} for ks in keys.values()])),
                    return_exceptions=True,
                )
            assert all(isinstance(said, tuple) and said[1] == 1 for said in [*here, *none])
            assert {str(said).partition(": ")[2] for said in there} == {
                "the database cannot be reached; try again; nothing was stored"
            }
            assert "some of it may have been stored" in str(mixed[0])
            stop.set()
            await serving


@pytest.mark.slow
def test_the_command_runs_it_with_the_settings_of_the_file(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    settings = [f'databases = ["{sqlite_url(tmp_path)}"]', f'job_servers = ["{address}"]']
    (tmp_path / "garivini.toml").write_text("\n".join([*settings, "[injector]", 'allow = ["mail.*"]']))

    async def scenario() -> None:
        async with Caller(address) as caller:
            assert await caller.inject("mail.send") == (1, 1, False)
            with pytest.raises(RefusedError, match="not among those"):
                await caller.inject("resize")

    with command(tmp_path, "run", "gearman", "injector") as running:
        running.wait_for("injector of database 1")
        asyncio.run(scenario())
        assert running.stop() == 0
