"""Decodes a settings file. Errors use the terms of the file, not of Python. No I/O."""

import re
import types
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from garivini.errors import UsageError

_S = TypeVar("_S", bound=msgspec.Struct)

#: Keys that errors may show. Any other may be a value in the wrong place, such as a URL with a password.
_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")
_WORDS: Final[Mapping[type, str]] = {
    int: "a whole number, such as 60",
    float: "a number, such as 1.5",
    bool: "true or false",
    str: 'text in quotes, such as "name"',
}


def decode_toml(text: bytes, kind: type[_S], name: str) -> _S:
    """Return the settings in a text.

    Args:
        text: the contents of the file.
        kind: the class of the file's tables.
        name: the name of the file, for errors.

    Raises:
        UsageError: it is not TOML, has an unknown key, or a value of a wrong type.

    """
    where = ""
    try:
        found = msgspec.toml.decode(text)
    except (msgspec.DecodeError, ValueError) as error:
        at = re.search(r"\(at ([^)]*)\)", str(error))
        where = f" at {at[1]}" if at else ""
    else:
        return _table(found, kind, name, "")
    # Raised outside of the except clause, because the error caught there may quote the file.
    raise UsageError(f"{name} is not TOML{where}: write key = value, with text in quotes")


def _table(values: Mapping[str, Any], kind: type[_S], name: str, table: str) -> _S:
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            raise UsageError(f"{name}: {_unknown(key, list(fields), table)}")
        place = f"[{table}] {key}" if table else key
        found[key] = _value(value, fields[key], name, place, key)
    return kind(**found)


def _value(value: Any, kind: Any, name: str, place: str, key: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        if not isinstance(value, dict):
            raise UsageError(f"{name}: {key} is a table: write [{key}] and its keys below")
        return _table(value, kind, name, key)
    if get_origin(kind) is dict:
        return _named_tables(value, get_args(kind)[1], name, key)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        pass
    raise UsageError(f"{name}: {place} is not {_expected(kind)}")


def _named_tables(value: Any, kind: Any, name: str, key: str) -> dict[str, Any]:
    """Return the tables ``[key.NAME]`` by name."""
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise UsageError(f"{name}: {key} has tables: write [{key}.NAME] and its keys below")
    return {
        each: _table(table, kind, name, f"{key}.{each}" if _KEY.fullmatch(each) else f"{key}.…")
        for each, table in value.items()
    }


def _unknown(key: str, known: list[str], table: str) -> str:
    place = f"[{table}]" if table else "the file"
    near = get_close_matches(key.replace("-", "_").lower(), known, 1)
    shown = f"key {key}" if _KEY.fullmatch(key) else "a key"
    return f"{shown} of {place} is unknown; " + (
        f"did you mean {near[0]}?" if near else f"it has {', '.join(sorted(known))}"
    )


def _expected(kind: Any) -> str:
    """Return the description of a type for an error."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(kind) if part is not type(None))
    if get_origin(kind) is Literal:
        return " or ".join(f'"{value}"' for value in get_args(kind))
    if get_origin(kind) is list:
        return 'a list of texts, such as ["one", "two"]'
    return _WORDS[kind]
