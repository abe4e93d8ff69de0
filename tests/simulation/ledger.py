"""What happened in a simulation, and whether the protocol held: the bounds of ``docs/explanation/leases.md``.

Some rules are checked as things happen, the rest at the end. Nothing is raised on the way, because the code
under test survives exceptions: what went wrong is collected in ``broken``.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from garivini.gearman.protocol import Assigned, Refused, Submission
from garivini.gearman.requests import SubmitResult
from garivini.model.job import Handle, Job
from garivini.model.lease import Found
from garivini.model.payload import decode_payload
from garivini.model.policy import MAX_CRASHES, MAX_FAILURES, NO_POLICY, RULES_APPLY_AFTER
from garivini.model.rate import Rate
from garivini.model.state import State
from tests.simulation.database import HELD, Model, Row
from tests.simulation.loop import VirtualLoop
from tests.simulation.processes import Process
from tests.simulation.scenario import Plan
from tests.simulation.servers import Server

#: Seconds after a fault in which what it did may still show: a packet or a call on its way.
_TAIL: Final = 1.0
#: Passes of a QueueRunner in one second, which are too many.
_PASSES: Final = 200


@dataclass(slots=True, eq=False)
class Struck:
    """A fault, and the jobs that were in flight at it."""

    what: str
    end: float
    jobs: set[int] = field(default_factory=set)


class Ledger:
    """Watches the database, the servers and the workers."""

    def __init__(self, loop: VirtualLoop, *, unread_is_wrong: bool = True, notice: float = 2.0) -> None:
        """Begin.

        ``unread_is_wrong``: whether no worker may be given a copy that it does not read for a lease.
        ``notice``: seconds in which a healthy worker notices that a job was cancelled.
        """
        self._notice = notice
        #: When jobs were cancelled.
        self.cancelled: dict[int, float] = {}
        self._unread_is_wrong = unread_is_wrong
        self.loop = loop
        self.model: Model
        self.servers: list[Server] = []
        #: All that happened, with its time: two runs of one seed have the same.
        self.trace: list[tuple[Any, ...]] = []
        self.broken: list[str] = []
        self.acknowledged: set[int] = set()
        self.faults: list[Struck] = []
        self.held: set[int] = set()
        self.runs: Counter[tuple[Process, int]] = Counter()
        self.sends: Counter[int] = Counter()
        self.starts: Counter[int] = Counter()
        self.deaths: Counter[int] = Counter()
        #: Deaths of processes that were running a job just then, as often as somebody was to record them,
        #: and how many have been counted.
        self.obituaries: Counter[int] = Counter()
        self.counted: Counter[int] = Counter()
        self.successes: Counter[int] = Counter()
        self.failures: Counter[int] = Counter()
        self.discards: Counter[int] = Counter()
        self.refusals: Counter[int] = Counter()
        self.steps: defaultdict[int, Counter[str]] = defaultdict(Counter)
        #: Runs of foreign workers that put their job off.
        self.put_offs: Counter[int] = Counter()
        #: Until when jobs are put off by somebody, in unix time.
        self._put_off: dict[int, int] = {}
        #: Attempts given up because their copy lay unread in a worker's socket.
        self.unread: Counter[int] = Counter()
        #: Attempts given up because their server had no worker, and another had one.
        self.stranded: Counter[int] = Counter()
        self.completed: set[int] = set()
        #: What jobs do, by their numbers; and how often a job of each number was inserted.
        self.plans: dict[int, Plan] = {}
        self.inserted: Counter[int] = Counter()
        self._done: set[int] = set()
        #: The first attempt at a job that succeeded.
        self._done_by: dict[int, int] = {}
        #: When functions were paused last.
        self._paused: dict[str, float] = {}
        self._stranded: set[tuple[int, int]] = set()
        self._unread: dict[tuple[int, int], float] = {}  # when given
        self._passes: Counter[tuple[Process, int]] = Counter()
        self._sent: set[bytes] = set()
        self._claims: dict[tuple[int, int], tuple[float, int]] = {}
        #: Attempts by a reclaim.
        self._reclaimed: set[tuple[int, int]] = set()
        #: When the jobs of each function or partition with a rate were claimed.
        self._claim_times: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
        self._refused: set[tuple[int, int]] = set()
        self._renewals: dict[tuple[Process, int, int], float] = {}
        self._begun: set[tuple[Process, int, int]] = set()
        self._arrivals: dict[tuple[Process, int, int], tuple[float, bool]] = {}

    def say(self, what: str, *details: Any) -> None:
        self.trace.append((round(self.loop.time(), 6), what, *details))

    def wrong(self, what: str, *details: Any) -> None:
        self.say("WRONG", what, *details)
        self.broken.append(f"at {self.loop.time():.3f}: {what} {details}")

    # ---- faults

    def strike(self, what: str, seconds: float, *details: Any) -> None:
        """Note that a fault begins and lasts so long."""
        self.say("fault", what, round(seconds, 3), *details)
        running = {jobid for (process, jobid), runs in self.runs.items() if runs and process.alive}
        copies = {_names(unique)[0] for server in self.servers for unique in server.uniques}
        jobs = self.held | running | copies
        self.faults.append(Struck(what, self.loop.time() + seconds + _TAIL, jobs))

    def _in_flight(self, jobid: int) -> None:
        for fault in self.faults:
            if self.loop.time() <= fault.end:
                fault.jobs.add(jobid)

    def hits(self, jobid: int) -> int:
        """Return at how many faults it was in flight."""
        return sum(jobid in fault.jobs for fault in self.faults)

    # ---- the database

    def changed(self, step: str, before: Row | None, after: Row | None) -> None:
        """A row has changed."""
        row = after or before
        assert row is not None
        jobid = row.jobid
        self.say(step, jobid, *(() if after is None else (after.attempt, after.state.name, after.run_after)))
        self.steps[jobid][step] += 1
        if step == "insert":
            self.inserted[int(row.arg)] += 1
        if after is None:
            self.held.discard(jobid)
            self._put_off.pop(jobid, None)
            self.completed.add(jobid)
            self._done.add(int(row.arg))
            if not self.successes[jobid]:
                self.wrong("a job is gone and nobody has done it", jobid)
            return
        if after.state in HELD and not after.put_off:
            self.held.add(jobid)
            self._in_flight(jobid)
        else:
            self.held.discard(jobid)
        if step == "claim":
            self._check_limit(row)
            self._check_rate(row.funcname)
            self._check_partition(row)
        if step in ("claim", "reclaim"):
            self._claims[jobid, after.attempt] = (self.loop.time(), after.run_after - after.since - 1)
        if step == "reclaim":
            self._reclaimed.add((jobid, after.attempt))
        if step == "release":
            self._refused.discard((jobid, after.attempt))
        if before is not None:
            self._compare(step, before, after)
            self._check_put_off(step, before, after)

    def _check_limit(self, row: Row) -> None:
        """No claim may hand out more jobs of a function than may be in flight."""
        policy = self.model.policies.get(row.funcname)
        if policy is None or policy.max_running is None:
            return
        held = sum(self.model.rows[jobid].funcname == row.funcname for jobid in self.held)
        if held > policy.max_running:
            self.wrong("more jobs are in flight than may be", row.funcname, held, policy.max_running)

    def _check_rate(self, funcname: str) -> None:
        """In no span of time may more jobs of a function be claimed than its burst and its rate allow."""
        self._check_times(self._rate(funcname), funcname)

    def _check_times(self, rate: Rate | None, *name: str) -> None:
        """Note a claim of a function, or of its partition, and compare it with the ones before."""
        if rate is None:
            return
        times = self._claim_times[name]
        times.append(self.model.clock())
        for count, time in enumerate(reversed(times), 1):
            if count > rate.burst + (times[-1] - time) / rate.interval + 0.01:
                self.wrong("more jobs are claimed than the rate allows", name, count, times[-1] - time)
                return

    def _check_partition(self, row: Row) -> None:
        """No claim may hand out more jobs of a partition than its limit and its rate allow."""
        policy = self.model.policies.get(row.funcname, NO_POLICY)
        self._check_times(policy.partition_start_rate, row.funcname, row.partition or "")
        if policy.partition_max_running is None:
            return
        rows = [self.model.rows[jobid] for jobid in self.held]
        held = sum((it.funcname, it.partition) == (row.funcname, row.partition) for it in rows)
        if held > policy.partition_max_running:
            self.wrong(
                "more jobs of a partition are in flight than may be", row.funcname, row.partition, held
            )

    def _rate(self, funcname: str) -> Rate | None:
        return self.model.policies.get(funcname, NO_POLICY).start_rate

    def _check_put_off(self, step: str, before: Row, after: Row) -> None:
        """A job that somebody put off may not be due sooner, nor be taken for one whose lease ran out."""
        jobid = after.jobid
        if step == "put_off":
            self._put_off[jobid] = after.run_after
            return
        if step == "cancelled":
            self._put_off.pop(jobid, None)
            return
        if before.put_off and step in ("reclaim", "extend"):
            self.wrong("what was put off was taken for a lease", step, before, after)
        if int(self.model.clock()) >= self._put_off.get(jobid, 0):
            self._put_off.pop(jobid, None)
        elif (before.run_after, before.attempt, before.crashes) != (
            after.run_after,
            after.attempt,
            after.crashes,
        ):
            self.wrong("what was put off was changed before its time", step, before, after)

    def _compare(self, step: str, before: Row, after: Row) -> None:
        """Look at what a step has made of a row."""
        jobid = after.jobid
        if after.attempt - before.attempt != (1 if step in ("claim", "reclaim") else 0):
            self.wrong("an attempt is not raised by one claim each", step, before, after)
        if step == "reclaim" and not self.faults:
            if (jobid, before.attempt) in self._refused:
                self.wrong("a refused attempt waited for the end of its lease", jobid, before.attempt)
            self._given_up(jobid, before.attempt)
        if step == "crashed" and after.crashes > before.crashes:
            self.counted[jobid] += 1
            if self.counted[jobid] > self.obituaries[jobid]:
                self.wrong("a death is counted twice", jobid, after.crashes)

    def _given_up(self, jobid: int, attempt: int) -> None:
        """An attempt is over without a fault."""
        if (jobid, attempt) in self._stranded:
            self.stranded[jobid] += 1
        elif (jobid, attempt) in self._unread and not self._unread_is_wrong:
            # A known limit: copies that came while a slow function blocked a worker whose last were quick.
            self.unread[jobid] += 1
        else:
            self.wrong("an attempt was given up without a fault", jobid, attempt)

    def guard(self, process: Process, name: str, arguments: Sequence[Any]) -> Callable[[], None]:
        """Look at a call before its effect; return what looks after it."""
        if name == "lanes":
            self._passes[process, int(self.loop.time())] += 1
            if self._passes[process, int(self.loop.time())] == _PASSES:
                self.wrong("a QueueRunner spins", process.name)
        handles = _handles(name, arguments)
        states = (State.LEASED,) if name in ("end_early", "release") else HELD
        rows = [(handle, self.model.rows.get(handle.jobid)) for handle in handles]
        mine = {
            row.jobid
            for handle, row in rows
            if row and row.attempt == handle.attempt and row.state in states and not row.put_off
        }
        others = [replace(row) for _, row in rows if row and row.jobid not in mine]

        def after() -> None:
            for row in others:
                if self.model.rows.get(row.jobid) != row:
                    self.wrong("a stale holder has changed a row", process.name, name, row)
            if name == "renew":
                for jobid, _, attempt in handles:
                    if jobid in mine:
                        self._renewals[process, jobid, attempt or 0] = self.loop.time()

        return after

    def paused(self, funcname: str) -> None:
        """A function is about to be paused."""
        self.say("paused", funcname)
        if not self.model.is_paused(funcname):
            self._paused[funcname] = self.loop.time()

    def _check_pause(self, row: Row) -> None:
        """Nothing of a paused function may be handed out once every program knows the pause."""
        if self.model.is_paused(row.funcname):
            seconds = self.loop.time() - self._paused[row.funcname]
            if seconds > RULES_APPLY_AFTER:
                self.wrong("a job of a paused function is handed out", row.funcname, row.jobid, seconds)

    def _knows_cancelled(self, job: Job) -> bool:
        """Whether a healthy worker knows by now that a job was cancelled."""
        at = self.cancelled.get(job.jobid)
        return at is not None and not self.faults and self.loop.time() > at + self._notice

    def went_on(self, job: Job) -> None:
        """A task has come to the end of what it does."""
        if self._knows_cancelled(job):
            self.wrong("a task of a cancelled job went on", job.jobid, self.cancelled[job.jobid])

    # ---- the servers

    def offered(self, process: Process, job: Submission) -> None:
        """A QueueRunner is about to submit a job."""
        jobid, attempt = _names(job.unique)
        claimed, lease = self._claims.get((jobid, attempt), (self.loop.time(), 0))
        if self.loop.time() - claimed > min(3.0, lease / 3) + 0.001:
            self.wrong("submitted too late after its claim", jobid, attempt, self.loop.time() - claimed)

    def sent(self, process: Process, job: Submission) -> None:
        """A job has been written to a server."""
        jobid, attempt = _names(job.unique)
        self.say("sent", process.name, jobid, attempt)
        self.sends[jobid] += 1
        if job.unique in self._sent:
            self.wrong("an attempt is submitted twice", jobid, attempt)
        self._sent.add(job.unique)
        row = self.model.rows.get(jobid)
        leased = row is not None and (row.attempt, row.state) == (attempt, State.LEASED)
        # After a fault, or if the job was put off, an earlier attempt may succeed meanwhile.
        done = row is None and self._done_by.get(jobid, attempt) < attempt
        if not leased and not done and jobid not in self.cancelled:
            self.wrong("an attempt was given up before it was submitted", jobid, attempt)
        if row is not None:
            self._check_pause(row)
        if row is not None and (jobid, attempt) in self._reclaimed and self._rate(row.funcname) is not None:
            self.wrong("an expired lease passed the rate", jobid, attempt)
        if decode_payload(job.data).attempt != attempt:
            self.wrong("a payload names another attempt than its unique", jobid, attempt)

    def heard(self, job: Submission, result: SubmitResult) -> None:
        """The server has answered a submit."""
        if isinstance(result, Refused):
            name = _names(job.unique)
            self.refusals[name[0]] += 1
            self._refused.add(name)

    def queue(self, what: str, job: Submission) -> None:
        """Something has happened to a copy in a server."""
        self.say(f"copy {what}", *_names(job.unique))
        if what == "given":
            self._unread[_names(job.unique)] = self.loop.time()
        if what == "joined":
            self.wrong("a submit joined a copy that was there", *_names(job.unique))

    # ---- the workers

    def arrived(self, process: Process, copy: Assigned) -> None:
        """A copy has come to a worker."""
        jobid, attempt = _names(copy.unique)
        # Half a second: a worker knows the database's time no better than its calls take.
        late = self.model.clock() > decode_payload(copy.data).lease_end + 0.5
        if self.loop.time() - self._unread.get((jobid, attempt), 0.0) < 1.0:
            self._unread.pop((jobid, attempt), None)
        self._arrivals[process, jobid, attempt] = (self.loop.time(), late)

    def start(self, process: Process, job: Job, *, lost: bool) -> None:
        """A run begins; ``lost``: the connection over which its copy came is gone."""
        attempt = job.attempt or 0
        self.say("start", process.name, job.jobid, attempt)
        self.starts[job.jobid] += 1
        self.runs[process, job.jobid] += 1
        self._in_flight(job.jobid)
        arrival = self._arrivals.get((process, job.jobid, attempt))
        if arrival is not None:  # a foreign worker checks nothing
            if self._knows_cancelled(job):
                self.wrong("a cancelled job starts", process.name, job.jobid, self.cancelled[job.jobid])
            came, late = arrival
            checked = self._renewals.get((process, job.jobid, attempt), -1.0) >= came
            if lost:
                self.wrong("a run began after its connection was lost", process.name, job.jobid, attempt)
            if (late or attempt > 1) and not checked:
                self.wrong("a run began without its start check", process.name, job.jobid, attempt)
            if (process, job.jobid, attempt) in self._begun:
                self.wrong("a process starts a copy a second time", process.name, job.jobid, attempt)
            self._begun.add((process, job.jobid, attempt))

    def end(self, process: Process, job: Job, outcome: str) -> None:
        """A run has come to its end, and nothing of it is committed."""
        self.say("end", process.name, job.jobid, job.attempt, outcome)
        self.runs[process, job.jobid] -= 1
        match outcome:
            case "done":
                self.successes[job.jobid] += 1
                self._done_by.setdefault(job.jobid, job.attempt or 0)
            case "fail":
                self.failures[job.jobid] += 1
            case "discard":
                self.discards[job.jobid] += 1
            case _ if outcome.startswith("later"):
                self.put_offs[job.jobid] += 1

    def died(self, process: Process, jobid: int) -> None:
        """A run has ended its process."""
        self.strike("death", 0.0, process.name, jobid)
        self.deaths[jobid] += 1

    def told(self, process: Process, copy: Assigned) -> None:
        """A worker says to a server that it has done with a copy."""
        jobid, attempt = _names(copy.unique)
        self.say("told", process.name, jobid, attempt)
        row = self.model.rows.get(jobid)
        if row is not None and row.attempt == attempt and row.state in HELD and not row.put_off:
            self.wrong("a server was told before the database", process.name, jobid, attempt)

    def event(self, name: str, fields: dict[str, Any]) -> None:
        """The code under test says something."""
        if name == "role.error" and not any(known in fields["error"] for known in _KNOWN_ERRORS):
            self.wrong("an unexpected error", fields["error"])
        if name in ("job.stale", "job.dropped", "job.crashed") and not (
            self.faults or self.unread or self.cancelled
        ):
            self.wrong("without a fault", name, fields)
        if name == "lease.expired":
            self.say(name, *fields.values())
            if fields["found"] == Found.STRANDED.value:
                self._stranded.add((fields["jobid"], fields["attempt"]))
        elif name in _TOLD_EVENTS:
            self.say(name)

    # ---- the end

    def duplicates(self) -> Counter[int]:
        """Count the starts of each job that were not needed."""
        return Counter(
            {
                jobid: extra
                for jobid, starts in self.starts.items()
                if (extra := starts - 1 - self._wanted_again(jobid)) > 0
            }
        )

    def _wanted_again(self, jobid: int) -> int:
        """How often it had to run again for what its function did: failed, asked for more time."""
        steps = self.steps[jobid]
        row = self.model.rows.get(jobid)
        last = row is not None and row.failcount >= self._most_failures(row) and not steps["discarded"]
        return steps["failed"] + steps["rescheduled"] + self.put_offs[jobid] - int(last)

    def check(self) -> None:
        """Check what can be said only at the end."""
        for jobid in sorted(self.acknowledged | set(self.steps)):
            row = self.model.rows.get(jobid)
            if row is None and jobid not in self.completed:
                self.wrong("an acknowledged job is lost", jobid)
            elif row is not None and row.state is not State.DEAD:
                self.wrong("a job has not ended", row)
            elif row is not None:
                self._check_dead(row)
        for jobid, extra in sorted(self.duplicates().items()):
            if extra > self.hits(jobid):
                self.wrong("a job ran again for nothing", jobid, extra, self.hits(jobid))
        for plan in self.plans.values():
            # One if the row was deleted, whoever ran it how often.
            follow_ups, wanted = self.inserted[plan.follow_up.number], int(plan.number in self._done)
            if plan.follows and follow_ups != wanted:
                self.wrong("a job has too many or too few follow-ups", plan, follow_ups, wanted)
        if not self.faults:
            self._check_calm()

    def _check_dead(self, row: Row) -> None:
        failed = row.failcount >= self._most_failures(row) and self.failures[row.jobid] >= row.failcount
        crashed = row.crashes >= MAX_CRASHES and self.hits(row.jobid) >= MAX_CRASHES
        if not (failed or crashed or self.discards[row.jobid] or row.jobid in self.cancelled):
            self.wrong("a job is dead before its time", row)

    def _most_failures(self, row: Row) -> int:
        policy = self.model.policies.get(row.funcname)
        return (policy and policy.max_failures) or MAX_FAILURES

    def _check_calm(self) -> None:
        for jobid, sends in self.sends.items():
            if jobid in self.cancelled:
                continue
            steps = self.steps[jobid]
            again = self._wanted_again(jobid) + steps["give_back"] + self.refusals[jobid]
            again += self.unread[jobid] + self.stranded[jobid]
            if sends != 1 + again:
                self.wrong("a needless submit", jobid, sends, again, steps)


#: What the stand-ins raise.
_KNOWN_ERRORS: Final = (
    "the database is",
    "the connection was lost",
    "went away",
    "no Gearman server answers",
    "is not there",
    "was not reachable",
)
_TOLD_EVENTS: Final = frozenset(
    {"jobs.released", "jobs.unknown", "jobs.lost", "jobs.given_back", "job.stale", "job.crashed"}
)


def _handles(name: str, arguments: Sequence[Any]) -> list[Handle]:
    """Return whose rows a call may change because they hold them."""
    match name:
        case "renew" | "give_back" | "mark_leased" | "end_early":
            return list(arguments[0])
        case "release":
            return [job.handle for job in arguments[0]]
        case "settle":
            return [setback.handle for setback in arguments[0]]
        case _:
            return []


def _names(unique: bytes) -> tuple[int, int]:
    """Return job and attempt."""
    _, jobid, attempt = unique.split(b":")
    return int(jobid), int(attempt)
