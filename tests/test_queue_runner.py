import asyncio
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from garivini import Client, Job, State, UnreachableError, UsageError, Worker
from garivini.clock import Clock
from garivini.gearman import aio
from garivini.gearman.protocol import Submission
from garivini.gearman.server import Server
from garivini.model.lease import Found
from garivini.model.outcome import Success
from garivini.model.pacing import WATERMARK
from garivini.model.payload import decode_payload
from garivini.model.policy import Envelope, FunctionPolicy
from garivini.roles import orphans
from garivini.roles.job_servers import JobServers
from garivini.roles.queue_runner import QueueRunner, QueueRunnerSettings
from garivini.roles.watermark import Watermark
from garivini.store.database import Database
from tests.processes import PATIENCE
from tests.system import System, Waking, system


def runner(queue: System, **settings: Any) -> tuple[QueueRunner, JobServers]:
    """Return a QueueRunner whose passes the test does itself."""
    servers = JobServers([queue.address])
    return QueueRunner(queue.database, servers, QueueRunnerSettings(**settings)), servers


async def queued(queue: System, function: bytes) -> int:
    """Ask the server how many jobs wait for a worker."""
    client = aio.Client(queue.address)
    status = (await client.functions()).get(function)
    await client.close()
    return status.queued if status else 0


async def claim(queue: System, lease: int = 60) -> list[Job]:
    """Claim as a QueueRunner does, and send nothing."""
    lanes = (await queue.call(queue.database.lanes)).lanes
    return await queue.call(queue.database.claim, lanes[0], limit=1000, lease=lease)


async def test_several_nodes_of_a_cluster_are_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "nodes", lambda _: frozenset(("b", "a")))
    monkeypatch.setattr("garivini.roles.node_watch._INTERVAL", 0.0)
    async with system(tmp_path) as queue:
        queue_runner, _ = runner(queue)
        for _ in range(3):
            await queue_runner.run_pass()
        queue_runner.close()
        assert queue.seen.of("database.several_nodes") == [{"dbid": 1, "nodes": "a, b"}]


async def test_due_jobs_are_dispatched_and_later_ones_wait(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_jobs, [["f", None, None, b"x"]] * 7)
        later, _ = await queue.call(queue.client.insert_job, "f", run_after=3600)
        queue_runner, servers = runner(queue)
        delay = await queue_runner.run_pass()
        assert 0 < delay <= 1
        assert await queued(queue, b"f") == 7
        states = [job.state for job in await queue.call(queue.database.jobs)]
        assert states == [State.LEASED] * 7 + [State.WAITING]
        job = await queue.call(queue.database.get, later)
        assert job is not None
        assert job.attempt == 0
        await servers.close()


async def test_finished_jobs_that_are_kept_no_more_are_deleted_once_a_minute(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_jobs, [["f", None, None, b"x"]] * 502)
        finishes = [Success(job.jobid, 1, retention=60) for job in await claim(queue)]
        await queue.call(queue.database.finish, finishes)
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:

            def expire(jobids: str) -> None:
                connection.execute(f"UPDATE finished SET expires = 1 WHERE jobid {jobids}")
                connection.commit()

            def left() -> list[int]:
                return [jobid for (jobid,) in connection.execute("SELECT jobid FROM finished")]

            def minute_later() -> None:
                assert queue_runner._janitor._kept_at is not None
                queue_runner._janitor._kept_at -= 60.0

            queue_runner, servers = runner(queue)
            expire("<> 7")
            await queue_runner.run_pass()
            assert len(left()) == 502
            minute_later()
            await queue_runner.run_pass()
            assert len(left()) == 2
            # There may be more: the next pass does not wait.
            await queue_runner.run_pass()
            assert left() == [7]
            expire("= 7")
            await queue_runner.run_pass()
            assert left() == [7]
            minute_later()
            await queue_runner.run_pass()
            assert left() == []
        await servers.close()


