"""``manage.py garivini …``: the command ``garivini`` with the database and servers of Django's settings."""

import os
from typing import Any

from django.core.management.base import BaseCommand


class Command(BaseCommand):
    """Runs a command of ``garivini``, such as ``run``, ``status`` or ``jobs list``."""

    help: str = "Run a command of garivini, such as run or status, on the database of the jobs."

    def run_from_argv(self, argv: list[str]) -> None:
        """Run the command with its own options."""
        from garivini.cli import main
        from garivini.contrib.django import databases

        found = databases.database()
        if isinstance(found, str):
            os.environ.setdefault("GARIVINI_DB", found)
        if servers := databases.options().get("JOB_SERVERS"):
            os.environ.setdefault("GARIVINI_JOB_SERVERS", " ".join(servers))
        main(argv[2:])

    def handle(self, *args: Any, **options: Any) -> None:
        """Never called: see ``run_from_argv``."""
