"""Makes the calls of a Controller. An answer, a deadline or a lost connection ends a call."""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from garivini import events
from garivini.errors import UnreachableError, UsageError
from garivini.gearman.protocol import Created, Event, Finished, Refused, Submission, Unknown, Update
from garivini.keeper.execution import Execution
from garivini.keeper.keeper import Keeper
from garivini.model.lease import DEADLINE
from garivini.model.outcome import KeptResult, Setback
from garivini.model.payload import decode_payload
from garivini.model.policy import NO_POLICY
from garivini.roles import deadlines
from garivini.roles.answers import follow_ups_of, setback_of
from garivini.roles.call_reports import CallReports
from garivini.roles.calls import ENDED, Call, Calls, End, Phase
from garivini.roles.deadlines import Deadlines
from garivini.roles.job_servers import JobServers
from garivini.submission import PRIORITY_OF

#: Bytes of a payload that may stay in memory until its call has ended.
_SMALL: Final = 1024


# Read for each job. A name of the module is found faster than a member of an enum.
_SUBMITTED: Final = Phase.SUBMITTED
_CREATED: Final = Phase.CREATED
_SUCCEEDED: Final = Phase.SUCCEEDED


class Caller:
    """Makes calls and ends them.

    Args:
        name: the Controller's name, for the records of failures.
        servers: receive the calls.
        keepers: by the id of their database. They make start checks, renew leases and write reports.
        calls: the table of the calls.
        on_end: called with each call that has ended, and the phase in which it ended.
        monotonic: returns the monotonic time.

    """

    def __init__(
        self,
        name: str,
        servers: JobServers,
        keepers: Mapping[int, Keeper],
        calls: Calls,
        on_end: Callable[[Call, End], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._name = name
        self._servers = servers
        self._keepers = keepers
        self._calls = calls
        self._on_end = on_end
        self._monotonic = monotonic
        self._deadlines = Deadlines(self._overdue, self.end_without_outcome, monotonic)
        self._reports = CallReports(lambda report: keepers[report.handle.dbid].report(report))
        #: Calls that were lost or refused since the last ``flush``, by function and reason.
        self._failed: Counter[tuple[str, str]] = Counter()

    def may_start(self, execution: Execution) -> bool:
        """Return whether a job can be called now."""
        job = execution.job
        return (
            self._calls.may_start(job.funcname)
            and self._keepers[job.dbid].functions.policies is not None
            and self._servers.client_for(job).connected
        )

    def start(self, execution: Execution) -> None:
        """Call a job, after a start check if it needs one."""
        call = self._calls.start(execution)
        keeper = self._keepers[execution.job.dbid]
        if keeper.must_check(execution):
            keeper.check(execution)
        else:
            self._submit(call)

    def checked(self, execution: Execution, holds: bool) -> None:
        """Continue after a start check. ``holds``: whether the attempt still holds its job."""
        job = execution.job
        call = self._calls.get((job.dbid, job.jobid))
        if call is None or call.execution is not execution or call.phase is not Phase.STARTING:
            return  # a drain has returned the job
        if holds:
            self._submit(call)
            return
        events.emit("job.stale", jobid=job.jobid, dbid=job.dbid, attempt=job.attempt)
        execution.held.complete()
        self._end(call, Phase.DROPPED)

    def _submit(self, call: Call) -> None:
        execution = call.execution
        job = execution.job
        keeper = self._keepers[job.dbid]
        if execution.held.disconnected:
            # The job has not started. The server sends its copy again, perhaps to this process.
            keeper.drop(execution)
            self._end(call, Phase.DROPPED)
            return
        policy = (keeper.functions.policies or {}).get(job.funcname, NO_POLICY)
        data = execution.held.job.data
        client = self._servers.client_for(job)
        try:
            if policy.envelope == "raw":
                data = decode_payload(data).arg
            # The call has no unique, because gearmand loses a call with the unique of an earlier call whose
            # caller has died.
            submission = Submission(job.funcname.encode(), data, b"", PRIORITY_OF[job.priority])
            client.call(submission, partial(self._answered, call))
        except UnreachableError:
            self._end(call, Phase.RETURNED)
            return
        except UsageError as error:
            self._set_back(
                call, Setback(handle=job.handle, kind="parked", error="BadRow", message=str(error))
            )
            return
        call.phase = _SUBMITTED
        call.keeps = policy.retention is not None
        call.client = client
        deadlines.begin(call, policy.deadline or DEADLINE, self._monotonic())
        if len(execution.held.job.data) > _SMALL:
            forget_argument(execution)
        if keeper.job_events.enabled:
            keeper.job_events.start(execution)
        keeper.hold(execution)

    def _answered(self, call: Call, event: Event) -> None:
        """Handle an answer of the server to a call."""
        if call.phase >= ENDED:
            return
        # Most answers are of these two classes, and a match statement takes several times as long.
        if isinstance(event, Created):
            call.handle = event.handle
            call.phase = _CREATED
            return
        if isinstance(event, Finished):
            execution = call.execution
            execution.setback = setback_of(event, execution.job, self._name)
            result = self._add_follow_ups(execution, event.data) if event.data[:1] == b"{" else event.data
            execution.result = self._kept(call, result) if call.keeps else result
            self._end(call, _SUCCEEDED if execution.setback is None else Phase.SET_BACK)
            return
        match event:
            case Update(kind, fields):
                call.running_since = call.running_since or self._monotonic()
                self._reports.add(call, kind, fields)
            case Unknown():
                # A lost connection is neither a failure of the job nor a sign that it did not run.
                self._failed[call.execution.job.funcname, "the connection was lost"] += 1
                self._end(call, Phase.RETURNED)
            case Refused(code, text):
                reason = (b"%s: %s" % (code, text)).decode(errors="replace")
                self._failed[call.execution.job.funcname, reason] += 1
                self._end(call, Phase.REFUSED)

    def _add_follow_ups(self, execution: Execution, data: bytes) -> bytes:
        """Add the follow-ups of a success to its job; return the result. Invalid follow-ups are a failure."""
        if execution.setback is not None:
            return data
        job = execution.job
        calls = self._keepers[job.dbid].job_calls
        try:
            if (found := follow_ups_of(data)) is None:
                return data
            for it in found.insert:
                values = (it.funcname, it.arg, it.run_after, it.unique, it.coalesce, it.flag)
                named: dict[str, Any] = {"priority": it.priority, "expires": it.expires}
                named |= {"partition": it.partition, "headers": it.headers}
                calls.insert_job(job, *values, uniqkey=None, **named)
        except UsageError as error:
            execution.setback = Setback(
                handle=job.handle, kind="failed", error="FollowUp", message=str(error), worker=self._name
            )
            return data
        return found.result.encode()

    def _kept(self, call: Call, result: bytes) -> KeptResult:
        return KeptResult(result, self._monotonic() - (call.running_since or call.submitted_at))

    def cancelled(self, execution: Execution) -> None:
        """Let the next check of deadlines end the call of a job that was cancelled."""
        call = self._calls.get((execution.job.dbid, execution.job.jobid))
        if call is not None and call.execution is execution:
            call.deadline = call.ask_at = 0.0

    def _overdue(self, call: Call) -> None:
        message = f"ran longer than {call.deadline:g} s"
        handle = call.execution.job.handle
        self._set_back(
            call, Setback(handle=handle, kind="failed", error="TimeLimit", message=message, worker=self._name)
        )

    def _set_back(self, call: Call, setback: Setback) -> None:
        call.execution.setback = setback
        self._end(call, Phase.SET_BACK)

    def end_without_outcome(self, call: Call) -> None:
        """End a call whose job is to wait in its database again."""
        self._end(call, Phase.RETURNED)

    def _end(self, call: Call, phase: End) -> None:
        self._calls.end(call, phase)
        if self._reports.progress:
            self._reports.end(call)
        self._on_end(call, phase)

    # ---- for the Controller's loops

    def flush(self) -> None:
        """Pass on the progress of running calls, and report those that were lost or refused."""
        self._reports.flush()
        for (funcname, reason), calls in self._failed.items():
            events.emit("calls.lost", function=funcname, calls=calls, reason=reason)
        self._failed.clear()

    async def check_deadlines(self) -> None:
        """End the calls that have used up their time."""
        await self._deadlines.check(self._calls.values())


def forget_argument(execution: Execution) -> None:
    """Free the argument, which may have megabytes. It is not needed here any more."""
    execution.held.job = replace(execution.held.job, data=b"")
