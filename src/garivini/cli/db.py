"""``garivini db``: the tables."""

import click

from garivini.cli.options import databases
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
    for database in Shards(dbs):
        database.upgrade()
        click.echo(f"{database.where} is ready")


@db.command()
@databases
def check(dbs: list[str]) -> None:
    """Say whether each database has the tables of this program; the exit status is 0 if all have.

    \b
    Example:
      garivini db check
    """
    for database in Shards(dbs):
        database.check()
        click.echo(f"{database.where} has schema {SCHEMA}, as it should")


@db.command()
@click.argument("dialect", type=click.Choice(sorted(DIALECTS)))
def sql(dialect: str) -> None:
    """Print the SQL that makes the tables, for a database administrator to run.

    \b
    Example:
      garivini db sql sqlite | sqlite3 jobs.db
    """
    click.echo(migration_sql(dialect), nl=False)
