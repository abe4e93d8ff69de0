"""Alembic's entry: runs the revisions on a connection that is handed over, or prints them for a dialect."""

from typing import Final

from alembic import context

connection: Final = context.config.attributes.get("connection")
# A separate version table, so that it does not conflict with the application's.
if connection is not None:
    context.configure(connection=connection, version_table="garivini_version")
else:
    context.configure(dialect_name=context.config.attributes["dialect"], version_table="garivini_version")
with context.begin_transaction():
    context.run_migrations()
