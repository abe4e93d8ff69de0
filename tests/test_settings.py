"""Where a client, a worker and a command get their settings: the same places, in the same order."""

import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from garivini import AsyncClient, Client, RefusedError, UsageError, Worker
from garivini.model.handles import handle_of
from garivini.model.job import Handle
from garivini.settings import VARIABLES
from tests.commands import run
from tests.databases import sqlite_url
from tests.processes import command, until
from tests.servers import embedded
from tests.sql_servers import SQLServer


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder without settings."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def where(client: Client) -> tuple[list[str], list[str]]:
    return [database.where for database in client.shards], client.job_servers


def seen_by_command(**environment: str) -> tuple[list[str], list[str]]:
    """Return the databases and servers of ``garivini status``."""
    done = run("status", "-o", "json", **environment)
    entries = json.loads(done.stdout)
    return (
        [entry["database"] for entry in entries if "database" in entry],
        [entry["server"] for entry in entries if "server" in entry],
    )


FILE = 'databases = ["sqlite:///file.db", "sqlite:///second.db"]\njob_servers = ["127.0.0.1:1"]\n'


@pytest.mark.parametrize(
    ("environment", "file", "database", "server"),
    [
        ({}, "", "garivini.db", "127.0.0.1:4730"),
        ({}, FILE, "file.db", "127.0.0.1:1"),
        ({"GARIVINI_DB": "sqlite:///env.db"}, FILE, "env.db", "127.0.0.1:1"),
        ({"GARIVINI_DB_FILE": "names"}, FILE, "named.db", "127.0.0.1:1"),
        ({"GARIVINI_DB_FILE": "names", "GARIVINI_DB": "sqlite:///env.db"}, "", "env.db", "127.0.0.1:4730"),
        ({"GARIVINI_JOB_SERVERS": "127.0.0.1:2 127.0.0.1:3"}, FILE, "file.db", "127.0.0.1:2"),
        ({"GARIVINI_CONFIG": "other.toml"}, FILE, "other.db", "127.0.0.1:4730"),
        ({"GARIVINI_DB": ""}, FILE, "file.db", "127.0.0.1:1"),
    ],
)
def test_client_and_worker_without_arguments_read_what_the_commands_read(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    file: str,
    database: str,
    server: str,
) -> None:
    if file:
        (folder / "garivini.toml").write_text(file)
    (folder / "other.toml").write_text('databases = ["sqlite:///other.db"]')
    (folder / "names").write_text("sqlite:///named.db\n")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    client = Client()
    databases, servers = where(client)
    assert database in databases[0]
    assert servers[0] == server
    assert where(AsyncClient()._client) == (databases, servers)
    worker = Worker()
    assert (where(worker.client), worker.job_servers) == ((databases, servers), servers)
    assert Worker(client).job_servers == servers
    assert seen_by_command() == (databases, servers)
    made = {path.name for path in folder.iterdir()} - {"garivini.toml", "other.toml", "names"}
    assert made == set()


def test_arguments_come_before_the_settings(folder: Path) -> None:
    (folder / "garivini.toml").write_text(FILE)
    alone = Client("sqlite:///mine.db")
    assert where(alone) == (["database 1 (sqlite:///mine.db)"], [])
    assert Worker(alone).job_servers == ["127.0.0.1:1"]
    assert where(Client(job_servers=["h:2"]))[1] == ["h:2"]
    assert where(Client(job_servers=[]))[1] == []
    assert Worker(Client("sqlite:///mine.db", "h:3")).job_servers == ["h:3"]
    assert Worker(alone, "h:4").job_servers == ["h:4"]


def test_client_and_worker_take_tls_from_the_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "garivini.toml").write_text('[tls]\nca = "system"\nverify_host = false\n')
    client, worker = Client(), Worker()
    for context in (client.tls, worker.tls, AsyncClient()._client.tls):
        assert isinstance(context, ssl.SSLContext)
        assert not context.check_hostname
    assert Client("sqlite:///a.db", "h:1").tls is None
    assert Client("sqlite:///a.db").tls is None
    monkeypatch.setenv("GARIVINI_TLS_VERIFY_HOST", "yes")
    found = Client().tls
    assert found is not None
    assert found.check_hostname
    monkeypatch.setenv("GARIVINI_TLS_VERIFY_HOST", "maybe")
    with pytest.raises(UsageError, match="GARIVINI_TLS_VERIFY_HOST is maybe: write yes or no"):
        Client()
    monkeypatch.setenv("GARIVINI_TLS_CA", "none")
    monkeypatch.delenv("GARIVINI_TLS_VERIFY_HOST")
    assert Client().tls is None


