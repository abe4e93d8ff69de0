"""Imports the module of a worker, and reports once if that fails."""

import importlib
import os
import signal
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Final

from garivini.app import Garivini
from garivini.cli.output import note
from garivini.errors import UsageError
from garivini.worker import Worker

_OURS: Final = str(Path(__file__).parents[1]) + os.sep


class BrokenModuleError(Exception):
    """The user's module raised ``error`` while it was imported."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error: BaseException = error


class Speaker:
    """Lets one of several forked processes report an error that they all have. Make it before the fork."""

    def __init__(self) -> None:
        self._turn, first = os.pipe()
        os.set_blocking(self._turn, False)
        os.write(first, b"1")

    def report(self, message: str) -> None:
        """Print a message, unless another process has done so.

        After this call SIGTERM is ignored. The parent sends SIGTERM to all processes when the first of them
        has ended, and the first may be another process than the one that reports.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            os.read(self._turn, 1)
        except BlockingIOError:
            return
        note(message)


def load(target: str) -> Worker:
    """Import a module or file and return its Worker, or that of its application, with at least one function.

    Raises:
        UsageError: there is no such module, it has neither a Worker nor a Garivini with a function, or it has
            several, or a function of the application cannot run.
        BrokenModuleError: the module cannot be imported.

    """
    found = load_app_or_worker(target)
    if not found.functions:
        how = "@app.job" if isinstance(found, Garivini) else '@worker.function("name")'
        raise UsageError(f"{target} registers no function: decorate one with {how}")
    return found.worker() if isinstance(found, Garivini) else found


def load_app_or_worker(target: str) -> Garivini | Worker:
    """Import a module or file and return its Garivini, or else its Worker. Raises as ``load``."""
    name, _, attribute = target.partition(":")
    module = _import(name)
    if attribute:
        found = getattr(module, attribute, None)
        if not isinstance(found, Garivini | Worker):
            raise UsageError(f"{name} has no Garivini and no Worker named {attribute}")
        return found
    kinds: tuple[type[Garivini | Worker], ...] = (Garivini, Worker)
    for kind in kinds:
        values = {id(value): value for value in vars(module).values() if isinstance(value, kind)}
        if len(values) > 1:
            raise UsageError(f"{name} has {len(values)} {kind.__name__}s: select one with {name}:NAME")
        if values:
            return values.popitem()[1]
    raise UsageError(f"{name} has no Garivini and no Worker")


def _import(name: str) -> ModuleType:
    if name.endswith(".py"):
        name = _prepare_file(Path(name).resolve())
    elif "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise UsageError(f"there is no module {name}: give an importable name or a file.py") from None
        raise BrokenModuleError(error) from None  # found, but a module that it imports is missing
    except BaseException as error:  # SystemExit too: a module that ends its process cannot be used
        raise BrokenModuleError(error) from None


def _prepare_file(file: Path) -> str:
    """Make a file importable; return its name as a module."""
    if not file.is_file():
        raise UsageError(f"there is no file {file}")
    present = getattr(sys.modules.get(file.stem), "__file__", str(file))
    if present != str(file):
        raise UsageError(f"{file} has the name of a module that is in use, {present}: rename it")
    sys.path.insert(0, str(file.parent))
    return file.stem


def user_traceback(error: BaseException) -> str:
    """Return the traceback of an exception with the frames of the user's code only."""
    report = traceback.TracebackException.from_exception(error)
    _prune(report)
    text = "".join(report.format()).rstrip()
    # All frames of a syntax error may be ours. Then the error's message shows the line that is at fault.
    return text if "Traceback" in text else f"Traceback (most recent call last):\n{text}"


def _prune(report: traceback.TracebackException) -> None:
    report.stack = traceback.StackSummary.from_list([frame for frame in report.stack if _is_users(frame)])
    for other in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if other is not None:
            _prune(other)


def _is_users(frame: traceback.FrameSummary) -> bool:
    return not frame.filename.startswith(("<frozen importlib", importlib.__file__, _OURS))
