"""The backend of ``django.tasks``, in a project of five tasks, with real servers and processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from sqlalchemy import create_engine, inspect, make_url

from garivini import Client
from garivini.contrib.django.revisions import VERSIONS, revisions
from garivini.store import schema
from tests.processes import command, until
from tests.servers import gearmand
from tests.sql_servers import SQLServer

pytestmark = pytest.mark.slow

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'project.db'}"
        return
    server: SQLServer = request.getfixturevalue(request.param)
    with server.database() as url:
        yield url


def environment(url: str, **more: str) -> dict[str, str]:
    return {
        "DJANGO_SETTINGS_MODULE": "tests.contrib.project.settings",
        "PROJECT_DB": url,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        **more,
    }


def python(*arguments: str, **variables: str) -> str:
    """Run Python; return what it has written."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


def test_each_revision_has_a_migration() -> None:
    folder = ROOT / "src/garivini/contrib/django/migrations"
    assert sorted(path.name for path in folder.glob("0*.py")) == sorted(
        path.name for path in VERSIONS.glob("0*.py")
    )
    assert list(revisions().values())[-1] == schema.SCHEMA


def tables_of(url: str) -> dict[str, tuple[list[str], list[str | None]]]:
    """Return the columns and indexes of each table of jobs."""
    parts = make_url(url)
    drivers = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg"}
    engine = create_engine(parts.set(drivername=drivers.get(parts.drivername, parts.drivername)))
    found = inspect(engine)
    tables = {
        table: (
            [f"{column['name']} {column['type']}" for column in found.get_columns(table)],
            sorted(str(index["name"]) for index in found.get_indexes(table)),
        )
        for table in found.get_table_names()
        if not table.startswith(("django_", "project_"))
    }
    engine.dispose()
    return tables  # type: ignore[return-value]


@pytest.mark.servers
def test_migrate_and_db_upgrade_make_the_same_tables_and_either_may_be_first(
    url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    python("-m", "django", "migrate", **environment(url))
    migrated = tables_of(url)
    assert {"job", "garivini_version"} <= set(migrated)
    with Client(url) as client:
        (database,) = client.shards
        database.upgrade()  # does nothing
        assert database.check() == schema.SCHEMA
    if url.startswith("sqlite"):
        other = f"sqlite:///{tmp_path / 'other.db'}"
        with Client(other) as client:
            (database,) = client.shards
            database.upgrade()
        upgraded = tables_of(other)
        assert migrated == upgraded
        python("-m", "django", "migrate", **environment(other))
        assert tables_of(other) == upgraded
    else:
        server: SQLServer = request.getfixturevalue("postgresql" if "postgresql" in url else "mariadb")
        with server.database() as other, Client(other) as client:
            (database,) = client.shards
            database.upgrade()
            upgraded = tables_of(other)
            python("-m", "django", "migrate", **environment(other))
            assert (migrated, tables_of(other)) == (upgraded, upgraded)


@pytest.mark.servers
def test_tasks_are_enqueued_in_django_s_transaction_and_run_by_a_worker(url: str, tmp_path: Path) -> None:
    with gearmand(tmp_path) as server:
        variables = environment(url, PROJECT_SERVERS=server)
        python("-m", "django", "migrate", "--run-syncdb", **variables)
        ids = python("-m", "tests.contrib.enqueues", **variables).split()
        confirmed, mailed, failed, left, _ = ids
        queues = ("--queue", "default", "--queue", "mail")
        with (
            command(tmp_path, "run", "queue-runner", program=("django", "garivini"), **variables),
            command(tmp_path, *queues, program=("django", "garivini_worker"), **variables) as worker,
            Client(url) as client,
        ):
            until(lambda: client.result(confirmed) and client.result(mailed), lambda: worker.output)
            until(lambda: client.failures(failed) and client.failures(left), lambda: worker.output)
            assert worker.stop() == 0
        said = python("-m", "tests.contrib.results", *ids, **variables)
        assert said == "done\n"


def test_users_tests_import_the_same_tasks_with_django_s_own_backends(tmp_path: Path) -> None:
    for backend, then in (
        ("ImmediateBackend", "assert r.return_value == 6, r"),
        ("DummyBackend", "assert r.status == 'READY', r"),
    ):
        code = (
            "import django; django.setup(); from tests.contrib.project.tasks import total; "
            f"r = total.enqueue(1, 2, 3); {then}"
        )
        path = f"garivini.contrib.django.task_types.{backend}"
        python("-c", code, **environment(f"sqlite:///{tmp_path / 'x.db'}", PROJECT_BACKEND=path))
