import asyncio
import gc
import inspect
from collections.abc import Callable, Iterator
from functools import cache

import alembic.util
import hypothesis
import pytest
from pymysql.connections import Connection

from tests.databases import sqlite_url
from tests.sql_servers import MariaDB, MariaDBOrMySQL, PostgreSQL, SQLServer
from tests.system import upgraded

pytest_plugins = ["tests.forks"]

# Collecting the tests makes a million objects that stay. To look through them again and again takes longer
# than all else at the start of a run, and goes on through it.
gc.disable()

# An example that takes long on a busy machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.register_profile("few", deadline=None, max_examples=25)  # for `make check`
hypothesis.settings.load_profile("patient")

#: A test with one of these as a fixture or a parameter needs a real server, and so its mark.
_SERVERS = {"mariadb", "postgresql", "own_mariadb", "own_postgresql", "gearmand"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and not _SERVERS.isdisjoint(_needs(item)):
            item.add_marker(pytest.mark.servers)


def _needs(item: pytest.Function) -> list[str]:
    """Return the names of fixtures, and the parameters. One called ``dialect`` needs no server."""
    given = item.callspec.params if hasattr(item, "callspec") else {}
    texts = (value for name, value in given.items() if name != "dialect" and isinstance(value, str))
    return [*item.fixturenames, *texts]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an ``async def`` test in a loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 20)  # with Python's default, a tenth of the time goes into collections


@pytest.fixture(scope="session", autouse=True)
def _one_tls_context() -> Iterator[None]:
    """Let PyMySQL read the system's authorities once: it takes 20 ms, which each connection would spend."""
    create = Connection._create_ssl_ctx  # type: ignore[attr-defined]
    usual = cache(lambda: create(None, {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Connection, "_create_ssl_ctx", lambda self, given: create(self, given) if given else usual()
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_load_of_each_migration() -> Iterator[None]:
    """Let Alembic load each migration once: half the time of an upgrade that has nothing to do."""
    load = alembic.util.load_python_file
    once = cache(load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            alembic.util,
            "load_python_file",
            lambda folder, name: load(folder, name) if name == "env.py" else once(folder, name),
        )
        yield


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """The session's MariaDB, for databases of a test's own. It is never stopped, frozen or set."""
    with MariaDBOrMySQL(
        "max-allowed-packet=64M"
    ) as server:  # the largest argument needs two bytes for some of its own
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """The session's PostgreSQL, for databases of a test's own. It is never stopped, frozen or set."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture
def own_mariadb() -> Iterator[MariaDB]:
    """A MariaDB of the test's own, to be killed, frozen and set."""
    with MariaDBOrMySQL() as server:
        yield server


@pytest.fixture
def own_postgresql() -> Iterator[PostgreSQL]:
    """A PostgreSQL of the test's own, to be killed, frozen and set."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="module")
def urls(request: pytest.FixtureRequest) -> Iterator[Callable[[str], str]]:
    """Gives the URL of the module's database of each kind."""
    known: dict[str, str] = {}

    def url_of(name: str) -> str:
        if name not in known:
            if name == "sqlite":
                known[name] = sqlite_url(request.getfixturevalue("tmp_path_factory").mktemp("keeper"))
            else:
                server: SQLServer = request.getfixturevalue(name)
                known[name] = server.create_database()
                upgraded(known[name]).close()
        return known[name]

    yield url_of
    for name, url in known.items():
        if name != "sqlite":
            request.getfixturevalue(name).drop_database(url)
