"""The jobs that a worker holds, from the arrival of a copy until its end is reported to the server."""

import asyncio

from garivini import events
from garivini.errors import UsageError
from garivini.gearman.aio import Held
from garivini.keeper.copies import Copy, EndedCopies, copy_of
from garivini.keeper.execution import Execution
from garivini.keeper.keeper import Keeper
from garivini.keeper.shared_copy import SharedCopy
from garivini.model.payload import decode_payload
from garivini.worker.async_jobs import AsyncJobs
from garivini.worker.bundles import Bundles
from garivini.worker.def_jobs import DefJobs
from garivini.worker.replacement import Replacement
from garivini.worker.shared import Shared


class HeldJobs:
    """Decides which copies start, and reports ends after their commit. Most calls are made in the loop.

    Args:
        shared: the state that the parts of a worker share.
        def_jobs: runs the jobs of ``def`` functions.
        async_jobs: runs the jobs of ``async def`` functions.

    """

    def __init__(
        self,
        shared: Shared,
        def_jobs: DefJobs,
        async_jobs: AsyncJobs,
    ) -> None:
        self._name = shared.name
        self._functions = shared.functions
        self._keepers = shared.keepers
        self._call_in_loop = shared.call_in_loop
        self._def_jobs = def_jobs
        self._async_jobs = async_jobs
        self._blocking = def_jobs.runner
        #: The executions that this process holds, by the name of the copy, until their end is committed.
        self._executions: dict[Copy, Execution] = {}
        #: The copies that a server may send again although they have ended.
        self.ended: EndedCopies = EndedCopies()
        self._some_left = asyncio.Event()
        #: Counts the jobs that have ended; None: the process is not replaced.
        self.replacement: Replacement | None = None
        self._bundles = Bundles(
            shared, self._executions, self.ended, self._start_held, self._blocking.take_back
        )

    def arrived(self, held: Held) -> None:
        """Accept a copy: start it, check it first, or drop it."""
        try:
            job = decode_payload(held.job.data)
            keeper = self._keepers.get(job.dbid)
            if keeper is None:
                raise UsageError(f"database {job.dbid} is not one of this worker's")
            if job.members:
                self._bundles.arrived(job, held)
                return
        except UsageError as error:
            # Without a handle, the row to write to is not known. If there is a row, its job runs again when
            # the lease expires.
            events.emit("job.dropped", function=held.job.function.decode(errors="replace"), error=str(error))
            held.fail()
            return
        copy = copy_of(job)
        execution = Execution(job, held, self._name, copy)
        known = self._executions.setdefault(copy, execution)
        if known is not execution:
            self._attach(known, held)
        elif self.ended and self.ended.drops(copy):
            self._drop_stale(execution)
        elif keeper.must_check(execution):
            keeper.check(execution)
        else:
            self._start(execution, keeper)

    async def until_empty(self) -> None:
        """Wait until this process holds no job, not even one whose connection is lost."""
        while self._executions:
            self._some_left.clear()
            await self._some_left.wait()

    def checked(self, execution: Execution, holds: bool) -> None:
        """Receive the result of a start check, in the keeper's thread.

        The lease is renewed from here on, also while the loop is busy.
        """
        if not holds:
            execution.renews = False
        elif not execution.renews:  # it is renewed already if the check was for a second copy
            self._keepers[execution.job.dbid].hold(execution)
        if isinstance(execution.held, SharedCopy):
            self._call_in_loop(self._bundle_checked, execution, holds)
        elif not holds:
            self._call_in_loop(self._drop_stale, execution)
        elif self._functions[execution.held.job.function].is_async:
            self._call_in_loop(self._async_jobs.start, execution)
        else:
            self._blocking.put(execution)

    def give_up(self, execution: Execution) -> None:
        """Do not start a job whose connection is lost: the server sends the copy again, perhaps to us."""
        if isinstance(execution.held, SharedCopy):
            self._bundles.give_up(execution.held)
            self._some_left.set()
            return
        keeper = self._keepers[execution.job.dbid]
        if execution.held.disconnected:
            del self._executions[execution.copy]
            self._some_left.set()
            keeper.drop(execution)
        else:
            keeper.check(execution)  # the copy has arrived again meanwhile: see _attach

    def take_back(self, execution: Execution) -> bool:
        """Remove a job that has not started from the queue; return whether it was there.

        A bundle stays, and its leases are renewed: its jobs are not given back one by one. Any thread may use
        this.
        """
        return not isinstance(execution.held, SharedCopy) and self._blocking.take_back(execution)

    def given_back(self, executions: list[Execution]) -> None:
        """Remove executions whose jobs were given back: another worker may have these jobs now."""
        for execution in executions:
            del self._executions[execution.copy]
            execution.held.complete()
        self._some_left.set()
        # This process holds too many jobs. It requests no more until the blocking function has ended, and
        # then only as many as it can start.
        self._def_jobs.links.slots = 1
        if self._def_jobs.current is not None:  # if no job runs, no end would trigger the next request
            self._def_jobs.links.pause()

    def committed(self, executions: list[Execution]) -> None:
        """Report the ends of jobs whose outcome is committed."""
        unended: list[Execution] = []  # the others of their bundles are still to be committed
        for execution in executions:
            copy = execution.copy
            del self._executions[copy]
            held = execution.held
            reported = held.complete(note=copy) if execution.setback is None else held.fail(note=copy)
            if not reported:
                self.ended.add([copy])
            if isinstance(held, SharedCopy) and held.left:
                unended.append(execution)
        self._some_left.set()
        if self.replacement is not None:
            self.replacement.count(len(executions))
        tasks = 0
        if self._async_jobs.links.connections:
            tasks = sum(self._functions[it.held.job.function].is_async for it in executions)
            tasks -= sum(self._functions[it.held.job.function].is_async for it in unended)
        self._def_jobs.links.settle(len(executions) - len(unended) - tasks)
        self._async_jobs.links.settle(tasks)

    def _start_held(self, execution: Execution) -> None:
        if self._functions[execution.held.job.function].is_async:
            self._async_jobs.start(execution)
        else:
            self._blocking.put(execution)

    def _bundle_checked(self, execution: Execution, holds: bool) -> None:
        self._bundles.checked(execution, holds)
        self._some_left.set()

    def _start(self, execution: Execution, keeper: Keeper) -> None:
        keeper.hold(execution)
        self._start_held(execution)

    def _attach(self, execution: Execution, held: Held) -> None:
        """Accept a second copy of a job that this process holds: its end is reported for both copies."""
        if not execution.held.disconnected:
            held.complete()
            return
        execution.held = held
        if self._blocking.take_back(execution):
            # The job has not started here. Another worker may have had the copy meanwhile, and may have ended
            # the job.
            self._keepers[execution.job.dbid].check(execution)

    def _drop_stale(self, execution: Execution) -> None:
        job = execution.job
        events.emit("job.stale", jobid=job.jobid, dbid=job.dbid, attempt=job.attempt)
        self._executions.pop(execution.copy, None)
        self._some_left.set()
        execution.held.complete()
