"""What a schedule does about its ticks: missed ones, overlapping ones, and those of two schedulers."""

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from garivini.errors import UsageError
from garivini.model.schedule import (
    MAX_TICKS,
    ON_TIME,
    Missed,
    Overlap,
    Plan,
    Schedule,
    changed,
    check_name,
    plan,
)

HOUR = 3600
NOW = 1_000_000 * HOUR


def hourly(**given: Any) -> Schedule:
    return Schedule(**{"funcname": "f", "every": HOUR, "overlap": "allow", **given})


def test_plan_of_a_new_schedule_inserts_nothing_before_its_first_tick() -> None:
    assert plan(hourly(), None, None, now=NOW + 1, live=False) == Plan((), NOW + HOUR, None, 0)
    assert plan(hourly(), None, None, now=NOW, live=False) == Plan((), NOW + HOUR, None, 0)


def test_plan_has_nothing_to_do_before_a_tick() -> None:
    assert plan(hourly(), NOW, None, now=NOW - 1, live=False) is None


@pytest.mark.parametrize("missed", ["skip", "last", "all"])
@pytest.mark.parametrize("late", [0, 1, ON_TIME])
def test_plan_inserts_a_tick_that_is_on_time_whatever_it_does_about_missed_ones(
    missed: Missed, late: int
) -> None:
    schedule = hourly(missed=missed, missed_window=1)
    assert plan(schedule, NOW, None, now=NOW + late, live=False) == Plan((NOW,), NOW + HOUR, None, 0)


@pytest.mark.parametrize(
    ("missed", "inserts"),
    [
        ("skip", ()),
        ("last", (NOW,)),
        ("all", (NOW - 2 * HOUR, NOW - HOUR, NOW)),
    ],
)
def test_plan_of_missed_ticks(missed: Missed, inserts: tuple[int, ...]) -> None:
    schedule = hourly(missed=missed, missed_window=2 * HOUR + 600)
    assert plan(schedule, NOW - 9 * HOUR, None, now=NOW + 600, live=False) == Plan(
        inserts, NOW + HOUR, None, 10 - len(inserts)
    )


def test_plan_that_skips_missed_ticks_inserts_the_last_one_if_that_is_on_time() -> None:
    schedule = hourly(missed="skip")
    assert plan(schedule, NOW - 9 * HOUR, None, now=NOW + 5, live=False) == Plan((NOW,), NOW + HOUR, None, 9)


@pytest.mark.parametrize("missed", ["skip", "last", "all"])
def test_plan_of_very_many_missed_ticks_comes_in_parts(missed: Missed) -> None:
    schedule = hourly(every=1, missed=missed, missed_window=100)
    next_tick, skipped = NOW - 3 * MAX_TICKS, 0
    inserts: list[int] = []
    for _ in range(4):
        decided = plan(schedule, next_tick, None, now=NOW, live=False)
        assert decided is not None
        assert decided.next_tick is not None
        assert len(decided.inserts) + decided.skipped <= MAX_TICKS
        next_tick = decided.next_tick
        inserts += decided.inserts
        skipped += decided.skipped
    assert next_tick == NOW + 1
    assert inserts == (list(range(NOW - 100, NOW + 1)) if missed == "all" else [NOW])
    assert len(inserts) + skipped == 3 * MAX_TICKS + 1


@pytest.mark.parametrize(
    ("overlap", "queued", "live", "expected"),
    [
        ("allow", None, True, ((NOW,), None, 0)),
        ("allow", NOW - HOUR, True, ((NOW - HOUR, NOW), None, 0)),
        ("skip", None, False, ((NOW,), None, 0)),
        ("skip", None, True, ((), None, 1)),
        ("skip", NOW - HOUR, True, ((), None, 2)),
        ("queue", None, False, ((NOW,), None, 0)),
        ("queue", None, True, ((), NOW, 0)),
        ("queue", NOW - HOUR, True, ((), NOW - HOUR, 1)),
        ("queue", NOW - HOUR, False, ((NOW - HOUR,), NOW, 0)),
    ],
)
def test_plan_of_a_tick_while_the_previous_job_is_live(
    overlap: Overlap, queued: int | None, live: bool, expected: tuple[Any, ...]
) -> None:
    inserts, waiting, skipped = expected
    decided = plan(hourly(overlap=overlap), NOW, queued, now=NOW, live=live)
    assert decided == Plan(inserts, NOW + HOUR, waiting, skipped)


@pytest.mark.parametrize("overlap", ["skip", "queue"])
def test_plan_inserts_one_job_at_a_time_if_all_missed_ticks_are_wanted(overlap: Overlap) -> None:
    schedule = hourly(missed="all", missed_window=86400, overlap=overlap)
    decided = plan(schedule, NOW - 2 * HOUR, None, now=NOW, live=False)
    if overlap == "skip":
        assert decided == Plan((NOW,), NOW + HOUR, None, 2)
    else:
        assert decided == Plan((NOW - 2 * HOUR,), NOW + HOUR, NOW - HOUR, 1)


