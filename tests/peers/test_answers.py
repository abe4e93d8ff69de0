"""Both answers of an Injector, stored and refused, as each client of the guides gets them."""

import asyncio
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from garivini.errors import RefusedError
from garivini.gearman import aio, blocking
from garivini.gearman.packets import Type
from garivini.gearman.protocol import Submission
from tests.databases import sqlite_url
from tests.docs.pages import block_of
from tests.gearman.peer import Peer
from tests.processes import PATIENCE, command

pytestmark = pytest.mark.servers

GOOD = '{"funcname": "f", "arg": "x"}'
BAD = '{"funcname": "", "arg": "grün"}'
#: What a client is told of the bad one.
REASON = "nothing was stored"

#: They print the answer, or the word FAILED and what else they are told; and do so twice on one connection.
PERL = r"""
use Gearman::Client;
my ($server, $exceptions, $call) = @ARGV;
my $client = Gearman::Client->new(job_servers => [$server], exceptions => $exceptions);
for (1, 2) {
    my $answer = $client->do_task('inject_jobs', $call, {on_warning => sub { print ${$_[0]} }});
    print defined $answer ? "$$answer\n" : "FAILED\n";
}
"""
PHP_NORMAL = r"""
[, $host, $port, $call] = $argv;
$client = new GearmanClient();
$client->addServer($host, (int) $port);
for ($i = 0; $i < 2; $i++) {
    $answer = $client->doNormal('inject_jobs', $call);
    echo $client->returnCode() === GEARMAN_SUCCESS ? $answer : 'FAILED', "\n";
}
"""
#: After the function of the guide.
PHP_TASKS = r"""
[, $host, $port, $call] = $argv;
$client = new GearmanClient();
$client->addServer($host, (int) $port);
for ($i = 0; $i < 2; $i++) {
    try {
        echo json_encode(inject($client, json_decode($call, true))), "\n";
    } catch (RuntimeException $error) {
        echo $error->getMessage(), "\nFAILED\n";
    }
}
"""


def program(*words: str) -> tuple[str, str]:
    """Run a client to its end; return what it says on either stream. One that hangs fails the test."""
    done = subprocess.run(words, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, check=False)
    return done.stdout.decode(), done.stderr.decode()


def the_tool(server: str, call: str) -> str:
    host, port = server.split(":")
    said = ""
    for _ in range(2):
        out, err = program("gearman", "-h", host, "-p", port, "-f", "inject_jobs", call)
        said += f"{out}{err.replace('Job failed', 'FAILED')}\n"
    return said


def perl(server: str, call: str) -> str:
    out, err = program("perl", "-e", PERL, server, "0", call)
    return out + err


def perl_with_exceptions(server: str, call: str) -> str:
    out, err = program("perl", "-e", PERL, server, "1", call)
    return out + err


def php(server: str, call: str) -> str:
    out, err = program("php", "-r", PHP_NORMAL, *server.split(":"), call)
    return out + err


def php_tasks(server: str, call: str) -> str:
    shown = block_of("how-to/pure-gearman.md", "file", "inject-task.php").text
    function = shown.removeprefix("<?php\n").partition("\n$client = ")[0]
    out, err = program("php", "-r", function + PHP_TASKS, *server.split(":"), call)
    return out + err


def blocking_client(server: str, call: str) -> str:
    said = ""
    with blocking.Client(server, timeout=PATIENCE) as client:
        for _ in range(2):
            try:
                said += client.run(Submission(b"inject_jobs", call.encode())).decode() + "\n"
            except RefusedError as error:
                said += f"{error}\nFAILED\n"
    return said


def asyncio_client(server: str, call: str, *, exceptions: bool = False) -> str:
    async def scenario() -> str:
        said = ""
        client = aio.Client(server, exceptions=exceptions)
        for _ in range(2):
            try:
                said += (await client.run(Submission(b"inject_jobs", call.encode()))).decode() + "\n"
            except RefusedError as error:
                said += f"{error}\nFAILED\n"
        await client.close()
        return said

    return asyncio.run(scenario())


def asyncio_client_with_exceptions(server: str, call: str) -> str:
    return asyncio_client(server, call, exceptions=True)


def raw(server: str, call: str) -> str:
    said = ""
    with Peer(server) as peer:
        for _ in range(2):
            handle = peer.submit(Type.SUBMIT_JOB, b"inject_jobs", b"", call.encode())
            name, of, *data = peer.hear()
            assert of == handle
            if name == "WORK_WARNING":
                assert peer.hear() == ("WORK_FAIL", handle)
                data.append(b"FAILED\n")
            said += b"".join(data).decode() + "\n"
    return said


CLIENTS: list[Callable[[str, str], str]] = [
    the_tool,
    perl,
    perl_with_exceptions,
    php,
    php_tasks,
    blocking_client,
    asyncio_client,
    asyncio_client_with_exceptions,
    raw,
]


@pytest.fixture
def injecting(either_server: str, tmp_path: Path) -> Iterator[str]:
    """Address of a server with an Injector beside it."""
    url = sqlite_url(tmp_path)
    with command(tmp_path, "run", "injector", GARIVINI_DB=url, GARIVINI_JOB_SERVERS=either_server) as running:
        running.wait_for("gearman.connected")
        yield either_server


def test_each_client_of_the_guides_gets_both_answers(injecting: str) -> None:
    for client in CLIENTS:
        lines = client(injecting, GOOD).split()
        ids = [json.loads(line)["jobid"] for line in lines]
        assert len(ids) == 2, client
        assert ids[0] < ids[1], client
        said = client(injecting, BAD)
        assert said.count("FAILED") == 2, (client, said)
        assert client is php or said.count(REASON) == 2, (client, said)
        assert "no reason given" not in said
