"""The progress of a search on standard error, and its end by ^C."""

import os
import signal
import sys
import threading
import time
from typing import Any, Final, Self

import click

from garivini.cli.output import note
from garivini.errors import GariviniError
from garivini.model.job_query import BulkProgress

#: Characters of the bar.
_WIDTH: Final = 20
#: Seconds before a terminal shows a bar, and between two updates of the bar.
_FIRST: Final = 0.5
_INTERVAL: Final = 0.1
#: Seconds between two lines if standard error is not a terminal.
_LINES: Final = 10.0


class Progress:
    """Shows the progress of a search: a bar on a terminal, else a line every ten seconds.

    In its ``with`` block, ^C ends the search after the page in progress, so that the numbers are right. A
    second ^C ends the command immediately. Only the main thread can receive ^C. After ^C or an error of a
    database, a message reports the numbers so far.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._interval = _INTERVAL if self._terminal else _LINES
        self._next = time.monotonic() + (_FIRST if self._terminal else _LINES)
        self._shown = self._stopping = False
        self._handler: Any = None
        self._last = BulkProgress()

    def __enter__(self) -> Self:
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        if threading.current_thread() is threading.main_thread() and not ignored:
            self._handler = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._restore()
        self.clear()
        if isinstance(error, KeyboardInterrupt | GariviniError) and self._last.examined:
            note(f"stopped at {self._text()}")

    def __call__(self, progress: BulkProgress) -> None:
        """Show the progress after a page, unless it was shown a moment ago.

        Raises:
            KeyboardInterrupt: ^C was pressed.

        """
        self._last = progress
        if self._stopping:
            raise KeyboardInterrupt
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        if self._terminal:
            bar = "#" * int(_WIDTH * progress.fraction)
            click.echo(f"\r[{bar:-<{_WIDTH}}] {self._text()}\x1b[K", nl=False, err=True)
            self._shown = True
        else:
            note(self._text())

    def clear(self) -> None:
        """Remove the bar from the terminal."""
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = False

    def _stop(self, number: int, frame: Any) -> None:
        self._stopping = True
        self._restore()

    def _restore(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)

    def _text(self) -> str:
        examined, matched, changed, skipped, fraction = self._last
        changes = f", {changed:,} changed, {skipped:,} skipped" if changed or skipped else ""
        return f"{fraction:.0%}: {examined:,} examined, {matched:,} found{changes}"
