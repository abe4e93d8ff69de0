"""``garivini db``: the tables."""

import click

from garivini.cli.options import databases
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
