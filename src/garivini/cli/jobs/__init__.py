"""``garivini jobs``."""

import click

from garivini.cli.jobs.change import cancel, delete, reschedule, retry
from garivini.cli.jobs.failures import failures
from garivini.cli.jobs.listing import list_
from garivini.cli.jobs.show import show


@click.group()
def jobs() -> None:
    """List, show, retry, cancel, reschedule and delete jobs.

    The id of a job has its database and its number, as in 1:42. 42 alone is a job of the only database.
    """


for _command in (list_, show, failures, retry, cancel, reschedule, delete):
    jobs.add_command(_command)
