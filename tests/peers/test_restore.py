"""The page about restoring a database: its statement leaves each job as the page says."""

from contextlib import closing
from typing import Final

from garivini import Client, State
from tests.docs.pages import DOCS
from tests.peers.databases import Place
from tests.peers.test_contract import claimed, connect, now, store

NEVER: Final = 2147483647


def statement() -> str:
    """Return the UPDATE of the page."""
    text = (DOCS / "how-to/restore.md").read_text(encoding="utf-8")
    return text.partition("```sql\n")[2].partition("```")[0]


def test_the_statement_requeues_leased_jobs_and_no_others(client: Client, database: Place) -> None:
    leased, put_off, parked, dead = (claimed(client) for _ in range(4))
    waiting = client.insert_job("resize", run_after=500)
    client.cancel_job(dead)
    later = int(store(client).clock()) + 1000
    before = [now(client, job) for job in (dead, client.get_job(waiting)) if job is not None]
    with closing(connect(database)) as connection, closing(connection.cursor()) as cursor:
        cursor.execute(f"UPDATE job SET run_after = {later} WHERE jobid = {put_off.jobid}")
        cursor.execute(f"UPDATE job SET run_after = {NEVER} WHERE jobid = {parked.jobid}")
        cursor.execute(statement())
        assert cursor.rowcount == 3
        connection.commit()
    found = {job.jobid: (job.state, job.run_after, job.attempt) for job in client.list_jobs()}
    assert found[leased.jobid] == (State.WAITING, 0, 1001)
    assert found[put_off.jobid] == (State.WAITING, later, 1001)
    assert found[parked.jobid] == (State.DEAD, NEVER, 1001)
    for job in before:
        assert found[job.jobid] == (job.state, job.run_after, job.attempt)
    assert [lane.state for lane in store(client).lanes().lanes if lane.state is not State.WAITING] == []
    assert client.retry_job(parked)