async def test_a_job_just_inserted_waits_for_no_count_of_the_servers(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        counts = servers.refresh_counts

        async def never() -> None:
            raise AssertionError("the servers were asked")

        servers.refresh_counts = never  # type: ignore[method-assign]
        await queue.call(queue.client.insert_job, "f")
        await queue_runner.run_pass()
        assert await queued(queue, b"f") == 1
        servers.refresh_counts = counts  # type: ignore[method-assign]
        await servers.close()


async def test_what_is_claimed_before_a_count_keeps_below_the_watermark(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        queue_runner, servers = runner(queue, watermark=5)
        await queue_runner.run_pass()
        for _ in range(4):
            await queue.call(queue.client.insert_jobs, [["f", None, None, b"x"]] * 2)
            await queue_runner.run_pass()
        assert await queued(queue, b"f") == 5
        await servers.close()


async def test_nothing_is_claimed_before_a_count_once_the_server_is_known_to_be_gone(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        await queue.server.close()
        jobid, _ = await queue.call(queue.client.insert_job, "f")
        for _ in range(3):
            with suppress(UnreachableError):
                await queue_runner.run_pass()
        job = await queue.call(queue.database.get, jobid)
        assert job is not None
        assert (job.state, job.attempt) == (State.WAITING, 1)
        await servers.close()


async def test_jobs_arrive_in_the_order_in_which_they_were_due_and_by_priority(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        for arg, priority in (("1", "low"), ("2", "normal"), ("3", "high"), ("4", "normal")):
            await queue.call(queue.client.insert_job, "f", arg, priority=priority)
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        order: list[bytes] = []

        @queue.worker.function("f")
        def f(job: Job) -> None:
            order.append(job.arg)

        queue.start_worker()
        await queue.gone()
        assert order == [b"3", b"2", b"4", b"1"]
        await servers.close()


async def test_no_function_gets_more_than_the_watermark_and_a_full_one_stops_no_other(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_jobs, [["full", None, None, b""]] * 50)
        queue_runner, servers = runner(queue, watermark=10)
        await queue_runner.run_pass()
        await queue.call(queue.client.insert_jobs, [["other", None, None, b""]] * 3)
        for _ in range(3):
            assert await queue_runner.run_pass() > 0
        assert await queued(queue, b"full") == 10
        assert await queued(queue, b"other") == 3
        attempts = [job.attempt for job in await queue.call(queue.database.jobs, funcname="full")]
        assert attempts == [1] * 10 + [0] * 40
        await servers.close()


async def test_a_watermark_of_zero_is_none(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 4200)
        queue_runner, servers = runner(queue, watermark=0)
        while await queue_runner.run_pass() == 0.0:
            pass
        assert await queued(queue, b"f") == 4200
        await servers.close()


async def test_controller_jobs_go_to_run_queued_job(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_job, "f", flag="controller")
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        assert await queued(queue, b"f") == 0
        assert await queued(queue, b"run_queued_job") == 1
        await servers.close()


async def test_nothing_is_claimed_while_no_server_answers(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        ran = asyncio.Event()

        @queue.worker.function("f")
        async def f(job: Job) -> None:
            ran.set()

        host, port = queue.address.split(":")
        await queue.server.close()
        queue.start_queue_runner()
        queue.start_worker()
        jobid, _ = await queue.call(queue.client.insert_job, "f")
        await queue.seen.wait("role.error")
        job = await queue.call(queue.database.get, jobid)
        assert job is not None
        assert (job.state, job.attempt) == (State.WAITING, 0)
        async with Server(host, int(port)):
            await ran.wait()
            await queue.gone()
        await queue.seen.wait("role.recovered")


async def test_what_the_server_refuses_is_due_again_at_once(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        client = aio.Client(queue.address)
        await client.command(b"create function f", block=False)
        await client.command(b"maxqueue f 2", block=False)
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 5)
        before = [job.run_after for job in await queue.call(queue.database.jobs)]
        queue_runner, servers = runner(queue)
        assert await queue_runner.run_pass() > 0
        jobs = await queue.call(queue.database.jobs)
        assert [job.state for job in jobs] == [State.LEASED] * 2 + [State.WAITING] * 3
        assert [job.run_after for job in jobs[2:]] == before[2:]
        await client.close()
        await servers.close()


@pytest.mark.parametrize("funcname", ["prefix\tf", "two words", "\x1b[1m"])
async def test_a_function_name_that_gearmand_takes_is_dispatched_up_to_its_watermark(
    tmp_path: Path, funcname: str
) -> None:
    async with system(tmp_path) as queue:
        for _ in range(5):
            await queue.call(queue.client.insert_job, funcname)
        queue_runner, servers = runner(queue, watermark=3)
        for _ in range(3):
            await queue_runner.run_pass()
            assert await queued(queue, funcname.encode()) == 3
        assert await queue.call(queue.database.jobs, state=State.DEAD) == []
        assert servers.queued(funcname.encode()) == 3
        await servers.close()


async def test_a_bad_row_is_parked_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 2)

        def spoil() -> None:
            with queue.database.connections.engine.begin() as connection:
                connection.exec_driver_sql("UPDATE job SET flag = 'odd' WHERE jobid = 1")
                connection.exec_driver_sql(
                    "INSERT INTO job (funcname, arg, run_after) VALUES ('two' || char(10) || 'lines', 'x', 1)"
                )

        await queue.call(spoil)
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        assert await queued(queue, b"f") == 1
        dead = await queue.call(queue.database.jobs, state=State.DEAD)
        assert [job.jobid for job in dead] == [1, 3]
        reasons = [(await queue.call(queue.database.failures, job.jobid))[0].message for job in dead]
        assert "flag 'odd'" in reasons[0]
        assert "line break" in reasons[1]
        await servers.close()


async def test_a_claim_that_was_never_sent_runs_under_the_next_attempt(tmp_path: Path) -> None:
    """As after the death of a QueueRunner between claim and submit."""

    async with system(tmp_path) as queue:
        attempts: list[int | None] = []

        @queue.worker.function("f")
        def f(job: Job) -> None:
            attempts.append(job.attempt)

        await queue.call(queue.client.insert_job, "f")
        claimed = await claim(queue)
        await queue.call(queue.database.end_early, [job.handle for job in claimed], lease=60)
        queue.start_queue_runner()
        queue.start_worker()
        await queue.gone()
        assert attempts == [2]


async def test_a_copy_that_still_waits_in_the_server_is_not_submitted_again(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_job, "f")
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        (job,) = await queue.call(queue.database.jobs)
        for _ in range(3):
            await queue.call(queue.database.end_early, [job.handle], lease=60)
            await queue_runner.run_pass()
        (after,) = await queue.call(queue.database.jobs)
        assert (after.state, after.attempt) == (State.LEASED, 1)
        assert after.run_after > await queue.call(queue.database.clock)
        assert await queued(queue, b"f") == 1
        await servers.close()


async def test_a_hung_worker_is_suspected_first_and_replaced_after_its_second_strike(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        held = asyncio.Queue[aio.Held]()
        hung = aio.Worker(queue.address, [b"f"], held.put_nowait)
        running = asyncio.create_task(hung.run())
        await queue.call(queue.client.insert_job, "f")
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        await held.get()
        (job,) = await queue.call(queue.database.jobs)
        await queue.call(queue.database.renew, [job.handle], lease=3)
        await queue.call(_end_lease, queue)
        await queue_runner.run_pass()
        (suspect,) = await queue.call(queue.database.jobs)
        assert (suspect.state, suspect.attempt) == (State.SUSPECT, 1)
        await queue.call(_end_lease, queue)
        await queue_runner.run_pass()
        (reclaimed,) = await queue.call(queue.database.jobs)
        assert (reclaimed.state, reclaimed.attempt, reclaimed.crashes) == (State.LEASED, 2, 1)
        # What the stale one does afterwards changes nothing.
        assert await queue.call(queue.database.renew, [job.handle], lease=3) == set()
        assert not await queue.call(queue.client.failed_job, job)
        assert await queue.call(queue.database.get, job.jobid) == reclaimed
        hung.abort()
        await running
        await servers.close()


def _end_lease(queue: System) -> None:
    with queue.database.connections.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE job SET run_after = 1")


async def test_a_job_whose_worker_is_lost_each_time_is_dead_after_three(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        held = asyncio.Queue[aio.Held]()
        hung = aio.Worker(queue.address, [b"f"], held.put_nowait, slots=5)
        running = asyncio.create_task(hung.run())
        await queue.call(queue.client.insert_job, "f")
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        for _ in range(3):
            # Somebody has it, renews once, and is never heard of again.
            copy = decode_payload((await held.get()).job.data)
            assert await queue.call(queue.database.renew, [copy.handle], lease=3)
            for _ in range(2):
                await queue.call(_end_lease, queue)
                await queue_runner.run_pass()
        (job,) = await queue.call(queue.database.jobs)
        assert (job.state, job.crashes) == (State.DEAD, 3)
        (failure,) = await queue.call(queue.database.failures, job.jobid)
        assert "died or hung 3 times" in failure.message
        assert held.empty()
        hung.abort()
        await running
        await servers.close()


async def test_a_lost_answer_to_a_submit_is_asked_about_and_not_taken_for_success(tmp_path: Path) -> None:
    """A server that takes jobs and dies before it answers: nothing is lost, nothing waits for its lease."""

    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 3)

        async def take_and_die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b".\n")
            await reader.readexactly(12)
            writer.close()

        broken = await asyncio.start_server(take_and_die, "127.0.0.1", 0)
        port = broken.sockets[0].getsockname()[1]
        servers = JobServers([f"127.0.0.1:{port}"])
        await QueueRunner(queue.database, servers, QueueRunnerSettings()).run_pass()
        jobs = await queue.call(queue.database.jobs)
        assert [job.state for job in jobs] == [State.LEASED] * 3
        assert max(job.run_after for job in jobs) <= await queue.call(queue.database.clock)
        broken.close()
        await servers.close()
        # The next QueueRunner asks a server that has none of them.
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        assert await queued(queue, b"f") == 3
        assert {job.attempt for job in await queue.call(queue.database.jobs)} == {2}
        await servers.close()


async def test_what_a_restarted_server_has_forgotten_is_sent_again_at_once(tmp_path: Path) -> None:
    """The QueueRunner knows what it sent on the connection that was lost; no lease is waited for."""

    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 300)
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        assert await queued(queue, b"f") == 300
        host, port = queue.address.split(":")
        await queue.server.close()
        async with Server(host, int(port)) as server:
            queue.address = server.address
            await _until_connected(servers)
            while await queue_runner.run_pass() == 0.0:
                pass
            assert await queued(queue, b"f") == 300
            assert {job.attempt for job in await queue.call(queue.database.jobs, limit=1000)} == {2}
            await servers.close()


async def test_a_lost_connection_to_a_server_that_goes_on_changes_nothing(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 300)
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        await servers.close()
        await _until_connected(servers)
        for _ in range(3):
            await queue_runner.run_pass()
        assert await queued(queue, b"f") == 300
        jobs = await queue.call(queue.database.jobs, limit=1000)
        assert {(job.state, job.attempt) for job in jobs} == {(State.LEASED, 1)}
        await servers.close()


async def _until_connected(servers: JobServers) -> None:
    async with asyncio.timeout(PATIENCE):
        while not servers.all_connected:
            try:
                await servers.refresh_counts()
            except UnreachableError:
                await asyncio.sleep(0.02)  # its back-off


async def test_a_new_queue_runner_finds_what_its_predecessor_claimed_and_did_not_send(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 3)
        await claim(queue)
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        # Too young: its submit could be on the way.
        assert await queued(queue, b"f") == 0
        await servers.close()
        await queue.call(_age_claims, queue, 10)
        queue_runner, servers = runner(queue)
        while await queue_runner.run_pass() == 0.0:
            pass
        assert await queued(queue, b"f") == 3
        await servers.close()


@pytest.mark.slow
async def test_a_queue_runner_at_work_finds_what_others_leased_and_did_not_send(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "_SWEEP_AGE", 1)
    monkeypatch.setattr(orphans, "_SWEEP_INTERVAL", 1)
    asked: list[bytes] = []
    ask = JobServers.ask

    async def note(
        self: JobServers, function: bytes, uniques: Sequence[bytes], **options: float
    ) -> list[Found]:
        asked.extend(uniques)
        return await ask(self, function, uniques, **options)

    async with system(tmp_path) as queue:
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        while queue_runner._orphans.until_sweep():
            await asyncio.sleep(0.05)
            await queue_runner.run_pass()
        monkeypatch.setattr(JobServers, "ask", note)
        # As a client that has died between its commit and its submit.
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 3)
        claimed = await claim(queue)
        await queue.call(queue.client.insert_job, "g")  # and one that the QueueRunner sends
        async with asyncio.timeout(PATIENCE):
            while await queued(queue, b"f") < 3:
                await queue_runner.run_pass()
                await asyncio.sleep(0.05)
        # Each is asked about when it is found and when its lease has ended, and then never again.
        async with asyncio.timeout(PATIENCE):
            while len(asked) < 2 * len(claimed):
                await queue_runner.run_pass()
                await asyncio.sleep(0.05)
        until = asyncio.get_running_loop().time() + 1.0
        while asyncio.get_running_loop().time() < until:
            await queue_runner.run_pass()
            await asyncio.sleep(0.05)
        assert sorted(asked) == sorted(2 * [job.unique for job in claimed])
        await servers.close()


def _age_claims(queue: System, seconds: int) -> None:
    with queue.database.connections.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE job SET since = since - ?", (seconds,))


async def test_a_function_has_its_own_lease_and_envelope(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        arg = bytes(range(256))
        envelopes: dict[str, Envelope | None] = {"perl": "latin-1", "ours": None}
        for funcname, envelope in envelopes.items():
            policy = FunctionPolicy(envelope=envelope, lease=500 if envelope else None)
            await queue.call(queue.database.set_function, funcname, policy)
            await queue.call(queue.client.insert_job, funcname, arg)
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        payloads: dict[bytes, bytes] = {}
        names = [b"perl", b"ours"]
        worker = aio.Worker(
            queue.address,
            names,
            lambda held: payloads.update({held.job.function: held.job.data}),
            slots=3,
        )
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(PATIENCE):
            while len(payloads) < 2:
                await asyncio.sleep(0.01)
        assert b'"arg_encoding":"latin-1"' in payloads[b"perl"]
        assert b'"arg_encoding":"base64"' in payloads[b"ours"]
        assert all(decode_payload(payloads[name]).arg == arg for name in (b"perl", b"ours"))
        assert decode_payload(payloads[b"perl"]).lease == 500
        assert decode_payload(payloads[b"ours"]).lease == 60
        worker.abort()
        await running
        await servers.close()


async def test_a_raw_argument_is_not_sent_to_a_worker_that_must_complete_the_job(tmp_path: Path) -> None:
    """It could not: the job's id is not in it, and the job would go round for ever."""

    async with system(tmp_path) as queue:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(envelope="raw"))
        await queue.call(queue.client.insert_job, "f")
        await queue.call(queue.client.insert_job, "f", flag="controller")
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        shim, controlled = await queue.call(queue.database.jobs)
        assert (shim.state, controlled.state) == (State.DEAD, State.LEASED)
        (failure,) = await queue.call(queue.database.failures, shim.jobid)
        assert "flag controller" in failure.message
        await servers.close()


async def test_a_resubmit_that_fails_is_due_again_at_once(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        await queue.call(queue.client.insert_job, "f")
        await claim(queue)
        await queue.call(_end_lease, queue)
        client = aio.Client(queue.address)
        await client.command(b"maxqueue f 1", block=False)
        await client.submit([Submission(b"f", b"")])
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        (job,) = await queue.call(queue.database.jobs)
        assert (job.state, job.attempt) == (State.WAITING, 2)
        assert job.run_after <= await queue.call(queue.database.clock)
        await client.close()
        await servers.close()


async def test_a_job_lost_with_its_worker_counts_as_a_crash_where_workers_renew(tmp_path: Path) -> None:
    """The server had it, says that it has not, and the connection it was sent on still stands."""

    async with system(tmp_path) as queue:
        await queue.call(queue.database.set_function, "f", FunctionPolicy(renews=True))
        await queue.call(queue.client.insert_job, "f")
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        for _ in range(3):  # the server drops it after the third death
            held = asyncio.Queue[aio.Held]()
            worker = aio.Worker(queue.address, [b"f"], held.put_nowait)
            running = asyncio.create_task(worker.run())
            await held.get()
            worker.abort()
            await running
        assert await queued(queue, b"f") == 0
        await queue.call(_end_lease, queue)
        await queue_runner.run_pass()
        (job,) = await queue.call(queue.database.jobs)
        assert (job.attempt, job.crashes) == (2, 1)
        await servers.close()


@pytest.mark.slow
async def test_two_queue_runners_give_no_job_twice(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        got: list[int] = []

        @queue.worker.function("f")
        def f(job: Job) -> None:
            got.append(job.jobid)

        queue.start_queue_runner()
        queue.start_queue_runner()
        queue.start_worker()
        for _ in range(5):
            await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 400)
        await queue.gone()
        assert sorted(got) == list(range(1, 2001))


async def test_two_databases_are_one_queue(tmp_path: Path) -> None:
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "two")]
    async with Server(port=0) as server:
        client = Waking(urls, [server.address])
        for database in client.shards:
            await asyncio.to_thread(database.upgrade)
        answers = await asyncio.to_thread(
            lambda: [client.insert_job("f", str(number)) for number in range(40)]
        )
        assert {dbid for _, dbid in answers} == {1, 2}
        servers = JobServers([server.address])
        for database in client.shards:
            await QueueRunner(database, servers).run_pass()
        uniques: set[bytes] = set()
        worker = aio.Worker(server.address, [b"f"], lambda held: uniques.add(held.job.unique), slots=50)
        running = asyncio.create_task(worker.run())
        async with asyncio.timeout(PATIENCE):
            while len(uniques) < 40:
                await asyncio.sleep(0.01)
        assert uniques == {b"%d:%d:1" % (dbid, jobid) for jobid, dbid in answers}
        worker.abort()
        await running
        await servers.close()
        client.close()


async def test_several_servers_share_the_jobs_and_a_worker_serves_them_all(tmp_path: Path) -> None:
    async with system(tmp_path) as queue, Server(port=0) as second:
        both = [queue.address, second.address]
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 200)
        servers = JobServers(both)
        queue_runner = QueueRunner(queue.database, servers)
        await queue_runner.run_pass()
        counts = [await queued(queue, b"f")]
        queue.address = second.address
        counts.append(await queued(queue, b"f"))
        assert sum(counts) == 200
        assert min(counts) > 50
        worker = Worker(Client(queue.url), both)

        @worker.function("f")
        def f(job: Job) -> None: ...

        queue.start_worker(worker)
        await queue.gone()
        await servers.close()


