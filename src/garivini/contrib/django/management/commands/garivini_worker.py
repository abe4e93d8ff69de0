"""``manage.py garivini_worker``: runs the tasks of some queues."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from garivini.errors import UsageError
from garivini.keeper.supervised_child import CONFIGURATION_ERROR, SupervisedChild
from garivini.worker.supervisor import Supervisor


class Command(BaseCommand):
    """Runs tasks in several processes, as ``garivini worker`` runs functions."""

    help: str = "Run the tasks of some queues, and the typed functions of the application."

    def add_arguments(self, parser: Any) -> None:
        """Add the options."""
        parser.add_argument("--queue", action="append", default=[], help="A queue; may be given again.")
        parser.add_argument("-p", "--processes", type=int, default=1, help="Child processes; 1 by default.")
        parser.add_argument(
            "--drain", type=float, default=30.0, help="Seconds for which jobs may continue after a signal."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until a signal."""
        from garivini.contrib.django.running import worker_of

        try:
            worker = worker_of(options["queue"])
        except UsageError as error:
            raise CommandError(str(error), returncode=CONFIGURATION_ERROR) from error
        connections.close_all()  # a connection cannot be used on both sides of a fork
        worker.client.close()

        def child(supervised: SupervisedChild) -> None:
            worker.run(supervised)

        sys.exit(Supervisor(child, options["processes"], drain=options["drain"]).run())
