"""The keepers of a worker or Controller: they commit what jobs came to, and renew the leases of the rest.

There is one a database, in a thread with a connection of its own: a database that hangs holds up none of the
others, and a handler that computes holds up none. (C code that holds the interpreter lock for long silences
them; a lease should be much longer than that.) What arrived while one commit ran makes the next group, so a
group is small when the worker is idle and large when busy.
"""

import asyncio
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from typing import Final

from msgspec.structs import force_setattr, replace

from garivini import events
from garivini.backoff import Backoff
from garivini.errors import ConflictError, OutcomeUnknownError
from garivini.keeper.child import Child
from garivini.keeper.execution import Execution, jobid_of
from garivini.keeper.inbox import Inbox
from garivini.keeper.outcomes import GROUP as _GROUP
from garivini.keeper.outcomes import Outcomes, emit_dropped
from garivini.keeper.writer import Write, Writer, is_unfit
from garivini.model.job import Handle, Job, StartCounter
from garivini.model.lease import LEASE
from garivini.model.outcome import Report, Setback
from garivini.model.pacing import BatchGate
from garivini.model.policy import FunctionPolicy
from garivini.store.database import Database

#: Seconds until the first renewal, and a third of the lease at most. It tells the database that the job runs:
#: from then on a server that forgets it does not make it run twice.
_FIRST_RENEWAL: Final = 1.0
#: Seconds until a row that could not be renewed is tried again.
_LOCKED_RENEWAL: Final = 1.0
#: Seconds within which renewals are made together.
_TOGETHER: Final = 0.2
#: Lines of running jobs that may wait for a database. More are dropped: a job must not fill the memory.
_REPORTS: Final = 20_000
#: Seconds that a write of many rows waits for a lock. Then the locked rows are left out.
_LOCK_TIMEOUT: Final = 0.2
#: Minimum seconds between two rounds while a step of them has failed.
_FAILED_PAUSE: Final = 0.02
#: Functions registered per transaction.
_FUNCTIONS: Final = 500
#: Seconds after which a worker refreshes the settings of functions.
_FUNCTIONS_AGE: Final = 60.0
#: Maximum seconds for the commits at the end, and for the answer to the last one.
STOP_TIMEOUT: Final = 10.0
_LAST_ANSWER: Final = 0.5