async def test_jobs_go_only_to_servers_where_the_function_has_a_worker(tmp_path: Path) -> None:
    async with system(tmp_path) as queue, Server(port=0) as second:
        held: list[aio.Held] = []
        worker = aio.Worker(second.address, [b"f"], held.append, slots=500)
        running = asyncio.create_task(worker.run())
        await _until_known(second, b"f")
        other = aio.Client(second.address)
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 100)
        servers = JobServers([queue.address, second.address])
        await QueueRunner(queue.database, servers).run_pass()
        assert await queued(queue, b"f") == 0
        assert (await other.functions())[b"f"].total == 100
        worker.abort()
        await running
        await other.close()
        await servers.close()


async def _until_known(server: Server, function: bytes) -> None:
    """Wait until a server knows a function: a worker has registered it."""
    client = aio.Client(server.address)
    async with asyncio.timeout(PATIENCE):
        while function not in await client.functions():
            await asyncio.sleep(0.01)
    await client.close()


async def test_a_server_that_is_down_holds_up_nothing(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        async with Server(port=0) as gone:
            dead = gone.address
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 100)
        servers = JobServers([dead, queue.address])
        await QueueRunner(queue.database, servers).run_pass()
        assert await queued(queue, b"f") == 100
        await servers.close()


async def test_a_job_that_waits_where_no_worker_comes_goes_where_there_is_one(tmp_path: Path) -> None:
    async with system(tmp_path) as queue, Server(port=0) as second:
        await queue.call(queue.client.insert_job, "f")
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        await servers.close()
        held = asyncio.Queue[aio.Held]()
        worker = aio.Worker(second.address, [b"f"], held.put_nowait)
        running = asyncio.create_task(worker.run())
        await _until_known(second, b"f")
        now = time.monotonic()
        servers = JobServers([queue.address, second.address], clock=Clock(monotonic=lambda: now))
        queue_runner = QueueRunner(queue.database, servers, QueueRunnerSettings(lease=3))
        await queue.call(_end_lease, queue)
        await queue_runner.run_pass()
        (job,) = await queue.call(queue.database.jobs)
        assert job.attempt == 1
        now += 16  # more than five leases later
        await queue.call(_end_lease, queue)
        while await queue_runner.run_pass() == 0.0:
            pass
        assert decode_payload((await held.get()).job.data).attempt == 2
        worker.abort()
        await running
        await servers.close()


