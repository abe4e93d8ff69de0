"""The headers of a job: values beside its argument, for hooks and tools, such as a trace or a tenant."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from garivini.errors import UsageError

#: Maximum bytes of the headers of a job, as JSON.
MAX_HEADERS: Final = 2048


def check_headers(headers: Mapping[str, Any]) -> str | None:
    """Return headers as JSON; None: there are none.

    Raises:
        UsageError: they are not a mapping from names to values that JSON has, or longer than 2 kB.

    """
    if not isinstance(headers, Mapping) or not all(isinstance(name, str) for name in headers):
        raise UsageError(f"headers are a mapping with text as names, not {headers!r:.100}")
    if not headers:
        return None
    try:
        text = msgspec.json.encode(dict(headers)).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"headers cannot be written as JSON: {error}") from None
    if (size := len(text.encode())) > MAX_HEADERS:
        raise UsageError(
            f"headers have at most {MAX_HEADERS} bytes as JSON, these {size}: store them elsewhere"
        )
    return text


def parse_headers(text: str) -> dict[str, Any]:
    """Return stored headers; empty if another program has stored something that is not a JSON object."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
