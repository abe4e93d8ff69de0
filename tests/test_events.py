"""Events: the table of them, the source that emits them, and their reference."""

import ast
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Final, get_args

import pytest

from garivini import events
from garivini.events.table import EVENTS, SECTIONS, SETBACK_FIELDS, EventType
from garivini.model.job import Handle
from garivini.model.outcome import Kind, Result, Setback, Settled
from garivini.model.state import State
from garivini.outcome_events import emit_settled
from tests.source import PATHS, ROOT, SOURCE, tree_of

LEVELS: Final = {10: "debug", 20: "info", 30: "warning"}


def emitted(tree: ast.Module) -> Iterator[tuple[str | None, tuple[str | None, ...]]]:
    """Yield the name (None: it is computed) and the fields of each ``emit`` in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_emit(node.func):
            name = node.args[0] if node.args else None
            fields = tuple(keyword.arg for keyword in node.keywords)
            yield (str(name.value) if isinstance(name, ast.Constant) else None), fields


def _is_emit(function: ast.expr) -> bool:
    match function:
        case ast.Name("emit") | ast.Attribute(ast.Name("events"), "emit"):
            return True
    return False


def wrong(tree: ast.Module) -> list[str]:
    """Return what a module emits that is not in the table."""
    found = []
    for name, fields in emitted(tree):
        known = EVENTS.get(name or "")
        if known is None or set(fields) not in [set(form) for form in (known.fields, known.short) if form]:
            found.append(f"{name} {' '.join(map(str, fields))}")
    return found


def row(name: str, event: EventType) -> str:
    """Return the row of the reference for an event."""
    fields = "see below" if event.fields == SETBACK_FIELDS else " ".join(f"`{name}`" for name in event.fields)
    return f"| `{name}` | {LEVELS[event.level]} | {fields} | {event.meaning} |"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(SOURCE)))
def test_emit_in_the_source_is_in_the_table(path: Path) -> None:
    if "emit" not in path.read_text(encoding="utf-8"):
        return  # most do not name it, and need not be parsed
    found = wrong(tree_of(path))
    if path.name == "outcome_events.py":  # its names are tried below
        found.remove(f"None {' '.join(SETBACK_FIELDS)}")
    assert found == []


def test_emit_of_an_unknown_event_or_field_is_found() -> None:
    assert wrong(ast.parse("events.emit('job.losst', jobid=1)")) == ["job.losst jobid"]
    assert wrong(ast.parse("events.emit('role.started')")) == ["role.started "]
    assert wrong(ast.parse("events.emit('role.started', role=1, extra=2)")) == ["role.started role extra"]
    assert wrong(ast.parse("events.emit(name, role=1)")) == ["None role"]
    assert wrong(ast.parse("events.emit('job.stale', jobid=1, dbid=1, attempt=1)")) == []


def test_emit_is_in_the_source_for_each_event_of_the_table() -> None:
    sources = [path.read_text(encoding="utf-8") for path in PATHS if path.name != "table.py"]
    assert [name for name in EVENTS if not any(f'"{name}"' in source for source in sources)] == []


def test_the_log_leaves_out_lists_with_a_number_per_job(caplog: pytest.LogCaptureFixture) -> None:
    unlogged = {name: event.unlogged for name, event in EVENTS.items() if event.unlogged}
    assert unlogged == {"jobs.started": ("waits",), "jobs.ended": ("runs",)}
    with caplog.at_level(logging.DEBUG, "garivini"):
        events.emit(
            "jobs.started", dbid=1, function="f", jobs=2, wait_sum=3.0, wait_max=2.0, waits=[1.0, 2.0]
        )
    (record,) = caplog.records
    assert record.getMessage() == "jobs.started dbid=1 function='f' jobs=2 wait_sum=3.0 wait_max=2.0"
    assert record.fields == {"dbid": 1, "function": "f", "jobs": 2, "wait_sum": 3.0, "wait_max": 2.0}  # type: ignore[attr-defined]


def test_is_enabled_follows_listeners_and_the_level_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert not events.is_enabled("jobs.started")
    with caplog.at_level(logging.DEBUG, "garivini"):
        assert events.is_enabled("jobs.started")
    unlisten = events.listen(lambda name, fields: None)
    assert events.is_enabled("jobs.started")
    unlisten()
    assert not events.is_enabled("jobs.started")


def test_emit_settled_emits_events_of_the_table() -> None:
    seen: dict[str, tuple[str, ...]] = {}
    unlisten = events.listen(lambda name, fields: seen.update({name: tuple(fields)}))
    for kind in get_args(Kind):
        setback = Setback(handle=Handle(1, 1, 1), kind=kind)
        for result in get_args(Result):
            for state in (State.WAITING, State.DEAD):
                emit_settled(setback, Settled(result, state=state))
    unlisten()
    assert seen == {name: SETBACK_FIELDS for name, event in EVENTS.items() if event.fields == SETBACK_FIELDS}


def test_the_reference_of_events_has_the_rows_of_the_table() -> None:
    text = (ROOT / "docs" / "reference" / "events.md").read_text(encoding="utf-8")
    for section, table in SECTIONS.items():
        part = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        rows = [line for line in part.splitlines() if line.startswith("| `")]
        assert rows == [row(name, event) for name, event in table.items()], section
    assert " ".join(f"`{name}`" for name in SETBACK_FIELDS) in text
    limited = text[: text.index("\n## ")]
    assert [name for name, event in EVENTS.items() if event.limit and f"`{name}`" not in limited] == []
