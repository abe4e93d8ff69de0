"""Bundles in a worker: copies that carry several jobs, from their arrival until each job has ended."""

from collections.abc import Callable
from dataclasses import replace

from msgspec.structs import force_setattr

from garivini import events
from garivini.errors import UsageError
from garivini.gearman.aio import Held
from garivini.keeper.copies import Copy, EndedCopies, copy_of
from garivini.keeper.execution import Execution
from garivini.keeper.keeper import Keeper
from garivini.keeper.shared_copy import SharedCopy, executions_of
from garivini.model.job import Job
from garivini.worker.functions import Registered, setback_of
from garivini.worker.shared import Shared


class Bundles:
    """The bundles that a worker holds. It is used in the loop.

    All jobs of a bundle get a start check. The function is called with those that this process holds then.

    Args:
        shared: what the parts of a worker share.
        executions: all executions of the worker, by the name of the copy.
        ended: the copies that have ended.
        start: starts the execution of a first job.
        take_back: removes an execution from the queue of ``def`` functions; returns whether it was there.

    """

    def __init__(
        self,
        shared: Shared,
        executions: dict[Copy, Execution],
        ended: EndedCopies,
        start: Callable[[Execution], None],
        take_back: Callable[[Execution], bool],
    ) -> None:
        self._name = shared.name
        self._keepers = shared.keepers
        self._executions = executions
        self._ended = ended
        self._start = start
        self._take_back = take_back
        self._held: dict[Copy, SharedCopy] = {}

    def arrived(self, job: Job, held: Held) -> None:
        """Accept the copy of a bundle.

        Raises:
            UsageError: its jobs cannot be those of one call.

        """
        if any(it.dbid != job.dbid or it.funcname != job.funcname or it.attempt is None for it in job.bundle):
            raise UsageError(f"the jobs of the bundle of job {job.id} cannot be of one call")
        name = copy_of(job)
        if (known := self._held.get(name)) is not None:
            self._attach(known, held)
            return
        if self._ended and self._ended.drops(name):
            events.emit("job.stale", jobid=job.jobid, dbid=job.dbid, attempt=job.attempt)
            held.complete()
            return
        shared = self._held[name] = SharedCopy(held, job, name, self._over)
        for member in job.bundle:
            execution = Execution(member, held=shared, worker=self._name, copy=copy_of(member))
            if self._executions.setdefault(execution.copy, execution) is execution:
                shared.executions.append(execution)
            else:
                shared.complete()  # this process holds the job already
        if shared.executions:
            self._check(shared)

    def checked(self, execution: Execution, holds: bool) -> None:
        """Receive the result of a start check; after the last one, start the bundle."""
        shared = execution.held
        assert isinstance(shared, SharedCopy)
        shared.unchecked -= 1
        if not holds:
            job = execution.job
            events.emit("job.stale", jobid=job.jobid, dbid=job.dbid, attempt=job.attempt)
            shared.executions.remove(execution)
            self._executions.pop(execution.copy, None)
            shared.complete()
        if shared.unchecked == 0 and shared.executions:
            first, *others = shared.executions
            force_setattr(first.job, "members", tuple([it.job for it in others]))
            self._start(first)

    def give_up(self, shared: SharedCopy) -> None:
        """Do not start a bundle whose connection is lost: the server sends the copy again, perhaps to us."""
        if not shared.disconnected:  # the copy has arrived again meanwhile
            self._check(shared)
            return
        del self._held[shared.copy]
        for execution in shared.executions:
            del self._executions[execution.copy]
            self._keeper(execution).drop(execution)
        shared.executions.clear()

    def _attach(self, shared: SharedCopy, held: Held) -> None:
        """Accept a second copy of a bundle that this process holds: its end is reported for both copies."""
        if not shared.disconnected:
            held.complete()
            return
        shared.held = held
        # If the bundle has not started here, another worker may have had the copy meanwhile.
        if shared.unchecked == 0 and shared.executions and self._take_back(shared.executions[0]):
            self._check(shared)

    def _check(self, shared: SharedCopy) -> None:
        shared.unchecked = len(shared.executions)
        for execution in shared.executions:
            self._keeper(execution).check(execution)

    def _over(self, shared: SharedCopy, reported: bool) -> None:
        self._held.pop(shared.copy, None)
        if not reported:
            self._ended.add([shared.copy])

    def _keeper(self, execution: Execution) -> Keeper:
        return self._keepers[execution.job.dbid]


def begin(execution: Execution, keeper: Keeper) -> None:
    """Let the function of an execution use the calls of each job of its bundle."""
    for it in executions_of(execution):
        force_setattr(it.job, "calls", keeper.job_calls)
        if keeper.job_events.enabled:
            keeper.job_events.start(it)


def end(execution: Execution, keeper: Keeper, entry: Registered, worker: str) -> None:
    """End an execution whose function has ended, and those of its bundle, each with its own answer.

    A job without an answer ends as the function has ended.
    """
    setback, result = execution.setback, execution.result
    for it in executions_of(execution):
        job, answer = it.job, it.job.answer
        force_setattr(job, "calls", None)
        it.result = result
        if answer is True:
            it.setback = None
        elif isinstance(answer, BaseException):
            it.setback = setback_of(entry, job, answer, worker)
        elif setback is not None:
            it.setback = replace(setback, handle=job.handle)
    if isinstance(execution.held, SharedCopy):
        ended, execution.held.executions = execution.held.executions, []
    else:
        ended = [execution]
    for it in ended:
        keeper.end(it)
