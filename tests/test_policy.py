"""How long, how many, when: the numbers of the contract."""

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from garivini.errors import UsageError
from garivini.model.limits import MAX_DELAY, NEVER
from garivini.model.pacing import (
    BATCH_MAX,
    BATCH_START,
    GATE_PATIENCE,
    GATE_SIZE,
    BatchGate,
    next_batch,
    next_prefetch,
    room,
)
from garivini.model.when import At, Never, Offset, When, backoff, parse_delay, parse_when

DAY = 86400


# ---- after a failure


@pytest.mark.parametrize(("failcount", "minutes"), [(1, 2), (2, 4), (3, 8), (4, 16), (10, 1024)])
def test_a_failed_job_waits_two_to_the_failcount_minutes(failcount: int, minutes: int) -> None:
    assert backoff(failcount, spread=0) == minutes * 60


@pytest.mark.parametrize("failcount", [11, 12, 25, 255, 10_000])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_a_failed_job_waits_a_day_at_most(failcount: int, spread: float) -> None:
    assert backoff(failcount, spread=spread) == DAY


def test_jitter_is_a_tenth_either_way() -> None:
    assert backoff(3, spread=-1) == 432
    assert backoff(3, spread=1) == 528


def test_jobs_that_failed_together_come_back_spread_over_the_whole_jitter() -> None:
    waits = [backoff(3) for _ in range(500)]
    assert 432 <= min(waits) < 442
    assert 518 < max(waits) <= 528
    assert len(set(waits)) > 50


# ---- seconds from now


@pytest.mark.parametrize(
    ("run_after", "seconds"),
    [
        (None, 0),
        (0, 0),
        (-0.0, 0),
        (90, 90),
        (0.2, 1),
        (2.0, 2),
        (timedelta(minutes=5), 300),
        (timedelta(milliseconds=1), 1),
        (MAX_DELAY, MAX_DELAY),
    ],
)
def test_a_delay_is_whole_seconds_rounded_up(run_after: Any, seconds: int) -> None:
    assert parse_delay(run_after) == seconds


@pytest.mark.parametrize(
    "run_after",
    [
        -1,
        -1.5,
        timedelta(seconds=-1),
        MAX_DELAY + 1,
        MAX_DELAY + 0.1,
        1_700_000_000,
        10**400,
        timedelta.max,
        math.nan,
        math.inf,
        -math.inf,
        True,
        "60",
        datetime(2030, 1, 1, tzinfo=UTC),
    ],
)
def test_what_is_no_delay_is_refused(run_after: Any) -> None:
    with pytest.raises(UsageError, match="run_after"):
        parse_delay(run_after)


# ---- when


@pytest.mark.parametrize(
    ("when", "meant"),
    [
        ("never", Never()),
        ("+360", Offset(360)),
        ("+0", Offset(0)),
        ("1313572984", At(1313572984)),
        (1313572984, At(1313572984)),
        (1, At(1)),
        (2**32 - 1, At(2**32 - 1)),
        (timedelta(minutes=6), Offset(360)),
        (datetime(2011, 8, 17, 9, 23, 4, tzinfo=UTC), At(1313572984)),
        (datetime(2011, 8, 17, 11, 23, 4, tzinfo=timezone(timedelta(hours=2))), At(1313572984)),
        (datetime(2011, 8, 17, 9, 23, 3, 1, tzinfo=UTC), At(1313572984)),
        (NEVER, Never()),
        (str(NEVER), Never()),
        (NEVER + 1, At(NEVER + 1)),
    ],
)
def test_every_form_of_a_time_is_read(when: Any, meant: When) -> None:
    assert parse_when(when) == meant


def test_a_datetime_without_a_zone_is_refused() -> None:
    with pytest.raises(UsageError, match="no time zone"):
        parse_when(datetime(2030, 1, 1))


