"""What is left to do for a batch of jobs after their submission. Pure."""

import pytest

from garivini import Job
from garivini.gearman.protocol import Created, Refused, Unknown, Unsent
from garivini.model.job import Handle
from garivini.submission import Delivery, is_late


def job(number: int, lease: int = 60) -> Job:
    return Job(jobid=number, dbid=1, funcname="f", arg=b"", attempt=1, lease=lease)


def test_delivery_of_acknowledged_jobs_leaves_nothing_to_do() -> None:
    assert Delivery.of([job(1), job(2)], [Created(b"H:1"), Created(b"H:2")]) == Delivery(2)
    assert Delivery.of([], []) == Delivery(0)


def test_delivery_puts_each_job_in_one_place() -> None:
    jobs = [job(number) for number in range(5)]
    delivery = Delivery.of(
        jobs,
        [
            Created(b"H:1"),
            Refused(b"USAGE", b"its name has a NUL"),
            Refused(b"QUEUE_ERROR", b"the queue is full"),
            Unknown(),
            Unsent(),
        ],
    )
    assert delivery.delivered == 1
    assert delivery.unfit == [(jobs[1], "its name has a NUL")]
    assert delivery.unsent == [jobs[2], jobs[4]]
    assert delivery.unknown == [jobs[3]]
    assert delivery.reason == "QUEUE_ERROR: the queue is full"


def test_delivery_has_a_reason_also_if_no_server_gave_one() -> None:
    assert Delivery.of([job(1)], [Unsent()]).reason == "the server went away"


def test_delivery_sorts_unknown_jobs_by_lease() -> None:
    delivery = Delivery.of([job(1, 60), job(2, 5), job(3, 60)], [Unknown()] * 3)
    assert delivery.unknown_by_lease() == {60: [Handle(1, 1, 1), Handle(3, 1, 1)], 5: [Handle(2, 1, 1)]}


def test_delivery_too_late_leaves_all_jobs_unsent() -> None:
    jobs = [job(1)]
    assert Delivery.too_late(jobs)[:2] == (0, jobs)


@pytest.mark.parametrize(
    ("leases", "seconds", "late"),
    [
        ([60, 60], 3.0, False),
        ([60, 60], 3.1, True),
        ([60, 6], 2.0, False),
        ([60, 6], 2.1, True),
        ([], 9, False),
    ],
)
def test_is_late_after_three_seconds_or_a_third_of_the_shortest_lease(
    leases: list[int], seconds: float, late: bool
) -> None:
    assert is_late([job(number, lease) for number, lease in enumerate(leases)], seconds) is late
