"""A dispatcher and what it does with the jobs of a batch that servers do not have."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from garivini import Job, State
from garivini.gearman.protocol import Created, Refused, Submission, Unknown, Unsent
from garivini.gearman.requests import SubmitResult
from garivini.model.lease import SUBMIT_WITHIN
from garivini.roles.dispatcher import Dispatcher
from garivini.roles.job_servers import JobServers
from garivini.roles.watermark import Watermark
from tests.system import System, system


def dispatcher_of(queue: System) -> tuple[Dispatcher, Watermark, JobServers]:
    servers = JobServers([queue.address])
    watermark = Watermark(servers, 100)
    return Dispatcher(queue.database, servers, watermark), watermark, servers


async def claimed(queue: System, jobs: int) -> list[Job]:
    await queue.call(queue.client.insert_jobs, [["f", None, None, b"x"]] * jobs)
    (lane,) = (await queue.call(queue.database.lanes)).lanes
    return await queue.call(queue.database.claim, lane, limit=jobs, lease=60)


async def test_send_handles_each_job_by_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[SubmitResult] = [
        Created(b"H:1"),
        Refused(b"USAGE", b"it cannot travel"),
        Refused(b"QUEUE_ERROR", b"it is full"),
        Unknown(),
        Unsent(),
    ]

    async def submit(servers: JobServers, jobs: Sequence[Submission]) -> list[SubmitResult]:
        return results

    monkeypatch.setattr(JobServers, "submit", submit)
    async with system(tmp_path) as queue:
        sender, watermark, servers = dispatcher_of(queue)
        await servers.refresh_counts()
        jobs = await claimed(queue, 5)
        await sender.send(jobs, sender.monotonic())
        states = {job.jobid: job.state for job in await queue.call(queue.database.jobs)}
        assert [states[job.jobid] for job in jobs] == [
            State.LEASED,
            State.DEAD,
            State.WAITING,
            State.LEASED,
            State.WAITING,
        ]
        lapsing = await queue.call(queue.database.get, jobs[3].jobid)
        assert lapsing is not None
        assert lapsing.run_after < jobs[0].lease_end - 10
        assert (sender.sent, watermark.room("f")) == (1, 0)
        assert queue.seen.of("jobs.dispatched") == [{"dbid": 1, "jobs": 1}]
        assert queue.seen.of("jobs.released") == [{"dbid": 1, "jobs": 2, "reason": "QUEUE_ERROR: it is full"}]
        assert queue.seen.of("jobs.unknown") == [{"dbid": 1, "jobs": 1}]
        (dead,) = queue.seen.of("job.dead")
        assert (dead["error"], dead["message"]) == ("BadRow", "it cannot travel")
        await servers.close()


async def test_send_releases_a_batch_that_is_too_late_and_leaves_its_room(tmp_path: Path) -> None:
    async with system(tmp_path) as queue:
        sender, watermark, servers = dispatcher_of(queue)
        await servers.refresh_counts()
        jobs = await claimed(queue, 2)
        await sender.send(jobs, sender.monotonic() - SUBMIT_WITHIN - 0.1)
        assert {job.state for job in await queue.call(queue.database.jobs)} == {State.WAITING}
        assert (sender.sent, watermark.room("f")) == (0, 100)
        assert queue.seen.of("jobs.dispatched") == []
        assert [fields["jobs"] for fields in queue.seen.of("jobs.released")] == [2]
        await servers.close()
