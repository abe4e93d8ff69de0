"""Private Gearman servers on the loopback interface, for tests of every part."""

import asyncio
import itertools
import random
import secrets
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from garivini.gearman.server import Server
from tests.processes import PATIENCE, started
from tests.versions.known import chosen

#: The options with which gearmand is started.
STARTED: Final = ("--round-robin", "--threads=1", "--hashtable-buckets=100003", "--job-retries=3")


@contextmanager
def embedded(port: int = 0, **options: Any) -> Iterator[str]:
    """Run the embedded server in a thread with a loop of its own; yield its address.

    ``options`` are those of ``Server``.
    """
    server = Server(port=port, **options)
    loop = asyncio.new_event_loop()
    faults: list[dict[str, Any]] = []
    # A fault in a callback would close one connection and be logged, and a test could miss it.
    loop.set_exception_handler(lambda _, context: faults.append(context))
    thread = threading.Thread(target=loop.run_forever, name="embedded-gearman")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(PATIENCE)
        yield server.address
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()
    assert not faults


@contextmanager
def gearmand(directory: Path, *options: str, port: int = 0) -> Iterator[str]:
    """Run gearmand in a process; yield its address. Its pid and log files go to ``directory``.

    A missing gearmand is an error and never a reason to skip.
    """
    address = f"127.0.0.1:{port or free_port()}"
    with gearmand_process(directory, address, *options):
        yield address


@contextmanager
def gearmand_process(
    directory: Path, address: str, *options: str, start: Sequence[str] = STARTED
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run gearmand at this address; yield its process, which the test may kill, as soon as it listens."""
    host, port = address.rsplit(":", 1)
    log = directory / f"gearmand-{port}.log"
    with started(
        gearmand_command(directory, address, *options, start=start), stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection((host, int(port)), timeout=PATIENCE).close()
            except ConnectionRefusedError:
                time.sleep(0.005)  # it says nothing when it is ready
            else:
                break
        else:
            raise RuntimeError(
                f"gearmand does not listen on {address}: {log.read_text() if log.exists() else ''}"
            )
        yield process


def gearmand_command(
    directory: Path, address: str, *options: str, start: Sequence[str] = STARTED
) -> list[str]:
    """Return the words that start a gearmand as the how-to advises."""
    version = chosen("gearmand")
    program = (
        version.program("gearmand")
        if version
        else shutil.which("gearmand") or shutil.which("gearmand", path="/usr/sbin:/usr/local/sbin")
    )
    if program is None:
        raise RuntimeError("gearmand is missing: `make servers`, or install the package gearman-job-server")
    host, port = address.rsplit(":", 1)
    command = [program, "--listen", host, "--port", port, "--log-file", f"{directory}/gearmand-{port}.log"]
    command += ["--pid-file", f"{directory}/gearmand-{port}.pid", *start]
    # Handles start at 1 after each start: the prefix keeps them apart.
    return [*command, "--job-handle-prefix", f"H:{secrets.token_hex(4)}", *options]


def _own_ports() -> Iterator[int]:
    """Yield ports of this process' share in turn, so that none comes again soon.

    Each process that runs tests has a share of its own, whichever run it belongs to: a port that one has
    been given and not bound yet is not given to another.
    """
    shares, first, last = 32, 20_000, 32_768
    share = next(share for share in range(shares) if _take_share(share))
    ports = list(range(first + share, last, shares))
    random.shuffle(ports)
    return itertools.cycle(ports)


def _take_share(share: int) -> bool:
    """Return whether the share was free. It is this process' until its end."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0garivini-tests-ports-{share}")
    except OSError:
        lock.close()
        return False
    _LOCKS.append(lock)
    return True


_LOCKS: Final[list[socket.socket]] = []
_PORTS: Final = _own_ports()


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on.

    It is below those that the kernel gives to clients: a server that is killed finds its port free when it
    starts again, and a client that tries it meanwhile is not connected to itself.
    """
    while True:
        port = next(_PORTS)
        with socket.socket() as probe:
            # As servers do: a port is not taken by what is left of connections that ended.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
