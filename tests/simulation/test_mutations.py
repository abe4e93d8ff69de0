"""A protocol with one rule broken does not pass: each rule is broken in turn, and some seed must tell."""

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import pytest
from hypothesis.stateful import run_state_machine_as_test

from garivini import submission
from garivini.gearman.protocol import Submission, Unknown
from garivini.gearman.requests import SubmitResult
from garivini.keeper.copies import copy_of
from garivini.keeper.database_clock import DatabaseClock
from garivini.keeper.execution import Execution
from garivini.keeper.leases import Failed, Leases
from garivini.keeper.marks import Marks
from garivini.keeper.obituaries import Obituaries
from garivini.keeper.outcome_queue import OutcomeQueue
from garivini.keeper.outcome_writer import OutcomeWriter
from garivini.keeper.renewals import Renewals
from garivini.keeper.start_checks import StartChecks
from garivini.model.job import Handle, Job, NewJob
from garivini.model.lease import Decision, Extend, Found, Reclaim, decide
from garivini.model.outcome import Setback, Settled, Success
from garivini.model.payload import decode_payload
from garivini.model.policy import FunctionPolicy
from garivini.model.state import State
from garivini.model.turns import START, Place
from garivini.roles import expired_leases, orphans
from garivini.roles.dispatcher import Dispatcher
from garivini.roles.expired_leases import ExpiredLeases
from garivini.roles.job_servers import JobServers
from garivini.roles.orphans import Orphans
from garivini.store.admission import Admitted
from garivini.store.database import Lane, Lapsed
from garivini.worker.held_jobs import HeldJobs
from tests.simulation.database import HELD, Model, Row
from tests.simulation.scenario import Fault, Function, Plan, Scenario, Worker, draw, plain
from tests.simulation.servers import Held
from tests.simulation.simulation import simulate
from tests.simulation.test_model import Both, comparison


def reclaims_what_is_queued(state: State, found: Found, **facts: Any) -> Decision:
    return Reclaim() if found is Found.QUEUED else decide(state, found, **facts)


def reclaims_at_the_first_strike(state: State, found: Found, **facts: Any) -> Decision:
    step = decide(state, found, **facts)
    return Reclaim(crashed=True) if isinstance(step, Extend) and step.state is State.SUSPECT else step


def renews_whatever_attempt(
    self: Model, handles: Iterable[Handle], *, lease: int, locked: Any = None
) -> set[Handle]:
    kept = set()
    for handle in handles:
        row = self.rows.get(handle.jobid)
        if row is not None and row.state in HELD:
            self._change("renew", row, state=State.RUNNING, run_after=self._now() + lease + 1)
            kept.add(handle)
    return kept


def ends_whatever_lease(self: Model, handles: Iterable[Handle], *, lease: int, locked: Any = None) -> None:
    for handle in handles:
        row = self.rows.get(handle.jobid)
        if row is not None and row.state in HELD:
            self._change("end_early", row, run_after=self._now())


def releases_nothing(self: Model, jobs: Iterable[Job], *, locked: Any = None) -> None:
    pass


def admits_whatever_is_due(self: Model, lane: Lane, *, place: Place = START, **arguments: Any) -> Admitted:
    return Admitted(self.claim(lane, **arguments), None, place)


def has_room_in_any_partition(self: Model, *_: Any) -> bool:
    return True


def uses_no_rate_of_partitions(self: Model, *_: Any) -> None:
    pass


def uses_no_rate(self: Model, funcname: str, used_until: float) -> None:
    pass


def runs_fast(self: Model) -> float:
    """Return the time of a QueueRunner's own clock, which the database's would correct."""
    return 2 * self._clock()


def functions_without_pauses(self: Model) -> dict[str, FunctionPolicy]:
    return dict(self.policies)


def reads_policies_once(self: Dispatcher, now: float) -> None:
    if self._policies_read < 0:
        read_policies(self, now)


async def resubmits_whatever_rules(self: ExpiredLeases, jobs: Sequence[Job], claimed: float) -> bool:
    """As it was: a job whose lease has expired is submitted again, whatever the rules of its function."""
    with patch.object(Dispatcher, "ruled", frozenset()):
        return await resubmit(self, jobs, claimed)


