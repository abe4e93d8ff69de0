"""Payloads that no QueueRunner of ours has made, sent to a worker and to a Controller: all else goes on."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from garivini import Client, GariviniError, Job
from garivini.gearman import aio
from garivini.gearman.protocol import Submission
from garivini.model.job import Handle
from garivini.model.new_jobs import new_job
from garivini.model.state import State
from garivini.store.database import Lane
from tests.processes import SOON
from tests.sql_servers import SERVERS, SQLServer
from tests.system import system, upgraded
from tests.test_controller import stock
from tests.test_keeper_faults import IDS

#: What has wedged a keeper; the id is that of a job which somebody else runs.
FORGED: Final[list[dict[str, Any]]] = [
    {"lease": 4294967295, "lease_end": 1},
    {"lease": 604_801, "lease_end": 1},
    {"lease": 60, "lease_end": 1, "attempt": 4294967295},
    {"lease": 60, "lease_end": 4294967295, "attempt": 2},
    {"lease": 60, "lease_end": 1, "jobid": 2**63 - 1},
    {"lease": 60, "jobid": 2**63 - 1, "attempt": None},
    {"lease": 60, "lease_end": 1, "run_after": 4294967295, "attempt": 7},
    {"lease": 60, "lease_end": 1, "funcname": "f" * 201},
    {"lease": 60, "lease_end": 1, "incarnation": 2**32},
    {"lease": 60, "lease_end": 1, "incarnation": -1},
    {"lease": 60, "lease_end": 1, "incarnation": [7]},
    {"lease": 60, "lease_end": 1, "created": 2**32},
    {"lease": 60, "lease_end": 4294967295, "attempt": 2, "incarnation": 7, "created": 4294967295},
]
#: Number of them that are no payloads.
UNFIT: Final = 7


@pytest.mark.parametrize("name", ["sqlite", *SERVERS])
@pytest.mark.parametrize("role", ["worker", "controller"])
def test_forged_payloads_delay_no_other_job(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, role: str
) -> None:
    with ExitStack() as stack:
        url = None
        if name != "sqlite":
            server: SQLServer = request.getfixturevalue(name)
            url = stack.enter_context(server.database())
            upgraded(url).close()

        async def scenario() -> None:
            async with system(tmp_path, url) as queue, stock(queue.address) as worker:
                ran = asyncio.Event()

                @queue.worker.function("hello")
                async def hello(job: Job) -> None:
                    if job.arg == b"good":
                        ran.set()

                await queue.call(queue.database.insert, [new_job("other", b"")])
                lane = Lane("other", State.WAITING, "normal", 0)
                (innocent,) = await queue.call(queue.database.claim, lane, limit=1, lease=60)
                before = await queue.call(queue.database.get, innocent.jobid)
                function = b"hello" if role == "worker" else b"run_queued_job"
                client = aio.Client(queue.address)
                base = {"jobid": innocent.jobid, "dbid": 1, "attempt": 1, "funcname": "hello", "arg": "x"}
                payloads = [json.dumps({**base, **forged}).encode() for forged in FORGED]
                await client.submit([Submission(function, payload) for payload in payloads])
                queue.start_queue_runner()
                if role == "worker":
                    queue.start_worker()
                else:
                    queue.start_controller()
                await queue.seen.wait("job.dropped", UNFIT)
                async with asyncio.timeout(SOON):
                    if role == "worker":
                        await queue.call(queue.client.insert_job, "hello", b"good")
                        await ran.wait()
                    else:
                        await queue.call(queue.client.insert_job, "f", b"good", flag="controller")
                        (await worker.got())[0].complete()
                    await queue.gone(1)
                assert await queue.call(queue.database.get, innocent.jobid) == before
                await client.close()

        asyncio.run(scenario())


@pytest.fixture(scope="module", params=["sqlite", *SERVERS])
def client(request: pytest.FixtureRequest, urls: Callable[[str], str]) -> Iterator[Client]:
    with Client(urls(request.param)) as client:
        yield client


@settings(max_examples=60)
@given(jobid=IDS, dbid=st.sampled_from([1, 1, 1, 0, -1, 2**31, 2**64, None]), attempt=IDS)
def test_any_handle_is_a_job_or_an_error_of_ours(client: Client, jobid: Any, dbid: Any, attempt: Any) -> None:
    handles: list[Any] = [
        Handle(jobid, dbid, attempt),
        (jobid, dbid),
        {"jobid": jobid, "dbid": dbid, "attempt": attempt},
        json.dumps({"jobid": str(jobid), "dbid": str(dbid), "attempt": str(attempt)}),
    ]
    for handle in handles:
        for call in (
            client.complete_job,
            client.failed_job,
            client.get_job,
            client.retry_job,
            client.cancel_job,
            lambda handle: client.reschedule_job(handle, "never"),
        ):
            with suppress(GariviniError):
                assert not call(handle)
