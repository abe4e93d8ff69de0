"""Reads a file of named SQL statements and turns each into the driver's own style, once.

A statement stands under a line ``-- name: NAME (parameter, …) -> RESULT`` with a line of why below it.
RESULT is ``rows``, ``one`` (the first column of the first row) or ``none``. Values are ``:name``. There are
two markers: a line that ends in ``-- each`` is repeated for every row, and ``:*name`` expands to as many
values as the list has. Nothing else is ever put into the text.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any, Final

_HEAD: Final = re.compile(r"^-- name: (\w+) \(([\w, ]*)\) -> (rows|one|none)$")
_EACH: Final = re.compile(r"^(.*?),?\s*-- each$")
# Not the second colon of PostgreSQL's ::type.
_VALUE: Final = re.compile(r"(?<!:):(\*?)([a-z_]+)")


@dataclass(slots=True)
class Statement:
    """One named statement and, by size, its text in the driver's style."""

    name: str
    parameters: frozenset[str]
    result: str
    #: Text before, on and after the line that repeats; the latter two are empty where none does.
    parts: tuple[str, str, str]
    placeholder: str
    _texts: dict[tuple[int, ...], str] = field(default_factory=dict)

    def bind(
        self, values: Mapping[str, Any], rows: Sequence[Mapping[str, Any]] = ()
    ) -> tuple[str, list[Any]]:
        """Return the text and its values in the order of the placeholders.

        Args:
            values: by parameter name; a list for ``:*name``.
            rows: one mapping for each repetition of the repeated line.

        """
        head, each, tail = self.parts
        bound: list[Any] = []
        sizes = [len(rows)]
        for text, source in ((head, (values,)), (each, rows), (tail, (values,))):
            names = _VALUE.findall(text)
            for row in source:
                for star, name in names:
                    if star:
                        bound.extend(row[name])
                        sizes.append(len(row[name]))
                    else:
                        bound.append(row[name])
        key = tuple(sizes)
        if key not in self._texts:
            if len(self._texts) > 256:
                self._texts.clear()
            self._texts[key] = self._text(len(rows), values)
        return self._texts[key], bound

    def _text(self, repeats: int, values: Mapping[str, Any]) -> str:
        def placeholders(match: re.Match[str]) -> str:
            count = len(values[match[2]]) if match[1] else 1
            return ", ".join([self.placeholder] * count)

        head, each, tail = (_VALUE.sub(placeholders, part) for part in self.parts)
        return head + ",\n".join([each] * repeats) + (f"\n{tail}" if each else tail)


@cache
def load(name: str, placeholder: str) -> dict[str, Statement]:
    """Return the statements of ``sql/NAME.sql`` by name.

    Args:
        name: of the dialect.
        placeholder: what the driver puts for a value: ``?`` or ``%s``.

    """
    text = files("garivini.store").joinpath(f"sql/{name}.sql").read_text(encoding="utf-8")
    return {statement.name: statement for statement in parse(text, placeholder)}


def parse(text: str, placeholder: str) -> list[Statement]:
    """Return the statements in the text of a file.

    Raises:
        ValueError: a statement uses other parameters than its head names.

    """
    statements = []
    for block in re.split(r"^(?=-- name: )", text, flags=re.MULTILINE)[1:]:
        head, *lines = block.rstrip().splitlines()
        match = _HEAD.match(head)
        if match is None:
            raise ValueError(f"not the head of a statement: {head}")
        parts = ["", "", ""]
        for line in lines:
            if each := _EACH.match(line):
                parts[1] = each[1]
            elif not line.startswith("--"):
                parts[2 if parts[1] else 0] += f"{line}\n"
        named = frozenset(filter(None, re.split(r",\s*", match[2])))
        used = {name for part in parts for _, name in _VALUE.findall(part)}
        if used != named:
            raise ValueError(f"statement {match[1]} names {sorted(named)} and uses {sorted(used)}")
        statements.append(
            Statement(match[1], named, match[3], (parts[0], parts[1], parts[2].rstrip()), placeholder)
        )
    return statements