class Keeper:
    """Owns what this process holds of one database.

    Args:
        database: whose jobs these are.
        on_committed: called in the keeper's thread with the runs whose outcome is committed.
        on_checked: called in the keeper's thread with a run that waited for its start check, and whether
            its attempt still holds the job.
        take_back: called in the keeper's thread; takes a run out of the worker's queue for good and returns
            whether it was still there.
        on_given_back: called in the keeper's thread with the runs that another worker may have now.
        functions: what this worker's functions set, written once at the start; a Controller has none.
        on_overdue: called in the keeper's thread when the main thread's job runs too long and its failure is
            committed; ends the process.
        child: what a supervised process was given; only such a one ends itself for a time limit.

    """

    def __init__(
        self,
        database: Database,
        *,
        on_committed: Callable[[list[Execution]], None],
        on_checked: Callable[[Execution, bool], None],
        take_back: Callable[[Execution], bool],
        on_given_back: Callable[[list[Execution]], None],
        on_overdue: Callable[[Execution], None] = lambda run: None,
        functions: Mapping[str, FunctionPolicy] = {},  # not changed
        child: Child | None = None,
    ) -> None:
        self._shared = database
        self._database = database.with_lock_timeout(_LOCK_TIMEOUT)
        #: Counts the starts that ask for their number; see ``Job.run``.
        self.start_counter: StartCounter = StartCounter(
            lambda handle: database.count_run(handle), asyncio.to_thread
        )
        self._on_committed = on_committed
        self._on_checked = on_checked
        self._take_back = take_back
        self._on_given_back = on_given_back
        self._on_overdue = on_overdue
        self._functions = functions
        #: Settings still to be written; None before the stored ones are known.
        self._to_register: list[tuple[str, FunctionPolicy]] | None = None if functions else []
        self._child = child
        self._obituaries = Inbox(
            one for one in (child.obituaries if child else ()) if one.handle.dbid == database.dbid
        )
        #: Whether the database did not do what was asked last.
        self.in_trouble: bool = False
        #: What is set for each function, as read last; None before the first ``read_functions``.
        self.policies: Mapping[str, FunctionPolicy] | None = None
        #: What the worker's main thread is running just now.
        self.current: Execution | None = None
        self._writer = Writer(locks_rows=database.locks_rows)
        self._outcomes = Outcomes(self._database, self._writer, self._due_of)
        # Filled by the worker's thread, emptied by the keeper's.
        self._ended = self._outcomes.inbox
        self._holds: deque[Execution] = deque()
        self._checks: Inbox[Execution] = Inbox()
        self._dropped: Inbox[Execution] = Inbox()
        self._reports: Inbox[Report] = Inbox()
        self._to_give_back: Inbox[Execution] = Inbox()
        self._to_read = bool(functions)
        self._publishes = False
        self._read_at = 0.0
        #: Seconds of the leases that are set, by function.
        self._leases = {name: policy.lease for name, policy in functions.items() if policy.lease}
        self._crowd = BatchGate()
        self._wake = threading.Event()
        self._asleep_until = 0.0
        self._stop_by: float | None = None  # monotonic; None while not stopping
        self._hastened = False  # at the stop, deferred outcomes are retried once immediately, then as before
        # First renewals are in ``_holds``, in their order, for all are due after the same time. Here are
        # later ones, by their time. What has ended is passed over. And what is being renewed.
        self._renewals: list[tuple[float, int, Execution]] = []
        self._due: list[Execution] = []
        self._steps = self._all_steps()
        self._backoff = Backoff(first=0.05, longest=2.0)
        self._offset: float | None = None  # of the database's clock to the monotonic one
        self._name = f"keeper of database {database.dbid}"
        self._thread = threading.Thread(
            target=self._loop, name=f"garivini-keeper-{database.dbid}", daemon=True
        )

    def _all_steps(self) -> "list[_Step]":
        """Return the steps of each round in this order: registration is the least urgent."""
        return [
            _Step(self._record_deaths),
            _Step(self._read_functions),
            _Step(self._read_clock),
            _Step(self._start_checks),
            _Step(self._report),
            _Step(self._commit),
            _Step(self._mark_leased),
            _Step(self._renew),
            _Step(self._give_back),
            _Step(self._end_overdue),
            _Step(self._register),
        ]

    def start(self) -> None:
        """Start the thread."""
        self._wake.set()  # for what is to be registered and recorded at the start
        self._thread.start()

    def hold(self, run: Execution) -> None:
        """Renew this run's lease from now on, until it has ended."""
        if self._leases:
            self._set_lease(run)
        if lease := run.job.lease:
            run.renews = True
            run.renew_at = time.monotonic() + (_FIRST_RENEWAL if lease > 3 * _FIRST_RENEWAL else lease / 3)
            self._holds.append(run)
            if run.renew_at < self._asleep_until:
                self._wake.set()

    def limit(self, run: Execution, seconds: float) -> None:
        """End this process if the run, which starts now in the main thread, takes longer."""
        run.limit = seconds
        run.deadline = time.monotonic() + seconds
        if run.deadline < self._asleep_until:
            self._wake.set()

    def check(self, run: Execution) -> None:
        """Ask the database whether this run's attempt still holds the job; ``on_checked`` gets the answer."""
        self._set_lease(run)
        self._checks.put(run)
        self._wake.set()

    def drop(self, run: Execution) -> None:
        """Give up a run that has not started and whose connection is lost."""
        run.dropped = True
        if run.checked:
            self._dropped.put(run)
            self._wake.set()

    def end(self, run: Execution) -> None:
        """Commit the run's outcome: ``setback``, or success where there is none."""
        self._ended.put(run)
        if self._wake.is_set():  # which takes no lock
            return
        if not self._crowd.waits(len(self._ended), time.monotonic()):
            self._wake.set()  # else the thread wakes by itself when that is over

    def report(self, said: Report) -> None:
        """Keep what a running job said of itself."""
        if len(self._reports) + self._reports.aside < _REPORTS:
            self._reports.put(said)
            self._wake.set()
        else:
            events.emit("reports.dropped", dbid=said.handle.dbid, reports=1, error="too many wait")

    def read_functions(self) -> None:
        """Read what is set for each function into ``policies``."""
        self._publishes = self._to_read = True
        self._wake.set()

    def must_check(self, run: Execution) -> bool:
        """Return whether a copy that has just arrived is checked before its start.

        It may have been replaced or ended: a copy of a later attempt, one whose lease is over, and one that
        came on a reopened connection and was claimed before that, because the server may have given it to
        another worker when the connection was lost. A copy without an attempt comes from a QueueRunner of the
        original and needs one of ours.
        """
        job = run.job
        if job.attempt is None or job.attempt > 1:
            return True
        if not job.lease:
            return False
        offset = self._offset  # read once: another thread sets it
        # A lease that has not begun was not set by the database.
        if offset is None or not 0 <= job.lease_end - time.monotonic() - offset <= job.lease + 2:
            return True
        reopened_at = run.held.reopened_at
        # The claim's time is in whole seconds.
        return reopened_at is not None and job.lease_end - job.lease - 1 <= reopened_at + offset + 1

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Commit what has ended and end the thread.

        Args:
            timeout: maximum seconds for that, 10 by default. Jobs whose outcomes could not be committed run
                again when their leases end. The event ``keeper.abandoned`` reports how many there are.

        """
        self._stop_by = time.monotonic() + timeout
        self._wake.set()
        self._thread.join(timeout + _LAST_ANSWER)
        if left := len(self._ended) + self._ended.aside:
            events.emit("keeper.abandoned", dbid=self._database.dbid, outcomes=left, seconds=timeout)

    # ---- in the thread

    def _loop(self) -> None:
        try:
            while True:
                self._wake.wait(self._until_next())
                self._wake.clear()
                self._round()
                if self._is_over():
                    return
        finally:
            if self._database is not self._shared:
                self._database.close()

    def _is_over(self) -> bool:
        if self._stop_by is None:
            return False
        return time.monotonic() >= self._stop_by or not (self._ended or self._ended.aside)

    def _round(self) -> None:
        """Run each step that is due. A failed step does not prevent the others.

        If the database cannot be reached, the round ends: nothing is dropped, and all is retried.
        """
        if self._stop_by is not None and not self._hastened:
            self._hastened = True
            self._ended.hasten(time.monotonic())
        errors: list[Exception | None] = []
        for step in self._steps:
            if time.monotonic() < step.not_before:
                errors.append(step.error)  # it waits because of that
                continue
            try:
                step.run()
            except Exception as error:
                if self._writer.concerns_all(error):
                    self._note_trouble(error)
                    if step.run != self._end_overdue:
                        self._try_to_end_overdue()
                    self._sleep(self._backoff.failed())
                    self._wake.set()
                    return
                step.failed(error)
                errors.append(error)
            else:
                step.succeeded()
        self._backoff.succeeded()
        if errors or self._outcomes.refused:
            self._note_trouble(next(iter(errors), None))
        elif self.in_trouble:
            self.in_trouble = False
            events.emit("role.recovered", role=self._name)

    def _note_trouble(self, error: Exception | None) -> None:
        if not self.in_trouble:
            self.in_trouble = True
            text = "outcomes are refused" if error is None else str(error)
            events.emit("role.error", role=self._name, error=text)

    def _sleep(self, seconds: float) -> None:
        if self._stop_by is not None:
            seconds = min(seconds, max(0.0, self._stop_by - time.monotonic()))
        time.sleep(seconds)

    def _try_to_end_overdue(self) -> None:
        with suppress(Exception):
            self._end_overdue()

    def _until_next(self) -> float:
        while self._holds and not self._holds[0].renews:
            self._holds.popleft()
        while self._renewals and not self._renewals[0][2].renews:
            heappop(self._renewals)
        inboxes = (
            self._ended,
            self._checks,
            self._dropped,
            self._reports,
            self._to_give_back,
            self._obituaries,
        )
        first = min(inbox.next_due() for inbox in inboxes)
        first = min([first, *(step.not_before for step in self._steps if step.error is not None)])
        if self._stop_by is not None:
            first = min(first, self._stop_by)
        if self._renewals:
            first = min(first, self._renewals[0][0])
        if self._holds:
            first = min(first, self._holds[0].renew_at)
        if (current := self.current) is not None and current.deadline:
            first = min(first, current.deadline)
        now = time.monotonic()
        if self._ended or now < self._crowd.until:
            # Who ends a run before that time leaves it to this thread to wake.
            first = min(first, self._crowd.until)
        if any(step.error is not None for step in self._steps):
            first = max(first, now + _FAILED_PAUSE)  # a postponed step may be due
        # No longer than until the first renewal of a job that comes now: then it need not wake this thread,
        # which would compete with the job's start.
        self._asleep_until = min(first, now + _FIRST_RENEWAL)
        return max(0.0, self._asleep_until - now)

    def _record_deaths(self) -> None:
        """Record the jobs that killed another process."""
        now = time.monotonic()
        obituaries = self._obituaries.take_due(now, _GROUP) + self._obituaries.take(_GROUP)
        for index, obituary in enumerate(obituaries):
            setback = Setback(
                handle=Handle(*obituary.handle),
                kind=obituary.kind,
                error="TimeLimit" if obituary.kind == "failed" else "ProcessDied",
                message=obituary.message,
            )
            try:
                self._outcomes.settle(setback)
            except Exception as error:
                # A failure ends its attempt, so it counts once. A death counts each time it is told, and one
                # too many could bury a job that does no harm: better none.
                if not isinstance(error, OutcomeUnknownError) or obituary.kind == "failed":
                    if self._writer.concerns_all(error):
                        self._obituaries.put_back(obituaries[index:])
                        raise
                    if not is_unfit(error):
                        self._obituaries.put_aside(obituary, error, now)
                        continue
                    emit_dropped(setback.handle, error)
            assert self._child is not None
            self._child.obituaries.remove(obituary)
            if not self._child.obituaries:  # the last of all keepers says so
                self._child.slot.tell()

    def _read_functions(self) -> None:
        if not self._to_read:
            return
        found = self._database.functions()
        self._to_read = False
        self._read_at = time.monotonic()
        self._leases = {name: policy.lease for name, policy in found.items() if policy.lease}
        if self._to_register is None:
            self._to_register = [
                (name, policy) for name, policy in self._functions.items() if _adds(policy, found.get(name))
            ]
        if self._publishes:
            self.policies = self._outcomes.policies = found

    def _register(self) -> None:
        """Store the settings of some functions and that they renew, after all more urgent steps."""
        if self._to_register:
            part = self._to_register[-_FUNCTIONS:]
            self._database.register_functions(dict(part))
            for name, policy in part:
                if policy.lease:
                    self._leases[name] = policy.lease
            del self._to_register[-_FUNCTIONS:]
            if self._to_register:
                self._wake.set()

    def _set_lease(self, run: Execution) -> None:
        """Give a run the lease set for its function, if that is known, instead of its payload's."""
        lease = self._leases.get(run.job.funcname)
        if lease is not None and run.job.lease and run.job.lease != lease:
            run.job = replace(run.job, lease=lease)

    def _due_of(self, job: Job) -> int:
        """Return when a job that goes back is due: at most now, even if its payload has a later time."""
        if self._offset is None:
            return job.run_after
        return min(job.run_after, int(time.monotonic() + self._offset))

    def _read_clock(self) -> None:
        if self._offset is None:
            # Read before the call: should this process stand still meanwhile, leases seem over too early,
            # which costs a start check, and not too late.
            before = time.monotonic()
            self._offset = self._database.clock() - before

    def _start_checks(self) -> None:
        now = time.monotonic()
        runs = self._checks.take_due(now, _GROUP) + self._checks.take(len(self._checks))
        if not runs:
            return
        kept: set[Handle] = set()
        try:
            failed = self._renewed([run for run in runs if run.job.attempt is not None], kept)
            strangers = [run for run in runs if run.job.attempt is None]
            failed += self._writer.write(strangers, self._adopt, jobid_of) if strangers else []
        except Exception:
            self._checks.put_back(runs)
            raise
        later = {id(run) for run, error in failed if not is_unfit(error)}
        for run, error in failed:
            if id(run) in later:
                self._checks.put_aside(run, error, now)
        for run in runs:
            if id(run) not in later:
                self._checks.forget([run])
                run.checked = run.job.attempt is not None and (run.adopted or run.job.handle in kept)
                self._on_checked(run, run.checked)

    def _adopt(self, runs: Sequence[Execution], left: set[int] | None) -> None:
        """Take attempts for copies that came without one."""
        # If two copies of one job arrive, the second finds it taken.
        first = {run.job.jobid: run for run in reversed(runs)}
        leases: dict[int, list[int]] = {}
        for jobid, run in first.items():
            leases.setdefault(self._leases.get(run.job.funcname, LEASE), []).append(jobid)
        locked: set[int] = set()
        for lease, jobids in leases.items():
            for job in self._database.adopt(jobids, lease=lease, locked=left):
                run = first[job.jobid]
                run.job = replace(job, run_after=run.job.run_after, arg=run.job.arg)
                run.adopted = True
            locked.update(left or ())
        if left is not None:
            left |= locked

    def _mark_leased(self) -> None:
        """Take back what the start checks of dropped runs wrote: nobody runs them, so leases may end."""

        def mark_leased(runs: list[Execution], left: set[int] | None) -> None:
            self._database.mark_leased([run.job.handle for run in runs], locked=left)

        self._empty(self._dropped, mark_leased)

    def _empty(self, inbox: Inbox[Execution], write: Write[Execution]) -> list[Execution]:
        """Write the contents of an inbox; return the runs that were written. Invalid items are dropped."""
        now = time.monotonic()
        runs = inbox.take_due(now, _GROUP) + inbox.take(_GROUP)
        if not runs:
            return []
        try:
            failed = self._writer.write(runs, write, jobid_of)
        except Exception:
            inbox.put_back(runs)
            raise
        for run, error in failed:
            if not is_unfit(error):
                inbox.put_aside(run, error, now)
        rest = {id(run) for run, _ in failed}
        written = [run for run in runs if id(run) not in rest]
        inbox.forget(written)
        return written

    def _report(self) -> None:
        now = time.monotonic()
        while said := self._reports.take_due(now, _GROUP) + self._reports.take(_GROUP):
            try:
                failed = self._writer.write(said, self._write_reports, lambda report: report.handle.jobid)
            except Exception:
                self._reports.put_back(said)
                raise
            for one, error in failed:
                if isinstance(error, ConflictError):
                    self._reports.put_aside(one, error, now)
            rest = {id(one) for one, _ in failed}
            self._reports.forget(one for one in said if id(one) not in rest)
            # They must not delay outcomes.
            if dropped := [error for _, error in failed if not isinstance(error, ConflictError)]:
                events.emit(
                    "reports.dropped",
                    dbid=self._database.dbid,
                    reports=len(dropped),
                    error=str(dropped[0]),
                )

    def _write_reports(self, said: list[Report], left: set[int] | None) -> None:
        self._database.report(said, locked=left)

    def _commit(self) -> None:
        now = time.monotonic()
        if late := self._ended.take_due(now, _GROUP):
            self._end_runs(self._outcomes.commit(late))
        while self._ended:
            began = time.monotonic()
            if self._crowd.waits(len(self._ended), began):
                return
            self._report()  # what they said before they ended
            group = self._ended.take(_GROUP)
            ended = self._outcomes.commit(group)
            self._crowd.stored(len(group) + len(self._ended), began, time.monotonic())
            self._end_runs(ended)

    def _end_runs(self, runs: list[Execution]) -> None:
        for run in runs:
            run.renews = False
        if runs:
            self._on_committed(runs)

    def _renew(self) -> None:
        now = time.monotonic()
        while self._holds and self._holds[0].renew_at <= now:
            self._due.append(self._holds.popleft())
        while self._renewals and self._renewals[0][0] <= now + (_TOGETHER if self._due else 0):
            self._due.append(heappop(self._renewals)[2])
        due = [run for run in self._due if run.renews]
        if not due:
            self._due.clear()
            return
        for run in due:
            # What lies here unstarted until its first renewal another worker may have.
            if not run.dropped and self._take_back(run):
                run.dropped = True
                self._to_give_back.put(run)
        kept: set[Handle] = set()
        failed = self._renewed([run for run in due if not run.dropped], kept)
        unknown = {id(run) for run, _ in failed}
        self._due.clear()
        for run in due:
            run.renew_at = now + (_LOCKED_RENEWAL if id(run) in unknown else run.job.lease / 3)
            if run.dropped:
                run.renews = False
            elif run.job.handle in kept or id(run) in unknown:
                heappush(self._renewals, (run.renew_at, id(run), run))
            else:
                # Another attempt has it. Success still counts; what else it comes to, the fence refuses.
                run.renews = False
                force_setattr(run.job, "superseded", True)
                events.emit("job.stale", jobid=run.job.jobid, dbid=run.job.dbid, attempt=run.job.attempt)
        if now - self._read_at > _FUNCTIONS_AGE and self._functions:
            self._to_read = True
        self._offset = None
        self._read_clock()

    def _give_back(self) -> None:
        def give_back(runs: list[Execution], left: set[int] | None) -> None:
            self._database.give_back([run.job.handle for run in runs], locked=left)

        if runs := self._empty(self._to_give_back, give_back):
            events.emit("jobs.given_back", jobs=len(runs))
            self._on_given_back(runs)

    def _end_overdue(self) -> None:
        """Record that the main thread's job runs too long, and end this process."""
        run = self.current
        if run is None or not run.deadline or time.monotonic() < run.deadline:
            return
        if self._child is None:
            run.deadline = 0.0
            events.emit("job.overdue", jobid=run.job.jobid, seconds=run.limit)
            return
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        setback = Setback(
            handle=run.job.handle,
            kind="failed",
            error="TimeLimit",
            message=f"ran longer than {run.limit:g} s",
            trace="".join(traceback.format_stack(frame)),
            worker=run.worker,
        )
        self._outcomes.settle(setback)
        if self.current is run:
            self._on_overdue(run)

    def _renewed(self, runs: Sequence[Execution], kept: set[Handle]) -> list[tuple[Execution, Exception]]:
        """Renew the leases of these; return the runs for which that could not be done, with the reason.

        The handles that still hold their job are put into ``kept``.
        """
        leases: dict[int, list[Execution]] = {}
        for run in runs:
            leases.setdefault(run.job.lease, []).append(run)
        failed: list[tuple[Execution, Exception]] = []
        for lease, part in leases.items():

            def renew(runs: list[Execution], left: set[int] | None, lease: int = lease) -> None:
                handles = [run.job.handle for run in runs]
                kept.update(self._database.renew(handles, lease=lease, locked=left))

            failed += self._writer.write(part, renew, jobid_of)
        return failed


class _Step:
    """One step of a keeper's round."""

    def __init__(self, run: Callable[[], None]) -> None:
        self.run = run
        #: The last error, and the monotonic time before which it is not retried.
        self.error: Exception | None = None
        self.not_before = 0.0
        self._backoff = Backoff(first=0.05, longest=2.0)

    def failed(self, error: Exception) -> None:
        """Postpone it for a while."""
        self.error = error
        self.not_before = time.monotonic() + self._backoff.failed()

    def succeeded(self) -> None:
        """Run it in each round again."""
        if self.error is not None:
            self.error = None
            self.not_before = 0.0
            self._backoff.succeeded()


def _adds(policy: FunctionPolicy, found: FunctionPolicy | None) -> bool:
    """Return whether a worker's settings for a function differ from the stored ones."""
    if found is None:
        return True
    return any(
        given is not None and given != before and not (name == "renews" and before is not None)
        for name, given, before in (
            (name, getattr(policy, name), getattr(found, name)) for name in FunctionPolicy.__slots__
        )
    )
