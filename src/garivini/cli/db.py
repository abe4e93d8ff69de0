"""``garivini db``: the tables."""

import time
from contextlib import closing

import click

from garivini.cli.options import databases
from garivini.cli.output import say
from garivini.errors import UsageError
from garivini.store import drain as drains
from garivini.store.dialects import DIALECTS
from garivini.store.schema import SCHEMA, migration_sql
from garivini.store.shards import Shards


@click.group()
def db() -> None:
    """Look after the tables."""


@db.command()
@databases
def upgrade(dbs: list[str]) -> None:
    """Create the tables, or bring them to the version of this program.

    Does nothing where they are there already. Run it before the first start and after an update.

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
    """Say whether each database has the tables of this program; the exit status is 0 if all have.

    \b
    Example:
      garivini db check
    """
    with closing(Shards(dbs)) as shards:
        for database in shards:
            database.check()
            say(f"{database.where} has schema {SCHEMA}, as it should")


@db.command()
@click.argument("dialect", type=click.Choice(sorted(DIALECTS)))
@click.option("--existing", is_flag=True, help="There is a job table of the Perl system (mysql).")
@click.option("--undo", is_flag=True, help="Print what takes it back.")
def sql(dialect: str, existing: bool, undo: bool) -> None:
    """Print the SQL that makes the tables, for a database administrator to run.

    \b
    Examples:
      garivini db sql sqlite | sqlite3 jobs.db
      garivini db sql mysql --existing
    """
    if existing and dialect != "mysql":
        raise UsageError(f"the Perl system has no tables on {dialect}: leave --existing out")
    click.echo(migration_sql(dialect, existing=existing, undo=undo), nl=False)


@db.command()
@databases
@click.argument("dbid", type=click.IntRange(1))
@click.option("--stop", is_flag=True, help="End the drain: the database takes jobs again.")
def drain(dbs: list[str], dbid: int, stop: bool) -> None:
    """Empty a database for its removal, by moving its jobs to the others.

    DBID is its place in the list of databases. It takes no more jobs, whoever inserts them; what waits is
    moved, with its record; what runs there is left to its end, so its QueueRunner stays up. The command
    returns when the database is empty. Only then take it out of everybody's list. Stopped in the middle, call
    it again.

    \b
    Examples:
      garivini db drain 2
      garivini db drain 2 --stop
    """
    shards = Shards(dbs)
    source = shards[dbid]
    if stop:
        drains.stop(source)
        say(f"{source.where} takes jobs again")
        return
    targets = [database for database in shards if database is not source]
    if not targets:
        raise UsageError("there is no other database to move jobs to: name all databases of the queue")
    moved = drains.resume(source, targets)
    while True:
        for number in drains.drain(source, lambda job: shards.target(job, without=[dbid])):
            moved += number
        held = sum(count.jobs for count in source.counts())
        say(f"{moved} moved, {held} left")
        if not held:
            break
        time.sleep(1.0)  # what runs ends by itself; a deleted row says nothing
    say(f"{source.where} is empty: take it out of every list of databases")