def test_wrong_settings_are_said_by_a_client_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "garivini.toml").write_text("job_server = []")
    for make in (Client, Worker, AsyncClient):
        with pytest.raises(UsageError, match="did you mean job_servers"):
            make()
    monkeypatch.setenv("GARIVINI_CONFIG", "none.toml")
    with pytest.raises(UsageError, match=r"GARIVINI_CONFIG: none.* cannot be read"):
        Client()
    (folder / "garivini.toml").write_text("")
    monkeypatch.delenv("GARIVINI_CONFIG")
    monkeypatch.setenv("GARIVINI_DB_FILE", "none")
    with pytest.raises(UsageError, match="GARIVINI_DB_FILE: none cannot be read"):
        Client()


@pytest.mark.slow
def test_a_worker_without_arguments_has_the_settings_of_its_command(folder: Path) -> None:
    url = sqlite_url(folder)
    (folder / "work.py").write_text(
        "from pathlib import Path\n"
        "from garivini import Worker\n"
        "worker = Worker()\n"
        '@worker.function("note")\n'
        "def note(job):\n"
        "    Path('noted').touch()\n"
    )
    with embedded() as server:
        (folder / "mine.toml").write_text(f'databases = ["{url}"]\njob_servers = ["{server}"]')
        with command(folder, "--config", "mine.toml", "worker", "work.py", "-p", "1") as worker:
            worker.wait_for("worker.started")
            with Client(url, server) as client:
                client.insert_job("note")
            until((folder / "noted").exists)


@pytest.mark.parametrize("form", ["1:7", b"1:7", " {} "])
def test_an_id_is_taken_for_a_handle(form: Any) -> None:
    if form == " {} ":
        form = ' {"jobid": 7, "dbid": 1}'
    assert handle_of(form) == Handle(7, 1)


@pytest.mark.parametrize(
    "wrong", ["7", "", "1:2:3", "x:1", "1:-2", "0:1", "1:0", "1: 2", "1:" + "9" * 19, b"\xff"]
)
def test_what_is_no_id_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="is not the id of a job: write 1:42"):
        handle_of(wrong)


async def test_each_call_takes_the_id_that_an_insert_returns(folder: Path) -> None:
    url = sqlite_url(folder)
    with Client(url) as client:
        inserted = client.insert_job("f")
        assert inserted.id == "1:1"
        job = client.get_job("1:1")
        assert job is not None
        assert (job.id, job.handle.id) == ("1:1", "1:1")
        assert client.reschedule_job("1:1", "never")
        assert client.retry_job("1:1")
        assert client.failed_job("1:1", "because")
        assert {one.message for one in client.failures("1:1")} == {"", "because"}
        assert client.cancel_job("1:1")
        assert client.result("1:1") is None
        assert client.reports("1:1") == []
        assert client.complete_job("1:1")
        client.insert_jobs([["f", None, None, ""]] * 2)
        assert client.complete_jobs(["1:2"]) == 1
        assert client.delete_jobs(["1:3"]) == 1

    async with AsyncClient(url) as client:
        inserted = await client.insert_job("f")
        assert await client.retry_job(inserted.id)
        assert await client.complete_jobs([inserted.id]) == 1


@pytest.mark.slow
def test_dir_lists_the_public_names() -> None:
    names = "{name for name in dir(garivini) if not name.startswith('__')}"
    code = (
        f"import garivini; assert {names} == set(garivini.__all__); [getattr(garivini, n) for n in {names}]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.servers
def test_a_data_source_of_the_original_reaches_mariadb_by_address_and_by_socket(
    mariadb: SQLServer,
) -> None:
    with mariadb.database() as url, Client(url) as client:
        for database in client.shards:
            database.upgrade()
        place = make_url(url)
        account = {"user": place.username, "pass": place.password}
        attributes = "mysql_enable_utf8=1;mysql_connect_timeout=3;mysql_auto_reconnect=1"

        def through(where: str) -> Client:
            dsn = f"DBI:mysql:{place.database}:{where};database={place.database};{attributes}"
            return Client({1: {"id": 1, "dsn": dsn, **account}})

        with through(f"host={place.host};port={place.port}") as other:
            job = client.get_job(other.insert_job("f", "Grüße").id)
            assert job is not None
            assert job.arg.decode() == "Grüße"
        # The server knows the user by address alone: that it refuses him from 'localhost' shows the socket.
        socket = mariadb.folder / "socket"
        with (
            through(f"host=localhost;mysql_socket={socket}") as other,
            pytest.raises(RefusedError, match="'localhost'"),
        ):
            other.insert_job("f")
