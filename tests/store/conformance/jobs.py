"""Jobs for the tests of what every kind of database does alike. They name no kind of database."""

from typing import Any

from garivini.model.job import Handle, Job, NewJob
from garivini.model.limits import NEVER
from garivini.model.new_jobs import new_job
from garivini.model.outcome import Kind, Setback, Settled
from garivini.model.state import State
from garivini.store.database import Database, Lane, Lapsed
from tests.store.conftest import Backend, Clock

#: The states of a job that somebody holds.
HELD = [State.LEASED, State.RUNNING, State.SUSPECT]
#: A time of day in 2023.
NOON = 1_700_000_000
LEASE = 60


def job(arg: bytes = b"", funcname: str = "f", **fields: Any) -> NewJob:
    return new_job(funcname, arg, **fields)


def lane(funcname: str = "f", state: State = State.WAITING, priority: str = "normal") -> Lane:
    return Lane(funcname, state, priority, 0)


def put(database: Database, **fields: Any) -> int:
    """Insert one job; return its id."""
    (answer,) = database.insert([job(**fields)])
    return answer.jobid


def claim(database: Database, limit: int = 100, **options: Any) -> list[Job]:
    return database.claim(lane(), limit=limit, lease=LEASE, **options)


def claim_one(database: Database) -> Job:
    (claimed,) = claim(database, 1)
    return claimed


def stored(database: Database, jobid: int) -> Job:
    """Return a job that is there."""
    found = database.get(jobid)
    assert found is not None
    return found


def leased_until(database: Database, clock: Clock, state: State) -> Lapsed:
    """Make a job whose lease runs out at this moment in this state; return it as ``expired`` does."""
    jobid = put(database)
    claimed = claim_one(database)
    if state is not State.LEASED:
        database.renew([claimed.handle], lease=LEASE)
    clock.advance(LEASE + 1)
    if state is State.SUSPECT:
        (lapsed,) = database.expired(lane(state=State.RUNNING), limit=10)
        database.extend([(lapsed, State.SUSPECT, 0, False)])
    (lapsed,) = database.expired(lane(state=state), limit=10)
    assert (lapsed.jobid, lapsed.state) == (jobid, state)
    return lapsed


def held_in(database: Database, clock: Clock, state: State) -> Job:
    """Make a job that is held in this state; return it as it was claimed."""
    put(database)
    taken = claim_one(database)
    if state is not State.LEASED:
        database.renew([taken.handle], lease=LEASE)
    if state is State.SUSPECT:
        clock.advance(LEASE + 1)
        database.extend([(found, state, 30, False) for found in expired_in(database, State.RUNNING)])
    return taken


def settle(database: Database, of: Job | Handle, kind: Kind, **fields: Any) -> Settled:
    handle = of.handle if isinstance(of, Job) else of
    (settled,) = database.settle([Setback(handle=handle, kind=kind, **fields)])
    return settled


def listed(database: Database, **options: Any) -> list[int]:
    return [found.jobid for found in database.jobs(**options)]


def expired_in(database: Database, *states: State) -> list[Lapsed]:
    return [found for state in states for found in database.expired(lane(state=state), limit=10)]


#: What may become of a row whose lease somebody has read.
CHANGES = {
    "another attempt": "attempt = attempt + 1",
    "an earlier attempt": "attempt = attempt - 1",
    "put back": f"state = {State.WAITING}",
    "dead": f"state = {State.DEAD}, run_after = {NEVER}",
    "prolonged": "run_after = run_after + 1",
    "gone": None,
}


def change(backend: Backend, how: str | None) -> None:
    """Change all rows by one of ``CHANGES``."""
    backend.execute("DELETE FROM job" if how is None else f"UPDATE job SET {how}")
