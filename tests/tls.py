"""Certificates made for a test, and a Gearman server that speaks TLS."""

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from garivini.gearman.server import Server, _Link
from tests.processes import PATIENCE


def certificate(folder: Path, name: str = "IP:127.0.0.1", *, passphrase: str = "") -> tuple[Path, Path]:
    """Make a certificate that is its own authority, for a name; return its file and that of its key."""
    both = folder / f"{name}.crt", folder / f"{name}.key"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -days 2 -subj /CN=test".split()
    command += ["-addext", f"subjectAltName={name}", "-out", str(both[0]), "-keyout", str(both[1])]
    command += ["-passout", f"pass:{passphrase}"] if passphrase else ["-nodes"]
    subprocess.run(command, check=True, capture_output=True)
    return both


@contextmanager
def encrypted(
    certificate: Path, key: Path, *, clients: Path | None = None, newest: ssl.TLSVersion | None = None
) -> Iterator[str]:
    """Run the embedded server behind TLS; yield its address.

    ``clients``: the authority of the certificates that clients must show. ``newest``: TLS at most.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    if newest is not None:
        context.maximum_version = newest
    loop = asyncio.new_event_loop()
    # Handshakes that fail are what is tested, and no fault.
    loop.set_exception_handler(lambda loop, fault: None)
    thread = threading.Thread(target=loop.run_forever, name="encrypted-gearman")
    thread.start()
    server = Server(port=0)

    async def start() -> asyncio.Server:
        return await loop.create_server(lambda: _Link(server), "127.0.0.1", 0, ssl=context)

    async def stop() -> None:
        listener.close()
        await server.close()

    listener = asyncio.run_coroutine_threadsafe(start(), loop).result(PATIENCE)
    try:
        yield f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()
