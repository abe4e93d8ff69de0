"""The guides for FastAPI and Django, as written: an order and its job are committed together or not."""

import asyncio
import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import httpx
import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.engine import URL

from garivini import Client
from garivini.cli.options import DEFAULT_SERVER
from tests.docs.pages import DOCS, blocks
from tests.processes import command, until
from tests.servers import embedded, free_port
from tests.sql_servers import SQLServer

pytestmark = pytest.mark.servers

SHOWN: Final = "shop:secret@db.example/shop"


@pytest.fixture(params=["postgresql", "mariadb"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database with the tables of jobs."""
    server: SQLServer = request.getfixturevalue(request.param)
    with server.database() as url:
        with Client(url) as client:
            for database in client.shards:
                database.upgrade()
        yield url


def files(page: str, url: str, server: str) -> dict[str, str]:
    """Return the files of a guide, with the database and server of a test."""
    account = url.partition("://")[2]
    found = {}
    for block in blocks(DOCS / "how-to" / page):
        if block.marks.get("file", "").endswith(".py"):
            assert SHOWN in block.text or "import jobs" in block.text or "from shop" in block.text
            text = block.text.replace(SHOWN, account).replace(DEFAULT_SERVER, server)
            if url.startswith("mysql"):
                text = text.replace("postgresql+psycopg://", "mysql+asyncmy://")
                text = text.replace("postgresql://", "mysql://")
            found[block.marks["file"]] = text
    return found


@contextmanager
def imported(folder: Path, name: str) -> Iterator[ModuleType]:
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        for found in [found for found in sys.modules if found.partition(".")[0] == name]:
            del sys.modules[found]


def plain(url: str) -> URL:
    driver = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
    parts = make_url(url)
    return parts.set(drivername=driver[parts.drivername])


def rows(url: str, sql: str) -> list[tuple[Any, ...]]:
    engine = create_engine(plain(url))
    with engine.begin() as connection:
        found = connection.exec_driver_sql(sql)
        answer = [tuple(row) for row in found] if found.returns_rows else []
    engine.dispose()
    return answer


def test_fastapi_commits_an_order_and_its_job_together(url: str, tmp_path: Path) -> None:
    with embedded() as server:
        for name, text in files("fastapi.md", url, server).items():
            (tmp_path / name).write_text(text)
        with imported(tmp_path, "shop") as shop:
            engine = create_engine(plain(url))
            shop.Base.metadata.create_all(engine)
            engine.dispose()
            woken = asyncio.run(orders(shop, url))
    assert woken == [[(1,)]]
    assert rows(url, "SELECT email FROM shop_order") == [("ada@example.com",)]
    with Client(url) as client:
        (job,) = client.list_jobs()
    assert (job.funcname, job.arg, job.uniqkey) == ("confirm_order", b'{"order": 1}', "order-1")


async def orders(shop: ModuleType, url: str) -> list[Any]:
    """Place an order, and one that fails after its job was inserted; return what each wake-up found."""
    woken: list[Any] = []
    shop.jobs._client.wake = lambda: woken.append(rows(url, "SELECT count(*) FROM job"))
    insert = shop.jobs.insert_job

    async def insert_and_fail(*arguments: Any, **named: Any) -> None:
        await insert(*arguments, **named)
        raise RuntimeError("after the insert")

    transport = httpx.ASGITransport(shop.app, raise_app_exceptions=False)
    async with (
        shop.app.router.lifespan_context(shop.app),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as browser,
    ):
        answer = await browser.post("/orders", json={"email": "ada@example.com"})
        assert (answer.status_code, answer.json()) == (201, {"order": 1})
        shop.jobs.insert_job = insert_and_fail
        answer = await browser.post("/orders", json={"email": "eve@example.com"})
        assert answer.status_code == 500
    return woken


#: What a Django project has beside the guide's files.
PROJECT: Final = {
    "models.py": """
from django.db import models


class Order(models.Model):
    email = models.CharField(max_length=200)

    class Meta:
        app_label = "shop"
        db_table = "shop_order"
""",
    "__init__.py": "",
    # In a process of its own: Django's settings are the process's.
    "check.py": """
import sys

import django
from django.conf import settings
from django.urls import path

ENGINE, NAME, USER, PASSWORD, HOST, PORT = sys.argv[1:]
if ENGINE == "mysql":
    import pymysql

    pymysql.install_as_MySQLdb()
settings.configure(
    ALLOWED_HOSTS=["testserver"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends." + ENGINE,
            "NAME": NAME,
            "USER": USER,
            "PASSWORD": PASSWORD,
            "HOST": HOST,
            "PORT": PORT,
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["shop"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="x",
)
django.setup()

from django.db import connection, transaction
from django.test import Client

from shop import queue, views
from shop.models import Order

urlpatterns = [path("orders", views.place)]
with connection.schema_editor() as editor:
    editor.create_model(Order)
woken = []
queue.jobs.wake = lambda: woken.append(Order.objects.count())

answer = Client().post("/orders", {"email": "ada@example.com"})
assert (answer.status_code, answer.json()) == (201, {"order": 1}), answer.content
assert woken == [1], woken

try:
    with transaction.atomic():
        Client().post("/orders", {"email": "eve@example.com"})
        assert Order.objects.count() == 2
        assert woken == [1], woken
        raise ZeroDivisionError
except ZeroDivisionError:
    pass
assert woken == [1], woken
assert Order.objects.count() == 1

# A key that has a live job; and the transaction goes on.
with transaction.atomic():
    again = queue.jobs.insert_job("confirm_order", unique="order-1", connection=connection)
    new = queue.jobs.insert_job("confirm_order", "raw", connection=connection.connection)
    assert (again.new, new.new) == (False, True)
    assert Order.objects.count() == 1
queue.jobs.close()
print("done")
""",
}


def test_django_commits_an_order_and_its_job_together(url: str, tmp_path: Path) -> None:
    parts = make_url(url)
    shop = tmp_path / "shop"
    shop.mkdir()
    with embedded() as server:
        for name, text in {**PROJECT, **files("django.md", url, server)}.items():
            (shop / name).write_text(text)
        arguments = [parts.drivername, parts.database, parts.username, str(parts.password), parts.host]
        run = subprocess.run(
            [
                sys.executable,
                "-W",
                "error::ResourceWarning",
                "-m",
                "shop.check",
                *map(str, arguments),
                str(parts.port),
            ],
            cwd=tmp_path,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert run.stdout == "done\n", run.stderr
    with Client(url) as client:
        assert [job.arg for job in client.list_jobs()] == [b'{"order": 1}', b"raw"]


# ---- the worker and the tests that the guides show


@pytest.mark.slow
def test_the_worker_of_the_fastapi_guide_runs_the_job(url: str, tmp_path: Path) -> None:
    server = f"127.0.0.1:{free_port()}"
    for name, text in files("fastapi.md", url, server).items():
        (tmp_path / name).write_text(text)
    environment = {"GARIVINI_DB": url, "GARIVINI_JOB_SERVERS": server}
    place = (
        "import asyncio, shop\n"
        "async def place():\n"
        "    async with shop.open_session() as session:\n"
        "        await shop.place(shop.NewOrder(email='ada@example.com'), session)\n"
        "    await shop.jobs.close()\n"
        "    await shop.engine.dispose()\n"
        "asyncio.run(place())"
    )
    (tables,) = [
        shlex.split(line)[2]
        for block in blocks(DOCS / "how-to/fastapi.md")
        for line in block.text.splitlines()
        if line.startswith("python -c")
    ]
    for code in (tables, place):
        python(tmp_path, "-c", code, **environment)
    with (
        command(tmp_path, "run", **environment),
        command(tmp_path, "worker", "worker.py", "-p", "1", **environment) as worker,
    ):
        worker.wait_for("Confirmed to ada@example.com")
        with Client(url) as client:
            until(lambda: client.list_jobs() == [])
        assert worker.stop() == 0


SETTINGS: Final = """
import os
from sqlalchemy import make_url

url = make_url(os.environ["SHOP_DB"])
if url.drivername == "mysql":
    import pymysql

    pymysql.install_as_MySQLdb()
ALLOWED_HOSTS = ["*"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends." + url.drivername,
        "NAME": url.database,
        "USER": url.username,
        "PASSWORD": url.password,
        "HOST": url.host,
        "PORT": url.port,
        "TEST": {"NAME": "test_" + url.database},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["shop"]
ROOT_URLCONF = "shop.urls"
SECRET_KEY = "x"
"""
URLS: Final = """
from django.urls import path
from shop.views import place

urlpatterns = [path("orders", place)]
"""


@pytest.mark.slow
def test_the_worker_and_the_tests_of_the_django_guide_run(
    url: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = f"127.0.0.1:{free_port()}"
    shop = tmp_path / "shop"
    shop.mkdir()
    project = {"settings.py": SETTINGS, "urls.py": URLS, **PROJECT}
    for name, text in {**project, **files("django.md", url, server)}.items():
        (shop / name).write_text(text)
    environment = {
        "DJANGO_SETTINGS_MODULE": "shop.settings",
        "GARIVINI_DB": url,
        "GARIVINI_JOB_SERVERS": server,
        "SHOP_DB": url,
        "PYTHONPATH": str(tmp_path),
    }
    python(tmp_path, "-m", "django", "migrate", "--run-syncdb", **environment)
    place = "import django; django.setup(); from django.test import Client; "
    place += "assert Client().post('/orders', {'email': 'ada@example.com'}).status_code == 201"
    python(tmp_path, "-c", place, **environment)
    with (
        command(tmp_path, "run", **environment),
        command(tmp_path, "worker", "shop.worker", "-p", "1", **environment) as worker,
    ):
        worker.wait_for("Confirmed to ada@example.com")
        with Client(url) as client:
            until(lambda: client.list_jobs() == [])
        assert worker.stop() == 0
    parts = make_url(url)
    for_tests = parts.set(database=f"test_{parts.database}")
    admin: SQLServer
    if parts.drivername == "postgresql":
        admin = request.getfixturevalue("postgresql")
        admin.execute(f'ALTER USER "{parts.username}" CREATEDB')
    else:
        admin = request.getfixturevalue("mariadb")
        admin.execute(f"GRANT ALL ON `{for_tests.database}`.* TO '{parts.username}'@'127.0.0.1'")
    environment["GARIVINI_DB"] = for_tests.render_as_string(hide_password=False)
    said = python(tmp_path, "-m", "django", "test", "shop", "--noinput", **environment)
    assert "Ran 1 test" in said
    assert "OK" in said


def python(folder: Path, *arguments: str, **environment: str) -> str:
    """Run Python in a folder; return what it has written."""
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout
