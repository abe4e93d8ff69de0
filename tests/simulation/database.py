"""A database in memory that answers as ``store.database.Database`` does, and the ways to it that fail.

``Model`` is the table and its rules; ``test_model.py`` holds it against the real one. ``Connection`` is the
model as one process sees it: with delays, errors, and answers that get lost.
"""

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any, Final, TypeVar

from msgspec import structs

from garivini.errors import ConflictError, OutcomeUnknownError, UnreachableError, UsageError
from garivini.model.function_settings import FunctionSettings, given_settings
from garivini.model.inserted import Inserted
from garivini.model.job import Handle, Job, NewJob
from garivini.model.lease import OTHERS_LEASE
from garivini.model.limits import NEVER, PRIORITIES
from garivini.model.outcome import Setback, Settled, Success
from garivini.model.pacing import BATCH_BYTES
from garivini.model.policy import FOREVER, MAX_CRASHES, MAX_FAILURES, NO_POLICY, FunctionPolicy
from garivini.model.records import FailedAttempt
from garivini.model.retry import error_names, parse_retry
from garivini.model.state import State
from garivini.model.turns import START, Place
from garivini.model.unique import DEBOUNCE_MAX_DELAY, NO_RULE, KeyRule
from garivini.model.when import At, Never, Offset, backoff
from garivini.store.admission import Admitted
from garivini.store.chunks import CHUNK
from garivini.store.claims import Dispatched
from garivini.store.database import Lane, Lanes, Lapsed
from tests.simulation.loop import VirtualExecutor
from tests.simulation.processes import Process, current_thread, settle

_R = TypeVar("_R")

HELD: Final = (State.LEASED, State.RUNNING, State.SUSPECT)


@dataclass(slots=True, kw_only=True)
class Row:
    """A row of the table ``job``."""

    jobid: int
    funcname: str
    arg: bytes
    uniqkey: str | None
    coalesce: str | None
    run_after: int
    flag: str
    priority: str
    created: int
    failcount: int = 0
    attempt: int = 0
    state: State = State.WAITING
    since: int = 0
    crashes: int = 0
    lease_end: int = 0
    runs: int = 0
    partition: str | None = None

    @property
    def put_off(self) -> bool:
        """Whether somebody else has written ``run_after`` since it was leased."""
        ours = self.lease_end in (0, self.run_after) or self.run_after < self.since
        return self.state in HELD and not ours

    @property
    def standing(self) -> State:
        """The state as people see it."""
        if self.run_after == NEVER:
            return State.DEAD
        return State.WAITING if self.put_off else self.state


#: Called after each change with the name of the step, the row before (None: new) and after (None: gone).
Watch = Callable[[str, Row | None, Row | None], None]


class Model:
    """The table and its rules.

    Args:
        dbid: its id.
        clock: the unix time.
        watch: called with each change.
        spread: gives the position in the jitter of a failed job's delay; by default it is random.

    """

    def __init__(
        self,
        dbid: int,
        clock: Callable[[], float],
        watch: Watch | None = None,
        spread: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.dbid = dbid
        self.rows: dict[int, Row] = {}
        self.records: dict[tuple[int, int, str], FailedAttempt] = {}
        self.policies: dict[str, FunctionPolicy] = {}
        self.settings: dict[str, FunctionSettings] = {}
        #: Until when functions are paused, or were.
        self.pauses: dict[str, int] = {}
        #: The time up to which the rate of a function is used.
        self.used_until: dict[str, float] = {}
        #: By the job before it, the row that a successor becomes.
        self.successors: dict[int, Row] = {}
        #: The same of the partitions of a function; empty: of the jobs without one.
        self.partitions_used: dict[tuple[str, str], float] = {}
        #: Of functions that had cancelled jobs: how many, and until when copies are checked.
        self.marked: dict[str, tuple[int, int]] = {}
        self._clock = clock
        self._watch = watch
        self._spread = spread
        self.jobids: Iterator[int] = count(1)

    # ---- jobs in

    def insert(self, jobs: Sequence[NewJob]) -> list[Inserted]:
        answers: list[Inserted] = [Inserted(0, 0)] * len(jobs)

        # Those with a unique key come after the others, in the order of their keys; those with rules last.
        def place(index: int) -> tuple[bool, bool, str, str]:
            job = jobs[index]
            if job.uniqkey is None:
                return False, False, "", ""
            return True, not (job.rule or NO_RULE).is_plain, job.funcname, job.uniqkey

        for index in sorted(range(len(jobs)), key=place):
            answers[index] = self._insert(jobs[index])
        return answers

    def _insert(self, job: NewJob) -> Inserted:
        rule = job.rule or NO_RULE
        if job.uniqkey is not None:
            for row in self.rows.values():
                if (row.funcname, row.uniqkey) == (job.funcname, job.uniqkey):
                    if row.standing is State.DEAD and rule.frees_dead:
                        row.uniqkey = None
                        break
                    self._duplicate(job, rule, row)
                    return Inserted(row.jobid, self.dbid, new=False)
        row = Row(
            jobid=next(self.jobids),
            funcname=job.funcname,
            arg=job.arg,
            uniqkey=job.uniqkey,
            coalesce=job.coalesce,
            run_after=self._after(job.delay),
            flag=job.flag,
            priority=job.priority,
            created=self._now(),
            partition=job.partition,
        )
        if job.lease:
            row.attempt, row.state, row.since = 1, State.LEASED, self._now()
            row.run_after = row.lease_end = self._now() + job.lease + 1
        self.rows[row.jobid] = row
        if rule.queues:
            for jobid, successor in list(self.successors.items()):
                if (successor.funcname, successor.uniqkey) == (job.funcname, job.uniqkey):
                    del self.successors[jobid]
        self._tell("insert", None, row)
        return Inserted(row.jobid, self.dbid, created=self._now())

    def _duplicate(self, job: NewJob, rule: KeyRule, row: Row) -> None:
        """Apply the rule to an insert whose key a row has."""
        if not rule.changes or row.standing is State.DEAD:
            return
        due, most = self._after(job.delay), rule.max_delay or DEBOUNCE_MAX_DELAY
        given: dict[str, Any] = {
            "arg": job.arg,
            "coalesce": job.coalesce,
            "partition": job.partition,
            "priority": job.priority,
        }
        if row.standing is State.WAITING and row.attempt == 0:
            if rule.on_duplicate == "debounce":
                due = max(row.run_after, min(due, row.created + most))
            self._change("replace", row, **given, run_after=due)
        elif rule.queues:
            before = self.successors.get(row.jobid)
            created = self._now() if before is None else before.created
            if before is not None and rule.on_duplicate == "debounce":
                due = max(before.run_after, min(due, created + most))
            self.successors[row.jobid] = Row(
                jobid=0,
                funcname=job.funcname,
                uniqkey=job.uniqkey,
                flag=job.flag,
                created=created,
                run_after=due,
                **given,
            )

    def _follow(self, row: Row, when: Offset | At | Never) -> None:
        """Promote the successor of a job that has died."""
        if when == Never() and row.jobid in self.successors:
            row.uniqkey = None
            self._promote(row.jobid)

    def _promote(self, jobid: int) -> None:
        """Make the successor of a job a job, unless a newer job has its key."""
        row = self.successors.pop(jobid, None)
        if row is None:
            return
        key = (row.funcname, row.uniqkey)
        if any((other.funcname, other.uniqkey) == key for other in self.rows.values()):
            return
        row.jobid = next(self.jobids)
        self.rows[row.jobid] = row
        self._tell("insert", None, row)

    # ---- jobs out

    def lanes(self) -> Lanes:
        heads: dict[tuple[str, State, str], int] = {}
        for row in sorted(self.rows.values(), key=lambda row: -row.run_after):
            # What is due after 2038 is a lane's head only then, and not before what was due earlier.
            due_ever = row.run_after < NEVER or (row.run_after > NEVER and self._now() > NEVER)
            if row.state is not State.DEAD and due_ever:
                heads[row.funcname, row.state, row.priority] = row.run_after
        lanes = [Lane(*lane, due) for lane, due in heads.items()]
        lanes.sort(key=lambda lane: (PRIORITIES.index(lane.priority), lane.due, lane.funcname, lane.state))
        return Lanes(self._clock() if lanes else 0.0, lanes)

    def claim(
        self,
        lane: Lane,
        *,
        limit: int,
        lease: int | Callable[[str], int],
        max_bytes: int = BATCH_BYTES,
        expires: int | None = None,
        discarded: list[Any] | None = None,
    ) -> list[Job]:
        assert expires is None
        lease = lease if isinstance(lease, int) else lease(lane.funcname)
        jobs: list[Job] = []
        size = 0
        for row in self._due(lane)[: min(limit, CHUNK)]:
            size += len(row.arg)
            if row.run_after == NEVER:
                continue
            if jobs and size > max_bytes:
                break
            was_due = row.run_after
            self._lease("claim", row, lease)
            job = self._job(row, lease=lease, due=was_due)
            jobs.append(structs.replace(job, crashes=0))
        return jobs

    def _due(self, lane: Lane) -> list[Row]:
        return [row for row in self._lane(lane, State.WAITING) if row.run_after <= self._now()]

    def admit(
        self,
        lane: Lane,
        *,
        limit: int,
        lease: int | Callable[[str], int],
        max_bytes: int = BATCH_BYTES,
        expires: int | None = None,
        discarded: list[Any] | None = None,
        place: Place = START,
    ) -> Admitted:
        if lane.funcname not in self._function_rows() or self.is_paused(lane.funcname):
            return Admitted([], 0.0, place)
        policy, now = self.policies.get(lane.funcname, NO_POLICY), self.rate_clock()
        used_until = self.used_until.get(lane.funcname, 0.0)
        held = sum(row.standing in HELD for row in self.rows.values() if row.funcname == lane.funcname)
        allowed = limit if policy.max_running is None else min(limit, policy.max_running - held)
        rate = policy.start_rate
        if rate is not None:
            allowed = min(allowed, rate.allowed(used_until, now))
        jobs: list[Job] = []
        wait, left_out = 0.0, None
        if allowed > 0 and policy.has_turns:
            jobs, left_out, place = self._take_turns(lane, policy, allowed, lease, place)
        elif allowed > 0:
            jobs = self.claim(lane, limit=allowed, lease=lease, max_bytes=max_bytes)
        if rate is not None:
            used = rate.use(used_until, now, len(jobs))
            if used != used_until:
                self.use_rate(lane.funcname, used)
            wait = rate.until_next(used, now)
        if len(jobs) < max(0, allowed):
            return Admitted(jobs, left_out, place)
        return Admitted(jobs, None if allowed >= limit else wait, place)

    def _take_turns(
        self,
        lane: Lane,
        policy: FunctionPolicy,
        limit: int,
        lease: int | Callable[[str], int],
        place: Place,
    ) -> Admitted:
        """Claim a job of each partition that has room, and again, in the order of partitions."""
        lease = lease if isinstance(lease, int) else lease(lane.funcname)
        due: defaultdict[str, list[Row]] = defaultdict(list)
        for row in self._due(lane):
            if row.run_after != NEVER:
                due[row.partition or ""].append(row)
        after = "" if place.partition is None else place.partition + "\1"
        names = sorted(due, key=lambda name: (name < after, name))
        jobs: list[Job] = []
        chose = True
        while chose and len(jobs) < limit:
            chose = False
            for name in names:
                if due[name] and len(jobs) < limit and self._partition_room(lane.funcname, name, policy):
                    row, chose = due[name].pop(0), True
                    self._use_partition(lane.funcname, name, policy)
                    was_due = row.run_after
                    self._lease("claim", row, lease)
                    jobs.append(structs.replace(self._job(row, lease=lease, due=was_due), crashes=0))
        last = (jobs[-1].partition or "") if len(jobs) >= limit else place.partition
        return Admitted(jobs, 0.0 if any(due.values()) else None, place._replace(partition=last))

    def _partition_room(self, funcname: str, partition: str, policy: FunctionPolicy) -> bool:
        """Whether a job of a partition may be handed out."""
        held = sum(
            row.standing in HELD and (row.funcname, row.partition or "") == (funcname, partition)
            for row in self.rows.values()
        )
        if policy.partition_max_running is not None and held >= policy.partition_max_running:
            return False
        rate, used = policy.partition_start_rate, self.partitions_used.get((funcname, partition), 0.0)
        return rate is None or rate.allowed(used, self.rate_clock()) > 0

    def _use_partition(self, funcname: str, partition: str, policy: FunctionPolicy) -> None:
        rate, used = policy.partition_start_rate, self.partitions_used.get((funcname, partition), 0.0)
        if rate is not None:
            self.partitions_used[funcname, partition] = rate.use(used, self.rate_clock(), 1)

    def rate_clock(self) -> float:
        """Return the time by which rates are used."""
        return self._clock()

    def use_rate(self, funcname: str, used_until: float) -> None:
        self.used_until[funcname] = used_until

    def release(self, jobs: Iterable[Job], *, locked: Any = None) -> None:
        for job in jobs:
            for row in self._of([job.jobid], job.attempt, (State.LEASED,)):
                self._change("release", row, state=State.WAITING, run_after=job.run_after, lease_end=0)

    def end_early(self, handles: Iterable[Handle], *, lease: int, locked: Any = None) -> None:
        for jobid, _, attempt in handles:
            for row in self._of([jobid], attempt, (State.LEASED,)):
                if row.run_after <= self._now() + lease + 2:
                    self._change("end_early", row, run_after=self._now(), lease_end=self._now())

    def expired(self, lane: Lane, *, limit: int) -> list[Lapsed]:
        now = self._now()
        return [
            Lapsed(
                *(row.jobid, row.attempt, row.flag, row.crashes, row.since, now - row.since),
                State(lane.state),
                put_off=row.put_off,
                funcname=row.funcname,
            )
            for row in self._lane(lane, lane.state)
            if row.run_after <= now and row.run_after != NEVER
        ][:limit]

    def requeue(self, jobids: Iterable[int], *, locked: Any = None) -> None:
        for jobid in jobids:
            row = self.rows.get(jobid)
            if row is not None and row.put_off and row.run_after <= self._now():
                self._change("requeue", row, state=State.WAITING, lease_end=0)

    def extend(self, steps: Sequence[tuple[Lapsed, State, int, bool]], *, locked: Any = None) -> None:
        for lapsed, state, seconds, queued in steps:
            for row in self._unchanged(lapsed):
                since = self._now() if queued else row.since
                end = self._now() + seconds
                self._change("extend", row, state=state, run_after=end, lease_end=end, since=since)

    def reclaim(self, steps: Sequence[tuple[Lapsed, bool]], *, lease: int, locked: Any = None) -> list[Job]:
        jobs = []
        for lapsed, crashed in steps:
            for row in self._unchanged(lapsed):
                self._lease("reclaim", row, lease, crashed=int(crashed))
                jobs.append(self._job(row, lease=lease, due=lapsed.since))
        return jobs

    def adopt(self, jobids: Iterable[int], *, lease: int, locked: Any = None) -> list[Job]:
        jobs = []
        for jobid in sorted(set(jobids)):
            row = self.rows.get(jobid)
            if row is None or row.run_after == NEVER:
                continue
            if row.state in (State.WAITING, State.LEASED):
                self._lease("adopt", row, lease, state=State.RUNNING)
                jobs.append(structs.replace(self._job(row, lease=lease), arg=b""))
        return jobs

    def dispatched(
        self, lane: Lane, *, age: int, since: int = 0, after: int = 0, limit: int = CHUNK
    ) -> list[Dispatched]:
        now = self._now()
        return [
            Dispatched(Handle(row.jobid, self.dbid, row.attempt), row.run_after)
            for row in self._lane(lane, State.LEASED)
            if row.run_after > now and row.run_after >= after and since < row.since <= now - age
            if not row.put_off
        ][:limit]

    def give_back(self, handles: Iterable[Handle], *, locked: Any = None) -> None:
        for jobid, _, attempt in handles:
            for row in self._of([jobid], attempt, HELD):
                self._change("give_back", row, state=State.WAITING, run_after=self._now(), lease_end=0)

    def mark_leased(self, handles: Iterable[Handle], *, locked: Any = None) -> None:
        for jobid, _, attempt in handles:
            for row in self._of([jobid], attempt, (State.RUNNING,)):
                self._change("mark_leased", row, state=State.LEASED)

    def forget_finished(self, limit: int = CHUNK) -> int:
        return 0

    def forget_dead(self, after: int = 0, limit: int = CHUNK) -> tuple[int, int | None]:
        return 0, None

    @property
    def queues_keys(self) -> bool:
        return any(policy.key_rule.queues for policy in self.policies.values())

    def promote_successors(self, limit: int = CHUNK) -> bool:
        found = bool(self.successors)
        for jobid in sorted(self.successors)[:limit]:
            row = self.rows.get(jobid)
            if row is None:
                self._promote(jobid)
            elif row.standing is State.DEAD:
                row.uniqkey = None
                self._promote(jobid)
        return found

    def forget_keys(self, limit: int = CHUNK) -> int:
        return 0

    def discard_late(self, limit: int = CHUNK) -> list[Any]:
        return []

    def open_batches(self, after: str = "") -> list[str]:
        return []

    def forget_batches(self, limit: int = CHUNK) -> int:
        return 0

    def forget_partitions(self, limit: int = CHUNK) -> int:
        return 0

    def nodes(self) -> frozenset[str]:
        return frozenset()

    # ---- the ends of attempts

    def renew(self, handles: Iterable[Handle], *, lease: int, locked: Any = None) -> set[Handle]:
        kept = set()
        for jobid, _, attempt in handles:
            for row in self._of([jobid], attempt, HELD):
                end = self._now() + lease + 1
                self._change("renew", row, state=State.RUNNING, run_after=end, lease_end=end)
                kept.add(Handle(jobid, self.dbid, row.attempt))
        return kept

    def complete(self, jobids: Iterable[int], *, locked: Any = None) -> set[int]:
        gone = set(jobids) & set(self.rows)
        for jobid in sorted(gone):
            row = self.rows.pop(jobid)
            self.records = {key: record for key, record in self.records.items() if key[0] != jobid}
            self._tell("complete", row, None)
        for jobid in sorted(gone):
            self._promote(jobid)
        return gone

    def finish(
        self, successes: Sequence[Success], *, follow_ups: Mapping[int, Sequence[NewJob]], locked: Any = None
    ) -> set[int]:
        gone = self.complete([success.jobid for success in successes])
        self.insert([new for jobid in follow_ups if jobid in gone for new in follow_ups[jobid]])
        return gone

    def settle(
        self, setbacks: Sequence[Setback], *, max_failures: int = MAX_FAILURES, locked: Any = None
    ) -> list[Settled]:
        return [self._settle(setback, max_failures) for setback in setbacks]

    def _settle(self, setback: Setback, max_failures: int) -> Settled:
        jobid, _, fence = setback.handle
        row = self.rows.get(jobid)
        if row is None:
            return Settled("gone")
        held = row.state in HELD and not row.put_off and row.run_after != NEVER
        if fence is not None and not (held and row.attempt == fence):
            reported = any(key[:2] == (jobid, fence) and key[2] != "crashed" for key in self.records)
            return Settled("repeated" if reported else "stale")
        policy = self.policies.get(row.funcname, FunctionPolicy())
        setback = self._by_policy(setback, row.failcount, policy)
        if held or setback.kind != "rescheduled" or setback.when == Never():
            self._record(setback, row.attempt)
        failcount = row.failcount
        if setback.kind == "crashed":
            if held:
                self._change("crashed", row, crashes=row.crashes + 1)
            if row.crashes + (0 if held else 1) < MAX_CRASHES:
                return Settled("applied", row.state, failcount)
        if setback.kind == "failed":
            failcount = min(failcount + 1, 255)
        too_often = setback.kind == "failed" and failcount >= (policy.max_failures or max_failures)
        self._mark(row, setback, held=held)
        if setback.kind in ("discarded", "parked", "cancelled", "crashed") or too_often:
            when: Offset | At | Never = Never()
        else:
            when = setback.when or Offset(backoff(failcount, spread=self._spread()))
        match when:
            case Offset(seconds):
                run_after = self._after(seconds)
            case At(time):
                run_after = time
            case Never():
                run_after = NEVER
        state = State.DEAD if run_after == NEVER else State.WAITING
        self._change(setback.kind, row, state=state, run_after=run_after, lease_end=0, failcount=failcount)
        self._follow(row, when)
        delay = when.seconds if isinstance(when, Offset) else None
        return Settled("applied", State.DEAD if when == Never() else State.WAITING, failcount, delay)

    def _by_policy(self, setback: Setback, failcount: int, policy: FunctionPolicy) -> Setback:
        """Let the retry policy of a function decide. Those of the tests have no jitter."""
        if setback.kind != "failed" or setback.when is not None or policy.retry is None:
            return setback
        delay = parse_retry(policy.retry).delay(error_names(setback), min(failcount + 1, 255), spread=0.0)
        return replace(setback, kind="discarded") if delay is None else replace(setback, when=Offset(delay))

    def _record(self, setback: Setback, attempt: int) -> None:
        self.records[setback.handle.jobid, attempt, setback.kind] = FailedAttempt(
            attempt,
            self._now(),
            setback.kind,
            setback.error,
            setback.message,
            setback.trace,
            setback.worker,
        )

    # ---- functions, and what people see

    def functions(self) -> dict[str, FunctionPolicy]:
        paused = {name: end for name, end in self.pauses.items() if self.is_paused(name)}
        return {
            name: replace(self.policies.get(name, NO_POLICY), paused_until=paused.get(name))
            for name in self._function_rows()
        }

    def _function_rows(self) -> set[str]:
        return {*self.policies, *self.pauses, *self.marked}

    def marks(self) -> dict[str, int]:
        return {name: number for name, (number, _) in self.marked.items() if self._is_marked(name)}

    def _is_marked(self, funcname: str) -> bool:
        return self.marked.get(funcname, (0, 0))[1] > self._now()

    def _mark(self, row: Row, setback: Setback, *, held: bool) -> None:
        if setback.kind != "cancelled" or not held:
            return
        number, until = self.marked.get(row.funcname, (0, 0))
        lease = max(OTHERS_LEASE, self.policies.get(row.funcname, NO_POLICY).lease or 0)
        end = max(row.run_after, self._now() + lease) + 1
        self.marked[row.funcname] = (number + 1, max(until, end))

    def cancelled(self, handles: Iterable[Handle]) -> set[Handle]:
        return {
            handle
            for handle in handles
            if (row := self.rows.get(handle.jobid)) is not None
            and row.attempt == handle.attempt
            and row.standing is State.DEAD
        }

    def is_paused(self, funcname: str) -> bool:
        return self.pauses.get(funcname, 0) > self._now()

    def pause(self, funcname: str, until: Offset | At | Never) -> int:
        now = math.ceil(self._clock())
        match until:
            case Offset(seconds):
                end = now + seconds
            case At(end):
                pass
            case Never():
                end = FOREVER
        if end <= now:
            raise UsageError("a pause ends in the future")
        self.pauses[funcname] = end
        return end

    def resume(self, funcname: str) -> bool:
        was_paused = self.is_paused(funcname)
        if was_paused:
            del self.pauses[funcname]
        return was_paused

    def set_function(self, funcname: str, policy: FunctionPolicy) -> None:
        self._set(funcname, self._settings(funcname).overridden(policy))

    def register_functions(self, policies: Mapping[str, FunctionPolicy]) -> bool:
        before = dict(self.settings)
        for funcname, policy in policies.items():
            if given_settings(policy) != self._settings(funcname).declared:
                self._set(funcname, self._settings(funcname).declare(policy))
        return self.settings != before

    def _settings(self, funcname: str) -> FunctionSettings:
        return self.settings.get(funcname, FunctionSettings())

    def _set(self, funcname: str, settings: FunctionSettings) -> None:
        if settings != FunctionSettings():
            self.settings[funcname] = settings
            self.policies[funcname] = settings.policy
            return
        self.settings.pop(funcname, None)
        self.policies.pop(funcname, None)
        if not self.is_paused(funcname) and not self._is_marked(funcname):
            self.pauses.pop(funcname, None)
            self.used_until.pop(funcname, None)
            self.marked.pop(funcname, None)

    def clock(self) -> float:
        return self._clock()

    def jobs(self) -> list[Job]:
        return [structs.replace(self._job(row), state=row.standing) for row in self.rows.values()]

    def failures(self, jobid: int) -> list[FailedAttempt]:
        return [record for key, record in sorted(self.records.items()) if key[0] == jobid]

    # ---- what somebody else writes

    def put_off(self, jobid: int, seconds: int) -> None:
        """Let a job run later, as a worker of the original does: the one column, whoever holds it."""
        row = self.rows.get(jobid)
        if row is not None:
            self._change("put_off", row, run_after=self._now() + seconds)

    def put_off_apart(self, jobid: int, seconds: int) -> None:
        """Do so, but not onto the very second of the lease's end: nobody can tell that from the lease."""
        row = self.rows.get(jobid)
        same = row is not None and row.lease_end == self._now() + seconds
        self.put_off(jobid, seconds + same)

    # ---- the table

    def _now(self) -> int:
        return int(self._clock())

    def _after(self, delay: int) -> int:
        """Return when a delay is over: it is never short."""
        return delay + (math.ceil(self._clock()) if delay else self._now())

    def _lane(self, lane: Lane, state: State) -> list[Row]:
        """Return the rows of a lane as its index has them."""
        rows = [
            row
            for row in self.rows.values()
            if (row.funcname, row.state, row.priority) == (lane.funcname, state, lane.priority)
        ]
        return sorted(rows, key=lambda row: (row.run_after, row.jobid))

    def _of(self, jobids: Iterable[int], attempt: int | None, states: tuple[State, ...]) -> Iterator[Row]:
        """Yield the rows that this attempt holds in one of these states."""
        for jobid in jobids:
            row = self.rows.get(jobid)
            if row is not None and row.attempt == attempt and row.state in states and not row.put_off:
                yield row

    def _unchanged(self, lapsed: Lapsed) -> Iterator[Row]:
        for row in self._of([lapsed.jobid], lapsed.attempt, (lapsed.state,)):
            if row.run_after <= self._now():
                yield row

    def _lease(self, step: str, row: Row, lease: int, crashed: int = 0, state: State = State.LEASED) -> None:
        self._change(
            step,
            row,
            attempt=row.attempt + 1,
            state=state,
            since=self._now(),
            run_after=self._now() + lease + 1,
            lease_end=self._now() + lease + 1,
            crashes=row.crashes + crashed,
        )

    def _change(self, step: str, row: Row, **changes: Any) -> None:
        before = replace(row) if self._watch is not None else None
        for name, value in changes.items():
            setattr(row, name, value)
        self._tell(step, before, row)

    def _tell(self, step: str, before: Row | None, after: Row | None) -> None:
        if self._watch is not None:
            self._watch(step, before, after)

    def _job(self, row: Row, *, lease: int = 0, due: int | None = None) -> Job:
        return Job(
            jobid=row.jobid,
            dbid=self.dbid,
            funcname=row.funcname,
            arg=row.arg,
            uniqkey=row.uniqkey,
            coalesce=row.coalesce,
            run_after=row.run_after if due is None else due,
            flag=row.flag,
            failcount=row.failcount,
            attempt=row.attempt,
            priority=row.priority,
            state=row.state,
            since=row.since,
            crashes=row.crashes,
            created=row.created,
            lease=lease,
            lease_end=row.run_after if lease else 0,
            runs=row.runs,
            partition=row.partition,
        )


# ---- the ways to it


@dataclass(frozen=True, slots=True)
class Trouble:
    """A time in which the database does not do as it should.

    ``away``: nothing is reached. ``conflict``: some calls meet a lock. ``lost``: some connections go before
    the answer comes. ``stall``: nothing goes on until the end; then some calls have waited for too long.
    """

    kind: str
    start: float
    end: float


class Connection:
    """The database as one process reaches it. Every method of the model is one of it, for threads.

    Args:
        model: the database.
        process: whose connection it is.
        source: of delays and errors.
        delay: seconds that a call takes to get there, at most, and as many back.
        troubles: looked at with every call.
        guard: called with the method and the arguments of each call just before its effect; what it returns
            is called just after.

    """

    def __init__(
        self,
        model: Model,
        process: Process,
        source: random.Random,
        delay: float,
        troubles: Sequence[Trouble],
        guard: Callable[[Process, str, Sequence[Any]], Callable[[], None]],
    ) -> None:
        self.guard = guard
        self.dbid = model.dbid
        self.model = model
        self.process = process
        self.source = source
        self.delay = delay
        self.troubles = troubles
        #: Whether a call comes from work that has got there, and whether that had to wait.
        self.running = False
        self.waited = False

    #: As of a database that has locks of rows.
    locks_rows = True
    statement_bytes = 2**30
    #: As of a database that is never replaced.
    incarnation = None

    def expect(self) -> None:
        return None

    def expecting(self, incarnation: int | None) -> "Connection":
        return self

    def with_lock_timeout(self, seconds: float) -> "Connection":
        return self

    def __getattr__(self, name: str) -> "Call":
        return Call(self, name)

    def trouble(self) -> Trouble | None:
        """Return what is the matter now."""
        now = self.process.loop.time()
        return next((trouble for trouble in self.troubles if trouble.start <= now < trouble.end), None)

    def run(self, work: Callable[[], Any], answered: Callable[["Outcome"], None]) -> None:
        """Let work that calls this connection get there, and its answer come back. Called by the loop."""
        loop = self.process.loop

        def arrive(waited: bool = False) -> None:
            if not self.process.alive and self.source.random() < 0.5:
                return  # it had not left yet
            trouble = self.trouble()
            if trouble is not None and trouble.kind == "stall":
                loop.call_at(trouble.end, arrive, True)
                return
            self.running, self.waited = True, waited
            try:
                outcome: Outcome = work(), None
            except Exception as error:
                outcome = None, error
            self.running = self.waited = False
            loop.call_later(self._delay(), answered, outcome)

        loop.call_later(self._delay(), arrive)

    def _delay(self) -> float:
        return self.delay * self.source.random()


#: What comes back: an answer or an error.
Outcome = tuple[Any, Exception | None]


class Call:
    """One method of a connection."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._name = name

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Do it, and wait for the answer: in a thread of the simulation or in ``Connection.run``."""
        connection = self._connection
        act = partial(self._act, arguments, named)
        if connection.running:
            return act()
        thread = current_thread()
        came: list[Outcome] = []
        wake = thread.waker()

        def answered(outcome: Outcome) -> None:
            came.append(outcome)
            wake()

        connection.run(act, answered)
        thread.park()
        answer, error = came[0]
        if error is not None:
            raise error
        return answer

    def _act(self, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        """Do it now, as far as the trouble there is lets it be done."""
        connection = self._connection
        trouble = connection.trouble()
        kind = "conflict" if connection.waited else trouble.kind if trouble is not None else ""
        chance = connection.source.random() if kind else 1.0
        if kind == "away":
            raise UnreachableError("the database is away")
        if kind == "conflict" and chance < 0.5:
            raise ConflictError("the database is locked")
        if kind == "lost" and chance < 0.6:
            if self._name in _READS:
                raise UnreachableError("the connection was lost")
            if chance < 0.3:
                self._do(arguments, named)
            raise OutcomeUnknownError("the connection was lost")
        return self._do(arguments, named)

    def _do(self, arguments: Sequence[Any], named: dict[str, Any]) -> Any:
        connection = self._connection
        # Iterators are read once, and both the model and its guard read them.
        arguments = [list(each) if isinstance(each, Iterator) else each for each in arguments]
        after = connection.guard(connection.process, self._name, arguments)
        answer = getattr(connection.model, self._name)(*arguments, **named)
        after()
        return answer


_READS: Final = frozenset({"lanes", "expired", "dispatched", "functions", "clock", "marks", "cancelled"})


class DatabaseThread(VirtualExecutor):
    """The database thread of a QueueRunner: one piece of work after the other."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._process = connection.process
        self._waiting: list[tuple[Callable[[], Any], asyncio.Future[Any]]] = []
        self._busy = False

    def start(self, work: Callable[[], _R]) -> asyncio.Future[_R]:
        future: asyncio.Future[_R] = self._process.loop.create_future()
        self._waiting.append((work, future))
        self._next()
        return future

    def _next(self) -> None:
        if self._waiting and not self._busy:
            self._busy = True
            work, future = self._waiting.pop(0)
            came = partial(self._process.when_awake, self._came, future)
            self._process.when_awake(self._connection.run, work, came)

    def _came(self, future: asyncio.Future[Any], outcome: Outcome) -> None:
        self._busy = False
        settle(future, *outcome)
        self._next()
