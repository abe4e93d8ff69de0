"""The rate of a function: how many jobs start in any span of time, for any sequence of claims."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garivini.errors import UsageError
from garivini.model.policy import FunctionPolicy, Policies
from garivini.model.rate import Rate, parse_rate
from garivini.roles.held_back import HeldBack

#: A time of day, for which a number has microseconds.
NOON = 1_700_000_000.0

rates = st.builds(
    parse_rate,
    st.sampled_from(["1/s", "3/s", "100/s", "1000/s", "7/m", "100/m", "1/h", "11/d"]),
    st.sampled_from([None, 1, 2, 3, 10, 1000]),
)
#: What goes by before each claim, in intervals, and how many jobs it wants.
claims = st.lists(
    st.tuples(
        st.floats(0, 5) | st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 1e4]),
        st.integers(1, 20) | st.just(10_000),
    ),
    max_size=60,
)


def started(rate: Rate, claims: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return the times of claims, and how many jobs each may start."""
    now, used_until, found = NOON, 0.0, []
    for intervals, wanted in claims:
        now += intervals * rate.interval
        starts = min(wanted, rate.allowed(used_until, now))
        used_until = rate.use(used_until, now, starts)
        found.append((now, starts))
    return found


@given(rates, claims)
def test_a_rate_allows_a_burst_and_one_more_per_interval_in_any_span_of_time(
    rate: Rate, claims: list[tuple[float, int]]
) -> None:
    found = started(rate, claims)
    for first, (begin, _) in enumerate(found):
        total = 0
        for now, starts in found[first:]:
            total += starts
            assert total <= rate.burst + (now - begin) / rate.interval + 0.01


@given(rates)
def test_a_rate_is_used_up_by_claims_at_the_times_that_it_names(rate: Rate) -> None:
    now, used_until, total = NOON, 0.0, 0
    while now < NOON + 1000 * rate.interval:
        starts = rate.allowed(used_until, now)
        assert starts
        used_until = rate.use(used_until, now, starts)
        total += starts
        now += rate.until_next(used_until, now)
    assert total >= 1000


@given(rates, st.floats(0, 0.45))
def test_a_rate_loses_nothing_to_claims_that_are_late_if_its_burst_is_above_one(
    rate: Rate, late: float
) -> None:
    now, used_until, total = NOON, 0.0, 0
    while now < NOON + 1000 * rate.interval:
        starts = rate.allowed(used_until, now)
        used_until = rate.use(used_until, now, starts)
        total += starts
        now += rate.until_next(used_until, now) + late * rate.interval
    assert total >= (1000 if rate.burst > 1 else 1000 / (1 + late) - 1)


@given(rates)
def test_a_rate_that_was_lower_or_a_clock_that_was_set_back_holds_jobs_back_for_one_interval(
    rate: Rate,
) -> None:
    used_until = rate.use(NOON + 1e9, NOON, 0)
    assert rate.allowed(used_until, NOON) == 0
    assert rate.use(used_until, NOON, 0) == used_until
    assert rate.allowed(used_until, NOON + 1.01 * rate.interval) == 1
    assert rate.allowed(used_until, NOON + (rate.burst + 1) * rate.interval) == rate.burst


@pytest.mark.parametrize(
    ("text", "burst", "interval", "expected"),
    [
        ("1/s", None, 1.0, 1),
        ("100/s", None, 0.01, 10),
        ("100/m", None, 0.6, 1),
        ("100/m", 10, 0.6, 10),
        ("24/d", None, 3600.0, 1),
        ("4/h", 3, 900.0, 3),
        ("1000/s", None, 0.001, 100),
    ],
)
def test_parse_rate(text: str, burst: int | None, interval: float, expected: int) -> None:
    rate = parse_rate(text, burst)
    assert rate.interval == pytest.approx(interval)
    assert rate.burst == expected


@pytest.mark.parametrize(
    "text",
    ["", "10", "0/s", "-1/s", "1/S", "1 / s", "1.5/s", "1/w", "10/s\n", "\u0661/s", "1001/s", "9999999/m"],
)
def test_parse_rate_refuses_other_texts(text: str) -> None:
    with pytest.raises(UsageError, match="a rate is"):
        FunctionPolicy(rate=text)


@pytest.mark.parametrize("burst", [0, -1, 10_001, 1.5, True, "1"])
def test_a_burst_is_checked(burst: object) -> None:
    with pytest.raises(UsageError, match="burst"):
        FunctionPolicy(rate="1/s", burst=burst)  # type: ignore[arg-type]


def test_policies_know_the_functions_with_a_limit_and_their_bursts() -> None:
    policies = Policies(
        {
            "rate": FunctionPolicy(rate="100/s"),
            "burst": FunctionPolicy(rate="100/s", burst=3),
            "running": FunctionPolicy(max_running=3),
            "none": FunctionPolicy(burst=3, lease=9),
        }
    )
    assert policies.ruled == {"rate", "burst", "running"}
    assert policies.bursts == {"rate": 10, "burst": 3}


def test_held_back_waits_for_the_time_that_a_rate_names() -> None:
    held = HeldBack()
    held.claimed("f", jobs=3, held_back=0.3, now=100.0)
    assert held.until_claim(100.0) == [pytest.approx(0.3)]


def test_held_back_waits_for_no_more_than_a_second_because_a_rate_may_be_changed() -> None:
    held = HeldBack()
    held.claimed("f", jobs=0, held_back=3600.0, now=100.0)
    assert held.until_claim(100.0) == [pytest.approx(1.0)]
