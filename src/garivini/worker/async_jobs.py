"""Runs the jobs of ``async def`` functions, as tasks of the loop."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from msgspec.structs import force_setattr

from garivini.keeper.execution import Execution
from garivini.keeper.shared_copy import SharedCopy
from garivini.model.current import set_current_job
from garivini.worker import forks
from garivini.worker.bundles import begin, end
from garivini.worker.functions import setback_of
from garivini.worker.kept_results import take_result
from garivini.worker.links import Links
from garivini.worker.shared import Shared


class AsyncJobs:
    """Awaits ``async def`` functions, and hands their outcomes to the keepers. It is used in the loop only.

    Args:
        shared: the state that the parts of a worker share.
        concurrency: maximum jobs that run at a time.
        give_up: called with an execution that does not start because its connection is lost.

    """

    def __init__(
        self,
        shared: Shared,
        concurrency: int,
        give_up: Callable[[Execution], None],
    ) -> None:
        self._name = shared.name
        self._functions = shared.functions
        self._keepers = shared.keepers
        self._slot = shared.slot
        self._loop = shared.loop
        #: The connections for ``async def`` functions.
        self.links: Links = Links(concurrency)
        self._give_up = give_up
        self._closing = False
        #: The running tasks, each with its execution.
        self.tasks: dict[asyncio.Task[None], Execution] = {}

    def start(self, execution: Execution) -> None:
        """Start a job, unless its connection has been lost since it was checked."""
        if execution.held.disconnected:
            self._give_up(execution)
            return
        task = self._loop.create_task(self._run(execution))
        self.tasks[task] = execution
        task.add_done_callback(self._done)
        self._note_task()

    def cancel(self) -> list[asyncio.Task[None]]:
        """Cancel the running jobs, without an outcome: the server gives them to another worker."""
        self._closing = True
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        return tasks

    def cancel_one(self, execution: Execution) -> None:
        """Cancel the task of a job that was cancelled, if it runs. Any outcome but success has no effect.

        A bundle goes on, because its other jobs were not cancelled.
        """
        if execution.job.members:
            return
        for task, running in self.tasks.items():
            if running is execution:
                task.cancel()

    async def _run(self, execution: Execution) -> None:
        job = execution.job
        entry = self._functions[execution.held.job.function]
        keeper = self._keepers[job.dbid]
        limit = asyncio.timeout(entry.timeout)
        force_setattr(job, "calls", keeper.job_calls)
        try:
            set_current_job(job)  # set in the context of this task alone
            if job.members:
                begin(execution, keeper)
            elif keeper.job_events.enabled:
                keeper.job_events.start(execution)
            async with limit:
                result = await entry.function(job)
            forks.leave()
            if result is not None:
                take_result(execution, result)
        except BaseException as error:  # in any case the job ends and its slot is free
            forks.leave(error)
            if self._closing and isinstance(error, asyncio.CancelledError | GeneratorExit):
                raise  # a cancellation of the task is not an error of the job
            setback = setback_of(entry, job, error, self._name)
            if limit.expired():
                message = f"ran longer than {entry.timeout:g} s"
                setback = replace(setback, error="TimeLimit", message=message)
            execution.setback = setback
        self.links.ran += 1
        force_setattr(job, "calls", None)  # threads that the function left behind must not use them
        if job.answer is not None or type(execution.held) is SharedCopy:
            end(execution, keeper, entry, self._name)
        else:
            keeper.end(execution)
        self.links.offer()

    def _done(self, task: asyncio.Task[None]) -> None:
        del self.tasks[task]
        self._note_task()

    def _note_task(self) -> None:
        """Report a job to the parent if it runs alone. If several run, none can be blamed for a crash."""
        if self._slot is not None:
            if len(self.tasks) == 1:
                (execution,) = self.tasks.values()
                self._slot.set_task(execution.job)
            else:
                self._slot.clear_task()
