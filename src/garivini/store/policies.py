"""The settings of functions that are stored in the database."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from garivini.errors import UsageError
from garivini.model.function_settings import (
    SETTINGS,
    FunctionSettings,
    decode_given,
    encode_given,
    given_settings,
    valid_settings,
)
from garivini.model.policy import FunctionPolicy
from garivini.store.chunks import CHUNK
from garivini.store.statements import Statements

#: Settings that are stored as 0 or 1.
_BOOLEANS: Final = ("renews", "fair")


def functions(run: Statements) -> dict[str, FunctionPolicy]:
    """Return the settings of each function that apply; those of the empty name are the default of all."""
    found = {}
    for funcname, *values, paused_until in run("functions"):
        policy = _policy(values)
        found[funcname] = policy if paused_until is None else replace(policy, paused_until=paused_until)
    return found


def function_settings(run: Statements) -> dict[str, FunctionSettings]:
    """Return the settings of each function, and where they come from."""
    return dict(map(_settings, run("settings")))


def undeclared(run: Statements, policies: Mapping[str, FunctionPolicy]) -> list[str]:
    """Return the names of the functions in ``policies`` whose stored declarations differ from it."""
    names = sorted(policies)
    stored: dict[str, Mapping[str, Any]] = {}
    for start in range(0, len(names), CHUNK):
        stored.update(
            (funcname, decode_given(text))
            for funcname, text in run("declared", funcnames=names[start : start + CHUNK])
        )
    return [name for name in names if given_settings(policies[name]) != stored.get(name, {})]


def declare(run: Statements, policies: Mapping[str, FunctionPolicy]) -> None:
    """Store the settings that code declares, by function; those of an operator stay in force."""
    names = sorted(policies)
    for start in range(0, len(names), CHUNK):
        part = names[start : start + CHUNK]
        _change(run, part, lambda name, settings: settings.declare(policies[name]))


def set_function(run: Statements, funcname: str, policy: FunctionPolicy) -> None:
    """Override the settings that are not None in ``policy``; the other settings stay as they are."""
    _change(run, [funcname], lambda _, settings: settings.overridden(policy))


def unset_function(run: Statements, funcname: str) -> None:
    """Delete an operator's settings of a function, so that those of code or the defaults apply.

    A paused function stays paused.
    """
    _change(run, [funcname], lambda _, settings: settings.reset())


def replace_function(run: Statements, funcname: str, policy: FunctionPolicy) -> None:
    """Replace all that an operator has set for a function with the settings in ``policy``."""
    _change(run, [funcname], lambda _, settings: settings.reset().overridden(policy))


def _change(
    run: Statements,
    funcnames: Collection[str],
    change: Callable[[str, FunctionSettings], FunctionSettings],
) -> None:
    """Change the settings of functions under a lock on their rows. A function without settings has no row."""
    found = dict(map(_settings, run("lock_settings", funcnames=list(funcnames))))
    if missing := [name for name in funcnames if name not in found]:
        # Empty rows are created first. Otherwise two programs that see no row would overwrite each other's
        # settings.
        run("create_functions", rows=[{"funcname": name} for name in missing])
        found.update(map(_settings, run("lock_settings", funcnames=missing)))
    changed = {name: change(name, found[name]) for name in funcnames}
    run("write_settings", rows=[_row(name, settings) for name, settings in changed.items()])
    for name in sorted(name for name, settings in changed.items() if settings == FunctionSettings()):
        run("unset_function", funcname=name)


def _settings(row: Any) -> tuple[str, FunctionSettings]:
    funcname, *values, declared, override = row
    return funcname, FunctionSettings(_policy(values), decode_given(declared), decode_given(override))


def _policy(values: list[Any]) -> FunctionPolicy:
    """Return the settings in the columns of a row, without invalid ones."""
    given = dict(zip(SETTINGS, values, strict=True))
    for name in _BOOLEANS:
        if given[name] is not None:
            given[name] = bool(given[name])
    try:
        return FunctionPolicy(**given)
    except UsageError:
        return FunctionPolicy(**valid_settings(given))


def _row(funcname: str, settings: FunctionSettings) -> dict[str, Any]:
    values = {name: getattr(settings.policy, name) for name in SETTINGS}
    for name in _BOOLEANS:
        if values[name] is not None:
            values[name] = int(values[name])
    return {
        "funcname": funcname,
        **values,
        "declared": encode_given(settings.declared),
        "override": encode_given(settings.override),
    }
