"""The schema that this code works with, and its migrations, which Alembic runs."""

import io
import re
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection

if TYPE_CHECKING:
    from alembic.config import Config

#: Revision of the schema that this code works with: the newest file of ``migrations/versions``.
SCHEMA: Final = "0017_from_0003"
#: The name of a revision: its number, and the number of the oldest revision whose code may use its tables.
_REVISION: Final = re.compile(r"([0-9]{4})(?:_from_([0-9]{4}))?")


def is_usable(revision: str) -> bool:
    """Whether this code can work with the tables of a revision.

    The name decides that. Code of revisions 3, 4 and 5 can use the tables of ``0005_from_0003``, but only
    code of revision 5 can use those of ``0005``. No code uses the tables of a revision older than its own.
    """
    if revision == SCHEMA:
        return True
    found = _REVISION.fullmatch(revision)
    return found is not None and found[2] is not None and found[2] <= SCHEMA[:4] < found[1]


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the schema of a database to this code's, in the transaction of ``connection``.

    Args:
        connection: to the database.
        revision: to stop at. A schema that has it already is left as it is.

    Raises:
        alembic.util.CommandError: the schema is at a revision that is not known here.

    """
    from alembic import command

    command.upgrade(_config(connection=connection), revision)


def migration_sql(dialect: str, *, existing: bool = False, undo: bool = False) -> str:
    """Return the SQL that makes the schema in an empty database.

    Args:
        dialect: the kind of database.
        existing: whether there is a job table of the original, to which columns are added.
        undo: whether to return the SQL that removes the schema.

    """
    from alembic import command

    output = io.StringIO()
    config = _config(output, dialect=dialect, existing=existing)
    if undo:
        command.downgrade(config, f"{SCHEMA}:base", sql=True)
    else:
        command.upgrade(config, "head", sql=True)
    return output.getvalue()


def _config(output: io.StringIO | None = None, **attributes: Any) -> "Config":
    # Alembic is imported in functions: importing it takes a quarter of a second, and only upgrades need it.
    from alembic.config import Config

    config = Config(output_buffer=output)
    config.set_main_option("script_location", "garivini:store/migrations")
    config.attributes.update(attributes)
    return config
