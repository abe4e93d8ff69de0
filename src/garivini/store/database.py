"""One database of jobs: what clients, dispatchers and workers do to its rows. Blocking; safe for threads."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from garivini.errors import ConflictError, RefusedError, UsageError
from garivini.model.inserted import Inserted
from garivini.model.job import Handle, Job, NewJob
from garivini.model.lease import MIN_LEASE, OTHERS_LEASE
from garivini.model.limits import NEVER, PRIORITIES
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Report, Setback, Settled, Success
from garivini.model.pacing import BATCH_BYTES
from garivini.model.policy import MAX_CRASHES, MAX_FAILURES, FunctionPolicy
from garivini.model.records import FailedAttempt
from garivini.model.state import State
from garivini.model.when import At, Never, Offset, backoff
from garivini.store.chunks import CHUNK, by_attempt, chunks
from garivini.store.connections import Run, again
from garivini.store.failures import OMITTED, prune
from garivini.store.records import Records, pass_over, storable
from garivini.store.rows import readable

#: Bytes of an argument that is read with its row: 1,000 of them are less than a claim may have.
_SMALL: Final = 4096
#: Maximum characters of a failure's message, and of its trace.
_MAX_TEXT: Final = 65_535


class Lane(NamedTuple):
    """Jobs of one function, state and priority, in the order in which they are due."""

    funcname: str
    state: State
    priority: str
    #: Unix time at which its first job is due, or its first lease ends.
    due: int


class Lanes(NamedTuple):
    """The lanes that hold jobs, the most urgent first, and the database's time when it said so."""

    now: float
    lanes: list[Lane]
    #: Names of functions that are not text: their jobs cannot be dispatched.
    broken: frozenset[bytes] = frozenset()


class Lapsed(NamedTuple):
    """A lease that ran out: what a decision about it rests on, and what its write must find unchanged."""

    jobid: int
    attempt: int
    flag: str
    crashes: int
    #: Unix time of the claim, or of the last time that a server said "queued"; and seconds since then.
    since: int
    age: int
    state: State
    #: Another program has written ``run_after`` meanwhile. That time has come, and nobody holds the job.
    put_off: bool = False
    #: Its own function: in a table of the original it may differ in case from the lane's.
    funcname: str = ""


class Count(NamedTuple):
    """How many jobs of a function are in a state, and the earliest ``run_after`` among them."""

    funcname: str
    state: State
    jobs: int
    first: int


class Waiting(NamedTuple):
    """Numbers of waiting jobs: due, delayed until a given time, backed off after a failure."""

    due: int
    delayed: int
    backed_off: int


class _TakeBack(Exception):
    """Ends a transaction without a trace."""


