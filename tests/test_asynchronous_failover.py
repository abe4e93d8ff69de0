"""An asynchronous failover: the new primary lacks the last commits, and gives their ids again. Real pairs."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from garivini import AsyncClient, GariviniError, Job
from garivini.model.policy import FunctionPolicy
from tests.pairs import PAIRS
from tests.processes import PATIENCE
from tests.system import System, system

pytestmark = [pytest.mark.slow, pytest.mark.servers]

#: Jobs that are still running when the primary is killed, and end only when their ids have been given again.
LATE: Final = 200


class Load:
    """Producers, and the function that they insert jobs for."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        #: The ids of acknowledged jobs, by the argument, and the monotonic time when each insert began.
        self.stored: dict[str, tuple[int, float]] = {}
        self.late: list[int] = []
        self.let_go = asyncio.Event()
        self.is_cut_off = False
        self.stopped = False

    async def task(self, job: Job) -> None:
        self.ran[job.arg.decode()] += 1
        if self.is_cut_off and len(self.late) < LATE and not self.let_go.is_set():
            self.late.append(job.jobid)
            await self.let_go.wait()

    async def produce(self, name: int, client: AsyncClient) -> None:
        number = 0
        while not self.stopped:
            number += 1
            arg, began = f"{name} {number}", time.monotonic()
            try:
                jobid, _ = await client.insert_job("f", arg)
            except GariviniError:  # not acknowledged
                pass
            else:
                self.stored[arg] = jobid, began
            await asyncio.sleep(0.005)

    async def reaches(self, jobs: int) -> None:
        """Wait until so many more are stored."""
        wanted = len(self.stored) + jobs
        async with asyncio.timeout(PATIENCE):
            while len(self.stored) < wanted:
                await asyncio.sleep(0.01)

    async def gives_again(self, since: float) -> None:
        """Wait until the ids of all late jobs were given to jobs whose inserts began later than ``since``."""
        async with asyncio.timeout(PATIENCE):
            while not any(began > since and jobid > max(self.late) for jobid, began in self.stored.values()):
                await asyncio.sleep(0.01)


def lost_jobs(load: Load, since: float) -> set[str]:
    """Return the jobs whose inserts began later than ``since``, were acknowledged, and never ran."""
    return {arg for arg, (_, began) in load.stored.items() if began > since and not load.ran[arg]}


def summary(load: Load, queue: System, since: float) -> str:
    """Return what became of the jobs."""
    new = [jobid for jobid, began in load.stored.values() if began > since]
    again = len({*new}.intersection(load.late))
    unwritten = sum(event["outcomes"] for event in queue.seen.of("outcomes.unrecognised"))
    twice = sum(runs > 1 for runs in load.ran.values())
    return (
        f"{len(load.stored)} acknowledged, {len(new)} by the new primary, {len(lost_jobs(load, since))} of "
        f"these lost; {len(load.late)} late jobs, the ids of {again} given again; "
        f"{unwritten} outcomes not written, {twice} jobs ran again"
    )


@pytest.mark.parametrize("kind", PAIRS)
@pytest.mark.parametrize("lag", [pytest.param(0.0, id="short"), pytest.param(2.0, marks=pytest.mark.soak)])
async def test_late_outcomes_delete_no_job_of_the_new_primary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, lag: float
) -> None:
    """The replication stops for ``lag`` seconds, and at least 500 jobs, before the primary is killed."""
    load = Load()
    with PAIRS[kind]() as pair:
        async with system(tmp_path, url=pair.url) as queue, AsyncClient(pair.url, [queue.address]) as client:
            await queue.call(queue.database.set_function, "f", FunctionPolicy(lease=3))
            queue.worker.function("f")(load.task)
            queue.start_queue_runner()
            queue.start_worker()
            producing = [asyncio.create_task(load.produce(number, client)) for number in range(10)]
            await load.reaches(500)
            await queue.call(pair.cut_off)
            load.is_cut_off = True
            cut_off = time.monotonic()
            await load.reaches(500)
            await asyncio.sleep(cut_off + lag - time.monotonic())
            assert load.late
            await queue.call(pair.primary.kill)
            await queue.call(pair.fail_over)
            since = time.monotonic()
            await load.gives_again(since)
            load.let_go.set()
            await load.reaches(500)
            load.stopped = True
            await asyncio.gather(*producing)
            await queue.gone()
            with capsys.disabled():
                print(f"\n{kind}: {summary(load, queue, since)}")  # noqa: T201
            assert lost_jobs(load, since) == set()
            assert queue.seen.of("outcomes.unrecognised")
