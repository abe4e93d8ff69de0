"""Ports for servers that commands start for themselves."""

import random
import socket
from contextlib import suppress
from typing import Final

#: Ports below those that systems give to clients, and to servers that ask for any port.
_PORTS: Final = range(20_000, 32_768)


def free_address() -> str:
    """Return an address of this machine on which nothing listens now.

    Its port is below the range that the system assigns to outgoing connections, so it is still free when the
    server listens.

    Raises:
        OSError: none of many ports is free.

    """
    for port in random.sample(_PORTS, 100):
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            return f"127.0.0.1:{port}"
    raise OSError(f"no port is free of 100 from {_PORTS.start} to {_PORTS.stop - 1}")
