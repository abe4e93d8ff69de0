"""The server's answers to the lines of the administrative protocol. No I/O.

The commands and the forms of their answers are those of gearmand, so that its tools work with this server.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final

from garivini.errors import UsageError
from garivini.gearman.admin import escape, unescape
from garivini.gearman.broker import Broker

_OK: Final = b"OK\r\n"
#: The first line of an HTTP request, with any method.
_HTTP: Final = re.compile(rb"\sHTTP/\d")
_INCOMPLETE: Final = b"ERR INVALID_ARGUMENTS an argument is missing or wrong\r\n"


def is_command(text: bytes) -> bool:
    """Return whether a line is a command of the administrative protocol.

    After any other line the connection must be closed. A web page can make a browser send a form or text to
    any port of this machine, but the first line that the browser sends is always one of HTTP.
    """
    word = text[: text.find(b" ")] if b" " in text else text
    return word.rstrip().lower() in _COMMANDS and not _HTTP.search(text)


def answer(broker: Broker, text: bytes) -> bytes:
    """Return the complete answer to one line, with its line breaks."""
    words = text.split()
    if not is_command(text):
        return b"ERR UNKNOWN_COMMAND %s\r\n" % b"+".join(words)[:80]
    return _COMMANDS[words[0].lower()](broker, words[1:])


def _block(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines) + b".\n"


def _status(broker: Broker, words: list[bytes]) -> bytes:
    return _block(
        b"%s\t%d\t%d\t%d" % (escape(function.name), function.total, function.running, function.workers)
        for function in broker.functions.values()
    )


def _prioritystatus(broker: Broker, words: list[bytes]) -> bytes:
    return _block(
        b"\t".join(
            (
                escape(function.name),
                *(b"%d" % len(queue) for queue in function.queues),
                b"%d" % function.workers,
            )
        )
        for function in broker.functions.values()
    )


def _workers(broker: Broker, words: list[bytes]) -> bytes:
    return _block(
        b" ".join(
            (
                b"%d" % it.number,
                it.host,
                it.client_id,
                b":",
                *(escape(name, word=True) for name in it.functions),
            )
        )
        for it in broker.connections
    )


def _show(broker: Broker, words: list[bytes]) -> bytes:
    if words == [b"jobs"]:
        return _block(
            # The last two fields mean that the job will not be retried, and that it is a background job.
            b"%s\t%d\t%d\t%d" % (job.handle, job.retries, not job.wanted, job.background)
            for job in broker.jobs.values()
        )
    if words == [b"unique", b"jobs"]:
        return _block(escape(job.unique) for job in broker.jobs.values())
    return b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"


def _cancel(broker: Broker, words: list[bytes]) -> bytes:
    if len(words) != 2 or words[0] != b"job":
        return _INCOMPLETE
    return _OK if broker.cancel(words[1]) else b"ERR UNKNOWN_JOB\r\n"


def _create(broker: Broker, words: list[bytes]) -> bytes:
    if len(words) != 2 or words[0] != b"function":
        return _INCOMPLETE
    return _with_function(broker, words[1], [])


def _drop(broker: Broker, words: list[bytes]) -> bytes:
    if len(words) != 2 or words[0] != b"function":
        return _INCOMPLETE
    function = broker.functions.get(unescape(words[1]))
    if function is None:
        return b"ERR UNKNOWN_FUNCTION\r\n"
    if not broker.drop(function):
        return b"ERR FUNCTION_IN_USE it has workers or running jobs\r\n"
    return _OK


def _maxqueue(broker: Broker, words: list[bytes]) -> bytes:
    try:
        # A function may get its limit before its first job. gearmand would answer OK and forget the limit.
        limits = [int(word) for word in words[1:]] or [0]
    except ValueError:
        return _INCOMPLETE
    if not words or len(limits) not in (1, 3):
        return _INCOMPLETE
    return _with_function(broker, words[0], limits * (3 // len(limits)))


def _with_function(broker: Broker, name: bytes, limits: list[int]) -> bytes:
    try:
        function = broker.functions.get_or_add(unescape(name))
    except UsageError as error:
        return b"ERR INVALID_FUNCTION %s\r\n" % str(error).encode()
    if limits:
        function.limits = limits
    return _OK


_COMMANDS: Final[dict[bytes, Callable[[Broker, list[bytes]], bytes]]] = {
    b"status": _status,
    b"prioritystatus": _prioritystatus,
    b"workers": _workers,
    b"show": _show,
    b"cancel": _cancel,
    b"create": _create,
    b"drop": _drop,
    b"maxqueue": _maxqueue,
    b"version": lambda broker, words: b"OK %s\n" % broker.version,
    b"getpid": lambda broker, words: b"OK %d\n" % broker.pid,
    b"verbose": lambda broker, words: b"OK ERROR\n",  # the default of gearmand; this server has no levels
}
