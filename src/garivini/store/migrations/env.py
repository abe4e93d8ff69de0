"""Alembic's entry: runs the revisions on the connection that ``Database.upgrade`` hands over."""

from alembic import context

connection = context.config.attributes["connection"]
# A version table of our own, so that it never meets the application's.
context.configure(connection=connection, version_table="garivini_version")
with context.begin_transaction():
    context.run_migrations()
