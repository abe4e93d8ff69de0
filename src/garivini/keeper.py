"""The keepers of a worker or Controller: they commit what jobs came to, and renew the leases of the rest.

There is one a database, in a thread with a connection of its own: a database that hangs holds up none of the
others, and a handler that computes holds up none. (C code that holds the interpreter lock for long silences
them; a lease should be much longer than that.) What arrived while one commit ran makes the next group, so a
group is small when the worker is idle and large when busy.
"""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from heapq import heappop, heappush
from typing import Final

import msgspec
from msgspec.structs import force_setattr, replace

from garivini import events
from garivini.client import report
from garivini.copies import Copy
from garivini.errors import OutcomeUnknownError, RefusedError
from garivini.gearman.aio import Held
from garivini.gearman.servers import Backoff
from garivini.job import Handle, Job
from garivini.policy import LEASE, Crowd, FunctionPolicy
from garivini.store.database import Database, Setback
from garivini.store.records import Finish, Report
from garivini.supervisor import Child

#: Outcomes in one commit, at most.
_GROUP: Final = 1000
#: Seconds until the first renewal, and a third of the lease at most. It tells the database that the job runs:
#: from then on a server that forgets it does not make it run twice.
_FIRST_RENEWAL: Final = 1.0
#: Seconds within which renewals are made together.
_TOGETHER: Final = 0.2
#: Lines of running jobs that may wait for a database. More are dropped: a job must not fill the memory.
_REPORTS: Final = 20_000


