"""Which server: addresses and rendezvous order. No I/O."""

import re
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Final, TypeAlias

from garivini.errors import UsageError
from garivini.gearman.admin import FunctionStatus

DEFAULT_PORT = 4730
#: A name, or an address of IPv4 or IPv6, the latter perhaps with a zone.
_HOST: Final = re.compile(r"[\w.-]+|[0-9a-fA-F:.]+(?:%[\w.-]+)?")

#: By address what a server says of the functions that it knows; None where it does not answer.
Counts: TypeAlias = Mapping[str, Mapping[bytes, FunctionStatus] | None]

#: Addresses that errors may show. Any other value may be meant for a database and have a password.
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
    """Return each server once, as ``host:port``, from a list, or from text with commas or white space.

    Raises:
        UsageError: one of them is no address, or there is none.

    """
    parts = addresses.replace(",", " ").split() if isinstance(addresses, str) else list(addresses)
    if not all(map(_READABLE.fullmatch, parts)):
        # One value, meant for a database, may have been taken for several: show nothing of any.
        raise UsageError("*** is not the address of a Gearman server: write host or host:port")
    parsed = map(parse_address, parts)
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


def queued(counts: Counts, function: bytes) -> int:
    """Return how many jobs of the function wait for a worker.

    Where it has workers, if it has any: copies that lie where nobody takes them must not use up the room
    for good, and no more are sent there.
    """
    found = [said[function] for said in counts.values() if said and function in said]
    served = [status for status in found if status.workers]
    return sum(status.queued for status in served or found)


def server_for(counts: Counts, function: bytes, unique: bytes) -> str:
    """Return the server for a background job: the one that its unique prefers.

    A server where the function has a worker comes before one where it has none, and one that answers before
    one that does not.
    """
    if len(counts) == 1:
        return next(iter(counts))
    up = [address for address, said in counts.items() if said is not None]
    served = [address for address in up if workers(counts[address], function)]
    return rendezvous(served or up or list(counts), unique)[0]


def workers(said: Mapping[bytes, FunctionStatus] | None, function: bytes) -> int:
    """Return how many workers a server has for a function."""
    status = said.get(function) if said else None
    return status.workers if status else 0
