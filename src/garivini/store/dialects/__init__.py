"""The supported database systems. A dialect class for each implements what differs between them."""

from typing import Final

from garivini.store.dialects.dialect import Dialect
from garivini.store.dialects.mysql import MySQL
from garivini.store.dialects.postgresql import PostgreSQL
from garivini.store.dialects.sqlite import SQLite

#: The dialect classes by SQLAlchemy's name of the dialect.
DIALECTS: Final[dict[str, type[Dialect]]] = {"mysql": MySQL, "postgresql": PostgreSQL, "sqlite": SQLite}
