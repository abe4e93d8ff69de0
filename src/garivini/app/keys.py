"""Unique keys and partitions that are made of the arguments of a job."""

import hashlib
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from garivini.errors import UsageError
from garivini.model.limits import MAX_KEY

#: What makes a job's key: True for all arguments, a list of parameters, or a template, ``{customer}/{day}``.
UniqueBy: TypeAlias = bool | Sequence[str]
#: Makes a text of the arguments that it names: see ``names`` of ``TextOf``.
_Values: TypeAlias = Mapping[str, Any]


class TextOf:
    """A text that is made of some arguments of a job.

    Args:
        names: the parameters.
        make: makes the text of their values, as JSON has them.

    """

    def __init__(self, names: Sequence[str], make: Callable[[_Values], str]) -> None:
        self.names: tuple[str, ...] = tuple(names)
        self.make: Callable[[_Values], str] = make


def unique_text(function: str, unique: UniqueBy, parameters: Sequence[str]) -> TextOf | None:
    """Return how the unique key of a function's jobs is made; None: they have none.

    Raises:
        UsageError: it names a parameter that the function does not have.

    """
    if unique is False or unique is None:
        return None
    if isinstance(unique, str):
        return _short(_template(function, "unique", unique, parameters))
    names = list(parameters if unique is True else unique)
    for name in names:
        _check_name(function, "unique", name, parameters)
    if not names:
        raise UsageError(f"{function}: unique names no parameter: give name=, or unique= at the insert")
    return _short(TextOf(names, lambda values: msgspec.json.encode(values, order="sorted").decode()))


def partition_text(function: str, partition: str | None, parameters: Sequence[str]) -> TextOf | None:
    """Return how the partition of a function's jobs is made; None: they have none.

    Raises:
        UsageError: it names a parameter that the function does not have.

    """
    return None if partition is None else _template(function, "partition", partition, parameters)


def _template(function: str, what: str, template: str, parameters: Sequence[str]) -> TextOf:
    if template in parameters:
        return TextOf([template], lambda values: _text(values[template]))
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"{function}: {what} {template!r} is not a template: {error}") from None
    names = [name for _, name, _, _ in parts if name is not None]
    if not names:
        raise UsageError(f"{function} has no parameter {template}, which {what} names")
    for _, name, form, conversion in parts:
        if name is not None:
            _check_name(function, what, name, parameters)
            if form or conversion:
                raise UsageError(f"{function}: {what} {template!r} may have plain names of parameters only")

    def make(values: _Values) -> str:
        return "".join(text + ("" if name is None else _text(values[name])) for text, name, _, _ in parts)

    return TextOf(names, make)


def _check_name(function: str, what: str, name: str, parameters: Sequence[str]) -> None:
    if name not in parameters:
        raise UsageError(f"{function} has no parameter {name}, which {what} names")


def _short(text: TextOf) -> TextOf:
    """Replace keys that are too long to be stored by their hash."""

    def make(values: _Values) -> str:
        key = text.make(values)
        return key if len(key) <= MAX_KEY else f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"

    return TextOf(text.names, make)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value, order="sorted").decode()
