"""When schedules tick, beside a search of a whole year."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo

import pytest

from garivini.errors import UsageError
from garivini.model.ticks import check_cron, cron_ticks, explain_cron, find_zone, interval_ticks

#: Every time that these expressions name is a multiple of it, and so is every change of a clock.
STEP = timedelta(minutes=5)
BEGIN = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
END = int(datetime(2027, 1, 1, tzinfo=UTC).timestamp())
#: Both changes of the clock in each: by an hour in the north, by half an hour in the south.
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC")

Matches = Callable[[datetime], bool]
#: Times of the day, and which local times they name. Some are skipped or come twice in each zone.
DAYS: Mapping[str, Matches] = {
    "0 3 * * *": lambda at: (at.hour, at.minute) == (3, 0),
    "30 2 * * *": lambda at: (at.hour, at.minute) == (2, 30),
    "15 2 * * *": lambda at: (at.hour, at.minute) == (2, 15),
    "0,15,45 1,2 * * *": lambda at: at.hour in (1, 2) and at.minute in (0, 15, 45),
    "0-59/5 2 * * *": lambda at: at.hour == 2,
    "45 1 * * SUN": lambda at: (at.hour, at.minute, at.isoweekday()) == (1, 45, 7),
    "10 0 1,15 * *": lambda at: (at.hour, at.minute) == (0, 10) and at.day in (1, 15),
    "0 9 1 * MON": lambda at: (at.hour, at.minute) == (9, 0) and (at.day == 1 or at.isoweekday() == 1),
    "5 4 29 2 *": lambda at: (at.month, at.day, at.hour, at.minute) == (2, 29, 4, 5),
}
#: What follows the clock.
CLOCKS: Mapping[str, Matches] = {
    "*/5 * * * *": lambda _: True,
    "*/15 * * * *": lambda at: at.minute % 15 == 0,
    "0 * * * *": lambda at: at.minute == 0,
    "30 * * * *": lambda at: at.minute == 30,
    "*/10 3 * * *": lambda at: at.hour == 3 and at.minute % 10 == 0,
    "*/20 1-2 * * *": lambda at: at.hour in (1, 2) and at.minute % 20 == 0,
    "5 */2 * * *": lambda at: at.hour % 2 == 0 and at.minute == 5,
    "*/5 2 * * SUN": lambda at: at.hour == 2 and at.isoweekday() == 7,
}


@cache
def shown(zone: str) -> Mapping[datetime, list[int]]:
    """Return when the clock of a zone shows each time, from a day before the year to a day after it."""
    found: dict[datetime, list[int]] = {}
    for tick in range(BEGIN - 86400, END + 86400, STEP.seconds):
        found.setdefault(datetime.fromtimestamp(tick, ZoneInfo(zone)).replace(tzinfo=None), []).append(tick)
    return found


def named(zone: str, matches: Matches) -> list[int]:
    """Return when the named times of the day come first, or if one is skipped, what comes after it."""
    clock = shown(zone)
    ticks = set()
    local, last = min(clock), max(clock)
    while local <= last:
        if matches(local):
            later = local
            while later not in clock:
                later += STEP
            ticks.add(clock[later][0])
        local += STEP
    return sorted(tick for tick in ticks if BEGIN < tick < END)


def ticks(expression: str, zone: str) -> list[int]:
    return list(takewhile(lambda tick: tick < END, cron_ticks(expression, find_zone(zone), BEGIN)))


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", DAYS)
def test_times_of_the_day_tick_once_in_a_year_of_any_zone(expression: str, zone: str) -> None:
    assert ticks(expression, zone) == named(zone, DAYS[expression])


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", CLOCKS)
def test_the_rest_ticks_whenever_the_clock_shows_it_in_a_year_of_any_zone(expression: str, zone: str) -> None:
    expected = sorted(
        tick
        for local, instants in shown(zone).items()
        if CLOCKS[expression](local)
        for tick in instants
        if BEGIN < tick < END
    )
    assert ticks(expression, zone) == expected


@pytest.mark.slow
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", ["15,45 1,2 * * *", "*/15 1,2 * * *", "0 */45 * * * *"])
def test_cron_ticks_goes_on_alike_after_a_restart_at_any_time(expression: str, zone: str) -> None:
    found = ticks(expression, zone)
    restarted, after = [], BEGIN
    while (tick := next(cron_ticks(expression, find_zone(zone), after))) < END:
        restarted.append(tick)
        after = tick
    assert restarted == found
    for number in range(0, len(found), 997):
        for after in (found[number] - 1, found[number] - 61):
            assert next(cron_ticks(expression, find_zone(zone), after)) == next(
                tick for tick in found[max(0, number - 40) :] if tick > after
            )


def instants(expression: str, zone: str, after: str, count: int) -> list[str]:
    begin = int(datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone)).timestamp())
    found = islice(cron_ticks(expression, find_zone(zone), begin), count)
    return [datetime.fromtimestamp(tick, find_zone(zone)).strftime("%d %H:%M:%S %z") for tick in found]


def test_cron_ticks_takes_six_fields_with_the_same_rules() -> None:
    assert instants("20 30 2 * * *", "Europe/Berlin", "2026-03-28 12:00", 2) == [
        "29 03:00:00 +0200",
        "30 02:30:20 +0200",
    ]
    assert instants("20 30 2 * * *", "Europe/Berlin", "2026-10-24 12:00", 2) == [
        "25 02:30:20 +0200",
        "26 02:30:20 +0100",
    ]
    assert instants("* * * * *", "Europe/Berlin", "2026-03-29 01:58", 2) == [
        "29 01:59:00 +0100",
        "29 03:00:00 +0200",
    ]
    assert instants("*/30 * * * * *", "Europe/Berlin", "2026-03-29 01:59:10", 2) == [
        "29 01:59:30 +0100",
        "29 03:00:00 +0200",
    ]


def test_cron_ticks_of_a_day_that_a_zone_skips_come_at_its_end() -> None:
    assert instants("0 12 30 12 *", "Pacific/Apia", "2011-12-01 00:00", 1) == ["31 00:00:00 +1400"]


def test_interval_ticks_are_not_shifted_by_a_restart() -> None:
    assert list(islice(interval_ticks(3600, BEGIN + 10), 2)) == [BEGIN + 3600, BEGIN + 7200]
    assert next(interval_ticks(3600, BEGIN + 3599)) == BEGIN + 3600
    assert next(interval_ticks(3600, BEGIN + 3600)) == BEGIN + 7200
    week = next(interval_ticks(7 * 86400, BEGIN))
    assert datetime.fromtimestamp(week, UTC).strftime("%A %H:%M") == "Monday 00:00"


@pytest.mark.parametrize(
    "expression",
    ["", "a", "* * * *", "* * * * * * *", "60 * * * *", "*/0 * * * *", "0 0 30 2 *", "5 4 * * 8",
     "0 0 * * 5#6", "5 4 * * 5#2/2", "*" * 201, "1-0 * * * *", "٣ * * * *", "* * * * *\n* *"],
)  # fmt: skip
def test_check_cron_refuses_what_is_no_expression(expression: str) -> None:
    with pytest.raises(UsageError, match="cron expression"):
        check_cron(expression)


@pytest.mark.parametrize(
    "expression", ["* * * * *", "0 0 29 2 *", "0 0 L * *", "0 9 * * mon-fri", "0 0 * * 5L"]
)
def test_check_cron_accepts_expressions(expression: str) -> None:
    check_cron(expression)
    assert explain_cron(expression)


@pytest.mark.parametrize(
    "name", ["Europe/Nowhere", "", "../etc/passwd", "/etc/passwd", "Europe", "\0", "x" * 5000]
)
def test_find_zone_refuses_what_is_no_zone(name: str) -> None:
    with pytest.raises(UsageError, match=r"is unknown here.*tzdata"):
        find_zone(name)
