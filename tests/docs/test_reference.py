"""The reference has each call, column, key and packet that there is."""

import inspect
import re
import sqlite3
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import garivini
from garivini import (
    AsyncClient,
    BulkProgress,
    Client,
    Discard,
    FailedAttempt,
    Handle,
    Job,
    JobQuery,
    KeptJob,
    Reported,
    Retry,
    State,
    Worker,
)
from garivini.gearman import console
from garivini.gearman.broker import Broker
from garivini.model.outcome import Kind
from garivini.model.payload import _Envelope
from garivini.model.policy import ENVELOPES
from garivini.roles.inject_calls import _Answer, _Request
from tests.docs.pages import (
    names,
    page,
    rows,
    section,
)


def signature(function: Any, *, bound: bool = True) -> str:
    """Return a signature without annotations, and without ``self``."""
    whole = inspect.signature(function)
    parameters = [each.replace(annotation=each.empty) for each in whole.parameters.values()]
    return str(whole.replace(parameters=parameters[bound:], return_annotation=whole.empty))


def calls(kind: type) -> dict[str, Any]:
    """Return the public calls of a class, also those that it inherits from classes of the package."""
    every = {name: value for base in reversed(kind.__mro__[:-1]) for name, value in vars(base).items()}
    return {name: value for name, value in every.items() if not name.startswith("_") and callable(value)}


def test_the_reference_of_calls_has_each_call_with_its_signature() -> None:
    text = page("reference/calls.md")

    def has(where: str, what: str) -> bool:
        return re.sub(r"\s", "", f"\n{what}") in re.sub(r"[\s`]", "", where)

    for kind in (Client, Worker):
        part = section(text, kind.__name__)
        assert has(part, f"{kind.__name__}{signature(kind.__init__)}")
        for name, call in calls(kind).items():
            assert has(part, f"{name}{signature(call)}"), f"{kind.__name__}.{name}{signature(call)}"
        said = set(re.findall(r"^`?([a-z_]+)\(", part, flags=re.M))
        assert said == set(calls(kind))
    part = section(text, "AsyncClient")
    assert has(part, f"AsyncClient{signature(AsyncClient.__init__)}")
    assert set(calls(AsyncClient)) == set(calls(Client))
    for name, call in calls(AsyncClient).items():
        assert f"`{name}`" in part
        assert signature(call) == signature(calls(Client)[name]), name
    assert has(section(text, "Worker"), f"Retry{signature(Retry.__init__)}")
    assert has(section(text, "Worker"), f"Discard{signature(Discard.__init__)}")
    assert "Handle(jobid, dbid, attempt=None)" in section(text, "Job")
    assert set(Handle._fields) == {"jobid", "dbid", "attempt"}


def test_the_reference_of_calls_has_each_attribute_and_name() -> None:
    text = page("reference/calls.md")
    said = {name for cells in rows(text, "## Job")[1:] for name in names(cells[0])}
    properties = {name for name, value in vars(Job).items() if isinstance(value, property)}
    assert said == {*Job.__struct_fields__, *properties}
    assert set(names(section(text, "Job"))) >= {state.name for state in State}
    client = Client("sqlite:///jobs.db")
    for made in (client, Worker(client)):
        attributes = {name for name in vars(made) if not name.startswith("_")}
        assert attributes <= set(names(section(text, type(made).__name__)))
    query = {name for cells in rows(text, "### Search and change many")[1:] for name in names(cells[0])}
    assert query == {field.name for field in fields(JobQuery)}
    for kind in (FailedAttempt, Reported, KeptJob, BulkProgress):
        table = section(text, "Records").partition(f"`{kind.__name__}`")[2].split("\n\n")[1]
        cells = [line.split(" | ")[0] for line in table.splitlines()[2:]]
        assert {name for cell in cells for name in names(cell)} == set(kind._fields)
    errors = {names(cells[0])[0] for cells in rows(text, "## Errors")[1:]}
    real = {
        name
        for name in garivini.__all__
        if isinstance(getattr(garivini, name), type)
        and issubclass(getattr(garivini, name), garivini.GariviniError)
    }
    assert errors | {"GariviniError"} == real
    for name in garivini.__all__:
        assert re.search(rf"\b{name}\b", text), f"{name} is not mentioned"


def test_the_reference_of_the_row_has_each_table_and_column(folder: Path) -> None:
    text = page("reference/row.md")
    connection = sqlite3.connect(folder / "garivini.db")
    tables = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        if not name.startswith("sqlite_")
    ]
    headings = set(re.findall(r"^## (\w+)$", text, flags=re.M))
    assert headings == set(tables)
    for table in tables:
        real = {column[1]: column[2] for column in connection.execute(f"PRAGMA table_info({table})")}
        first, *rest = [
            row for row in rows(text, f"## {table}") if row[0] not in ("state", "0", "1", "2", "3", "4")
        ]
        assert {name for cells in rest for name in names(cells[0])} == set(real), table
        if "type" in first:
            for cells in rest:
                assert cells[1].partition(",")[0] == real[names(cells[0])[0]], cells
    for name, sql in connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql NOT NULL"
    ):
        columns = re.findall(r"\w+", sql.partition("(")[2].partition(")")[0])
        assert re.search(rf"`{name}`[^;.]* on \({', '.join(f'`{column}`' for column in columns)}\)", text), (
            name
        )
    connection.close()


def test_the_reference_of_the_row_has_each_state_and_kind() -> None:
    text = page("reference/row.md")
    said = {int(cells[0]): cells[1] for cells in rows(text, "## job") if cells[0].isdigit()}
    assert said == {int(state): state.name.lower() for state in State}
    kind = next(cells[1] for cells in rows(text, "## failure") if cells[0] == "`kind`")
    assert set(names(kind)) == set(get_args(Kind))


def test_the_reference_of_the_wire_has_each_key_packet_and_command() -> None:
    text = page("reference/wire.md")
    keys = {names(cells[0])[0] for cells in rows(text, "## The payload")[1:]}
    assert keys == set(_Envelope.__struct_fields__)
    injecting = [name for cells in rows(text, "## Injecting") for name in names(cells[0])]
    assert injecting == [*_Request.__struct_fields__, *_Answer.__struct_fields__]
    payload = section(text, "The payload")
    assert set(names(payload)) >= set(ENVELOPES)
    _, _, server = text.partition("## The embedded server")
    taken, _, rest = server.partition("Requests that it refuses")
    handlers = Broker(b"H")._table()
    refused = {kind.name for kind, handler in handlers.items() if "_unsupported" in repr(handler)}
    assert {name for name in names(taken) if name.isupper()} == {kind.name for kind in handlers} - refused
    table, _, rest = rest.partition("Administrative commands:")
    assert {name for name in names(table) if re.fullmatch(r"SUBMIT\w+", name)} == refused
    lines = names(rest.partition("There is no")[0])
    assert {line.split()[0].encode() for line in lines} == set(console._COMMANDS)
