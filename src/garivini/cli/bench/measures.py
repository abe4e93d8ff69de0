"""The measures. Each has two sides, ours and the baseline, which take turns and do the same work."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from statistics import median
from typing import Final, NamedTuple

from garivini.cli.bench import bare, floor
from garivini.cli.bench.figures import DeliveryCheck, Measure, RoundResult, check_delivery
from garivini.cli.bench.runs import FLOOR, OURS, Start, rows
from garivini.cli.bench.setup import PureSide, Setup, Side
from garivini.client import Client

#: Jobs per second of the pickup measure.
RATE: Final = 50
#: Calls in flight of the pure measure.
CALLERS: Final = 200
#: Calls per second of the pure-pickup measure.
PURE_RATE: Final = 100
#: Jobs per insert of the bulk pickup.
BULK: Final = 1000
#: Inserts per round of the bulk pickup. The first one is not measured.
REPEATS: Final = 6
#: Seconds of single inserts per round.
SINGLE: Final = 0.5
#: Seconds without progress after which the jobs in the table count as lost.
LOST: Final = 20.0
_POLL: Final = 0.005


class Size(NamedTuple):
    """The size of a round."""

    jobs: int
    #: Seconds of a round, for the measures whose rounds have a fixed length.
    seconds: float


# ---- inserts


def _bulk_ours(setup: Setup, size: Size) -> RoundResult:
    jobs = rows(setup.arg, min(size.jobs, bare.BATCH))
    batches = _batches(size.jobs)
    began = time.perf_counter()
    answers = [setup.client.insert_jobs(jobs[:count]) for count in batches]
    seconds = time.perf_counter() - began
    inserted = [answer.jobid for batch in answers for answer in batch]
    return _inserted(setup, inserted, size.jobs / seconds)


def _bulk_floor(setup: Setup, size: Size) -> RoundResult:
    args = [setup.arg] * min(size.jobs, bare.BATCH)
    batches = _batches(size.jobs)
    began = time.perf_counter()
    answers = [setup.store.insert_many(args[:count]) for count in batches]
    seconds = time.perf_counter() - began
    return _inserted(setup, chain.from_iterable(answers), size.jobs / seconds)


def _batches(jobs: int) -> list[int]:
    return [min(bare.BATCH, jobs - begun) for begun in range(0, jobs, bare.BATCH)]


def _single_ours(setup: Setup, size: Size) -> RoundResult:
    insert, arg = setup.client.insert_job, setup.arg
    return _single(setup, lambda: insert(OURS, arg).jobid)


def _single_floor(setup: Setup, size: Size) -> RoundResult:
    insert, arg = setup.store.insert_one, setup.arg
    return _single(setup, lambda: insert(arg))


def _single(setup: Setup, insert: Callable[[], int]) -> RoundResult:
    inserted = []
    began = now = time.perf_counter()
    while now - began < SINGLE:
        inserted.append(insert())
        now = time.perf_counter()
    return _inserted(setup, inserted, len(inserted) / (now - began))


def _inserted(setup: Setup, inserted: Iterable[int], rate: float) -> RoundResult:
    """Check that the table has each acknowledged job, and no other."""
    return RoundResult({"jobs/s": rate}, check_delivery(inserted, (), setup.store.standing(), may_stand=True))


# ---- from insert to end


@contextmanager
def _dispatching(side: Side) -> Iterator[None]:
    side.dispatcher.go()
    try:
        yield
    finally:
        side.dispatcher.stop()


def _drain_ours(setup: Setup, size: Size) -> RoundResult:
    jobs = rows(setup.arg, min(size.jobs, bare.BATCH))
    answers = [setup.client.insert_jobs(jobs[:count]) for count in _batches(size.jobs)]
    return _drain(setup, setup.ours, [answer.jobid for batch in answers for answer in batch])


def _drain_floor(setup: Setup, size: Size) -> RoundResult:
    args = [setup.arg] * min(size.jobs, bare.BATCH)
    answers = [setup.store.insert_many(args[:count]) for count in _batches(size.jobs)]
    return _drain(setup, setup.floor, list(chain.from_iterable(answers)))


def _drain(setup: Setup, side: Side, inserted: list[int]) -> RoundResult:
    before = setup.cpu(side)
    began = time.perf_counter()
    with _dispatching(side):
        _wait(setup.store.empty, setup)
        seconds = time.perf_counter() - began
    runs = _settled(setup, side)
    return RoundResult(
        {"jobs/s": len(inserted) / seconds},
        check_delivery(inserted, [run.jobid for run in runs], setup.store.standing()),
        _used(setup, side, before, len(inserted)),
    )


def _steady(setup: Setup, side: Side, size: Size) -> RoundResult:
    before, ended = setup.cpu(side), setup.store.ended()
    began = time.perf_counter()
    with _dispatching(side):
        side.producer.go()
        time.sleep(size.seconds)
        completed = setup.store.ended() - ended
        seconds = time.perf_counter() - began
        side.producer.stop()
    # Jobs that were not claimed stay in the table. Claimed jobs must end.
    _wait(lambda: not setup.store.standing(leased=True), setup)
    runs = _settled(setup, side)
    inserted = [note.jobid for note in side.inserted.take()]
    return RoundResult(
        {"jobs/s": completed / seconds},
        check_delivery(inserted, [run.jobid for run in runs], setup.store.standing(), may_stand=True),
        _used(setup, side, before, max(1, len(runs))),
    )


def _pickup_ours(setup: Setup, size: Size, *, dispatch: bool = True) -> RoundResult:
    with _dispatching(setup.ours), Client(setup.url, setup.address) as client:
        insert, arg = client.insert_job, setup.arg
        return _pickup(setup, setup.ours, lambda: insert(OURS, arg, dispatch=dispatch).jobid, size)


def _pickup_floor(setup: Setup, size: Size) -> RoundResult:
    with closing(floor.Submitter(setup.address)) as submitter:

        def insert() -> int:
            jobid = setup.store.insert_one(setup.arg)
            submitter.submit([_row(jobid, setup.arg)])
            return jobid

        result = _pickup(setup, setup.floor, insert, size)
        result.cpu.pop("dispatcher", None)  # on this side, the bench itself is the dispatcher
        return result


def _bulk_pickup_ours(setup: Setup, size: Size) -> RoundResult:
    jobs = rows(setup.arg, BULK)
    with _dispatching(setup.ours), Client(setup.url, setup.address) as client:
        return _bulk_pickup(setup, setup.ours, lambda: [answer.jobid for answer in client.insert_jobs(jobs)])


def _bulk_pickup_floor(setup: Setup, size: Size) -> RoundResult:
    args = [setup.arg] * BULK
    with closing(floor.Submitter(setup.address)) as submitter:

        def insert() -> list[int]:
            jobids = list(setup.store.insert_many(args))
            submitter.submit([_row(jobid, setup.arg) for jobid in jobids])
            return jobids

        return _bulk_pickup(setup, setup.floor, insert)


def _bulk_pickup(setup: Setup, side: Side, insert: Callable[[], list[int]]) -> RoundResult:
    """Insert batches, each measured until its last handler starts. The first batch is not measured."""
    inserted, lasts, runs = [], [], []
    for _ in range(REPEATS):
        began = time.monotonic_ns()
        inserted += insert()
        _wait(setup.store.empty, setup)
        found = _settled(setup, side)
        lasts.append((max((run.began for run in found), default=began) - began) / 1e6)
        runs += [run.jobid for run in found]
    return RoundResult({"last": median(lasts[1:])}, check_delivery(inserted, runs, setup.store.standing()))


def _pure(setup: Setup, side: PureSide, size: Size) -> RoundResult:
    began = time.perf_counter()
    inserted = side.callers.run(size.jobs, CALLERS)
    _wait(setup.store.empty, setup)
    seconds = time.perf_counter() - began
    runs = _pure_settled(setup, side)
    return RoundResult(
        {"jobs/s": len(inserted) / seconds},
        check_delivery(inserted, [run.jobid for run in runs], setup.store.standing()),
    )


def _pure_pickup(setup: Setup, side: PureSide, size: Size) -> RoundResult:
    warm = side.callers.run(5, 1)
    _wait(setup.store.empty, setup)
    count = max(2, round(size.seconds * PURE_RATE))
    due = _timed(lambda: side.callers.run(1, 1)[0], count, PURE_RATE)
    _wait(setup.store.empty, setup)
    runs = _pure_settled(setup, side)
    return RoundResult(
        _waits(due, runs), check_delivery([*warm, *due], [run.jobid for run in runs], setup.store.standing())
    )


def _pure_settled(setup: Setup, side: PureSide) -> list[Start]:
    _wait(lambda: setup.idle(*side.functions), setup)
    return side.runs.take()


def _row(jobid: int, arg: bytes) -> bare.Row:
    return jobid, FLOOR, arg, None, None, 0, "shim", 0


def _pickup(setup: Setup, side: Side, insert: Callable[[], int], size: Size) -> RoundResult:
    """Insert jobs at scheduled times, and measure from these times: delays of the inserts are included."""
    warm = [insert() for _ in range(5)]
    _wait(setup.store.empty, setup)
    before = setup.cpu(side)
    count = max(2, round(size.seconds * RATE))
    due = _timed(insert, count, RATE)
    _wait(setup.store.empty, setup)
    runs = _settled(setup, side)
    return RoundResult(
        _waits(due, runs),
        check_delivery([*warm, *due], [run.jobid for run in runs], setup.store.standing()),
        _used(setup, side, before, count),
    )


def _timed(insert: Callable[[], int], count: int, rate: int) -> dict[int, int]:
    """Insert at fixed times; return the scheduled time of each job by its id, in nanoseconds."""
    began = time.monotonic_ns()
    due: dict[int, int] = {}
    for number in range(count):
        at = began + number * 1_000_000_000 // rate
        time.sleep(max(0.0, (at - time.monotonic_ns()) / 1e9))
        due[insert()] = at
    return due


def _waits(due: Mapping[int, int], runs: Sequence[Start]) -> dict[str, float]:
    """Return percentiles of the milliseconds from scheduled times to starts."""
    started = {run.jobid: run.began for run in reversed(runs)}
    waits = sorted((started[jobid] - at) / 1e6 for jobid, at in due.items() if jobid in started)
    return {"p50": _at(waits, 0.5), "p99": _at(waits, 0.99), "max": _at(waits, 1.0)}


def _at(ordered: list[float], share: float) -> float:
    return ordered[math.ceil(len(ordered) * share) - 1] if ordered else math.inf


def _wait(done: Callable[[], bool], setup: Setup) -> None:
    """Wait until ``done`` returns true. Give up without progress: the check of ids finds the missing jobs."""
    ended, moved = -1, time.monotonic()
    while not done():
        time.sleep(_POLL)
        if time.monotonic() - moved > LOST:
            now = setup.store.ended()
            if now == ended:
                return
            ended, moved = now, time.monotonic()


def _settled(setup: Setup, side: Side) -> list[Start]:
    """Wait until the server has no copy that could still start; return all starts."""
    _wait(lambda: setup.idle(side.funcname), setup)
    return side.runs.take()


def _used(setup: Setup, side: Side, before: dict[str, float], jobs: int) -> dict[str, float]:
    now = setup.cpu(side)
    return {part: (now[part] - before[part]) / jobs * 1000 for part in before if part in now}


# ---- in turn


class _Sides(NamedTuple):
    ours: Callable[[Setup, Size], RoundResult]
    floor: Callable[[Setup, Size], RoundResult]


MEASURES: Final = {
    "bulk-insert": _Sides(_bulk_ours, _bulk_floor),
    "single-insert": _Sides(_single_ours, _single_floor),
    "drain": _Sides(_drain_ours, _drain_floor),
    "steady": _Sides(
        lambda setup, size: _steady(setup, setup.ours, size),
        lambda setup, size: _steady(setup, setup.floor, size),
    ),
    "pickup": _Sides(_pickup_ours, _pickup_floor),
    "pickup-bulk": _Sides(_bulk_pickup_ours, _bulk_pickup_floor),
    "wake": _Sides(partial(_pickup_ours, dispatch=False), _pickup_floor),
    "pure": _Sides(
        lambda setup, size: _pure(setup, setup.pure_ours, size),
        lambda setup, size: _pure(setup, setup.pure_floor, size),
    ),
    "pure-pickup": _Sides(
        lambda setup, size: _pure_pickup(setup, setup.pure_ours, size),
        lambda setup, size: _pure_pickup(setup, setup.pure_floor, size),
    ),
}


def take(name: str, setup: Setup, size: Size, rounds: int, report: Callable[[str], None]) -> Measure:
    """Take a measure: a small first round that is not measured, then Garivini and the baseline in turn.

    The measure ends when a job was not delivered.
    """
    measure = Measure(name)
    sides = {"ours": MEASURES[name].ours, "floor": MEASURES[name].floor}
    first = Size(max(1, size.jobs // 10), size.seconds / 5)
    for number in range(rounds + 1):
        for side, run in sides.items():
            setup.store.clear()
            result = run(setup, size if number else first)
            measure.deliveries[side] = measure.deliveries.get(side, DeliveryCheck()) + result.delivery
            if not result.delivery.right:
                return measure
            if number:
                (measure.ours if side == "ours" else measure.floor).append(result)
                values = ", ".join(f"{key} {value:,.1f}" for key, value in result.values.items())
                report(f"{name}, round {number} of {rounds}, {side}: {values}")
    setup.store.clear()
    return measure