def test_settings_say_what_is_wrong() -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"lease": 2},
        {"lease": 604801},
        {"watermark": -1},
        {"batch_max": 0},
        {"batch_max": 1001},
        {"poll": 0},
    )
    for settings in wrong:
        with pytest.raises(UsageError):
            QueueRunnerSettings(**settings)


async def test_two_functions_with_one_key_do_not_merge_in_the_server(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        for function in ("f", "g"):
            await queue.call(queue.client.insert_job, function, unique="same")
        queue_runner, servers = runner(queue)
        await queue_runner.run_pass()
        assert await queued(queue, b"f") == 1
        assert await queued(queue, b"g") == 1
        await servers.close()


async def test_a_pile_of_controller_jobs_takes_the_room_of_no_other_function(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        queue_runner, servers = runner(queue, watermark=5)
        await queue.call(queue.client.insert_jobs, [["slow", None, None, b""]] * 20, flag="controller")
        for _ in range(3):
            await queue_runner.run_pass()
        await queue.call(queue.client.insert_job, "shim")
        await queue.call(queue.client.insert_job, "other", flag="controller")
        for _ in range(3):
            await queue_runner.run_pass()
        assert await queued(queue, b"shim") == 1
        leased = [job.funcname for job in await queue.call(queue.database.jobs, state=State.LEASED)]
        # Only the first claim could not know what kind of jobs it would get.
        assert 5 <= leased.count("slow") <= 10
        assert leased.count("other") == 1
        await servers.close()


async def test_the_room_of_controller_jobs_is_counted_by_their_leased_rows(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        queue_runner, servers = runner(queue, watermark=5)
        await queue.call(queue.client.insert_jobs, [["slow", None, None, b""]] * 20, flag="controller")
        await queue_runner.run_pass()
        held: list[aio.Held] = []
        arrived = asyncio.Event()

        def take(job: aio.Held) -> None:
            held.append(job)
            arrived.set()

        # What a Controller holds waits no more in gearmand, and yet there is no room.
        worker = aio.Worker(queue.address, [b"run_queued_job"], take, slots=100)
        running = asyncio.create_task(worker.run())
        while len(held) < await queued(queue, b"run_queued_job") + len(held):
            await arrived.wait()
            arrived.clear()
        before = len(held)
        for _ in range(3):
            await queue_runner.run_pass()
        assert await queued(queue, b"run_queued_job") == 0
        assert len(held) == before
        # A renewed one counts no more.
        handles = [decode_payload(job.job.data).handle for job in held]
        await queue.call(queue.database.renew, handles, lease=60)
        async with asyncio.timeout(PATIENCE):
            while len(held) == before:
                await asyncio.sleep(await queue_runner.run_pass())  # till the next count
        worker.abort()
        running.cancel()
        await servers.close()


async def test_a_full_function_without_due_jobs_lets_the_queue_runner_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "_SWEEP_AGE", 600)  # however long this takes, no sweep is near
    async with system(tmp_path) as queue:
        queue_runner, servers = runner(queue, watermark=5)
        await queue.call(queue.client.insert_jobs, [["f", None, None, b""]] * 10, flag="controller")
        for _ in range(3):
            await queue_runner.run_pass()
        await queue.call(
            queue.database.complete, [job.jobid for job in await queue.call(queue.database.jobs)]
        )
        await asyncio.sleep(0.3)  # beyond the age of a count
        await queue_runner.run_pass()
        assert await queue_runner.run_pass() > 0.5
        await servers.close()


def test_leased_rows_of_a_quick_function_are_counted_sooner_when_half_of_its_room_is_used() -> None:
    watermark = Watermark(JobServers(["127.0.0.1:1"]), WATERMARK)
    watermark.note_controlled("f")
    assert watermark.uncounted(1, ["f"], 10.0) == ["f"]
    watermark.record_leased(1, "f", 100, 10.0)
    assert watermark.room("f") == WATERMARK - 100
    assert [watermark.uncounted(1, ["f"], now) for now in (10.1, 10.3)] == [[], ["f"]]
    watermark.use("f", WATERMARK // 2)
    assert [watermark.uncounted(1, ["f"], now) for now in (10.01, 10.03)] == [[], ["f"]]


def test_leased_rows_of_a_function_that_stays_full_are_counted_no_sooner() -> None:
    watermark = Watermark(JobServers(["127.0.0.1:1"]), WATERMARK)
    watermark.note_controlled("f")
    watermark.record_leased(1, "f", WATERMARK, 10.0)
    assert watermark.room("f") == 0
    assert [watermark.uncounted(1, ["f"], now) for now in (10.03, 10.3)] == [[], ["f"]]
