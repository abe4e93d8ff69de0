"""The commands that pages show, read as the program would."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from garivini.cli import cli


def commands(text: str) -> list[tuple[list[str], bool]]:
    """Return the arguments of each ``garivini`` in a shell text, and whether its line is that and no more."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        parts: list[list[str]] = [[]]
        for word in lexer:
            if set(word) <= set("|&;<>()"):
                parts.append([])
            else:
                parts[-1].append(word)
        for part in parts:
            while part and re.fullmatch(r"[A-Z_]+=.*", part[0]):
                del part[0]
            if part and Path(part[0]).name == "garivini":
                found.append((part[1:], len(parts) == 1))
    return found


def parse(words: list[str], *, whole: bool = True) -> None:
    """Read a command as the program would, without running any of it.

    ``whole`` is false for a mention in running text, which may leave out what is required.
    """
    command: click.Command = cli
    context: click.Context | None = None
    rest = words
    while True:
        context = click.Context(command, parent=context, info_name="garivini", resilient_parsing=not whole)
        given, rest, _ = command.make_parser(context).parse_args(list(rest))
        for parameter in command.get_params(context):
            value = given.get(str(parameter.name))
            if isinstance(value, str | int | float | list | tuple) and not isinstance(value, bool) and value:
                parameter.type_cast_value(context, value)
            elif whole and parameter.required:
                assert not parameter.value_is_missing(value), f"{words}: {parameter.name} is missing"
        if not isinstance(command, click.Group):
            assert not rest or not whole, f"{words}: {rest} is too much"
            return
        if not rest:
            assert not whole or {"version", "help"} & {name for name, value in given.items() if value is True}
            return
        name, *rest = rest
        found = command.get_command(context, name)
        assert found is not None, f"{words}: there is no command {name}"
        command = found


def leaves(command: click.Command, path: str = "garivini") -> Iterator[tuple[str, click.Command]]:
    """Yield every command below one, with its name."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from leaves(found, f"{path} {name}")
    else:
        yield path, command


def options(command: click.Command) -> dict[str, click.Option]:
    return {
        name: option
        for option in command.params
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }
