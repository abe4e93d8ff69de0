"""The arguments of a typed function: a JSON object with one value for each parameter, by its name."""

import copy
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, Final

import msgspec

from garivini.errors import UsageError
from garivini.model.json_forms import from_json, is_model, to_json

_REFUSED: Final = {
    inspect.Parameter.POSITIONAL_ONLY: "is positional-only, and arguments are stored by name",
    inspect.Parameter.VAR_POSITIONAL: "takes any number of arguments: pass a list in one parameter",
    inspect.Parameter.VAR_KEYWORD: "takes arguments of any name: pass a dict in one parameter",
}


class ArgumentsError(UsageError):
    """A payload does not fit the parameters of its function."""


class UnknownArgumentsError(ArgumentsError):
    """A payload has arguments that the function does not have. A newer version of it may have them."""


class Arguments:
    """Encodes, checks and decodes the arguments of one function. Its type hints are resolved at first use.

    Args:
        name: the function's name, for messages.
        function: has the parameters.
        takes_job: whether its first parameter is the job, which is not stored.
        renamed: for each old name of a parameter, the present name. Payloads may have either.

    Raises:
        UsageError: a parameter is of a kind that cannot be stored by name; the message names it.

    """

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        takes_job: bool = False,
        renamed: Mapping[str, str] = types.MappingProxyType({}),
    ) -> None:
        self._name = name
        self._function = function
        parameters = list(inspect.signature(function).parameters.values())
        if takes_job:
            if not parameters or parameters[0].kind not in (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            ):
                raise UsageError(f"{name} has takes_job=True, so its first parameter has to take the job")
            parameters = parameters[1:]
        for parameter in parameters:
            if parameter.kind in _REFUSED:
                raise UsageError(f"{name}: parameter {parameter.name} {_REFUSED[parameter.kind]}")
        self._parameters = parameters
        #: The names of the parameters, in order.
        self.names: tuple[str, ...] = tuple(parameter.name for parameter in parameters)
        self._renamed = dict(renamed)
        for old, new in self._renamed.items():
            if new not in self.names:
                raise UsageError(f"{name}: renamed has {old!r}: {new!r}, and no parameter is called {new}")
            if old in self.names:
                raise UsageError(f"{name}: renamed has the old name {old!r}, which a parameter has now")

    def encode(self, args: Iterable[Any], named: Mapping[str, Any]) -> tuple[bytes, msgspec.Struct]:
        """Return the arguments of a call as they are stored, and as the function will receive them.

        Raises:
            UsageError: they do not fit the parameters, or a value cannot be stored.

        """
        try:
            given = self._struct(*args, **named)
        except TypeError as error:
            raise UsageError(f"{self._name}: {error}") from None
        try:
            payload = self._encoder.encode(given)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UsageError(f"{self._name}: an argument cannot be written as JSON: {error}") from None
        if b"null" in payload:
            self._refuse_nan(given)
        try:
            decoded: msgspec.Struct = self._decoder.decode(payload)
        except (msgspec.DecodeError, ValueError) as error:
            raise UsageError(f"{self._name}: {_explained(error)}") from None
        return payload, decoded

    def decode(self, payload: bytes) -> msgspec.Struct:
        """Return the arguments in a payload.

        Raises:
            UnknownArgumentsError: it has arguments without a parameter.
            ArgumentsError: an argument is missing or wrong; the message names it.

        """
        try:
            decoded: msgspec.Struct = self._decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeError, ValueError, RecursionError):
            return self._decode_other(payload)  # an error, or a payload with an old name of a parameter
        return decoded

    def call_values(self, arguments: msgspec.Struct) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the keyword-only arguments for a call of the function."""
        values = msgspec.structs.astuple(arguments)
        split = self.positional
        return values[:split], dict(zip(self.names[split:], values[split:], strict=True))

    @cached_property
    def positional(self) -> int:
        """The number of parameters before the keyword-only ones."""
        return sum(parameter.kind is not inspect.Parameter.KEYWORD_ONLY for parameter in self._parameters)

    @cached_property
    def returns(self) -> Any:
        """The type of the result; Any without a type hint."""
        return self._hints.get("return", Any)

    def resolve(self) -> None:
        """Resolve the type hints.

        Raises:
            UsageError: a hint cannot be resolved, or is a type that cannot be stored.

        """
        _ = self._decoder, self.returns

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the payload."""
        return msgspec.json.schema(self._struct, schema_hook=_model_schema)

    def builtins(self, arguments: msgspec.Struct, names: Iterable[str]) -> dict[str, Any]:
        """Return some arguments by name, as JSON has them."""
        return {name: msgspec.to_builtins(getattr(arguments, name), enc_hook=to_json) for name in names}

    def _decode_other(self, payload: bytes) -> msgspec.Struct:
        try:
            given = msgspec.json.decode(payload)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise ArgumentsError(f"the payload is not JSON: {error}") from None
        if not isinstance(given, dict):
            raise ArgumentsError("the payload is not a JSON object with the arguments by name")
        for old, new in self._renamed.items():
            if old in given and new not in given:
                given[new] = given.pop(old)
        if unknown := sorted(set(given) - set(self.names)):
            raise UnknownArgumentsError(f"the function has no parameter {', '.join(unknown)}")
        try:
            decoded: msgspec.Struct = self._decoder.decode(msgspec.json.encode(given))
        except (msgspec.DecodeError, ValueError) as error:
            raise ArgumentsError(_explained(error)) from None
        return decoded

    def _refuse_nan(self, given: msgspec.Struct) -> None:
        """Refuse NaN and infinity, which JSON does not have: msgspec writes null for them."""
        for name in self.names:
            value = msgspec.to_builtins(getattr(given, name), enc_hook=to_json)
            if not all(math.isfinite(number) for number in _floats(value)):
                raise UsageError(
                    f"{self._name}: argument {name} has NaN or infinity, which JSON does not have"
                )

    @cached_property
    def _hints(self) -> dict[str, Any]:
        try:
            return typing.get_type_hints(self._function, include_extras=True)
        except Exception as error:  # a hint may be any expression
            raise UsageError(
                f"{self._name}: a type hint cannot be resolved: {type(error).__name__}: {error}"
            ) from None

    @cached_property
    def _struct(self) -> type[msgspec.Struct]:
        fields = [self._field(parameter) for parameter in self._parameters]
        title, split = self._name.rpartition(".")[2] or "arguments", self.positional
        made: list[type[msgspec.Struct]] = [
            msgspec.defstruct(title, fields[:split], forbid_unknown_fields=True, module=__name__)
        ]
        if split < len(fields):
            made.append(
                msgspec.defstruct(
                    *(title, fields[split:]),
                    bases=(made[0],),
                    kw_only=True,
                    forbid_unknown_fields=True,
                    module=__name__,
                )
            )
        return made[-1]

    def _field(self, parameter: inspect.Parameter) -> Any:
        hint = self._hints.get(parameter.name, Any)
        default = parameter.default
        if default is None and hint is not Any:
            hint = hint | None if not isinstance(hint, str) else hint
        self._check_type(parameter.name, hint)
        if default is inspect.Parameter.empty:
            return parameter.name, hint
        if default is None or isinstance(default, str | int | float | bool | bytes):
            return parameter.name, hint, default
        return parameter.name, hint, msgspec.field(default_factory=partial(copy.deepcopy, default))

    def _check_type(self, name: str, hint: Any) -> None:
        try:
            found = msgspec.inspect.type_info(hint)
            msgspec.json.Decoder(hint)
        except Exception as error:
            raise UsageError(
                f"{self._name}: the type of parameter {name} is not supported: {error}"
            ) from None
        for kind in _custom(found):
            if not is_model(kind):
                raise UsageError(
                    f"{self._name}: parameter {name} has the type {getattr(kind, '__name__', kind)}, which "
                    "cannot be stored as JSON: use a dataclass, or pass an id"
                )

    @cached_property
    def _decoder(self) -> msgspec.json.Decoder[Any]:
        return msgspec.json.Decoder(self._struct, dec_hook=from_json)

    @cached_property
    def _encoder(self) -> msgspec.json.Encoder:
        return msgspec.json.Encoder(enc_hook=to_json)


def _model_schema(kind: Any) -> dict[str, Any]:
    if is_model(kind):
        schema: dict[str, Any] = kind.model_json_schema()
        return schema
    raise NotImplementedError


def _custom(found: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Return the types that msgspec does not know, in the description of a type."""
    seen = set() if seen is None else seen
    if id(found) in seen:
        return
    seen.add(id(found))
    if isinstance(found, msgspec.inspect.CustomType):
        yield found.cls
    elif isinstance(found, tuple):
        for part in found:
            yield from _custom(part, seen)
    elif isinstance(found, msgspec.Struct):
        for name in found.__struct_fields__:
            if name not in ("default", "default_factory", "cls"):
                yield from _custom(getattr(found, name), seen)


def _floats(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _floats(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _floats(part)


def _explained(error: Exception) -> str:
    """Return the message of msgspec with the argument first: it has the path at the end."""
    text, _, path = str(error).partition(" - at `$")
    missing = "Object missing required field "
    if not path and text.startswith(missing):
        return f"argument {text.removeprefix(missing).strip('`')} is missing"
    path = path.rstrip("`").removeprefix(".")
    return f"argument {path}: {text[:1].lower()}{text[1:]}" if path else text
