"""The JSON form of pydantic models, which msgspec does not know. Pydantic itself is not imported."""

from typing import Any


def is_model(kind: Any) -> bool:
    """Whether a type is a pydantic model."""
    return isinstance(kind, type) and hasattr(kind, "model_validate") and hasattr(kind, "model_dump")


def to_json(value: Any) -> Any:
    """Return a pydantic model as data that JSON has: the hook of an encoder.

    Raises:
        TypeError: it is another object that msgspec does not know.

    """
    if is_model(type(value)):
        return value.model_dump(mode="json")
    raise TypeError(f"a {type(value).__name__} is not supported")


def from_json(kind: Any, value: Any) -> Any:
    """Return the pydantic model that data describe: the hook of a decoder.

    Raises:
        TypeError: the type is not a pydantic model.

    """
    if is_model(kind):
        return kind.model_validate(value)
    raise TypeError(f"a {kind.__name__} is not supported")
