"""The tables of gearmand's persistent queues, and of TheSchwartz."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Connection, MetaData, Table, and_, bindparam, delete, func, select

from garivini.model.limits import Flag, Priority
from garivini.store.foreign_queues import ForeignQueue, ForeignRow, Key

_PRIORITIES: Final[Mapping[int | None, Priority]] = {0: "high", 1: "normal", 2: "low"}
#: Maximum failures of a job that are imported with their texts: the newest ones.
_NEWEST: Final = 10
#: Maximum number of failures of a job that is imported.
_MAX_FAILURES: Final = 1_000_000


class Gearmand(ForeignQueue):
    """The table of gearmand's persistent queues for SQLite, MySQL, Drizzle and PostgreSQL.

    Args:
        url: the URL of its database.
        table: its name. None: the default of gearmand.
        flag: of the imported jobs.

    """

    _option = "--table"

    def __init__(self, url: str, table: str | None = None, *, flag: Flag = "shim") -> None:
        super().__init__(url, flag)
        self._table = Table(
            table or ("queue" if self.dialect == "postgresql" else "gearman_queue"),
            MetaData(),
            *(Column(name) for name in ("unique_key", "function_name", "priority", "data", "when_to_run")),
        )
        self._tables = [self._table]
        self._data = self._table.c.data
        self._order = [self._table.c.unique_key, self._table.c.function_name]

    def _rows(self, connection: Connection, found: Sequence[Any], now: float) -> list[ForeignRow]:
        return [self._row(now, *row) for row in found]

    def _row(
        self, now: float, unique: str, function: str, priority: int | None, data: Any, when: int | None
    ) -> ForeignRow:
        arg = _bytes(data)
        # gearmand may store another job with the same key later, so the identity has the content, too.
        identity = repr((unique, function, priority, when, sha256(arg).hexdigest()))
        row = ForeignRow((unique, function), f"{function} {unique}", identity, None, run_after=when or 0)
        if priority not in _PRIORITIES:
            return row._replace(reason=f"its priority is {priority!r}")
        return self._job(row, now, function, arg, uniqkey=unique, priority=_PRIORITIES[priority])

    def _delete(self, connection: Connection, keys: Sequence[Key]) -> None:
        condition = and_(*(column == bindparam(f"key_{column.name}") for column in self._order))
        connection.execute(
            delete(self._table).where(condition),
            [
                {f"key_{column.name}": value for column, value in zip(self._order, key, strict=True)}
                for key in keys
            ],
        )


class TheSchwartz(ForeignQueue):
    """The tables of TheSchwartz: ``job``, ``funcmap`` and ``error``.

    Args:
        url: the URL of their database.
        prefix: of the tables' names.
        flag: of the imported jobs.

    """

    _option = "--prefix"

    def __init__(self, url: str, prefix: str = "", *, flag: Flag = "shim") -> None:
        super().__init__(url, flag)
        metadata = MetaData()
        names = ("uniqkey", "coalesce", "arg", "priority", "insert_time", "run_after", "grabbed_until")
        self._jobs = Table(
            f"{prefix}job",
            metadata,
            Column("jobid", BigInteger),
            Column("funcid", BigInteger),
            *(Column(name) for name in names),
        )
        self._functions = Table(
            f"{prefix}funcmap", metadata, Column("funcid", BigInteger), Column("funcname")
        )
        self._errors = Table(
            f"{prefix}error",
            metadata,
            Column("jobid", BigInteger),
            *(Column(name) for name in ("error_time", "message")),
        )
        self._tables = [self._jobs, self._functions, self._errors]
        self._data = self._jobs.c.arg
        self._order = [self._jobs.c.jobid]

    def _rows(self, connection: Connection, found: Sequence[Any], now: float) -> list[ForeignRow]:
        functions, errors = self._functions.c, self._errors.c
        named = select(functions.funcid, functions.funcname).where(
            functions.funcid.in_({row.funcid for row in found})
        )
        names: dict[int, str] = dict(connection.execute(named).all())
        counted = select(errors.jobid, func.count()).where(errors.jobid.in_([row.jobid for row in found]))
        counts: dict[int, int] = dict(connection.execute(counted.group_by(errors.jobid)).all())
        rows = []
        for each in found:
            row = self._row(each, names.get(each.funcid), now)
            if failures := counts.get(each.jobid):
                messages = self._messages(connection, each.jobid)
                row = row._replace(failures=min(failures, _MAX_FAILURES), messages=messages)
            rows.append(row)
        return rows

    def _messages(self, connection: Connection, jobid: int) -> tuple[tuple[int, str], ...]:
        errors = self._errors.c
        newest = (
            select(errors.error_time, errors.message)
            .where(errors.jobid == jobid)
            .order_by(errors.error_time.desc())
            .limit(_NEWEST)
        )
        return tuple(
            (int(time), _readable(message)) for time, message in reversed(connection.execute(newest).all())
        )

    def _row(self, found: Any, function: str | None, now: float) -> ForeignRow:
        row = ForeignRow(
            (found.jobid,),
            f"{function} {found.jobid}",
            str(found.jobid),
            None,
            run_after=found.run_after or 0,
            created=found.insert_time or 0,
        )
        if function is None:
            return row._replace(
                name=str(found.jobid), reason=f"no row of funcmap has the function id {found.funcid}"
            )
        if (found.grabbed_until or 0) > now:
            return row._replace(reason="a worker of TheSchwartz holds it")
        # The worker option `prioritize` takes the greatest number first. NULL is the default.
        number = found.priority or 0
        priority: Priority = "high" if number > 0 else "low" if number < 0 else "normal"
        keys = {"uniqkey": found.uniqkey, "coalesce": found.coalesce, "priority": priority}
        return self._job(row, now, function, _bytes(found.arg), **keys)

    def _delete(self, connection: Connection, keys: Sequence[Key]) -> None:
        connection.execute(delete(self._jobs).where(self._jobs.c.jobid.in_([jobid for (jobid,) in keys])))


def _readable(message: Any) -> str:
    """Return a message as text that every database can store."""
    text = message if isinstance(message, str) else _bytes(message).decode("utf-8", "replace")
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _bytes(value: Any) -> bytes:
    if value is None:
        return b""
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else bytes(value)
