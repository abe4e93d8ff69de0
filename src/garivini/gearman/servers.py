"""Which server, and when to try it again: addresses, rendezvous order, back-off. No I/O."""

import random
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from garivini.errors import UsageError

DEFAULT_PORT = 4730


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host``, ``host:port``, ``[::1]`` or ``[::1]:port``.

    Raises:
        UsageError: it is none of these.

    """
    host, port = address.strip(), ""
    if host.startswith("["):
        host, _, rest = host[1:].partition("]")
        port = rest.removeprefix(":")
    elif host.count(":") == 1:
        host, port = host.split(":")
    if not host or (port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)):
        raise UsageError(f"{address!r} is not the address of a Gearman server: write host or host:port")
    return host, int(port or DEFAULT_PORT)


def parse_addresses(addresses: str | Iterable[str]) -> list[str]:
    """Return each server once, as ``host:port``, from a list, or from text with commas or white space.

    Raises:
        UsageError: one of them is no address, or there is none.

    """
    parts = addresses.replace(",", " ").split() if isinstance(addresses, str) else addresses
    parsed = (parse_address(part) for part in parts)
    found = list(
        dict.fromkeys(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in parsed)
    )
    if not found:
        raise UsageError("no Gearman server is named: give at least one host:port")
    return found


def rendezvous(servers: Sequence[str], key: bytes) -> list[str]:
    """Return the servers in the order in which ``key`` prefers them.

    Highest random weight: when a server comes or goes, only the keys that prefer it move.
    """
    return sorted(servers, key=lambda server: blake2b(key, key=server.encode()[-64:], digest_size=8).digest())


class Backoff:
    """How long to leave something alone that has failed: doubling, jittered, bounded.

    Args:
        first: seconds after the first failure.
        longest: seconds, at most.

    """

    def __init__(self, first: float = 0.1, longest: float = 2.0) -> None:
        self._first = first
        self._longest = longest
        self._failures = 0

    def succeeded(self) -> None:
        """Start again from the first delay."""
        self._failures = 0

    def failed(self) -> float:
        """Return the seconds to wait now. Jitter keeps many clients from coming back at one moment."""
        delay = min(self._first * 2.0 ** min(self._failures, 30), self._longest)
        self._failures += 1
        return delay * random.uniform(0.5, 1.0)
