"""The choice of a server: addresses, and the order in which a job prefers servers. No I/O."""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, TypeAlias

from garivini.errors import UsageError
from garivini.gearman.admin import FunctionStatus

DEFAULT_PORT: Final = 4730
#: A name, an IPv4 address, or an IPv6 address with or without a zone.
_HOST: Final = re.compile(r"[\w.-]+|[0-9a-fA-F:.]+(?:%[\w.-]+)?")

#: For each server: the counts of its functions, by their names. None: the server did not answer.
Counts: TypeAlias = Mapping[str, Mapping[bytes, FunctionStatus] | None]

#: Addresses that errors may show. Any other value may be the URL of a database, with a password.
_READABLE: Final = re.compile(r"[\w.:%\[\] -]*")


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
    if not _HOST.fullmatch(host) or (
        port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536)
    ):
        shown = repr(address) if _READABLE.fullmatch(address) else "***"
        raise UsageError(f"{shown} is not the address of a Gearman server: write host or host:port")
    return host, int(port or DEFAULT_PORT)


def parse_addresses(addresses: str | Iterable[str]) -> list[str]:
    """Return each server once, as ``host:port``, from a list or from text with commas or white space.

    Raises:
        UsageError: one of them is not an address, or no address is given.

    """
    parts = addresses.replace(",", " ").split() if isinstance(addresses, str) else list(addresses)
    if not all(map(_READABLE.fullmatch, parts)):
        # The URL of a database may have been split at its white space, so no part of the value is shown.
        raise UsageError("*** is not the address of a Gearman server: write host or host:port")
    parsed = map(parse_address, parts)
    found = list(
        dict.fromkeys(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in parsed)
    )
    if not found:
        raise UsageError("no Gearman server is named: give at least one host:port")
    return found


def rendezvous(servers: Sequence[str], key: bytes) -> list[str]:
    """Return the servers in the order in which a key prefers them (rendezvous hashing).

    When a server is added or removed, only the keys that prefer it change their server.
    """
    return sorted(servers, key=lambda server: blake2b(key, key=server.encode()[-64:], digest_size=8).digest())


def queued(counts: Counts, function: bytes) -> int:
    """Return the number of queued jobs of a function.

    If any server has workers of the function, only these servers are counted: no jobs are submitted to the
    others, and copies that are stranded there must not occupy the room.
    """
    found = [known[function] for known in counts.values() if known and function in known]
    served = [status for status in found if status.workers]
    return sum(status.queued for status in served or found)


def server_for(counts: Counts, function: bytes, unique: bytes) -> str:
    """Return the server for a background job: of several servers, the one that the job's unique prefers.

    The choice is among the servers with a worker of the function. If there are none, it is among the servers
    that answer; if no server answers, it is among all.
    """
    if len(counts) == 1:
        return next(iter(counts))
    up = [address for address, known in counts.items() if known is not None]
    served = [address for address in up if workers(counts[address], function)]
    return rendezvous(served or up or list(counts), unique)[0]


def workers(known: Mapping[bytes, FunctionStatus] | None, function: bytes) -> int:
    """Return the number of workers that a server has for a function."""
    status = known.get(function) if known else None
    return status.workers if status else 0
