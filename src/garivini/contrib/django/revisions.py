"""Runs the revisions of the schema as migrations of Django.

A migration runs what ``garivini db upgrade`` runs, and both write the same table of versions, so either may
run first.
"""

import re
from pathlib import Path
from typing import Any, ClassVar, Final

from django.db import migrations
from django.db.migrations.operations.base import Operation

from garivini.store import migrations as _revisions
from garivini.store import schema

VERSIONS: Final = Path(_revisions.__path__[0]) / "versions"


def revisions() -> dict[str, str]:
    """Return the names of the modules of the revisions in their order, with the revisions."""
    found = {}
    for path in sorted(VERSIONS.glob("[0-9]*.py")):
        named = re.search(r'^revision = "(\w+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        assert named is not None
        found[path.stem] = named[1]
    return found


class RunRevision(Operation):
    """Brings the tables of jobs to a revision, in a connection and transactions of its own."""

    reduces_to_sql: bool = False
    reversible: bool = False

    def __init__(self, revision: str) -> None:
        self.revision: str = revision

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change no models, since there are none."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """Run the revision, if the database is the one of the jobs."""
        from garivini.contrib.django import databases
        from garivini.contrib.django.application import app

        if schema_editor.connection.alias == databases.alias() and not schema_editor.collect_sql:
            (database,) = app.django_client.shards
            database.connections.upgrade(self.revision)
            if self.revision == schema.SCHEMA:
                database.check()

    def describe(self) -> str:
        """Return what Django shows."""
        return f"Bring the tables of jobs to revision {self.revision}"


def migration(file: str) -> type[Any]:
    """Return the migration that a module of ``migrations`` contains, which has the name of a revision's."""
    names = list(found := revisions())
    name = Path(file).stem
    before = names[names.index(name) - 1] if name != names[0] else None

    class Migration(migrations.Migration):
        atomic: bool = False  # the revision runs in a connection of its own
        dependencies: ClassVar[list[tuple[str, str]]] = [("garivini", before)] if before else []
        operations: ClassVar[list[Operation]] = [RunRevision(found[name])]

    return Migration