@pytest.mark.parametrize(
    "when",
    [
        0,
        -1,
        2**32,
        1_700_000_000_000,
        "0",
        datetime(1969, 1, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ],
)
def test_a_unix_time_out_of_range_is_refused(when: Any) -> None:
    with pytest.raises(UsageError, match="out of range"):
        parse_when(when)


@pytest.mark.parametrize("when", [f"+{MAX_DELAY + 1}", timedelta(days=4000), timedelta(seconds=-1)])
def test_an_offset_out_of_range_is_refused(when: Any) -> None:
    with pytest.raises(UsageError, match="out of range"):
        parse_when(when)


@pytest.mark.parametrize(
    "when", ["", "+", "++1", "-5", "+-5", " 5", "5 ", "1e3", "soon", "Never", "٣", "9" * 21, 1.5, True, None]
)
def test_what_is_no_time_is_refused(when: Any) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_when(when)


@settings(max_examples=30)
@given(st.text() | st.integers() | st.timedeltas() | st.datetimes(timezones=st.none() | st.timezones()))
def test_a_time_is_read_or_refused_and_nothing_else_happens(when: Any) -> None:
    try:
        meant = parse_when(when)
    except UsageError:
        return
    assert isinstance(meant, Never | At | Offset)


# ---- batches


def test_a_batch_grows_by_a_tenth_of_the_largest_while_full_and_shrinks_by_a_twentieth_else() -> None:
    assert next_batch(BATCH_START, full=True) == 150
    assert next_batch(150, full=True) == 250
    assert next_batch(250, full=False) == 200


def test_a_batch_stays_within_its_bounds() -> None:
    size = BATCH_START
    for _ in range(20):
        size = next_batch(size, full=True)
    assert size == BATCH_MAX
    for _ in range(40):
        size = next_batch(size, full=False)
    assert size == BATCH_START


@pytest.mark.parametrize("most", [1, 7, 49, 50, 51, 1000])
@pytest.mark.parametrize("full", [False, True])
def test_a_small_bound_holds_as_well(most: int, full: bool) -> None:
    size = min(BATCH_START, most)
    for _ in range(30):
        size = next_batch(size, full=full, maximum=most)
        assert min(BATCH_START, most) <= size <= most
    assert size == (most if full else min(BATCH_START, most))


# ---- prefetch


@pytest.mark.parametrize(
    ("seconds", "settles_at"), [(1.0, 1), (0.05, 1), (0.01, 5), (0.001, 50), (0.00001, 256), (0.0, 256)]
)
def test_a_worker_holds_about_fifty_milliseconds_of_work(seconds: float, settles_at: int) -> None:
    prefetch = 1
    for _ in range(10):
        prefetch = next_prefetch(prefetch, seconds)
    assert prefetch == settles_at


def test_prefetch_at_most_doubles_and_falls_at_once() -> None:
    assert next_prefetch(1, 0.000001) == 2
    assert next_prefetch(8, 0.000001) == 16
    assert next_prefetch(256, 0.5) == 1


# ---- room


def test_room_is_what_the_watermark_leaves() -> None:
    assert room(4000, 0) == 4000
    assert room(4000, 3999) == 1
    assert room(4000, 4000) == 0


def test_a_function_above_its_watermark_has_no_room_rather_than_less() -> None:
    assert room(4000, 9999) == 0


def test_without_a_watermark_there_is_any_room() -> None:
    assert room(0, 10**6) is None


def test_who_come_as_a_crowd_wait_for_as_many_as_came_the_last_time() -> None:
    crowd = BatchGate()
    assert not crowd.waits(1, now=5.0)
    crowd.stored(GATE_SIZE, began=5.0, now=5.004)
    assert [crowd.waits(size, now=5.005) for size in (1, GATE_SIZE - 1, GATE_SIZE)] == [True, True, False]


@pytest.mark.parametrize(("took", "patience"), [(0.004, 0.004), (60.0, GATE_PATIENCE)])
def test_a_crowd_is_waited_for_no_longer_than_the_last_took_nor_than_the_patience(
    took: float, patience: float
) -> None:
    crowd = BatchGate()
    crowd.stored(GATE_SIZE, began=100.0, now=100.0 + took)
    assert crowd.until == pytest.approx(100.0 + took + patience)
    assert not crowd.waits(1, now=crowd.until)


def test_after_few_nobody_waits() -> None:
    crowd = BatchGate()
    crowd.stored(GATE_SIZE, began=5.0, now=5.004)
    crowd.stored(GATE_SIZE - 1, began=5.0, now=5.004)
    assert not crowd.waits(1, now=5.005)