class Run(msgspec.Struct, eq=False):
    """A job in this process: the copy that Gearman gave, and what became of it."""

    job: Job
    held: Held
    #: Name of the worker, for the record.
    worker: str
    #: The name of the copy, whatever attempt it is given later.
    copy: Copy = (0, 0, None)
    #: Its lease is renewed from now on, at this monotonic time for the next time.
    renews: bool = False
    renew_at: float = 0.0
    #: How it ended, where that is not success.
    setback: Setback | None = None
    #: It ended without an outcome of its own: the job waits again as it did before.
    returned: bool = False
    #: What it answered, where it succeeded.
    result: bytes = b""
    #: Monotonic time by which it must have ended, and the seconds it had; 0: any.
    deadline: float = 0.0
    limit: float = 0.0
    #: Its copy came without an attempt, and has got one.
    adopted: bool = False
    #: Its start check renewed the lease.
    checked: bool = False
    #: Given up before it started: its lease is not ours to renew any more.
    dropped: bool = False


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
        on_committed: Callable[[list[Run]], None],
        on_checked: Callable[[Run, bool], None],
        take_back: Callable[[Run], bool],
        on_given_back: Callable[[list[Run]], None],
        on_overdue: Callable[[Run], None] = lambda run: None,
        functions: Mapping[str, FunctionPolicy] = {},  # not changed
        child: Child | None = None,
    ) -> None:
        self._database = database
        self._on_committed = on_committed
        self._on_checked = on_checked
        self._take_back = take_back
        self._on_given_back = on_given_back
        self._on_overdue = on_overdue
        self._to_register = list(functions.items())
        self._child = child
        self._obituaries = [
            one for one in (child.obituaries if child else ()) if one.handle.dbid == database.dbid
        ]
        #: Whether the database did not do what was asked last.
        self.in_trouble = False
        #: What is set for each function, as read last; None before the first ``read_functions``.
        self.policies: Mapping[str, FunctionPolicy] | None = None
        #: What the worker's main thread is running just now.
        self.current: Run | None = None
        # Filled by the worker's thread, emptied by the keeper's: a deque's ends are safe for that.
        self._holds: deque[Run] = deque()
        self._checks: deque[Run] = deque()
        self._dropped: deque[Run] = deque()
        self._ended: deque[Run] = deque()
        self._reports: deque[Report] = deque()
        self._to_read = False
        self._crowd = Crowd()
        self._wake = threading.Event()
        self._asleep_until = 0.0
        self._stopping = False
        # First renewals are in ``_holds``, in their order, for all are due after the same time. Here are
        # later ones, by their time. What has ended is passed over. And what is being renewed.
        self._renewals: list[tuple[float, int, Run]] = []
        self._due: list[Run] = []
        self._to_give_back: list[Run] = []
        self._backoff = Backoff(first=0.05, longest=2.0)
        self._offset: float | None = None  # of the database's clock to the monotonic one
        self._name = f"keeper of database {database.dbid}"
        self._thread = threading.Thread(
            target=self._loop, name=f"garivini-keeper-{database.dbid}", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._wake.set()  # for what is to be registered and recorded at the start
        self._thread.start()

    def hold(self, run: Run) -> None:
        """Renew this run's lease from now on, until it has ended."""
        if run.job.lease:
            run.renews = True
            run.renew_at = time.monotonic() + min(run.job.lease / 3, _FIRST_RENEWAL)
            self._holds.append(run)
            if run.renew_at < self._asleep_until:
                self._wake.set()

    def limit(self, run: Run, seconds: float) -> None:
        """End this process if the run, which starts now in the main thread, takes longer."""
        run.limit = seconds
        run.deadline = time.monotonic() + seconds
        if run.deadline < self._asleep_until:
            self._wake.set()

    def check(self, run: Run) -> None:
        """Ask the database whether this run's attempt still holds the job; ``on_checked`` gets the answer."""
        self._checks.append(run)
        self._wake.set()

    def drop(self, run: Run) -> None:
        """Give up a run that has not started and whose connection is lost."""
        run.dropped = True
        if run.checked:
            self._dropped.append(run)
            self._wake.set()

    def end(self, run: Run) -> None:
        """Commit the run's outcome: ``setback``, or success where there is none."""
        self._ended.append(run)
        if self._crowd.waits(len(self._ended), time.monotonic()):
            return  # the thread wakes by itself when that is over
        if not self._wake.is_set():  # which takes no lock
            self._wake.set()

    def report(self, said: Report) -> None:
        """Keep what a running job said of itself."""
        if len(self._reports) < _REPORTS:
            self._reports.append(said)
            self._wake.set()
        else:
            events.emit("reports.dropped", dbid=said.handle.dbid, reports=1, error="too many wait")

    def read_functions(self) -> None:
        """Read what is set for each function into ``policies``."""
        self._to_read = True
        self._wake.set()

    def must_check(self, run: Run) -> bool:
        """Return whether a copy that has just arrived is checked before its start.

        It may have been replaced or ended: one of a later attempt, one whose lease is over, and one that came
        on a reopened connection and was claimed before, for the server may have given it to somebody on the
        lost one. A copy without an attempt comes from a QueueRunner of the original and needs one of ours.
        """
        job = run.job
        if job.attempt is None or job.attempt > 1:
            return True
        if not job.lease:
            return False
        offset = self._offset  # read once: another thread sets it
        if offset is None or time.monotonic() + offset > job.lease_end:
            return True
        reopened_at = run.held.reopened_at
        # The claim's time is in whole seconds.
        return reopened_at is not None and job.lease_end - job.lease - 1 <= reopened_at + offset + 1

    def stop(self) -> None:
        """Commit what has ended and end the thread."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    # ---- in the thread

    def _loop(self) -> None:
        while True:
            self._wake.wait(self._until_next())
            self._wake.clear()
            try:
                self._register()
                self._read_functions()
                self._read_clock()
                self._start_checks()
                self._report()
                self._commit()
                self._unstart()
                self._renew()
                self._give_back()
                self._end_overdue()
            except Exception as error:
                # What could not be committed is still in its queue. Nothing is dropped: until the database
                # is back the worker's slots stay taken, so it asks for no more.
                if not self.in_trouble:
                    events.emit("role.error", role=self._name, error=str(error))
                self.in_trouble = True
                time.sleep(self._backoff.failed())
                self._wake.set()
            else:
                if self.in_trouble:
                    events.emit("role.recovered", role=self._name)
                self.in_trouble = False
                self._backoff.succeeded()
                if self._stopping and not self._ended:
                    return

    def _until_next(self) -> float:
        while self._holds and not self._holds[0].renews:
            self._holds.popleft()
        while self._renewals and not self._renewals[0][2].renews:
            heappop(self._renewals)
        first = self._renewals[0][0] if self._renewals else float("inf")
        if self._holds:
            first = min(first, self._holds[0].renew_at)
        if (current := self.current) is not None and current.deadline:
            first = min(first, current.deadline)
        now = time.monotonic()
        if self._ended or now < self._crowd.until:
            # Who ends a run before that time leaves it to this thread to wake.
            first = min(first, self._crowd.until)
        # No longer than until the first renewal of a job that comes now: then it need not wake this thread,
        # which would compete with the job's start.
        self._asleep_until = min(first, now + _FIRST_RENEWAL)
        return max(0.0, self._asleep_until - now)

    def _register(self) -> None:
        """Say what the functions set and that they renew, and record the jobs that killed another process."""
        while self._to_register:
            funcname, policy = self._to_register[-1]
            self._database.set_function(funcname, policy, by_worker=True)
            self._to_register.pop()
        while self._child is not None and self._obituaries:
            handle, kind, message = astuple(self._obituaries[-1])
            setback = Setback(
                handle=Handle(*handle),
                kind=kind,
                error="TimeLimit" if kind == "failed" else "ProcessDied",
                message=message,
            )
            try:
                (settled,) = self._database.settle([setback])
            except OutcomeUnknownError:
                # A failure ends its attempt, so it counts once. A death counts each time it is told, and one
                # too many could bury a job that does no harm: better none.
                if kind == "failed":
                    raise
            else:
                report(setback, settled)
            self._child.obituaries.remove(self._obituaries.pop())
            if not self._child.obituaries:  # the last of all keepers says so
                self._child.slot.tell()

    def _read_functions(self) -> None:
        if self._to_read:
            self.policies = self._database.functions()
            self._to_read = False

    def _read_clock(self) -> None:
        if self._offset is None:
            # Read before the call: should this process stand still meanwhile, leases seem over too early,
            # which costs a start check, and not too late.
            before = time.monotonic()
            self._offset = self._database.clock() - before

    def _start_checks(self) -> None:
        runs = [self._checks[index] for index in range(len(self._checks))]
        kept = self._renewed([run for run in runs if run.job.attempt is not None])
        self._adopt([run for run in runs if run.job.attempt is None])
        for run in runs:
            mine = run.job.attempt is not None and (run.adopted or run.job.handle in kept)
            self._checks.popleft()
            run.checked = mine
            self._on_checked(run, mine)

    def _adopt(self, runs: Sequence[Run]) -> None:
        """Take attempts for copies that came without one."""
        # Of two copies of one job the second finds it taken.
        first = {run.job.jobid: run for run in reversed(runs)}
        for job in self._database.adopt(list(first), lease=LEASE) if runs else ():
            run = first[job.jobid]
            run.job = replace(job, run_after=run.job.run_after, arg=run.job.arg)
            run.adopted = True

    def _unstart(self) -> None:
        """Take back what the start checks of dropped runs wrote: nobody runs them, so leases may end."""
        runs = [self._dropped[index] for index in range(len(self._dropped))]
        if runs:
            self._database.unstart([run.job.handle for run in runs])
        for _ in runs:
            self._dropped.popleft()

    def _report(self) -> None:
        while self._reports:
            said = [self._reports[index] for index in range(min(len(self._reports), _GROUP))]
            try:
                self._database.report(said)
            except RefusedError as error:
                # They must not stand in the way of outcomes.
                events.emit("reports.dropped", dbid=self._database.dbid, reports=len(said), error=str(error))
            for _ in said:
                self._reports.popleft()

    def _commit(self) -> None:
        while self._ended:
            began = time.monotonic()
            if self._crowd.waits(len(self._ended), began):
                return
            group = [self._ended[index] for index in range(min(len(self._ended), _GROUP))]
            self._report()  # what they said before they ended
            self._commit_group(group)
            for run in group:
                self._ended.popleft()
                run.renews = False
            self._crowd.stored(len(group) + len(self._ended), began, time.monotonic())
            self._on_committed(group)

    def _commit_group(self, runs: list[Run]) -> None:
        done = {run.job.jobid: run for run in runs if run.setback is None and not run.returned}
        kept = [finish for run in done.values() if (finish := self._finish(run)) is not None]
        gone = self._database.finish(kept) if kept else set()
        if len(done) > len(kept):
            gone |= self._database.complete(done.keys() - {finish.jobid for finish in kept})
        for jobid in done.keys() - gone:
            events.emit("job.completed_before", jobid=jobid, dbid=self._database.dbid)
        # A copy of the original's QueueRunner that was not adopted is in nobody's hands.
        returned = [run.job for run in runs if run.returned and run.job.attempt is not None]
        if returned:
            self._database.unstart([job.handle for job in returned])
            self._database.release(returned)
            events.emit("jobs.returned", dbid=self._database.dbid, jobs=len(returned))
        setbacks = [run.setback for run in runs if run.setback is not None]
        if setbacks:
            for setback, settled in zip(setbacks, self._database.settle(setbacks), strict=True):
                report(setback, settled)

    def _finish(self, run: Run) -> Finish | None:
        """Return how a job that succeeded is kept, or None."""
        policy = self.policies.get(run.job.funcname) if self.policies else None
        if policy is None or policy.retention is None:
            return None
        return Finish(run.job.jobid, run.job.attempt, run.result, run.worker, policy.retention)

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
            if self._take_back(run):
                run.dropped = True
                self._to_give_back.append(run)
        kept = self._renewed([run for run in due if not run.dropped])
        self._offset = None
        self._read_clock()
        for run in due:
            run.renew_at = now + run.job.lease / 3
            if run.dropped:
                run.renews = False
            elif run.job.handle in kept:
                heappush(self._renewals, (run.renew_at, id(run), run))
            else:
                # Another attempt has it. Success still counts; what else it comes to, the fence refuses.
                run.renews = False
                force_setattr(run.job, "lost", True)
                events.emit("job.stale", jobid=run.job.jobid, dbid=run.job.dbid, attempt=run.job.attempt)
        self._due.clear()

    def _give_back(self) -> None:
        runs = self._to_give_back
        if not runs:
            return
        self._database.give_back([run.job.handle for run in runs])
        events.emit("jobs.given_back", jobs=len(runs))
        self._to_give_back = []
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
        (settled,) = self._database.settle([setback])
        report(setback, settled)
        if self.current is run:
            self._on_overdue(run)

    def _renewed(self, runs: Sequence[Run]) -> set[Handle]:
        """Renew the leases of these; return the handles that still hold their job."""
        leases: dict[int, list[Handle]] = {}
        for run in runs:
            leases.setdefault(run.job.lease, []).append(run.job.handle)
        kept: set[Handle] = set()
        for lease, handles in leases.items():
            kept |= self._database.renew(handles, lease=lease)
        return kept
