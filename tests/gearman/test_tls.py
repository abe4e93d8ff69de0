import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from garivini.errors import UnreachableError
from garivini.gearman import aio, blocking
from garivini.gearman.protocol import Created, Submission
from garivini.gearman.server import Server
from tests.processes import PATIENCE
from tests.servers import embedded


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 with its key, made for this run."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost".split()
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


@pytest.fixture
def encrypted(certificate: Path) -> Iterator[str]:
    """Address of a proxy that speaks TLS and hands on to an embedded server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except OSError:
            pass
        finally:
            writer.close()

    async def start(address: str) -> asyncio.Server:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            host, port = address.split(":")
            inner_reader, inner_writer = await asyncio.open_connection(host, int(port))
            await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

        return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    with embedded() as address:
        server = asyncio.run_coroutine_threadsafe(start(address), loop).result(PATIENCE)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            asyncio.run_coroutine_threadsafe(stop(server), loop).result(PATIENCE)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


def test_client_and_worker_talk_through_tls(encrypted: str, certificate: Path) -> None:
    async def scenario() -> None:
        held = asyncio.Queue[aio.Held]()
        worker = aio.Worker(encrypted, [b"f"], held.put_nowait, tls=trusting(certificate))
        running = asyncio.create_task(worker.run())
        client = aio.Client(encrypted, tls=trusting(certificate))
        (result,) = await client.submit([Submission(b"f", b"x" * 100_000)])
        assert isinstance(result, Created)
        one = await held.get()
        assert len(one.job.data) == 100_000
        one.complete()
        await client.close()
        await worker.drain()
        await running

    asyncio.run(scenario())
    with blocking.Client(encrypted, tls=trusting(certificate)) as client:
        assert isinstance(client.submit([Submission(b"f", b"")])[0], Created)


async def test_a_server_without_tls_or_with_a_strange_certificate_is_refused(
    encrypted: str, certificate: Path
) -> None:
    async with Server(port=0) as plain:
        for address, context in (
            (plain.address, trusting(certificate)),
            (encrypted, ssl.create_default_context()),
        ):
            with pytest.raises(UnreachableError):
                await aio.Client(address, tls=context, timeout=2).echo()

            def blocked(address: str = address, context: ssl.SSLContext = context) -> None:
                with blocking.Client(address, tls=context, timeout=2) as client:
                    client.echo()

            with pytest.raises(UnreachableError):
                await asyncio.to_thread(blocked)


@pytest.mark.slow
def test_a_worker_backs_off_from_what_shakes_hands_and_closes(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    connections = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        worker = aio.Worker(address, [b"f"], lambda held: None, tls=trusting(certificate))
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(1.5)
        while connections < 2:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())
    assert 2 <= connections <= 6
