"""The databases that hold jobs. What each does in its own way is one small class."""

from typing import Final

from garivini.store.dialects.dialect import Dialect
from garivini.store.dialects.sqlite import SQLite

#: By SQLAlchemy's name of the dialect.
DIALECTS: Final[dict[str, type[Dialect]]] = {"sqlite": SQLite}
