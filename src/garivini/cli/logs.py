"""The log of a command on standard error: its contents and format."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from garivini.model.current import JobFilter

_F = TypeVar("_F", bound=Callable[..., Any])

_LEVELS: Final = ("debug", "info", "warning", "error")
#: The attributes that ``JobFilter`` gives a record, and their names in a line.
_OF_JOB: Final = {"job_id": "job", "job_function": "function", "job_attempt": "attempt"}


def logs(command: _F) -> _F:
    """Add ``--verbose``, ``--log-format`` and ``--log-level``; log to standard error."""
    return _VERBOSE(_LEVEL(_FORMAT(command)))


def _start(ctx: click.Context, param: click.Parameter, form: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(JobFilter())
    logging.basicConfig(handlers=[handler], level=ctx.meta["garivini.log_level"].upper())
    verbose = ctx.meta["garivini.verbose"]
    logging.getLogger("garivini").setLevel(logging.DEBUG if verbose else logging.INFO)


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    ctx.meta[f"garivini.{param.name}"] = value


_FORMAT: Final = click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    envvar="GARIVINI_LOG_FORMAT",
    expose_value=False,
    callback=_start,
    help="Form of a log record: a line of text, or a JSON object.",
)
_LEVEL: Final = click.option(
    "--log-level",
    type=click.Choice(_LEVELS),
    default="info",
    show_default=True,
    envvar="GARIVINI_LOG_LEVEL",
    is_eager=True,
    expose_value=False,
    callback=_keep,
    help="Minimum level of messages from other loggers, such as those of the application. "
    "Environment: GARIVINI_LOG_LEVEL.",
)
_VERBOSE: Final = click.option(
    "-v",
    "--verbose",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_keep,
    help="Log all events.",
)


class TextFormatter(logging.Formatter):
    """One line per record. A record that is not an event has the name of its logger and the current job."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(process)d %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line without a traceback."""
        if hasattr(record, "event"):
            return super().formatMessage(record)
        record.message = f"{record.name} {record.message}{_job_text(record)}"
        return super().formatMessage(record)


def _job_text(record: logging.LogRecord) -> str:
    if getattr(record, "job_id", None) is None:
        return ""
    return "".join(f" {name}={getattr(record, key)}" for key, name in _OF_JOB.items())


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, process, logger, message, job, event and its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object as one line."""
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "process": record.process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if getattr(record, "job_id", None) is not None:
            entry |= {name: getattr(record, key) for key, name in _OF_JOB.items()}
        if hasattr(record, "event"):
            entry["event"] = record.event
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)