class Database(Records):
    """One database that holds jobs.

    Constructing it does no I/O. Each method is one transaction: it happens as a whole or not at all. All of
    them raise what ``garivini.errors`` lists: ``UnreachableError``, ``RefusedError``, ``ConflictError``,
    ``OutcomeUnknownError`` and ``SchemaError`` in the first place.
    """

    # ---- jobs in

    @again
    def insert(self, jobs: Sequence[NewJob], *, connection: Any = None) -> list[Inserted]:
        """Insert jobs in one transaction; return one answer each, in order.

        One with a lease is stored as if it had been claimed: attempt 1, leased.

        ``connection``: a caller's own (see ``callers.cursor_of``); then it is the caller's transaction.
        """
        answers: list[Inserted | None] = [None] * len(jobs)
        # In the order of the keys, so that two who insert the same ones do not wait for each other.
        keyed = sorted(
            (index for index, job in enumerate(jobs) if job.uniqkey is not None),
            key=lambda index: (jobs[index].funcname, jobs[index].uniqkey),
        )
        unkeyed = [index for index, job in enumerate(jobs) if job.uniqkey is None]
        sizes = [len(job.arg) for job in jobs]
        fits = len(jobs) <= CHUNK and sum(sizes) <= min(BATCH_BYTES, self._dialect.statement_bytes)
        single = len(jobs) == 1 or (not keyed and fits)
        within = (
            self.transaction(single=single) if connection is None else self.joined(connection, _texts(jobs))
        )
        with within as run:
            bound = self._dialect.statement_bytes  # known from here on
            self._check_sizes(jobs, sizes, bound)
            for part in chunks(unkeyed, sizes, bound):
                stored = self._dialect.insert(run, [_insert_row(jobs[index]) for index in part])
                for index, (jobid, created) in zip(part, stored, strict=True):
                    answers[index] = Inserted(jobid, self.dbid, created=created)
            for part in chunks(keyed, sizes, bound):
                self._insert_keyed(run, jobs, part, answers)
        return [answer for answer in answers if answer is not None]

    def _check_sizes(self, jobs: Sequence[NewJob], sizes: Sequence[int], bound: int) -> None:
        size = max(sizes, default=0)
        if size > bound:
            raise UsageError(
                f"{self.where} takes arguments of at most {bound} bytes, by its "
                f"{self._dialect.statement_setting}; one for {jobs[sizes.index(size)].funcname} has {size}: "
                "raise that, or store it elsewhere"
            )

    def _insert_keyed(
        self,
        run: Run,
        jobs: Sequence[NewJob],
        part: list[int],
        answers: list[Inserted | None],
        tries: int = 5,
    ) -> None:
        gone: list[int] = []
        rows = self._dialect.insert_keyed(run, [_insert_row(jobs[index]) for index in part])
        new = {
            # A caller's connection may return texts as bytes.
            (readable(funcname), readable(uniqkey)): (jobid, created)
            for jobid, created, funcname, uniqkey in rows
        }
        known: dict[tuple[str, str | None], int] = {}
        taken: dict[int, int] = {}
        for index in part:
            key = (jobs[index].funcname, jobs[index].uniqkey)
            if key in new:
                jobid, created = new.pop(key)
                known[key] = jobid
                answers[index] = Inserted(jobid, self.dbid, created=created)
                continue
            if key not in known:
                rows = run("live", funcname=key[0], uniqkey=key[1])
                if not rows:
                    gone.append(index)
                    continue
                if not _is_exact(rows[0]):
                    raise RefusedError(
                        f"{self.where} cannot store a job of {key[0]} with unique key {key[1]!r}: by its "
                        f"collation job {rows[0][0]} has the same function and key. Convert the columns "
                        "funcname and uniqkey to one that compares bytes, or use another key"
                    )
                known[key] = rows[0][0]
            taken[index] = known[key]
        states = _states(run, taken.values())
        for index, jobid in taken.items():
            answers[index] = Inserted(jobid, self.dbid, new=False, state=states.get(jobid))
        if not gone:
            return
        if not tries:
            raise ConflictError(f"{self.where}: jobs of a unique key came and went; try again")
        # Their live jobs ended between the two statements.
        self._insert_keyed(run, jobs, gone, answers, tries - 1)

    @again
    def live(self, funcname: str, uniqkey: str, *, exact: bool = True) -> Inserted | None:
        """Return the live job of a key as an insert answers it, or None.

        ``exact``: not of a key that is equal only by the collation of a table of the original.
        """
        with self.reading() as run:
            rows = run("live", funcname=funcname, uniqkey=uniqkey)
            if not rows or (exact and not _is_exact(rows[0])):
                return None
            jobid = rows[0][0]
            return Inserted(jobid, self.dbid, new=False, state=_states(run, [jobid]).get(jobid))

    # ---- jobs out

    @again
    def lanes(self) -> Lanes:
        """Return the lanes that hold jobs, dead ones left out."""
        with self.reading() as run:
            rows = self._dialect.lanes(run)
        found, broken = [], set()
        for funcname, state, priority, due, _ in rows:
            name = funcname if type(funcname) is str else self._dialect.name_of(funcname)
            if isinstance(name, bytes):
                broken.add(name)
            else:
                found.append(Lane(name, State(state), PRIORITIES[priority], int(due)))
        return Lanes(rows[0][4] if rows else 0.0, found, frozenset(broken))

    def park_broken(self, names: Collection[bytes]) -> list[tuple[Setback, Settled]]:
        """Park jobs, at most 1,000 of each name, whose function's name is not text."""
        setbacks = []
        with self.reading() as run:
            for name in names:
                message = f"the name of its function is not UTF-8 text: {name!r:.500}"
                setbacks += [
                    Setback(handle=Handle(jobid, self.dbid), kind="parked", error="BadRow", message=message)
                    for (jobid,) in run("named", funcname=name, limit=CHUNK)
                ]
        return list(zip(setbacks, self.settle(setbacks), strict=True)) if setbacks else []

    @again
    def claim(
        self, lane: Lane, *, limit: int, lease: int | Callable[[str], int], max_bytes: int = BATCH_BYTES
    ) -> list[Job]:
        """Take due jobs of a lane: raise their attempt and lease them.

        Args:
            lane: of state WAITING.
            limit: jobs, at most.
            lease: seconds, or what returns them for a function.
            max_bytes: of arguments; one larger job alone is taken all the same.

        Returns:
            The jobs in the order in which they were due, ``run_after`` being that time. Each has the function
            of its row, which in a table of the original may differ in case from the lane's. ``created`` and
            ``crashes`` are left out: each column costs, and nobody who dispatches asks for them.

        """
        with self.transaction() as run:
            rows = run(
                "due",
                funcname=lane.funcname,
                priority=PRIORITIES.index(lane.priority),
                limit=limit if type(limit) is not int else min(limit, CHUNK),
                small=_SMALL,
            )
            if not rows:
                return []
            large = sorted(row[0] for row in rows if row[2] is None)
            if large:
                rows, args = self._fitting(run, rows, large, max_bytes)
            else:
                rows, args = _first(rows, [len(row[2]) for row in rows], max_bytes), {}
            now = rows[0][8]
            names = [row[9] if len(row) > 9 else lane.funcname for row in rows]
            leases = {name: lease(name) if callable(lease) else lease for name in set(names)}
            for seconds in sorted(set(leases.values())):
                jobids = [row[0] for row, name in zip(rows, names, strict=True) if leases[name] == seconds]
                run("claim", jobids=sorted(jobids), now=now, lease_end=now + seconds + 1)
        return [
            Job(
                jobid=jobid,
                dbid=self.dbid,
                funcname=funcname,
                arg=args[jobid] if arg is None else arg,
                uniqkey=uniqkey,
                coalesce=coalesce,
                run_after=run_after,
                flag=flag or "shim",
                failcount=failcount,
                attempt=attempt + 1,
                priority=lane.priority,
                state=State.LEASED,
                since=now,
                lease=leases[funcname],
                lease_end=now + leases[funcname] + 1,
            )
            for funcname, (jobid, run_after, arg, uniqkey, coalesce, flag, failcount, attempt, *_) in zip(
                names, rows, strict=True
            )
        ]

    @again
    def head(self, lane: Lane) -> int | None:
        """Return the id of the next job that a claim would take from a lane, or None."""
        with self.transaction() as run:
            rows = run(
                "due", funcname=lane.funcname, priority=PRIORITIES.index(lane.priority), limit=1, small=_SMALL
            )
        return rows[0][0] if rows else None

    def _fitting(
        self, run: Run, rows: Sequence[Any], large: list[int], max_bytes: int
    ) -> tuple[Sequence[Any], dict[int, bytes]]:
        """Return the first rows whose arguments are not too much together, and those that are not in them."""
        sizes = dict(run("sizes", jobids=large))
        rows = _first(rows, [sizes[row[0]] if row[2] is None else len(row[2]) for row in rows], max_bytes)
        jobids = sorted(row[0] for row in rows if row[2] is None)
        return rows, dict(run("args", jobids=jobids)) if jobids else {}

    @again
    def release(self, jobs: Collection[Job], *, locked: set[int] | None = None) -> None:
        """Give back claims that were not sent: waiting at their old time."""
        with self.transaction() as run:
            passed = pass_over(run, (job.jobid for job in jobs), locked)
            for job in sorted(jobs, key=lambda job: job.jobid):
                if job.jobid not in passed:
                    run("release", jobid=job.jobid, attempt=job.attempt, run_after=job.run_after)

    @again
    def end_early(self, handles: Collection[Handle], *, lease: int, locked: set[int] | None = None) -> None:
        """End the leases, of so many seconds, of attempts that may have got lost on their way."""
        with self._unlocked(handles, locked) as (run, free):
            for attempt, jobids in by_attempt(free):
                run("end_early", jobids=jobids, attempt=attempt, lease=lease)

    @again
    def expired(self, lane: Lane, *, limit: int) -> list[Lapsed]:
        """Return leases of a lane that ran out."""
        with self.reading() as run:
            rows = run(
                "expired",
                funcname=lane.funcname,
                state=lane.state,
                priority=PRIORITIES.index(lane.priority),
                limit=limit,
            )
        return [Lapsed._make((*row[:6], lane.state, bool(row[6]), row[7])) for row in rows]

    @again
    def requeue(self, jobids: Collection[int], *, locked: set[int] | None = None) -> None:
        """Make jobs waiting that another program put off while they were leased and that are due now."""
        with self.transaction() as run:
            passed = pass_over(run, jobids, locked)
            if free := sorted(set(jobids) - set(passed)):
                run("requeue", jobids=free)

    @again
    def extend(
        self, steps: Sequence[tuple[Lapsed, State, int, bool]], *, locked: set[int] | None = None
    ) -> None:
        """Let leases that ran out go on.

        Each step has the new state, the seconds, and whether a server says that it is queued there. Where
        anything has changed since it was read, nothing happens.
        """
        with self.transaction() as run:
            passed = pass_over(run, (step[0].jobid for step in steps), locked)
            for lapsed, state, seconds, queued in steps:
                if lapsed.jobid in passed:
                    continue
                run(
                    "extend",
                    jobid=lapsed.jobid,
                    attempt=lapsed.attempt,
                    state=lapsed.state,
                    new_state=state,
                    seconds=seconds,
                    queued=queued,
                )

    @again
    def reclaim(
        self, steps: Sequence[tuple[Lapsed, bool]], *, lease: int, locked: set[int] | None = None
    ) -> list[Job]:
        """Claim again what ran out for good: each with whether its holder is known to have crashed.

        Where anything has changed since it was read, nothing happens and no job is returned. Their
        ``run_after`` is when the attempt before was claimed: a release makes them due at once.
        """
        jobs = []
        with self.transaction() as run:
            passed = pass_over(run, (step[0].jobid for step in steps), locked)
            for lapsed, crashed in steps:
                if lapsed.jobid in passed:
                    continue
                rows = run(
                    "reclaim",
                    jobid=lapsed.jobid,
                    attempt=lapsed.attempt,
                    state=lapsed.state,
                    lease=lease,
                    crashed=crashed,
                )
                jobs += [self._job(row, lease=lease, due=lapsed.since) for row in rows]
        return jobs

    @again
    def adopt(self, jobids: Collection[int], *, lease: int, locked: set[int] | None = None) -> list[Job]:
        """Take an attempt for each copy that came without one, from a QueueRunner of the original.

        Returns the jobs without their arguments, which the copies have. Jobs that are already running, dead
        or deleted are omitted.
        """
        jobs: list[Job] = []
        with self.transaction() as run:
            passed = pass_over(run, jobids, locked)
            for part in chunks(sorted(set(jobids).difference(passed))):
                free = sorted(jobid for (jobid,) in run("adoptable", jobids=part))
                rows = run("adopt", jobids=free, lease=lease) if free else ()
                jobs += [self._job(row, lease=lease) for row in rows]
        return jobs

    @again
    def dispatched(
        self, lane: Lane, *, age: int, since: int = 0, after: int = 0, limit: int = CHUNK
    ) -> list[tuple[Handle, int]]:
        """Return attempts that were handed to Gearman at least ``age`` seconds ago, with their leases' ends.

        Only those handed over after the unix time ``since`` whose leases go on and end at or after ``after``,
        in that order.
        """
        priority = PRIORITIES.index(lane.priority)
        with self.reading() as run:
            rows = run(
                "dispatched",
                funcname=lane.funcname,
                priority=priority,
                age=age,
                since=since,
                after=after,
                limit=limit,
            )
        return [(Handle(jobid, self.dbid, attempt), run_after) for jobid, attempt, run_after in rows]

    @again
    def leased(self, funcname: str, *, lease: int, limit: int) -> int:
        """Return the number of jobs of a function that are in Gearman and not started yet, at most ``limit``.

        ``lease``: seconds of the caller's leases. A row that was put off for longer is not counted.
        """
        lease = max(lease, OTHERS_LEASE)
        with self.reading() as run:
            return int(run("leased", funcname=funcname, lease=lease, limit=limit)[0][0])

    @again
    def give_back(self, handles: Collection[Handle], *, locked: set[int] | None = None) -> None:
        """Let jobs wait again that a worker holds and has not started."""
        with self._unlocked(handles, locked) as (run, free):
            for attempt, jobids in by_attempt(free):
                run("give_back", jobids=jobids, attempt=attempt)

    @again
    def mark_leased(self, handles: Collection[Handle], *, locked: set[int] | None = None) -> None:
        """Let jobs count as handed out, and not as running, that a holder renewed and will not start.

        Their leases go on, for the server may have given the copies to another worker.
        """
        with self._unlocked(handles, locked) as (run, free):
            for attempt, jobids in by_attempt(free):
                run("mark_leased", jobids=jobids, attempt=attempt)

    @contextmanager
    def _unlocked(
        self, handles: Collection[Handle], locked: set[int] | None
    ) -> Iterator[tuple[Run, Collection[Handle]]]:
        """Begin a transaction; return its statements and the handles that it is to change."""
        with self.transaction() as run:
            passed = pass_over(run, (handle.jobid for handle in handles), locked)
            yield run, [handle for handle in handles if handle.jobid not in passed] if passed else handles

    # ---- the ends of attempts

    @again
    def renew(
        self, handles: Collection[Handle], *, lease: int, locked: set[int] | None = None
    ) -> set[Handle]:
        """Prolong the leases of what these attempts hold; return the handles that still hold their job."""
        kept: set[Handle] = set()
        with self._unlocked(handles, locked) as (run, free):
            for attempt, jobids in by_attempt(free):
                run("renew", jobids=jobids, attempt=attempt, lease=lease)
                rows = run("mine", jobids=jobids, attempt=attempt)
                kept.update(Handle(jobid, self.dbid, attempt) for (jobid,) in rows)
        return kept

    @again
    def settle(
        self,
        setbacks: Sequence[Setback],
        *,
        max_failures: int = MAX_FAILURES,
        locked: set[int] | None = None,
    ) -> list[Settled]:
        """Record the ends of attempts without success; return what became of each, in order.

        A fenced one applies only while its attempt holds the job.

        Args:
            setbacks: what ended.
            max_failures: after so many a job is dead, where its function has no number of its own.
            locked: see ``Records``.

        """
        with self.transaction() as run:
            passed = pass_over(run, (setback.handle.jobid for setback in setbacks), locked)
            return [
                Settled("locked")
                if setback.handle.jobid in passed
                else self._settle(run, setback, max_failures)
                for setback in setbacks
            ]

    def _settle(self, run: Run, setback: Setback, max_failures: int) -> Settled:
        jobid, _, fence = setback.handle
        rows = run("standing", jobids=[jobid])
        if not rows:
            return Settled("gone")
        _, attempt, number, failcount, crashes, most, held = rows[0]
        state = _state(number)
        if fence is not None and not (held and attempt == fence):
            return Settled("repeated" if run("recorded", jobid=jobid, attempt=fence) else "stale")
        if held or setback.kind != "rescheduled":
            self._record(run, setback, attempt)
        when = setback.when
        if setback.kind == "crashed":
            if held:  # nobody holds a job that was put off
                run("crash", jobid=jobid, attempt=attempt)
            if crashes + 1 < MAX_CRASHES:
                return Settled("applied", state, failcount)
            when = Never()
        if setback.kind == "failed":
            failcount = min(failcount + 1, 255)
        dead = setback.kind in ("discarded", "parked", "cancelled") or (
            setback.kind == "failed" and failcount >= (most or max_failures)
        )
        when = Never() if dead else when or Offset(backoff(failcount))
        unchanged = {"jobid": jobid, "attempt": attempt, "state": state, "failcount": failcount}
        match when:
            case Offset(seconds):
                run("put_back", **unchanged, delay=seconds)
            case At(time):
                run("put_at", **unchanged, run_after=time)
            case Never():
                run("put_at", **unchanged, run_after=NEVER)
        delay = when.seconds if isinstance(when, Offset) else None
        return Settled("applied", State.DEAD if when == Never() else State.WAITING, failcount, delay)

    def _record(self, run: Run, setback: Setback, attempt: int) -> None:
        # A statement larger than the server accepts ends the connection.
        most = max(1000, min(_MAX_TEXT, self._dialect.statement_bytes // 16))
        run(
            "record_failure",
            jobid=setback.handle.jobid,
            attempt=attempt,
            kind=setback.kind,
            error=storable(setback.error)[:255],
            message=storable(setback.message)[:most],
            trace=storable(setback.trace)[-most:],
            worker=storable(setback.worker)[:255],
        )
        prune(run, setback.handle.jobid, attempt)

    @again
    def count_run(self, handle: Handle) -> int:
        """Count a start of a job that this attempt holds; return its number, from 1 on.

        Raises:
            ConflictError: the attempt does not hold the job any more.

        """
        jobid, _, attempt = handle
        with self.transaction() as run:
            rows = run("count_run", jobid=jobid, attempt=attempt)
        if not rows:
            job = f"{self.dbid}:{jobid}"
            raise ConflictError(f"job {job} is not attempt {attempt}'s any more: this start has no number")
        return int(rows[0][0])

    # ---- functions

    @again
    def functions(self) -> dict[str, FunctionPolicy]:
        """Return what is set for each function."""
        with self.reading() as run:
            rows = run("functions")
        return {
            funcname: FunctionPolicy(
                lease=lease,
                deadline=deadline,
                renews=None if renews is None else bool(renews),
                envelope=envelope,
                max_failures=max_failures,
                retention=retention,
            )
            for funcname, lease, deadline, renews, envelope, max_failures, retention in rows
        }

    @again
    def register_functions(self, policies: Mapping[str, FunctionPolicy]) -> None:
        """Store the settings of a starting worker's functions; others stay as they are.

        ``renews`` is set only if it is not set yet: an operator may know of workers that do not renew.
        """
        rows = [_function_row(funcname, policy) for funcname, policy in sorted(policies.items())]
        with self.transaction() as run:
            for start in range(0, len(rows), CHUNK):
                run("register_functions", rows=rows[start : start + CHUNK])

    @again
    def set_function(self, funcname: str, policy: FunctionPolicy) -> None:
        """Store the settings in ``policy``; others stay as they are."""
        with self.transaction() as run:
            run("set_function", **_function_row(funcname, policy))

    @again
    def unset_function(self, funcname: str) -> None:
        """Go back to the defaults."""
        with self.transaction() as run:
            run("unset_function", funcname=funcname)

    # ---- for people

    @again
    def get(self, jobid: int) -> Job | None:
        """Return one job, or None."""
        with self.reading() as run:
            rows = run("get", jobid=jobid)
        return self._job(rows[0]) if rows else None

    @again
    def jobs(
        self,
        *,
        funcname: str | None = None,
        state: State | None = None,
        failed: bool = False,
        after: int = 0,
        limit: int = 100,
    ) -> list[Job]:
        """Return jobs by id, from the one after ``after`` on."""
        with self.reading() as run:
            rows = run("jobs", funcname=funcname, state=state, failed=failed, after=after, limit=limit)
        return [self._job(row) for row in rows]

    @again
    def failures(self, jobid: int) -> list[FailedAttempt]:
        """Return the record of a job's attempts that did not complete, oldest first.

        A long record has only its first and newest entries; ``omitted_failures`` returns the number of
        others.
        """
        return [record for record in self.record(jobid) if record.kind != OMITTED]

    @again
    def record(self, jobid: int) -> list[FailedAttempt]:
        """Return the same with the row that counts the omitted records."""
        with self.reading() as run:
            return [FailedAttempt(*row) for row in run("failures", jobid=jobid)]

    @again
    def omitted_failures(self, jobid: int) -> int:
        """Return the number of omitted records of a job, between the first ones and the newest."""
        with self.reading() as run:
            rows = run("record_keys", jobid=jobid)
        return sum(int(message) for _, kind, message in rows if kind == OMITTED)

    @again
    def retry(self, jobid: int) -> bool:
        """Let a waiting or dead job run now, its failures forgiven; return whether it was one."""
        with self.transaction() as run:
            rows = run("standing", jobids=[jobid])
            run("retry", jobid=jobid)
        return bool(rows) and not rows[0][-1]

    @again
    def counts(self) -> list[Count]:
        """Count the jobs of each function and state."""
        with self.reading() as run:
            rows = run("counts")
            leased = sorted({funcname for funcname, state, *_ in rows if 0 < state < State.DEAD})
            put_off = []
            for start in range(0, len(leased), CHUNK):
                put_off += run("count_put_off", funcnames=leased[start : start + CHUNK])
        counts = Counter[tuple[str, State]]()
        firsts: dict[tuple[str, State], int] = {}

        def count(funcname: str, state: int, jobs: int, first: int) -> None:
            key = (funcname, _state(state))
            counts[key] += jobs
            firsts[key] = min(first, firsts.get(key, first))

        for funcname, state, jobs, first, never in rows:
            count(funcname, state, jobs - never, first)
            count(funcname, State.DEAD, never, NEVER)
        for funcname, state, jobs, first in put_off:
            counts[funcname, _state(state)] -= jobs
            count(funcname, State.WAITING, jobs, first)
        return [Count(*key, jobs, firsts[key]) for key, jobs in sorted(counts.items()) if jobs]

    @again
    def waiting(self) -> Waiting:
        """Count the waiting jobs by the reason of their wait."""
        with self.reading() as run:
            return Waiting(*run("waiting")[0])

    @again
    def clock(self) -> float:
        """Return the database's unix time."""
        with self.reading() as run:
            return float(run("clock")[0][0])

    @property
    def dialect(self) -> str:
        """Return the kind of database: ``sqlite``, ``mysql`` (MariaDB too) or ``postgresql``."""
        return self._dialect.name

    @again
    def facts(self) -> dict[str, str]:
        """Return settings of the database that matter here, by its own names."""
        with self.reading() as run:
            facts = {name.lower(): str(value) for name, value in run("facts")}
        return facts | self._dialect.local_facts()

    @again
    def probe(self) -> int:
        """Do what clients, QueueRunners and workers do, and take it back; return the id that it got.

        Raises:
            GariviniError: which of it fails, and why.

        """
        job = new_job("garivini_probe", b"")
        with suppress(_TakeBack), self.transaction() as run:
            ((jobid, created),) = self._dialect.insert(run, [_insert_row(job)])
            run("claim", jobids=[jobid], now=created, lease_end=created + MIN_LEASE)
            handle = Handle(jobid, self.dbid, 1)
            self._report(run, [Report(handle, "status", b"1/1"), Report(handle, "data", b"")])
            self._settle(run, Setback(handle=handle, kind="failed"), MAX_FAILURES)
            self._keep(run, Success(jobid, handle.attempt), handle.attempt or 0)
            run("complete", jobids=[jobid])
            self._forget(run, [jobid])
            run("forget_finished", jobids=[jobid])
            run("functions")
            raise _TakeBack
        return jobid

    def _job(self, row: Sequence[Any], *, lease: int = 0, due: int | None = None) -> Job:
        (
            jobid,
            funcname,
            arg,
            uniqkey,
            coalesce,
            run_after,
            flag,
            failcount,
            attempt,
            priority,
            state,
            since,
            crashes,
            created,
            runs,
        ) = row
        return Job(
            jobid=jobid,
            dbid=self.dbid,
            funcname=funcname,
            arg=arg or b"",
            uniqkey=uniqkey,
            coalesce=coalesce,
            run_after=run_after if due is None else due,
            flag=flag or "shim",
            failcount=failcount,
            attempt=attempt,
            priority=PRIORITIES[priority] if 0 <= priority < len(PRIORITIES) else str(priority),
            state=_state(state),
            since=since,
            crashes=crashes,
            created=created,
            lease=lease,
            lease_end=run_after if lease else 0,
            runs=runs,
        )


def _states(run: Run, jobids: Iterable[int]) -> dict[int, State]:
    """Return the states of jobs. A job that the original's clients parked is dead in any state of its row."""
    wanted = sorted(set(jobids))
    return {
        jobid: State.DEAD if run_after == NEVER else _state(state)
        for jobid, state, run_after in (run("states", jobids=wanted) if wanted else ())
    }


def _texts(jobs: Sequence[NewJob]) -> set[str]:
    """Return the texts of jobs that some character sets cannot represent."""
    texts = {text for job in jobs for text in (job.funcname, job.uniqkey, job.coalesce) if text}
    return {text for text in texts if not text.isascii()}


def _is_exact(live: Sequence[Any]) -> bool:
    """Whether function and key of a live job are those asked for by their bytes."""
    return len(live) == 1 or bool(live[1])


def _state(number: int) -> State:
    """Return the state of this number. A row with an unknown one counts as dead: nobody claims it."""
    return State(number) if State.WAITING <= number <= State.DEAD else State.DEAD


def _first(rows: Sequence[Any], sizes: Sequence[int], most: int) -> Sequence[Any]:
    """Return the first rows, with so many bytes together at most, but one at the least."""
    total = 0
    for number, size in enumerate(sizes):
        total += size
        if number and total > most:
            return rows[:number]
    return rows


def _function_row(funcname: str, policy: FunctionPolicy) -> dict[str, Any]:
    return {
        "funcname": funcname,
        "lease": policy.lease,
        "deadline": policy.deadline,
        "renews": None if policy.renews is None else int(policy.renews),
        "envelope": policy.envelope,
        "max_failures": policy.max_failures,
        "retention": policy.retention,
    }


def _insert_row(job: NewJob) -> dict[str, Any]:
    return {
        "funcname": job.funcname,
        "uniqkey": job.uniqkey,
        "coalesce": job.coalesce,
        "arg": job.arg,
        "flag": job.flag,
        "priority": PRIORITIES.index(job.priority),
        "delay": job.lease + 1 if job.lease else job.delay,
        "taken": 1 if job.lease else 0,
    }