def test_plan_inserts_a_queued_tick_when_the_previous_job_has_ended() -> None:
    schedule = hourly(overlap="queue")
    assert plan(schedule, NOW + HOUR, NOW, now=NOW + 5, live=True) is None
    assert plan(schedule, NOW + HOUR, NOW, now=NOW + 6, live=False) == Plan((NOW,), NOW + HOUR, None, 0)


def test_plan_goes_on_after_a_next_tick_that_another_program_wrote() -> None:
    decided = plan(hourly(), NOW + 7, None, now=NOW + 8, live=False)
    assert decided == Plan((), NOW + HOUR, None, 0)


# ---- two schedulers


@dataclass
class Row:
    """A schedule's row, and the jobs of its ticks."""

    next_tick: int | None = None
    queued: int | None = None
    inserted: list[int] = field(default_factory=list)
    skipped: int = 0


def simulate(schedule: Schedule, begin: int, end: int, dice: random.Random, longest: int) -> Row:
    """Let two schedulers handle ticks that are late, die in between, and read before each other's write.

    ``longest``: the maximum seconds between two passes.
    """
    row = Row(schedule.next_tick(begin))
    now = begin
    while now < end or (row.next_tick or 0) <= end:
        reads = [(row.next_tick, row.queued, now - dice.choice([0, 0, 1])) for _ in range(2)]
        for next_tick, queued, moment in reads:
            decided = plan(schedule, next_tick, queued, now=moment, live=dice.random() < 0.3)
            if decided is None or dice.random() < 0.2:
                continue  # nothing to do, or killed before the commit
            if row.next_tick == next_tick and row.queued == queued:
                row.next_tick, row.queued = decided.next_tick, decided.queued
                row.inserted += decided.inserts
                row.skipped += decided.skipped
        now += dice.randint(1, longest)
    return row


@pytest.mark.slow
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
@pytest.mark.parametrize("cron", ["30 2 * * *", "15 * * * *"])
def test_two_schedulers_insert_each_tick_of_a_year_once(zone: str, cron: str) -> None:
    begin, end = 1_767_225_600, 1_798_761_600  # 2026
    schedule = Schedule(
        funcname="f", cron=cron, zone=zone, missed="all", missed_window=10 * HOUR, overlap="allow"
    )
    row = simulate(schedule, begin, end, random.Random(zone + cron), 2 * HOUR)
    expected = []
    for tick in schedule.ticks(begin):
        if row.next_tick is not None and tick >= row.next_tick:
            break
        expected.append(tick)
    assert row.inserted == expected
    assert len(expected) >= 364


@pytest.mark.parametrize("overlap", ["skip", "queue"])
@pytest.mark.parametrize("missed", ["skip", "last", "all"])
def test_two_schedulers_account_for_each_tick_under_every_policy(overlap: Overlap, missed: Missed) -> None:
    for seed in range(30):
        dice = random.Random(seed)
        every = dice.choice([1, 60, HOUR])
        schedule = hourly(every=every, overlap=overlap, missed=missed)
        row = simulate(schedule, NOW, NOW + 20 * every, dice, 3 * every)
        assert row.inserted == sorted(set(row.inserted))
        assert row.next_tick is not None
        ticks = (row.next_tick - NOW) // every - 1
        assert len(row.inserted) + row.skipped + (row.queued is not None) == ticks


# ---- definitions


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cron": "* * * * *"}, "either a cron expression or an interval"),
        ({"every": None}, "either a cron expression or an interval"),
        ({"every": 0}, "an interval is 1 to"),
        ({"every": 366 * 86400}, "an interval is 1 to"),
        ({"every": 1.5}, "an interval is 1 to"),
        ({"every": True}, "an interval is 1 to"),
        ({"every": None, "cron": "x"}, "not a cron expression"),
        ({"every": None, "cron": b"x"}, "cron is an expression"),
        ({"zone": "Europe/Nowhere"}, "time zone"),
        ({"zone": None}, "time zone"),
        ({"missed": "none"}, "one of skip, last, all"),
        ({"overlap": "none"}, "one of allow, skip, queue"),
        ({"missed_window": 0}, "missed_window is 1 to"),
        ({"missed_window": "9"}, "missed_window is 1 to"),
        ({"funcname": ""}, "function name"),
        ({"arg": 5}, "argument"),
        ({"flag": "x"}, "one of shim, controller"),
        ({"priority": "x"}, "one of high, normal, low"),
    ],
)
def test_schedule_refuses_wrong_values(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        hourly(**given)


def test_changed_replaces_the_interval_by_an_expression_and_keeps_the_rest() -> None:
    before = {"funcname": "f", "every": 5, "arg": b"x"}
    assert changed(before, {"cron": "* * * * *"}) == Schedule(funcname="f", cron="* * * * *", arg=b"x")
    assert changed(before, {"arg": b"y"}) == Schedule(funcname="f", every=5, arg=b"y")


def test_changed_asks_for_the_function_of_a_new_schedule() -> None:
    with pytest.raises(UsageError, match="no such schedule yet: name its function"):
        changed({}, {"every": 5})


@pytest.mark.parametrize("name", ["", " a", "a\n", "a\0", "x" * 201, None, 5])
def test_check_name_refuses_what_cannot_name_a_schedule(name: Any) -> None:
    with pytest.raises(UsageError):
        check_name(name)
