"""Reads the files of named SQL statements, and fills in the placeholders of the driver.

Each statement comes after a line ``-- name: NAME (parameter, …) -> RESULT`` and a comment that explains it.
RESULT is ``rows``, ``one`` (at most one row), ``count`` (rows that the last statement changed), ``id`` (the
first new id, on SQLite the last one) or ``none``. A value is written ``:name``, and is always bound. There
are three markers. A line that ends in ``-- each`` is repeated once per row; the comma or ``UNION ALL`` before
the marker is written between the repetitions. ``:*name`` expands to one placeholder per item of a list.
``:@name`` is an array of the items of a list, or of the values with this name in all rows.

``{name}`` is one of the conditions of ``effective_state``, which are the same for all databases.

If a database needs several statements for what another database does in one, all of them follow the same
name, and each but the last ends in ``;``. They run in this order, and the rows of the result are those of the
last statement that returns rows. If a statement that returns rows finds none, the statements after it do not
run.

A table of the original may treat names as equal that differ in their bytes. For such a table, the statements
in ``sql/NAME_folding.sql`` replace the statements of the same names in ``sql/NAME.sql``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import chain
from operator import itemgetter
from typing import Any, Final

from garivini.store.effective_state import CONDITIONS

_HEAD: Final = re.compile(r"^-- name: (\w+) \(([\w, ]*)\) -> (rows|one|count|id|none)$")
_EACH: Final = re.compile(r"^(.*?)(,| UNION ALL|)\s*-- each$")
# Not the second colon of PostgreSQL's ::type.
_VALUE: Final = re.compile(r"(?<!:):([*@]?)([a-z_]+)")
_CONDITION: Final = re.compile(r"\{(\w+)\}")


@dataclass(slots=True)
class SqlTemplate:
    """One SQL statement, and its texts with the driver's placeholders for each number of rows and values."""

    #: The text before the line that repeats, that line, and the text after it. Without such a line, the last
    #: two are empty.
    parts: tuple[str, str, str]
    placeholder: str
    #: Text between the repetitions.
    between: str = ","
    #: Makes the value of an array from a list.
    array: Callable[[list[Any]], Any] = list
    #: The markers and names of the values of each part, in order.
    _names: list[list[tuple[str, str]]] = field(init=False)
    #: Returns the values of a row that the repeated line contains, in order.
    _row: Callable[[Mapping[str, Any]], tuple[Any, ...]] = field(init=False)
    _texts: dict[tuple[int, ...], str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._names = [_VALUE.findall(part) for part in self.parts]
        repeated = [name for _, name in self._names[1]]
        self._row = (
            itemgetter(*repeated) if len(repeated) > 1 else lambda row: tuple(row[name] for name in repeated)
        )

    def bind(
        self, values: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[str, list[Any]]:
        """Return the text and its values in the order of the placeholders.

        Args:
            values: by parameter name; a list for ``:*name``.
            rows: one mapping per repetition of the repeated line, or per item of the arrays.

        """
        head, each, tail = self._names
        bound: list[Any] = []
        sizes = [len(rows) if self.parts[1] else 0]
        for names, repeated in ((head, each), (tail, [])):
            for marker, name in names:
                if marker == "*":
                    bound.extend(values[name])
                    sizes.append(len(values[name]))
                elif marker:
                    bound.append(self.array([row[name] for row in rows] if rows else values[name]))
                else:
                    bound.append(values[name])
            if repeated:
                bound.extend(chain.from_iterable(map(self._row, rows)))
        key = tuple(sizes)
        if key not in self._texts:
            if len(self._texts) > 256:
                self._texts.clear()
            self._texts[key] = self._text(len(rows), values)
        return self._texts[key], bound

    def _text(self, repeats: int, values: Mapping[str, Any]) -> str:
        def placeholders(match: re.Match[str]) -> str:
            count = len(values[match[2]]) if match[1] == "*" else 1
            return ", ".join([self.placeholder] * count)

        head, each, tail = (_VALUE.sub(placeholders, part) for part in self.parts)
        return head + f"{self.between}\n".join([each] * repeats) + f"\n{tail}" if each else head


@dataclass(frozen=True, slots=True)
class Statement:
    """The statements that follow one name."""

    name: str
    parameters: frozenset[str]
    result: str
    templates: tuple[SqlTemplate, ...]


@cache
def load(
    dialect: str, placeholder: str, array: Callable[[list[Any]], Any] = list, folding: bool = False
) -> dict[str, Statement]:
    """Return the statements of a dialect by name.

    Args:
        dialect: its name.
        placeholder: the text that the driver expects in place of a value: ``?`` or ``%s``.
        array: makes the value of an array from a list.
        folding: whether the table treats names as equal that differ in their bytes.

    """
    found = _read(dialect, placeholder, array)
    return found | _read(f"{dialect}_folding", placeholder, array) if folding else found


def _read(name: str, placeholder: str, array: Callable[[list[Any]], Any]) -> dict[str, Statement]:
    text = files("garivini.store").joinpath(f"sql/{name}.sql").read_text(encoding="utf-8")
    return {statement.name: statement for statement in parse(text, placeholder, array)}


def parse(text: str, placeholder: str, array: Callable[[list[Any]], Any] = list) -> list[Statement]:
    """Return the statements in the text of a file.

    Raises:
        ValueError: a statement uses other parameters than its head names.
        KeyError: a statement uses a condition that does not exist.

    """
    text = _CONDITION.sub(lambda match: f"({CONDITIONS[match[1]]})", text)
    statements = []
    for block in re.split(r"^(?=-- name: )", text, flags=re.MULTILINE)[1:]:
        head, *lines = block.rstrip().splitlines()
        match = _HEAD.match(head)
        if match is None:
            raise ValueError(f"not the head of a statement: {head}")
        templates = [_template(lines, placeholder, array) for lines in _split(lines)]
        named = frozenset(filter(None, re.split(r",\s*", match[2])))
        used = {name for template in templates for part in template.parts for _, name in _VALUE.findall(part)}
        if used != named:
            raise ValueError(f"statement {match[1]} names {sorted(named)} and uses {sorted(used)}")
        statements.append(Statement(match[1], named, match[3], tuple(templates)))
    return statements


def _split(lines: Sequence[str]) -> list[list[str]]:
    """Split after each line that ends in a semicolon; comments are omitted."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("--"):
            continue
        found[-1].append(line.removesuffix(";"))
        if line.endswith(";"):
            found.append([])
    return [part for part in found if part]


def _template(lines: Sequence[str], placeholder: str, array: Callable[[list[Any]], Any]) -> SqlTemplate:
    parts = ["", "", ""]
    between = ","
    for line in lines:
        if each := _EACH.match(line):
            parts[1], between = each[1], each[2] or ","
        else:
            parts[2 if parts[1] else 0] += f"{line}\n"
    return SqlTemplate((parts[0], parts[1], parts[2].rstrip()), placeholder, between, array)
