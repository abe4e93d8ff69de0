"""The tables of ``docs/reference/versions.md``."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.versions.known import VERSIONS, Kind, Version
from tests.versions.suites import Table

_TITLES: Final[dict[Kind, str]] = {
    "mysql": "MySQL",
    "mariadb": "MariaDB",
    "postgresql": "PostgreSQL",
    "gearmand": "gearmand",
    "python": "Python",
}
_NOT_RUN: Final = "not run"


def head(table: Table) -> tuple[str, ...]:
    """Return the titles of a table's columns."""
    return ("version", *table.columns, "date")


def with_row(text: str, table: Table, version: Version, cells: Sequence[str]) -> str:
    """Return the page with the row of a version, from its full number to the date.

    Other versions keep their rows. One that has none gets a row that says so.
    """
    start = text.index(f"| {' | '.join(head(table))} |\n")
    end = text.find("\n\n", start) + 1 or len(text)
    old = [[cell.strip() for cell in line.strip("|").split("|")] for line in text[start:end].splitlines()[2:]]
    lines = []
    for known in (known for known in VERSIONS.values() if known.kind in table.kinds):
        empty = [f"{_TITLES[known.kind]} {known.number}", *[_NOT_RUN] * (len(head(table)) - 1)]
        found = [row for row in old if re.match(rf"{re.escape(empty[0])}(\.|$)", row[0])]
        if known is version:
            found = [[f"{_TITLES[known.kind]} {cells[0]}", *cells[1:]]]
        lines.append(found[0] if found else empty)
    rows = [head(table), ["---"] * len(head(table)), *lines]
    return text[:start] + "".join(f"| {' | '.join(row)} |\n" for row in rows) + text[end:]


def write(page: Path, table: Table, version: Version, cells: Sequence[str]) -> None:
    """Put the row of a version into the file."""
    page.write_text(with_row(page.read_text(encoding="utf-8"), table, version, cells), encoding="utf-8")
