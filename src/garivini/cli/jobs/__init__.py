"""``garivini jobs``."""

import click

from garivini.cli.jobs.change import cancel, delete, discard, priority, reschedule, retry
from garivini.cli.jobs.failures import failures
from garivini.cli.jobs.listing import list_
from garivini.cli.jobs.show import show


@click.group()
def jobs() -> None:
    """List, show, retry, cancel, discard, reschedule, prioritize and delete jobs.

    The id of a job has its database and its number, as in 1:42. If there is only one database, the number 42
    is enough. Instead of ids, the commands that change jobs accept filters, and change all jobs that match.
    """


for _command in (list_, show, failures, retry, cancel, discard, reschedule, priority, delete):
    jobs.add_command(_command)
