"""Finds the database of a schedule among several.

A new schedule is created in the home database of its name. A schedule stays there if databases are added
later, because a move between two databases could let both tick.
"""

from garivini.errors import UsageError
from garivini.store.database import Database
from garivini.store.schedules import schedule_rows
from garivini.store.shards import Shards


def find_schedule(shards: Shards, name: str) -> Database:
    """Return the database that has a schedule.

    Raises:
        UsageError: no database has it.
        UnreachableError: a database does not answer, and may have the schedule.

    """
    found = _holder(shards, name)
    if found is None:
        raise UsageError(f"there is no schedule {name!r:.250}")
    return found


def place_schedule(shards: Shards, name: str) -> Database:
    """Return the database that has a schedule, or the home database of a new one.

    Raises:
        UnreachableError: a database does not answer, and may have the schedule.

    """
    return _holder(shards, name) or shards.home("", name)


def move_schedules(source: Database, shards: Shards) -> None:
    """Move the schedules of a database that is being drained to their homes among the other databases.

    By then the source refuses inserts, and so the jobs of ticks: only the copy of a schedule ticks. If a call
    is interrupted, the next one continues the move.
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