read_policies: Final = Dispatcher.read_policies
resubmit: Final = ExpiredLeases._resubmit


def reads_no_marks(self: Marks) -> None:
    self._due = self._monotonic() + 1.0


def hastens_nothing(self: Renewals, funcnames: Iterable[str]) -> None:
    pass


def checks_nothing_marked(self: StartChecks, execution: Execution) -> bool:
    self.marked = frozenset()
    return must_check(self, execution)


must_check: Final = StartChecks.must_check


def takes_what_has_changed(self: Model, lapsed: Lapsed) -> Iterator[Row]:
    row = self.rows.get(lapsed.jobid)
    if row is not None and row.state in HELD:
        yield row


def settles_without_fence(
    self: Model, setbacks: Sequence[Setback], *, max_failures: int = 25, locked: Any = None
) -> list[Settled]:
    return [
        self._settle(
            Setback(handle=Handle(it.handle.jobid, it.handle.dbid), kind=it.kind, when=it.when), max_failures
        )
        for it in setbacks
    ]


def keeps_the_attempt(
    self: Model, step: str, row: Row, lease: int, crashed: int = 0, state: State = State.LEASED
) -> None:
    self._change(
        step,
        row,
        attempt=max(row.attempt, 1),
        state=state,
        since=self._now(),
        run_after=self._now() + lease + 1,
    )


def reports_first(self: OutcomeQueue) -> None:
    executions = self._inbox.take(len(self._inbox))
    self._on_committed(executions)
    self._inbox.put_back(executions)
    commit(self)


commit: Final = OutcomeQueue.step


def checks_nothing(self: StartChecks, execution: Execution) -> None:
    self._on_checked(execution, True)


def renews_nothing(self: Leases, executions: Sequence[Execution]) -> tuple[set[Handle], Failed]:
    return {execution.job.handle for execution in executions}, []


def gives_back_whatever_attempt(self: Model, handles: Iterable[Handle], *, locked: Any = None) -> None:
    for handle in handles:
        row = self.rows.get(handle.jobid)
        if row is not None and row.state in HELD:
            self._change("give_back", row, state=State.WAITING, run_after=self._now())


