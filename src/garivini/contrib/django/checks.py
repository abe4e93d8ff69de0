"""The system checks."""

from collections.abc import Iterable
from typing import Any

from django.core import checks
from django.db import connections

from garivini.contrib.django import databases
from garivini.errors import UsageError


def check_database(app_configs: Any = None, **kwargs: Any) -> Iterable[checks.CheckMessage]:
    """Return an error if workers and roles cannot connect to the database of the jobs."""
    try:
        alias = databases.alias()
        if alias not in connections:
            raise UsageError(f"GARIVINI names the database {alias}, which DATABASES has not")
        databases.database()
    except UsageError as error:
        return [checks.Error(str(error), id="garivini.E001")]
    return []
