"""Pages of the failures of all jobs: alike in every kind of database."""

from garivini.model.fingerprint import READ, Occurrence
from garivini.model.job import Handle
from garivini.model.outcome import Success
from garivini.model.when import Offset
from garivini.store.database import Database
from tests.store.conformance.jobs import NOON, put, settle
from tests.store.conftest import Backend, Clock


def test_failure_page_has_the_failures_of_jobs_that_exist_or_are_kept(
    database: Database, backend: Backend, clock: Clock
) -> None:
    clock.set(NOON)
    live, kept, gone = (put(database, funcname=name) for name in ("fün", "g", "h"))
    for jobid in (live, kept, gone):
        settle(database, Handle(jobid, 1), "failed", error="E", message="m" * 2 * READ, when=Offset(0))
    database.finish([Success(kept, None, retention=60)])
    backend.execute(f"DELETE FROM job WHERE jobid = {gone}")
    clock.advance(5)
    settle(database, Handle(live, 1), "discarded")
    text = "m" * READ
    found, after = database.failure_page()
    assert after is None
    assert sorted(found) == [
        Occurrence(live, "fün", NOON, "failed", "E", text),
        Occurrence(live, "fün", NOON + 5, "discarded", "", ""),
        Occurrence(kept, "g", NOON, "failed", "E", text),
    ]
    assert database.failure_page(live)[0] == [Occurrence(kept, "g", NOON, "failed", "E", text)]
    assert database.failure_page(kept) == ([], None)


def test_failure_page_has_each_failure_once_and_the_failures_of_a_job_together(
    database: Database, backend: Backend
) -> None:
    jobs = [put(database) for _ in range(3)]
    counts = dict(zip(jobs, (600, 600, 1300), strict=True))
    for jobid, count in counts.items():
        rows = ", ".join(f"({jobid}, {attempt}, 1, 'failed', '', '', '', '')" for attempt in range(count))
        backend.execute(f"INSERT INTO failure VALUES {rows}")
    pages = []
    after: int | None = 0
    while after is not None:
        page, after = database.failure_page(after)
        pages.append([failure.jobid for failure in page])
    # Of more records of one job than a page has, which only another program writes, the others are left out.
    assert pages == [[jobs[0]] * 600, [jobs[1]] * 600, [jobs[2]] * 1000, []]
