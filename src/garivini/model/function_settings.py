"""Where each setting of a function comes from: code declares it, and an operator overrides it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

import msgspec

from garivini.errors import UsageError
from garivini.model.policy import NO_POLICY, FunctionPolicy

#: The names of the settings. A pause is not a setting: code cannot declare it, and a reset does not end it.
SETTINGS: Final[tuple[str, ...]] = tuple(name for name in FunctionPolicy.__slots__ if name != "paused_until")
#: Where the value of a setting comes from. ``row``: a program that knows only the columns has written it.
Origin: TypeAlias = Literal["declared", "override", "row"]


@dataclass(frozen=True, slots=True)
class FunctionSettings:
    """The settings of a function, and where they come from."""

    #: The values that apply.
    policy: FunctionPolicy = NO_POLICY
    #: The settings that code has declared, by name.
    declared: Mapping[str, Any] = field(default_factory=dict)
    #: The settings that an operator has set instead, by name.
    override: Mapping[str, Any] = field(default_factory=dict)

    def origin(self, name: str) -> Origin | None:
        """Return where the value of a setting comes from; None: it has none, so the default applies."""
        value = getattr(self.policy, name)
        if value is None:
            return None
        if self.override.get(name) == value:
            return "override"
        return "declared" if self.declared.get(name) == value else "row"

    def declare(self, given: FunctionPolicy) -> "FunctionSettings":
        """Return the settings after a declaration, which replaces the former one."""
        return self._changed(given_settings(given), self.override)

    def overridden(self, given: FunctionPolicy) -> "FunctionSettings":
        """Return the settings after an operator has set those that are not None."""
        return self._changed(self.declared, {**self.override, **given_settings(given)})

    def reset(self) -> "FunctionSettings":
        """Return the declared settings alone."""
        policy = FunctionPolicy(**dict(self.declared))
        return FunctionSettings(policy, self.declared, {})

    def _changed(self, declared: Mapping[str, Any], override: Mapping[str, Any]) -> "FunctionSettings":
        values = {}
        for name in SETTINGS:
            stood = name in self.declared or name in self.override
            before = getattr(self.policy, name)
            if name in override:
                values[name] = override[name]
            elif name == "renews" and before is not None and not stood:
                values[name] = before  # an operator may know of workers that do not renew
            elif name in declared:
                values[name] = declared[name]
            else:
                values[name] = None if stood else before
        return FunctionSettings(FunctionPolicy(**values), declared, override)


def given_settings(policy: FunctionPolicy) -> dict[str, Any]:
    """Return the settings of a policy that are not None, by name."""
    return {name: value for name in SETTINGS if (value := getattr(policy, name)) is not None}


def encode_given(given: Mapping[str, Any]) -> str | None:
    """Return settings as JSON; None if no setting is given."""
    return msgspec.json.encode(given, order="sorted").decode() if given else None


def decode_given(text: str | None) -> dict[str, Any]:
    """Return the settings in a stored text, without those that are not known or not valid."""
    if not text:
        return {}
    try:
        found = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return valid_settings(found)


def valid_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the given settings that are valid and not None."""
    return {
        name: value for name in SETTINGS if (value := given.get(name)) is not None and _is_valid(name, value)
    }


def _is_valid(name: str, value: Any) -> bool:
    try:
        FunctionPolicy(**{name: value})
    except UsageError:
        return False
    return True
