"""Recognises distributed databases that speak the protocol of MySQL or PostgreSQL. No I/O."""

from collections.abc import Mapping
from typing import Final

from garivini.errors import RefusedError

#: The names of distributed databases, by a part of the version that their servers report, in lower case.
_BY_VERSION: Final[Mapping[str, str]] = {
    "cockroach": "CockroachDB",
    "-yb-": "YugabyteDB",
    "dsql": "Aurora DSQL",
    "tidb": "TiDB",
    "vitess": "Vitess",
    "planetscale": "Vitess (PlanetScale)",
}
#: The end of the name of a server of Aurora DSQL, and a part of it: ``ID.dsql.REGION.on.aws``. Such a server
#: can report the version of a PostgreSQL.
_DSQL: Final = (".on.aws", ".dsql.")


def refuse_distributed(version: str, host: str = "") -> None:
    """Refuse a distributed database that only speaks the protocol of MySQL or PostgreSQL.

    Args:
        version: as the server reports it.
        host: the name of the server.

    Raises:
        RefusedError: the server is that of a distributed database.

    """
    found = [name for mark, name in _BY_VERSION.items() if mark in version.lower()]
    if host.lower().endswith(_DSQL[0]) and _DSQL[1] in host.lower():
        found = ["Aurora DSQL"]
    if found:
        raise RefusedError(
            f"{found[0]} is not supported: it does not skip locked rows as PostgreSQL, MariaDB and MySQL do, "
            "so jobs could be claimed twice or not at all. Use one of these"
        )
