"""Output of the commands: converts all text for a terminal, a pipe or a log.

Names, arguments and errors are untrusted. They are never interpreted: nothing in them is markup, and
unprintable characters (control characters, escape sequences, bidirectional overrides) appear escaped.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import click

_STYLES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
#: The space between two columns on a terminal.
_GAP: Final = "  "

Style: TypeAlias = Literal["bold", "dim", "red", "green", "yellow"]
#: The forms of a command's output.
Form: TypeAlias = Literal["table", "json", "jsonl"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    name: str
    #: A narrow terminal omits the columns with the lowest rank first; None: this column is never omitted.
    rank: int | None = None


def visible(text: str) -> str:
    """Return text as one line without characters that a terminal would interpret.

    Characters that are not printable, also line breaks and tabs, are escaped as in Python source.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def visible_lines(text: str) -> str:
    """Return text as ``visible`` does, but with its line breaks."""
    return "\n".join(map(visible, text.split("\n")))


def visible_bytes(data: bytes) -> str:
    r"""Return bytes as one line of text; those that are not UTF-8 appear as ``\xff``."""
    return visible(data.decode("utf-8", "backslashreplace"))


def number(count: int, noun: str) -> str:
    """Return ``1 job`` or ``2 jobs``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def say(text: str = "", style: Style | None = None) -> None:
    """Print lines on standard output."""
    text = visible_lines(text)
    click.echo(_styled(text, style) if style else text)


def note(text: str) -> None:
    """Print a message of the program on standard error."""
    click.echo(f"garivini: {visible_lines(text)}", err=True)


class Failed(click.ClickException):
    """Ends a command with a message and exit status 1."""

    def show(self, file: Any = None) -> None:
        """Print the message."""
        note(self.message)


def print_details(details: Mapping[str, str]) -> None:
    """Print named values, one per line."""
    width = max(map(len, details))
    for name, value in details.items():
        click.echo(f"{name:<{width}}{_GAP}{visible(value)}".rstrip())


def print_table(columns: Sequence[Column], pages: Iterable[Sequence[Sequence[str]]], *, none: str) -> None:
    """Print rows below a heading, each page as soon as it is available.

    A terminal shows the columns for which the first page leaves room; later pages can make them wider. Any
    other output gets complete values with tabs between them.

    Args:
        columns: the heading.
        pages: the rows, with one text per column.
        none: printed instead if there is no row.

    """
    lines = _fitted(columns, pages) if sys.stdout.isatty() else _tabbed(columns, pages)
    empty = True
    for page in lines:
        empty = False
        sys.stdout.write(page)
        sys.stdout.flush()
    if empty:
        click.echo(none)


def print_json(objects: Iterable[Mapping[str, Any]], form: Form) -> None:
    """Print objects as one JSON document, or as one object per line, each as soon as it is available."""
    if form != "json":
        for entry in objects:
            click.echo(json.dumps(entry))
        return
    before = "[\n"
    for entry in objects:
        text = json.dumps(entry, indent=2).replace("\n", "\n  ")
        click.echo(f"{before}  {text}", nl=False)
        before = ",\n"
    click.echo("[]" if before == "[\n" else "\n]")


def on_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def _styled(text: str, style: Style) -> str:
    """Return text in a style if standard output is a terminal that supports it."""
    if not on_terminal() or os.environ.get("TERM") == "dumb" or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def _tabbed(columns: Sequence[Column], pages: Iterable[Sequence[Sequence[str]]]) -> Iterator[str]:
    heading = "\t".join(column.name for column in columns) + "\n"
    for page in pages:
        if page:
            yield heading + "".join("\t".join(map(visible, row)) + "\n" for row in page)
            heading = ""


def _fitted(columns: Sequence[Column], pages: Iterable[Sequence[Sequence[str]]]) -> Iterator[str]:
    """Yield pages for a terminal. Columns are omitted before any value is cut."""
    from rich.cells import cell_len  # imported for terminals only

    room = shutil.get_terminal_size().columns
    names = [column.name for column in columns]
    ranks = [column.rank for column in columns]
    widths = [len(name) for name in names]
    shown: list[int] = []
    for page in pages:
        if not page:
            continue
        cells = [[visible(cell) for cell in row] for row in page]
        widths = [
            max(width, *map(cell_len, column))
            for width, column in zip(widths, zip(*cells, strict=True), strict=True)
        ]
        text = ""
        if not shown:
            shown = list(fit(widths, ranks, room))
            layout = fit([widths[at] for at in shown], [None] * len(shown), room)
            text = _styled(_line(names, shown, layout), "bold") + "\n"
        # A later page may have longer values, but has the same columns as the first page.
        layout = fit([widths[at] for at in shown], [None] * len(shown), room)
        yield text + "".join(_line(row, shown, layout) + "\n" for row in cells)


def _line(row: Sequence[str], shown: Sequence[int], layout: Mapping[int, int]) -> str:
    return _GAP.join(_cell(row[at], layout[place]) for place, at in enumerate(shown)).rstrip()


def _cell(text: str, width: int) -> str:
    from rich.cells import cell_len, set_cell_size

    size = cell_len(text)
    if size > width:
        return f"{set_cell_size(text, width - 1)}…"
    return text + " " * (width - size)


def fit(widths: Sequence[int], ranks: Sequence[int | None], room: int) -> dict[int, int]:
    """Return the columns that a terminal of ``room`` cells shows, each with its width.

    Columns are omitted, lowest rank first, until the others fit. Only columns that are never omitted are
    narrowed, the widest first.
    """
    layout = dict(enumerate(widths))

    def excess() -> int:
        return sum(layout.values()) + len(_GAP) * (len(layout) - 1) - room

    for rank in sorted({rank for rank in ranks if rank is not None}):
        if excess() <= 0:
            break
        layout = {at: width for at, width in layout.items() if ranks[at] != rank}
    while (over := excess()) > 0:
        widest = max(layout, key=lambda at: layout[at])
        if layout[widest] <= 2:
            break
        rest = max((width for at, width in layout.items() if at != widest), default=0)
        layout[widest] = max(2, layout[widest] - max(1, min(over, layout[widest] - rest)))
    return layout
