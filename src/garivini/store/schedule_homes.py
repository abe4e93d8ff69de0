"""In which of several databases a schedule is.

A new one is created in the home database of its name. A schedule stays there if databases are added later,
because a move between two databases could let both tick.
"""

from garivini.errors import UsageError
from garivini.store.database import Database
from garivini.store.schedules import schedule_rows
from garivini.store.shards import Shards


def find_schedule(shards: Shards, name: str) -> Database:
    """Return the database that has a schedule.

    Raises:
        UsageError: none has it.
        UnreachableError: one of them does not answer, so it may have it.

    """
    found = _holder(shards, name)
    if found is None:
        raise UsageError(f"there is no schedule {name!r:.250}")
    return found


def place_schedule(shards: Shards, name: str) -> Database:
    """Return the database that has a schedule, or the home database of a new one.

    Raises:
        UnreachableError: one of them does not answer, so it may have it.

    """
    return _holder(shards, name) or shards.home("", name)


def move_schedules(source: Database, shards: Shards) -> None:
    """Move the schedules of a database that is being drained to their homes among the other databases.

    The source refuses the jobs of ticks by then, so that only the copy ticks. If this is interrupted, a
    second call continues it.
    """
    with source.reading() as run:
        rows = schedule_rows(run)
    for row in rows:
        with shards.home("", row["name"], without=[source.dbid]).transaction() as run:
            run("copy_schedule", **row)
        with source.transaction() as run:
            run("remove_schedule", name=row["name"])


def _holder(shards: Shards, name: str) -> Database | None:
    databases = list(shards)
    # The home is asked first, because nearly all schedules are there.
    databases.sort(key=lambda database: database is not shards.home("", name))
    for database in databases:
        if database.has_schedule(name):
            return database
    return None
