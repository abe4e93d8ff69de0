"""``garivini db``: the tables."""

import time
from contextlib import closing

import click

from garivini.cli.options import databases
from garivini.cli.output import say
from garivini.errors import UsageError
from garivini.store import drain as drains
from garivini.store.database import Database
from garivini.store.dialects import DIALECTS
from garivini.store.outbox_moves import OutboxMoves
from garivini.store.schedule_homes import move_schedules
from garivini.store.schema import SCHEMA, migration_sql
from garivini.store.shards import Shards


@click.group()
def db() -> None:
    """Create, upgrade and check the tables, and empty a database."""


@db.command()
@databases
def upgrade(dbs: list[str]) -> None:
    """Create the tables, or upgrade them to this version.

    Tables of this version are not changed, nor newer tables that this version can use. Run this command
    before the first start, and at each update before the programs of the new version start.

    \b
    Examples:
      garivini db upgrade
      garivini db upgrade --db sqlite:////var/lib/app/jobs.db
    """
    with closing(Shards(dbs)) as shards:
        for database in shards:
            database.upgrade()
            say(f"{database.where} is ready")


@db.command()
@databases
def check(dbs: list[str]) -> None:
    """Check whether this version can use the tables of each database. The exit status is 0 if it can.

    \b
    Example:
      garivini db check
    """
    with closing(Shards(dbs)) as shards:
        for database in shards:
            revision = database.check()
            words = "as it should" if revision == SCHEMA else f"which this code, of {SCHEMA}, can use"
            say(f"{database.where} has schema {revision}, {words}")


@db.command()
@click.argument("dialect", type=click.Choice(sorted(DIALECTS)))
@click.option("--existing", is_flag=True, help="For a database with the job table of the original (mysql).")
@click.option("--undo", is_flag=True, help="Print the SQL that reverses it.")
def sql(dialect: str, existing: bool, undo: bool) -> None:
    """Print the SQL that creates the tables, for a database administrator.

    \b
    Examples:
      garivini db sql sqlite | sqlite3 jobs.db
      garivini db sql mysql --existing
    """
    if existing and dialect != "mysql":
        raise UsageError(f"the original has no tables on {dialect}: omit --existing")
    click.echo(migration_sql(dialect, existing=existing, undo=undo), nl=False)


@db.command()
@databases
@click.argument("dbid", type=click.IntRange(1))
@click.option("--stop", is_flag=True, help="End the drain: the database accepts jobs again.")
def drain(dbs: list[str], dbid: int, stop: bool) -> None:
    """Empty a database for its removal, by moving its jobs to the others.

    DBID is the position of the database in the list of databases, unless its URL has an id in front, such as
    3=sqlite:///three.db. The database accepts no more jobs from any client. Waiting and dead jobs are moved
    with their failure records, and schedules are moved too. Running jobs end where they are, so the
    QueueRunner of the database must keep running. The command returns when the database is empty; only then
    remove the database from every list. If the command was interrupted, run it again.

    \b
    Examples:
      garivini db drain 2
      garivini db drain 2 --stop
    """
    shards = Shards(dbs)
    source = shards[dbid]
    if stop:
        drains.stop(source)
        say(f"{source.where} accepts jobs again")
        return
    targets = [database for database in shards if database is not source]
    if not targets:
        raise UsageError("there is no other database for the jobs: give all databases of the queue")
    moved = drains.resume(source, targets)
    while True:
        for number in drains.drain(source, lambda job: shards.target(job, without=[dbid])):
            moved += number
        move_schedules(source, shards)
        held = sum(count.jobs for count in source.counts()) + _move_outbox(source, shards)
        say(f"{moved} moved, {held} left")
        if not held:
            break
        time.sleep(1.0)  # nothing reports that a running job has ended
    say(f"{source.where} is empty: remove it from every list of databases")


def _move_outbox(source: Database, shards: Shards) -> int:
    """Move the follow-ups in a database's outbox; return the number of databases for which some are left."""
    moves = OutboxMoves(source, {database.dbid: database for database in shards})
    for target in source.outbox_targets():
        after: str | None = ""
        while after is not None:
            after = moves.move(target, after).after
    return len(source.outbox_targets())
