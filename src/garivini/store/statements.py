"""Reads a file of named SQL statements and turns each into the driver's own style, once.

A statement stands under a line ``-- name: NAME (parameter, …) -> RESULT`` with a line of why below it.
RESULT is ``rows``, ``one`` (the first column of the first row), ``count`` (rows that the last one changed),
``id`` (the first that it gave) or ``none``. Values are ``:name``. There are three markers: a line that ends
in ``-- each`` is repeated for every row, with the comma or ``UNION ALL`` before the marker between the rows;
``:*name`` expands to as many values as the list has; ``:@name`` is the list of that value of all rows.
Nothing else is ever put into the text.

Where a database needs several statements for what another does in one, they stand under one name, each but
the last ending in ``;``. They run in turn, and the rows of the last one that reads are the result. Where one
that reads finds nothing, the rest is left out. What stands under ``NAME@FORM`` is taken instead of NAME where
a server does better than its kind: the dialect says so when it has met one. ``NAME@`` is that of
NAME then.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from itertools import chain
from operator import itemgetter
from typing import Any, Final

_HEAD: Final = re.compile(r"^-- name: (\w+(?:@\w+)?) \(([\w, ]*)\) -> (rows|one|count|id|none)$")
_EACH: Final = re.compile(r"^(.*?)(,| UNION ALL|)\s*-- each$")
# Not the second colon of PostgreSQL's ::type.
_VALUE: Final = re.compile(r"(?<!:):([*@]?)([a-z_]+)")


@dataclass(slots=True)
class Step:
    """One statement of SQL and, by size, its text in the driver's style."""

    #: Text before, on and after the line that repeats; the latter two are empty where none does.
    parts: tuple[str, str, str]
    placeholder: str
    #: What stands between the repetitions.
    between: str = ","
    #: Of each part the markers and names of its values, in order.
    _names: list[list[tuple[str, str]]] = field(init=False)
    #: Takes those of the repeated line out of a row.
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
            rows: one mapping for each repetition of the repeated line.

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
                    bound.append([row[name] for row in rows])
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
    """What stands under one name."""

    name: str
    parameters: frozenset[str]
    result: str
    steps: tuple[Step, ...]


@cache
def load(name: str, placeholder: str, form: str = "", *, folding: bool = False) -> dict[str, Statement]:
    """Return the statements of ``sql/NAME.sql`` by name.

    Args:
        name: of the dialect.
        placeholder: what the driver puts for a value: ``?`` or ``%s``.
        form: whose statements are taken instead, where there are any.
        folding: whether to use the variants of statements that distinguish names by their bytes although the
            table does not.

    """
    text = files("garivini.store").joinpath(f"sql/{name}.sql").read_text(encoding="utf-8")
    found = {statement.name: statement for statement in parse(text, placeholder)}
    plain = {name: statement for name, statement in found.items() if "@" not in name}
    chosen = {name: found.get(f"{name}@{form}", statement) for name, statement in plain.items()}
    if folding:
        chosen |= {name: found[f"{name}@folding"] for name in plain if f"{name}@folding" in found}
    formed = {name.partition("@")[0] for name in found if "@" in name and not name.endswith("@folding")}
    return chosen | {f"{name}@": plain[name] for name in formed}


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
        steps = [_step(lines, placeholder) for lines in _split(lines)]
        named = frozenset(filter(None, re.split(r",\s*", match[2])))
        used = {name for step in steps for part in step.parts for _, name in _VALUE.findall(part)}
        if used != named:
            raise ValueError(f"statement {match[1]} names {sorted(named)} and uses {sorted(used)}")
        statements.append(Statement(match[1], named, match[3], tuple(steps)))
    return statements


def _split(lines: Sequence[str]) -> list[list[str]]:
    """Cut after each line that ends in a semicolon; comments are left out."""
    found: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("--"):
            continue
        found[-1].append(line.removesuffix(";"))
        if line.endswith(";"):
            found.append([])
    return [step for step in found if step]


def _step(lines: Sequence[str], placeholder: str) -> Step:
    parts = ["", "", ""]
    between = ","
    for line in lines:
        if each := _EACH.match(line):
            parts[1], between = each[1], each[2] or ","
        else:
            parts[2 if parts[1] else 0] += f"{line}\n"
    return Step((parts[0], parts[1], parts[2].rstrip()), placeholder, between)