def without_put_off(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that takes rows which somebody has put off for leases."""

    def step(self: Model, *arguments: Any, **named: Any) -> Any:
        with patch.object(Row, "put_off", False):
            return method(self, *arguments, **named)

    return step


def of_whoever_put_it_off(self: Model, lapsed: Lapsed) -> Iterator[Row]:
    with patch.object(Row, "put_off", False):
        rows = list(unchanged(self, lapsed))
    yield from rows


def expired_unmarked(self: Model, lane: Lane, *, limit: int) -> list[Lapsed]:
    """As it was: a row that was put off and is due is like one whose lease ran out, and is written so."""
    self._unchanged = partial(of_whoever_put_it_off, self)  # type: ignore[method-assign]
    return [lapsed._replace(put_off=False) for lapsed in expired(self, lane, limit=limit)]


unchanged: Final = Model._unchanged
expired: Final = Model.expired


def starts_whatever_comes(self: HeldJobs, held: Any) -> None:
    job = decode_payload(held.job.data)
    run = self._executions[copy_of(job)] = Execution(job, held, self._name, copy_of(job))
    if (job.attempt or 0) > 1:
        self._keepers[job.dbid].check(run)
    else:
        self._start(run, self._keepers[job.dbid])


def attaches_whatever_comes(self: HeldJobs, execution: Execution, held: Any) -> None:
    """As it was: a job that waits for its start is not checked again."""
    if execution.held.disconnected:
        execution.held = held
    else:
        held.complete()


def sweeps_at_once(self: Orphans) -> list[float]:
    return [max(0.0, when - asyncio.get_running_loop().time()) for when in (self._sweeps or [])[:1]]


def reads_its_clock_late(self: DatabaseClock) -> None:
    if self.offset is None:
        self.offset = self._database.clock() - self._monotonic()


def counts_deserted_servers(self: JobServers, function: bytes) -> int:
    return sum(
        server.functions[function].queued
        for server in self._servers.values()
        if server.functions and function in server.functions
    )


def records_again(self: Obituaries) -> None:
    """As it was: a crash whose record has an unknown outcome is recorded again."""
    child = self._child
    while child is not None and len(self._inbox):
        (obituary,) = self._inbox.take(1)
        try:
            self._setbacks._database.settle([Setback(handle=obituary.handle, kind=obituary.kind)])
        except Exception:
            self._inbox.put_back([obituary])
            raise
        child.obituaries.remove(obituary)
        if not child.obituaries:
            child.slot.note_recorded()


def follows_whatever_existed(
    self: Model, successes: Sequence[Success], *, follow_ups: Mapping[int, Sequence[NewJob]], **_: Any
) -> set[int]:
    gone = self.complete([success.jobid for success in successes])
    self.insert([new for every in follow_ups.values() for new in every])
    return gone


def follows_apart(self: OutcomeWriter, executions: list[Execution], locked: set[int] | None) -> None:
    """Insert follow-ups in a transaction of their own."""
    existed = self._database.complete([it.job.jobid for it in executions])
    new = [new for it in executions if it.job.jobid in existed for new in it.job.follow_ups]
    if new:
        self._database.insert(new)


#: Stands for a property.
never_disconnected: Final = property(lambda self: False)
submit: Final = JobServers.submit


async def submits_again(self: JobServers, jobs: Sequence[Submission]) -> list[SubmitResult]:
    results = await submit(self, jobs)
    unknown = [index for index, result in enumerate(results) if isinstance(result, Unknown)]
    if unknown:
        again = await submit(self, [jobs[index] for index in unknown])
        for index, result in zip(unknown, again, strict=True):
            results[index] = result
    return results


def slow_functions(*, jobs: int = 8, lease: int = 3) -> Scenario:
    """Return one with functions that block the worker for longer than a lease, and with two servers."""
    scenario = plain(*[lease * 2.7] * jobs, lease=lease, servers=2)
    return replace(
        scenario, plans=tuple(replace(plan, outcomes=("retry", "done")) for plan in scenario.plans)
    )


def cut_while_jobs_wait(seed: int) -> Scenario:
    """Return one whose worker loses its connections while later attempts wait there behind a slow job."""
    dice = random.Random(seed)
    plans = [
        Plan(
            *(number, max(0.0, number - 8) * 0.5, "f0", 0, "normal", dice.choice([0.005, 0.6])),
            outcomes=("retry", "retry", "done"),
        )
        for number in range(16)
    ]
    faults = [
        Fault(0.2 + 10 * dice.random(), "cut worker", dice.choice([0.01, 0.1, 0.4]), 0, 0.0)
        for _ in range(12)
    ]
    faults.sort(key=lambda fault: fault.at)
    return replace(plain(lease=20), seed=seed, plans=tuple(plans), faults=tuple(faults))


class Broken(NamedTuple):
    """A rule of the protocol that does not hold."""

    owner: Any
    name: str
    by: Any
    #: Where it shows; after these, all seeds in turn are tried.
    first: Sequence[int | Scenario] = ()


#: A QueueRunner that stands still between its claim and its submit, for as long as it may.
STOPPED: Final = plain(
    0.1,
    lease=20,
    database_delay=0.05,
    runners=(0.0, 0.3),
    faults=(Fault(0.17, "freeze runner", 2.0, 0, 0.0),),
)
#: The same for longer.
STOPPED_LONG: Final = replace(STOPPED, faults=(Fault(0.17, "freeze runner", 5.0, 0, 0.0),))

#: One of two servers goes away before the first sweep.
ONE_AWAY: Final = plain(0.1, servers=2, faults=(Fault(0.02, "restart server", 8.0, 0, 0.0),))
#: A worker that stands still while it asks for the time, until after the end of a lease.
LATE_CLOCK: Final = plain(
    0.1, lease=6, database_delay=0.2, poll=30.0, faults=(Fault(0.25, "freeze worker", 20.0, 0, 0.0),)
)

#: A task that is cancelled long before the next renewal of its lease.
CANCELLED: Final = plain(
    15.0,
    lease=60,
    functions=(Function("f0", "async", None, 3),),
    workers=(Worker(0.0, "async", 1),),
    cancels=((3.0, 0),),
)
#: Tasks that run one after the other: the third is cancelled while its copy waits in the server.
CANCELLED_COPY: Final = replace(
    plain(*[2.0] * 4, lease=60, cancels=((1.0, 2),)),
    functions=CANCELLED.functions,
    workers=CANCELLED.workers,
)

#: Jobs that kill their process once, while answers of the database get lost.
LOST_ANSWERS: Final = replace(
    plain(0.1, lease=60, faults=(Fault(0.005, "database lost", 25.0, 0, 0.0),)),
    plans=tuple(Plan(number, 0.0, "f0", 0, "normal", 0.1, ("done",), deaths=1) for number in range(24)),
)

#: Jobs with follow-ups, while answers of the database get lost.
FOLLOWED: Final = replace(
    plain(0.1, lease=60, faults=(Fault(0.005, "database lost", 25.0, 0, 0.0),)),
    plans=tuple(Plan(number, 0.0, "f0", 0, "normal", 0.1, ("done",), follows=True) for number in range(24)),
)

#: Jobs of a function with a rate.
RATES: Final = [
    plain(*[0.1] * 12, functions=(Function("f0", "def", None, 3, rate=rate, burst=2),), runners=(0.0, 0.0))
    for rate in ("2/s", "20/s")
]

#: Jobs of two partitions with a limit and a rate.
PARTITIONS: Final = [
    replace(
        scenario,
        functions=(Function("f0", "async", None, 3, **rule),),
        workers=(Worker(0.0, "async", 8),),
        plans=tuple(replace(plan, partition="ab"[plan.number % 2]) for plan in scenario.plans),
    )
    for scenario in [plain(*[0.1] * 12, runners=(0.0, 0.0))]
    for rule in ({"partition_max_running": 1}, {"partition_rate": "2/s"})
]

BROKEN: Final = {
    "what is queued is reclaimed": Broken(expired_leases, "decide", reclaims_what_is_queued, [8, 18]),
    "one strike is enough": Broken(expired_leases, "decide", reclaims_at_the_first_strike, [89, 127]),
    "a renewal without its fence": Broken(Model, "renew", renews_whatever_attempt, [509, 564]),
    "a renewal that never comes": Broken(Leases, "renew", renews_nothing, [0, 2]),
    "a setback without its fence": Broken(Model, "settle", settles_without_fence, [64, 77]),
    "a give-back without its fence": Broken(Model, "give_back", gives_back_whatever_attempt, [99, 385]),
    "an end before its time without its guard": Broken(Model, "end_early", ends_whatever_lease, [0, 24]),
    "a lost connection that ends early what was put off": Broken(
        Model, "end_early", without_put_off(Model.end_early), [147, 191]
    ),
    "a renewal of what was put off": Broken(Model, "renew", without_put_off(Model.renew), [64, 76]),
    "a release of what was put off": Broken(Model, "release", without_put_off(Model.release), [670, 1023]),
    "a give-back of what was put off": Broken(
        Model, "give_back", without_put_off(Model.give_back), [99, 385]
    ),
    "a setback of what was put off": Broken(Model, "settle", without_put_off(Model.settle), [64, 77]),
    "an expiry of what was put off": Broken(Model, "expired", expired_unmarked, [3, 9]),
    "a step on what has changed since it was read": Broken(
        Model, "_unchanged", takes_what_has_changed, [293, 442]
    ),
    "a claim that does not raise the attempt": Broken(Model, "_lease", keeps_the_attempt, [0, 2]),
    "a claim that is not released": Broken(Model, "release", releases_nothing, [47, 73]),
    "a sweep that takes the youngest": Broken(orphans, "_SWEEP_AGE", 0, [STOPPED]),
    "a limit that is not kept": Broken(Model, "admit", admits_whatever_is_due, [2, 3]),
    "a partition that has always room": Broken(
        Model, "_partition_room", has_room_in_any_partition, PARTITIONS
    ),
    "a rate of partitions that is not used": Broken(
        Model, "_use_partition", uses_no_rate_of_partitions, PARTITIONS[1:]
    ),
    "rules about partitions that a QueueRunner does not know": Broken(
        Dispatcher, "ruled", frozenset(), PARTITIONS
    ),
    "a limit that a QueueRunner does not know": Broken(Dispatcher, "ruled", frozenset(), [2, 3]),
    "marks that no worker reads": Broken(Marks, "step", reads_no_marks, [CANCELLED, CANCELLED_COPY]),
    "marks by which no copy is checked": Broken(
        StartChecks, "must_check", checks_nothing_marked, [CANCELLED_COPY]
    ),
    "marks by which no lease is renewed": Broken(Renewals, "hasten", hastens_nothing, [CANCELLED]),
    "a pause that a QueueRunner does not know": Broken(
        Model, "functions", functions_without_pauses, [28, 33]
    ),
    "settings that are read once": Broken(Dispatcher, "read_policies", reads_policies_once, [33, 35]),
    "an expired lease of a paused function that is submitted again": Broken(
        ExpiredLeases, "_resubmit", resubmits_whatever_rules, [331, 419]
    ),
    "a rate that is not used": Broken(Model, "use_rate", uses_no_rate, RATES),
    "a rate by a clock that runs fast": Broken(Model, "rate_clock", runs_fast, RATES),
    "a rate that a QueueRunner does not know": Broken(Dispatcher, "ruled", frozenset(), RATES),
    "a submit of what was claimed long ago": Broken(submission, "SUBMIT_WITHIN", 1e9, [STOPPED_LONG]),
    "an attempt submitted again": Broken(JobServers, "submit", submits_again, [0, 11]),
    "a server told before the commit": Broken(OutcomeQueue, "step", reports_first, [0]),
    "no start check": Broken(StartChecks, "check", checks_nothing, [0, 2]),
    "a copy that comes again": Broken(HeldJobs, "arrived", starts_whatever_comes, [0, 8]),
    "a second copy that is not checked": Broken(
        HeldJobs, "_attach", attaches_whatever_comes, [cut_while_jobs_wait(seed) for seed in range(24)]
    ),
    "a start after the loss of the connection": Broken(Held, "disconnected", never_disconnected, [23, 33]),
    "a QueueRunner that waits for nobody": Broken(Orphans, "until_sweep", sweeps_at_once, [ONE_AWAY]),
    "a clock read before its time": Broken(DatabaseClock, "step", reads_its_clock_late, [LATE_CLOCK]),
    "room that deserted servers use up": Broken(JobServers, "queued", counts_deserted_servers, [215]),
    "follow-ups of a job that somebody else has ended": Broken(
        Model, "finish", follows_whatever_existed, [FOLLOWED]
    ),
    "follow-ups in a transaction of their own": Broken(OutcomeWriter, "_follow", follows_apart, [FOLLOWED]),
    "a death that is counted again": Broken(Obituaries, "step", records_again, [LOST_ANSWERS]),
}


@pytest.mark.slow
@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_noticed(rule: str) -> None:
    broken = BROKEN[rule]
    scenarios = (it if isinstance(it, Scenario) else draw(it) for it in [*broken.first, *range(500)])
    with patch.object(broken.owner, broken.name, broken.by):
        for scenario in scenarios:
            if simulate(scenario).broken:
                return
    pytest.fail(f"{rule}: nobody has noticed")


@pytest.mark.slow
def test_what_shows_a_broken_rule_shows_nothing_where_none_is() -> None:
    """Else the tests above would pass for another reason."""
    for broken in BROKEN.values():
        for it in broken.first:
            assert simulate(it if isinstance(it, Scenario) else draw(it)).broken == []


@pytest.mark.slow
@pytest.mark.parametrize("rule", [rule for rule, broken in BROKEN.items() if broken.owner is Model])
def test_a_broken_model_is_told_from_the_real_database(rule: str) -> None:
    broken = BROKEN[rule]
    # Hypothesis takes constants from the source: whenever that changes, other examples are tried. It
    # stops at the first that shows the difference.
    with patch.object(broken.owner, broken.name, broken.by), pytest.raises(AssertionError):
        run_state_machine_as_test(Both, settings=comparison(5000))
